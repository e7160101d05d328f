"""Regions: eqns that act along one axis, and can run as loops over chunks of it.

In: a `Program`, and a *seed*, one dimension of one value. Out: a `Region`.

Definitions

1. A region grows from its seed: an eqn that writes or reads a value of the region joins where it
   has a way (`memjax.split.axes`) that agrees with all members, through values of at least a
   given width. Narrower values end it: they are cheap to hold whole. Then join the fusible eqns
   on paths from member to member, however narrow: what a softmax does between two passes over
   its scores. No region grows through an argument, which many read along other axes.
2. What members write and others read is *written*, chunk by chunk into one buffer, or *reduced*.
   Whoever needs it whole runs after the loop.
3. Where a member needs, through eqns outside, the whole of what another wrote or reduced, the
   region has *phases*, one loop each. Members run in the last phase that is early enough for
   their readers. What a phase reads of an earlier one is written by that one where it is narrow,
   and computed again by chunk where it is wide: the scores of attention in the backward pass.

Regions of the kind have been grown by AutoChunk (Zhao et al., *AutoChunk: Automated Activation
Chunk for Memory-Efficient Long Sequence Inference*, 2024) for inference, where there is no
backward pass, and nothing is summed away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd

from memjax import _compat
from memjax.program import primitives
from memjax.program.eqns import Eqn, Program
from memjax.split.axes import Place, Reduced, Way, possible_ways
from memjax.split.rules import RULES

MAX_PHASES = 3
"""Each phase may run the same eqns once more; what needs more has little to gain."""
ENOUGH_UNITS = 32
"""An eqn that would leave fewer pieces than this to divide ends a region that has more."""
WIDE_PART = 4
"""A value is wide where it has this part of the seed's bytes at least; a guess between the width
of a layer, and the attention or vocabulary that is worth a region."""


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


@dataclass(frozen=True)
class Blocked:
    """A wide value that a region must hold whole, since an eqn outside reads it so."""

    value: int
    eqn: int


@dataclass(frozen=True, eq=False)
class Region:
    """Eqns that act along one axis.

    Attributes:
        program: that they are eqns of.
        seed: a value that has the axis.
        everything: whether it has grown through values of any width.
        units: equal pieces that the axis can be divided into: a chunk is one or several.
        ways: how each eqn acts along the axis.
        places: where the axis is in what they write.
        phases: in the order in which they run.
        made: values of the program that are made of nothing but literals; each chunk, and
            whoever reads them outside, makes its own.
        blocked: where growing ended although the value is wide.
    """

    program: Program
    seed: int
    everything: bool
    units: int
    ways: Mapping[int, Way]
    places: Mapping[int, Place]
    phases: tuple[Phase, ...]
    made: frozenset[int]
    blocked: tuple[Blocked, ...]


@dataclass
class Grower:
    """Grows the regions of one program.

    Attributes:
        program: with its eqns' bodies looked into.
    """

    program: Program
    _ways: dict[int, tuple[Way, ...]] = field(default_factory=dict)

    def ways(self, index: int) -> tuple[Way, ...]:
        """In which ways an eqn can run chunk by chunk."""
        if index not in self._ways:
            self._ways[index] = possible_ways(self.program.eqns[index], RULES)
        return self._ways[index]

    @cached_property
    def writers(self) -> list[list[int]]:
        """For each eqn, those that write what it reads."""
        producer = self.program.producer
        return [[producer[v] for v in e.reads if producer[v] >= 0] for e in self.program.eqns]

    @cached_property
    def readers(self) -> list[list[int]]:
        """For each eqn, those that read what it writes."""
        consumers = self.program.consumers
        return [[r for v in e.outputs for r in consumers[v]] for e in self.program.eqns]

    @cached_property
    def made(self) -> frozenset[int]:
        """Values that are made of nothing but literals: masks, counts, zeros."""
        program, made = self.program, set[int]()
        for eqn in program.eqns:
            cheap = eqn.primitive in primitives.STRUCTURAL | primitives.CHEAP
            if cheap and not eqn.has_effects and made.issuperset(eqn.reads):
                made.update(eqn.outputs)
        return frozenset(made)

    def region(self, seed: int, dim: int, *, everything: bool) -> Region | None:
        """The region of a seed; None where nothing can be divided or it falls apart.

        Args:
            seed: a value.
            dim: one of its dimensions.
            everything: whether it grows through values of any width.
        """
        wide = self.program.value_bytes[seed] // WIDE_PART
        growth = _Growth(self, seed, dim, 0 if everything else wide)
        growth.run()
        phases = _phases(growth, wide)
        if not growth.members or not phases:
            return None
        return Region(
            self.program,
            seed,
            everything,
            growth.units,
            growth.members,
            growth.places,
            phases,
            self.made,
            tuple(growth.blocked),
        )


@dataclass
class _Growth:
    """A region on its way.

    Attributes:
        grower: of its program.
        seed: where it starts.
        dim: of the seed.
        wide_bytes: it grows through values of so many bytes.
    """

    grower: Grower
    seed: int
    dim: int
    wide_bytes: int

    def __post_init__(self) -> None:
        self.program = self.grower.program
        self.members: dict[int, Way] = {}
        self.places: dict[int, Place] = {}
        self.reads: dict[int, list[Place]] = {self.seed: [self.dim]}
        self.units = int(self.program.avals[self.seed].shape[self.dim])
        self.refused: set[int] = set()
        self.blocked: list[Blocked] = []

    def run(self) -> None:
        """Grow from the seed, then fill up what lies between members."""
        queue = deque([self.seed])
        while queue:
            value = queue.popleft()
            producer = self.program.producer[value]
            if producer >= 0:
                queue += self.join(producer)
            if value != self.seed and value not in self.places:
                continue  # what comes in has readers along other axes
            for reader in self.program.consumers[value]:
                queue += self.join(reader)
                if reader not in self.members:
                    self.blocked.append(Blocked(value, reader))
        if self.wide_bytes:
            for index in self.between():
                self.join(index)

    def join(self, index: int) -> list[int]:
        """Let an eqn join if it agrees with the members; returns wide values to go on from."""
        if index in self.members or index in self.refused:
            return []
        eqn = self.program.eqns[index]
        for way in self.grower.ways(index):
            units = self.units_with(eqn, way) if self.agrees(eqn, way) else 0
            if units:
                self.members[index], self.units = way, units
                return list(self.admit(eqn, way))
        self.refused.add(index)
        return []

    def agrees(self, eqn: Eqn, way: Way) -> bool:
        """Whether a way fits what members write and read."""
        touches = False
        for operand, place in zip(eqn.inputs, way.operands, strict=True):
            if not isinstance(operand, int):
                continue
            there = self.places.get(operand)
            if operand in self.places:
                touches |= place == there
                if not self.fits(operand, there, place):
                    return False
            elif isinstance(place, Reduced):
                return False  # a sum that is not of this region is finished
            elif operand == self.seed and place != self.dim:
                return False
            else:
                touches |= operand == self.seed
        for value, place in zip(eqn.outputs, way.outputs, strict=True):
            for read in self.reads.get(value, ()):
                touches |= read == place
                if not self.fits(value, place, read, way):
                    return False
        return touches

    def fits(self, value: int, written: Place, read: Place, way: Way | None = None) -> bool:
        """Whether a value can be written in one way and read in another."""
        if read is None:  # the whole: made anew, or when the loop is done
            return value in self.grower.made or not isinstance(written, int)
        writer = way or self.members[self.program.producer[value]]
        return read == written and not (isinstance(read, Reduced) and writer.into is not None)

    def units_with(self, eqn: Eqn, way: Way) -> int:
        """The pieces that are left if an eqn joins in this way; 0 for too few."""
        units = self.units
        values = (*zip(eqn.inputs, way.operands, strict=True),)
        values += (*zip(eqn.outputs, way.outputs, strict=True),)
        for value, place in values:
            if isinstance(place, int) and isinstance(value, int):
                aval = self.program.avals[value]
                if _compat.is_spread_along(aval, place):
                    return 0  # each device has its own part of it
                units = gcd(units, int(aval.shape[place]))
        return units if units >= min(self.units, ENOUGH_UNITS) else 0

    def admit(self, eqn: Eqn, way: Way) -> Iterator[int]:
        """Remember what an eqn reads and writes; yields the wide values among it."""
        for operand, place in zip(eqn.inputs, way.operands, strict=True):
            if isinstance(operand, int) and operand not in self.places:
                self.reads.setdefault(operand, []).append(place)
                if isinstance(place, int) and self.is_wide(operand):
                    yield operand
        for value, place in zip(eqn.outputs, way.outputs, strict=True):
            self.places[value] = place
            if isinstance(place, int) and self.is_wide(value):
                yield value

    def is_wide(self, value: int) -> bool:
        """Whether the region grows through a value; what is made of literals costs nothing."""
        return value in self.grower.made or self.program.value_bytes[value] >= self.wide_bytes

    def between(self) -> list[int]:
        """The fusible eqns on paths of such from member to member, ascending."""
        after = self.reached(self.members, self.grower.readers)
        before = self.reached(self.members, self.grower.writers)
        return sorted(after & before)

    def reached(self, start: Iterable[int], then: Sequence[Sequence[int]]) -> set[int]:
        """The fusible eqns that paths of such lead to from members, one way or the other."""
        found: set[int] = set()
        stack = list(start)
        while stack:
            for index in then[stack.pop()]:
                new = index not in found and index not in self.members
                if new and self.program.eqns[index].primitive in primitives.FUSES_OPERANDS:
                    found.add(index)
                    stack.append(index)
        return found


def _phases(growth: _Growth, wide_bytes: int) -> tuple[Phase, ...]:
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


def _latest_phase(growth: _Growth) -> dict[int, int]:
    """The last phase in which each member may run; empty where there are too many phases."""
    grower, members = growth.grower, growth.members
    steps = _steps(growth)
    first = [0] * len(grower.writers)
    for index, writers in enumerate(grower.writers):
        for writer in writers:
            later = first[writer] + (steps.get((writer, index), 0) if writer in members else 0)
            if later > first[index]:
                first[index] = later
    count = 1 + max((first[i] for i in members), default=0)
    if count > MAX_PHASES:
        return {}
    last = [count] * len(grower.readers)
    for index in range(len(grower.readers) - 1, -1, -1):
        member = index in members
        latest = count - 1 if member else count
        for reader in grower.readers[index]:
            earlier = last[reader] - (steps.get((index, reader), 0) if member else 0)
            if earlier < latest:
                latest = earlier
        last[index] = latest
    return {index: last[index] for index in members}


def _steps(growth: _Growth) -> dict[tuple[int, int], int]:
    """How many phases later the readers of members run, at least; by member and reader."""
    found: dict[tuple[int, int], int] = {}
    for index in growth.members:
        for value in growth.program.eqns[index].outputs:
            for reader in growth.program.consumers[value]:
                step = _step(growth, value, reader)
                found[index, reader] = max(step, found.get((index, reader), 0))
    return found


def _step(growth: _Growth, value: int, reader: int) -> int:
    """How many phases later a reader of a member's value runs, at least."""
    if value in growth.grower.made:
        return 0
    if reader not in growth.members:
        return 1
    way, eqn = growth.members[reader], growth.program.eqns[reader]
    read = {p for v, p in zip(eqn.inputs, way.operands, strict=True) if v == value}
    return int(read == {None})


def _left_behind(growth: _Growth, late: Mapping[int, int], phase: int) -> list[int]:
    """What members of a phase write that is read after it."""
    program, found = growth.program, []
    for index in sorted(i for i, p in late.items() if p == phase):
        for value in program.eqns[index].outputs:
            after = any(_step(growth, value, r) for r in program.consumers[value])
            result = value in program.result_values and value not in growth.grower.made
            if after or result:
                found.append(value)
    return found


@dataclass
class _Needs:
    """What a phase runs for what it is to leave behind."""

    growth: _Growth
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
        return isinstance(place, int) and narrow and value not in self.growth.grower.made
