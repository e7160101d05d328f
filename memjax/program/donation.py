"""Which argument buffers a step may give up.

In: a `Program`. Out: a verdict for each flat argument, with the reason.

Which arguments are state, and which results are of which leaf, says `memjax.program.state`. Of a
state

1. a leaf is given up for a result of its own; each result takes one buffer, and as many leaves
   as possible are given up;
2. a leaf that is left takes the result in its place, whatever computed it;
3. a leaf that nothing reads is kept: `jax.jit` does not hand it to the compiled program.

So evaluation, a layer `tanh(x @ w)` and a step that returns gradients give up nothing.

Not handled: what is combined elementwise with another argument and returned looks like state,
such as a batch with random noise, or what goes through a layer that adds to it; so does a
gradient to which something of the parameters was added by hand. `donate=` overrides. Of a
state that comes back through nothing but matmuls, sorts and kernels nothing is given up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from memjax import _compat
from memjax.program.eqns import Program
from memjax.program.state import Evidence


@dataclass(frozen=True)
class Donation:
    """The verdict on one flat argument.

    Attributes:
        index: of the flat argument.
        name: where it is in the user's arguments.
        bytes: of the argument.
        result: index of the flat result that takes its buffer; None where it is kept.
        reason: why it is kept; empty where it is donated.
    """

    index: int
    name: str
    bytes: int
    result: int | None
    reason: str = ""

    @property
    def donated(self) -> bool:
        """Whether the buffer is given up."""
        return self.result is not None


def match_donations(
    program: Program, candidates: Collection[int] | None = None
) -> tuple[Donation, ...]:
    """Match the leaves of the arguments with results.

    Args:
        program: the step.
        candidates: indices of the flat arguments that the caller wants to give up, who then
            need no result of theirs, only one of the same type; None decides by updates.
    """
    evidence = Evidence(program)
    asked = evidence.state_leaves if candidates is None else sorted(candidates)
    wanted = [leaf for leaf in asked if evidence.is_read(leaf)]
    result_of = _matched({leaf: evidence.results_of(leaf) for leaf in wanted})
    left = [leaf for leaf in wanted if leaf not in result_of]
    if candidates is None:
        _take_places(evidence, left, result_of)
    else:
        _take_any(evidence, left, result_of)
    why = _Reasons(evidence, candidates, frozenset(result_of.values()))
    verdicts = []
    for index, (value, name) in enumerate(
        zip(program.arguments, program.argument_names, strict=True)
    ):
        reason = "" if index in result_of else why.kept(index)
        size = program.value_bytes[value]
        verdicts.append(Donation(index, name, size, result_of.get(index), reason))
    return tuple(verdicts)


def _take_places(evidence: Evidence, leaves: Sequence[int], result_of: dict[int, int]) -> None:
    """Give leaves of a state the results in their places, where nothing has taken them."""
    taken = set(result_of.values())
    wholes = evidence.wholes(result_of)
    for leaf in leaves:
        number = evidence.in_its_place(leaf, wholes)
        if number is not None and number not in taken:
            result_of[leaf] = number
            taken.add(number)


def _take_any(evidence: Evidence, leaves: Sequence[int], result_of: dict[int, int]) -> None:
    """Give leaves any results of their types that nothing has taken."""
    taken = set(result_of.values())
    free: dict[Any, list[int]] = {}
    for number in reversed(evidence.values):
        if number not in taken:
            free.setdefault(evidence.result_types[number], []).append(number)
    for leaf in leaves:
        fitting = free.get(evidence.leaf_types[leaf])
        if fitting:
            result_of[leaf] = fitting.pop()


@dataclass(frozen=True)
class _Reasons:
    """Why leaves are kept.

    Attributes:
        evidence: of the step.
        candidates: the leaves that the caller wants to give up, if any were named.
        taken: the results that leaves take.
    """

    evidence: Evidence
    candidates: Collection[int] | None
    taken: frozenset[int]

    @cached_property
    def free_types(self) -> frozenset[Any]:
        """The types of the results that no leaf takes."""
        free = (n for n in self.evidence.values if n not in self.taken)
        return frozenset(self.evidence.result_types[n] for n in free)

    def kept(self, leaf: int) -> str:
        """The reason for which a leaf that takes no result is kept."""
        evidence, root = self.evidence, self.evidence.roots[leaf]
        if self.candidates is not None and leaf not in self.candidates:
            return "kept as asked"
        if self.candidates is None and root not in evidence.state:
            reason = f"nothing of {root} is updated from other arguments"
            gradient = any(evidence.is_only_its_gradient(leaf, n) for n in evidence.values)
            return f"{reason}: a gradient is no update" if gradient else reason
        if not evidence.is_read(leaf):
            return "the step does not read it, so it is not handed to the device program"
        if evidence.leaf_types[leaf] not in self.free_types:
            aval = evidence.program.avals[evidence.program.arguments[leaf]]
            return f"no result of type {aval.str_short()} is left to take its buffer"
        return "no result is an update of it, or comes back in its place"


def _matched(results_of: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """A result for as many leaves as possible, by augmenting paths (Kuhn 1955, Berge 1957).

    Args:
        results_of: the results that each leaf may take, the best one first.
    """
    result_of: dict[int, int] = {}
    leaf_of: dict[int, int] = {}
    for start in results_of:
        seen_from: dict[int, int] = {}
        waiting = [start]
        found = None
        for leaf in waiting:  # grows while it is read: breadth first
            for number in results_of[leaf]:
                if number not in seen_from:
                    seen_from[number] = leaf
                    if number not in leaf_of:
                        found = number
                        break
                    waiting.append(leaf_of[number])
            if found is not None:
                break
        while found is not None:
            leaf = seen_from[found]
            leaf_of[found], result_of[leaf], found = leaf, found, result_of.get(leaf)
    return result_of


def without_shared_buffers(leaves: Sequence[Any], donated: Collection[int]) -> tuple[Any, ...]:
    """Copy donated arrays that share memory with other leaves, so that none is given up under
    another.

    Args:
        leaves: flat arguments.
        donated: indices of those that are given up.
    """
    if not donated:
        return tuple(leaves)
    memory = [_compat.buffers(leaf) for leaf in leaves]
    counts = Counter(buffer for held in memory for buffer in held)
    return tuple(
        leaf.copy() if i in donated and any(counts[b] > 1 for b in memory[i]) else leaf
        for i, leaf in enumerate(leaves)
    )
