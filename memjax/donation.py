"""Which argument buffers a step may give up.

In: a `Program`. Out: a verdict for each flat argument, with the reason.

A leaf is donated when some result has its shape and dtype and is an *update* of it: the leaf
itself, or reached from it through elementwise eqns that keep the shape. And its argument must
be *state*: some update of it depends on another argument, as new parameters depend on the
batch. A batch that is passed on, or normalized and returned, depends on nothing else and is
kept; so is everything that only goes through matmuls and reductions. Each result is taken
by one leaf.

Not handled: a batch that is combined elementwise with another argument and returned (with
random noise, say) looks like state. `donate=` overrides.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from memjax import _compat, primitives
from memjax.trace import Program

_UPDATES = primitives.FUSIBLE | {"scatter", "scatter-add", "dynamic_update_slice"}


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
            need no update of theirs among the results, only one of the same type; None
            decides by updates.
    """
    automatic = candidates is None
    state = _state_roots(program) if automatic else frozenset()
    free_results = dict(enumerate(program.results))
    verdicts = []
    for index, (value, name) in enumerate(
        zip(program.arguments, program.argument_names, strict=True)
    ):
        result, reason = None, "kept as asked"
        if automatic and _root(name) not in state:
            reason = f"nothing of {_root(name)} is updated from other arguments"
        elif automatic or index in (candidates or ()):
            result, reason = _find_result(program, value, free_results, automatic)
        if result is not None:
            free_results.pop(result)
        verdicts.append(Donation(index, name, program.value_bytes[value], result, reason))
    return tuple(verdicts)


def _root(name: str) -> str:
    """The argument that a leaf belongs to: `state` of `state.params['w']`."""
    if name.startswith("args["):  # parameters without names
        return name.split("]")[0]
    return re.split(r"[.\[]", name, maxsplit=1)[0]


def _state_roots(program: Program) -> frozenset[str]:
    """The arguments of which some update depends on another one; all, if there is one."""
    roots = [_root(name) for name in program.argument_names]
    bit = {root: 1 << i for i, root in enumerate(dict.fromkeys(roots))}
    if len(bit) == 1:
        return frozenset(bit)
    depends = [0] * len(program.avals)
    for root, value in zip(roots, program.arguments, strict=True):
        depends[value] = bit[root]
    for eqn in program.eqns:
        mask = reduce(or_, (depends[v] for v in eqn.reads), 0)
        for value in eqn.outputs:
            depends[value] = mask
    state = set()
    for root, value in zip(roots, program.arguments, strict=True):
        updates = _updates_of(program, value) & program.result_values if root not in state else ()
        if any(depends[u] & ~bit[root] for u in updates):
            state.add(root)
    return frozenset(state)


def _find_result(
    program: Program, value: int, free_results: dict[int, Any], only_updates: bool
) -> tuple[int | None, str]:
    aval = program.avals[value]
    same_type = [
        index
        for index, result in free_results.items()
        if isinstance(result, int) and _same_type(program.avals[result], aval)
    ]
    if not same_type:
        return None, f"no result of type {aval.str_short()} is left to take its buffer"
    updates = _updates_of(program, value)
    for index in same_type:
        if program.results[index] in updates:
            return index, ""
    if only_updates:
        return None, "no result is an elementwise update of it"
    return same_type[0], ""


def _same_type(one: Any, other: Any) -> bool:
    return bool(one.shape == other.shape and one.dtype == other.dtype)


def _updates_of(program: Program, value: int) -> set[int]:
    """Values reached from `value` through elementwise eqns that keep its shape."""
    shape = program.avals[value].shape
    reached = {value}
    stack = [value]
    while stack:
        for reader in program.consumers[stack.pop()]:
            eqn = program.eqns[reader]
            if eqn.primitive not in _UPDATES:
                continue
            for output in eqn.outputs:
                if output not in reached and program.avals[output].shape == shape:
                    reached.add(output)
                    stack.append(output)
    return reached


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
