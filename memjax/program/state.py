"""Which arguments of a step are its state, and which results each leaf of it becomes.

In: a `Program`. Out: `Evidence`.

Definitions; `memjax.program.updates` has those of update, gradient, directly, depends

1. A result is *of a leaf* where both have one shape and dtype, and it is an update of the leaf,
   or a gradient moves into it and the leaf goes into it directly: `w @ m - 0.1 * g` is of `w`,
   as a gradient is there that is combined with more than itself. The gradient alone is not,
   nor is `x @ w`.
2. An argument (with all its leaves) is *state* where some result of one of its leaves depends
   on another argument, as new parameters depend on the batch. A step's only argument is. A
   batch that is passed on, or normalized and returned, depends on nothing else.
3. Of several results a leaf prefers the one in the same place of the structure, then updates,
   then the one that the fewest arguments move into, then the first.
4. The result *in the place* of `state['h']` is `result[0]['h']` where `state['c']` becomes its
   own result `result[0]['c']`, and `result[0]` has the leaves of `state` and no others: what
   comes back as a whole is new as a whole. A gradient that depends on the leaf is in nobody's
   place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from memjax.program.eqns import Program
from memjax.program.updates import Flow, bits, flows_of_results, type_key


def _split(name: str) -> tuple[str, str]:
    """The argument that a leaf belongs to, and its place there: `state`, `.params['w']`."""
    found = re.match(r"args\[\d+\]|[^.\[]*", name)  # parameters without names are `args[0]`
    end = found.end() if found else 0
    return name[:end], name[end:]


@dataclass(frozen=True)
class Evidence:
    """What a program says about its leaves, by number, and its results, by number."""

    program: Program

    @cached_property
    def flows(self) -> tuple[Flow, ...]:
        """What went into each result."""
        return flows_of_results(self.program)

    @cached_property
    def values(self) -> tuple[int, ...]:
        """The results that are no constants."""
        return tuple(n for n, r in enumerate(self.program.results) if isinstance(r, int))

    @cached_property
    def leaf_types(self) -> tuple[Any, ...]:
        """What must be equal for a result to take a leaf's buffer."""
        return tuple(type_key(self.program.avals[v]) for v in self.program.arguments)

    @cached_property
    def result_types(self) -> Mapping[int, Any]:
        """The same for the results that are values."""
        avals, results = self.program.avals, self.program.results
        return {n: type_key(avals[results[n]]) for n in self.values}  # type: ignore[index]

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """The argument that each leaf belongs to."""
        return tuple(_split(name)[0] for name in self.program.argument_names)

    @cached_property
    def places(self) -> tuple[str, ...]:
        """Where each leaf is in its argument."""
        return tuple(_split(name)[1] for name in self.program.argument_names)

    @cached_property
    def result_number(self) -> Mapping[str, int]:
        """The results by name."""
        return {name: number for number, name in enumerate(self.program.result_names)}

    @cached_property
    def own(self) -> Mapping[int, list[int]]:
        """The results of each leaf that has any: definition 1."""
        found: dict[int, list[int]] = {}
        for number in self.values:
            flow = self.flows[number]
            for leaf in bits(flow.updates | (flow.direct if flow.is_gradient else 0)):
                if self.result_types[number] == self.leaf_types[leaf]:
                    found.setdefault(leaf, []).append(number)
        return found

    @cached_property
    def state(self) -> frozenset[str]:
        """The arguments that are state: definition 2."""
        members: dict[str, int] = {}
        for leaf, root in enumerate(self.roots):
            members[root] = members.get(root, 0) | 1 << leaf
        if len(members) == 1:
            return frozenset(members)
        return frozenset(
            self.roots[leaf]
            for leaf, results in self.own.items()
            if any(self.flows[n].depends & ~members[self.roots[leaf]] for n in results)
        )

    @cached_property
    def state_leaves(self) -> tuple[int, ...]:
        """The leaves of the state."""
        return tuple(leaf for leaf, root in enumerate(self.roots) if root in self.state)

    def is_read(self, leaf: int) -> bool:
        """Whether the step does anything with a leaf."""
        value = self.program.arguments[leaf]
        return bool(self.program.consumers[value]) or value in self.program.result_values

    def results_of(self, leaf: int) -> list[int]:
        """A leaf's own results, the best one first: definitions 1 and 3."""

        def rank(number: int) -> tuple[bool, bool, int, int]:
            updates = self.flows[number].updates
            return (
                not self._is_in_place(leaf, number),
                not updates >> leaf & 1,
                updates.bit_count(),
                number,
            )

        return sorted(self.own.get(leaf, ()), key=rank)

    def wholes(self, result_of: Mapping[int, int]) -> Mapping[str, Sequence[str]]:
        """What the arguments come back as, by the names of results, each once.

        Args:
            result_of: the results that leaves become.
        """
        found: dict[str, dict[str, None]] = {}
        for leaf, number in result_of.items():
            if self._is_in_place(leaf, number):
                whole = self.program.result_names[number].removesuffix(self.places[leaf])
                found.setdefault(self.roots[leaf], {})[whole] = None
        return {
            root: tuple(whole for whole in names if self._is_whole(whole, root))
            for root, names in found.items()
        }

    def _is_whole(self, whole: str, root: str) -> bool:
        """Whether a part of the result has the leaves of an argument and no others."""
        names = [n for n in self.program.result_names if n.startswith((f"{whole}.", f"{whole}["))]
        places = [p for r, p in zip(self.roots, self.places, strict=True) if r == root]
        return names == [whole + place for place in places]

    def in_its_place(self, leaf: int, wholes: Mapping[str, Sequence[str]]) -> int | None:
        """The result in the place of a leaf, if it fits there: definition 4."""
        for whole in wholes.get(self.roots[leaf], ()):
            number = self.result_number.get(whole + self.places[leaf])
            if number is None or self.result_types.get(number) != self.leaf_types[leaf]:
                continue
            if not self.is_gradient_of(leaf, number):
                return number
        return None

    def is_only_its_gradient(self, leaf: int, number: int) -> bool:
        """Whether nothing but gradients moves into a result, one of a leaf of its type."""
        return self.is_gradient_of(leaf, number) and not self.flows[number].updates

    def is_gradient_of(self, leaf: int, number: int) -> bool:
        """Whether a leaf goes into a result of its type as a gradient alone."""
        flow = self.flows[number]
        through = flow.depends >> leaf & 1 and not flow.direct >> leaf & 1
        same_type = self.result_types[number] == self.leaf_types[leaf]
        return flow.is_gradient and same_type and bool(through)

    def _is_in_place(self, leaf: int, number: int) -> bool:
        place = self.places[leaf]
        return bool(place) and self.program.result_names[number].endswith(place)
