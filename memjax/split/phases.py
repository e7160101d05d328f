"""The phases of a region: which loops it takes, and what each of them runs and leaves behind.

In: a `Growth` that has ended. Out: `Phase`s, in order. Definition 3 of `memjax.split.regions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memjax.split.axes import Place, Reduced
from memjax.split.growth import Growth

MAX_PHASES = 3
"""Each phase may run the same eqns once more; what needs more has little to gain."""


@dataclass(frozen=True)
class Phase:
    """One loop over the chunks.

    Attributes:
        eqns: what it runs, ascending; some may have run in an earlier phase.
        written: values that it leaves behind whole, put together from its chunks.
        reduced: values that it reduces over the chunks.
    """

    eqns: tuple[int, ...]
    written: tuple[int, ...]
    reduced: tuple[int, ...]


def phases_of(growth: Growth, wide_bytes: int) -> tuple[Phase, ...]:
    """The loops of a region; none where there would be too many."""
    late = _latest_phase(growth)
    if not late:
        return ()
    count = 1 + max(late.values())
    roots = [_left_behind(growth, late, phase) for phase in range(count)]
    for phase in reversed(range(count)):  # what later ones keep of earlier ones
        for value in _Needs(growth, late, phase, wide_bytes).kept(roots[phase]):
            roots[late[growth.program.producer[value]]].append(value)
    found = []
    for phase, values in enumerate(roots):
        needs = _Needs(growth, late, phase, wide_bytes)
        eqns = needs.eqns(values)
        written = tuple(v for v in dict.fromkeys(values) if isinstance(growth.places[v], int))
        reduced = tuple(v for v in dict.fromkeys(values) if isinstance(growth.places[v], Reduced))
        found.append(Phase(eqns, written, reduced))
    return tuple(phase for phase in found if phase.eqns)


def _latest_phase(growth: Growth) -> dict[int, int]:
    """The last phase in which each member may run; empty where there are too many phases."""
    around, members = growth.around, growth.members
    steps = _steps(growth)
    first = [0] * len(around.writers)
    for index, writers in enumerate(around.writers):
        for writer in writers:
            later = first[writer] + (steps.get((writer, index), 0) if writer in members else 0)
            if later > first[index]:
                first[index] = later
    count = 1 + max((first[i] for i in members), default=0)
    if count > MAX_PHASES:
        return {}
    last = [count] * len(around.readers)
    for index in range(len(around.readers) - 1, -1, -1):
        member = index in members
        latest = count - 1 if member else count
        for reader in around.readers[index]:
            earlier = last[reader] - (steps.get((index, reader), 0) if member else 0)
            if earlier < latest:
                latest = earlier
        last[index] = latest
    return {index: last[index] for index in members}


def _steps(growth: Growth) -> dict[tuple[int, int], int]:
    """How many phases later the readers of members run, at least; by member and reader."""
    found: dict[tuple[int, int], int] = {}
    for index in growth.members:
        for value in growth.program.eqns[index].outputs:
            for reader in growth.program.consumers[value]:
                step = _step(growth, value, reader)
                found[index, reader] = max(step, found.get((index, reader), 0))
    return found


def _step(growth: Growth, value: int, reader: int) -> int:
    """How many phases later a reader of a member's value runs, at least."""
    if value in growth.around.made:
        return 0
    if reader not in growth.members:
        return 1
    way, eqn = growth.members[reader], growth.program.eqns[reader]
    read = {p for v, p in zip(eqn.inputs, way.operands, strict=True) if v == value}
    return int(read == {None})


def _left_behind(growth: Growth, late: Mapping[int, int], phase: int) -> list[int]:
    """What members of a phase write that is read after it."""
    program, found = growth.program, []
    for index in sorted(i for i, p in late.items() if p == phase):
        for value in program.eqns[index].outputs:
            after = any(_step(growth, value, r) for r in program.consumers[value])
            result = value in program.result_values and value not in growth.around.made
            if after or result:
                found.append(value)
    return found


@dataclass
class _Needs:
    """What a phase runs for what it is to leave behind."""

    growth: Growth
    late: Mapping[int, int]
    phase: int
    wide_bytes: int

    def eqns(self, values: list[int]) -> tuple[int, ...]:
        """The eqns, ascending."""
        return tuple(sorted(self._walk(values)[0]))

    def kept(self, values: list[int]) -> tuple[int, ...]:
        """Narrow values of earlier phases that they read."""
        return tuple(sorted(self._walk(values)[1]))

    def _walk(self, values: list[int]) -> tuple[set[int], set[int]]:
        program, members = self.growth.program, self.growth.members
        eqns: set[int] = set()
        kept: set[int] = set()
        stack = [program.producer[v] for v in values]
        while stack:
            index = stack.pop()
            if index in eqns:
                continue
            eqns.add(index)
            way = members[index]
            for value, place in zip(program.eqns[index].inputs, way.operands, strict=True):
                if place is None or not isinstance(value, int):
                    continue
                producer = program.producer[value]
                if producer not in members:
                    continue
                if self.late[producer] < self.phase and self._is_kept(value, place):
                    kept.add(value)
                else:
                    stack.append(producer)
        return eqns, kept

    def _is_kept(self, value: int, place: Place) -> bool:
        narrow = self.growth.program.value_bytes[value] < self.wide_bytes
        return isinstance(place, int) and narrow and value not in self.growth.around.made
