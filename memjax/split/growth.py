"""A region on its way: which eqns join a seed, and in which way each acts along its axis.

In: the `Surroundings` of a program, one dimension of one value. Out: `Growth`: the members, their
ways, and how finely all of them can be divided. Definition 1 of `memjax.split.regions`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd

from memjax import _compat
from memjax.program import primitives
from memjax.program.eqns import Eqn, Program
from memjax.split.axes import Place, Reduced, Way, possible_ways
from memjax.split.rules import RULES

ENOUGH_UNITS = 32
"""An eqn that would leave fewer pieces than this to divide ends a region that has more."""


@dataclass(frozen=True)
class Blocked:
    """A wide value that a region must hold whole, since an eqn outside reads it so."""

    value: int
    eqn: int


@dataclass
class Surroundings:
    """What regions of one program grow in.

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


@dataclass
class Growth:
    """A region on its way.

    Attributes:
        around: what its program has.
        seed: where it starts.
        dim: of the seed.
        wide_bytes: it grows through values of so many bytes.
    """

    around: Surroundings
    seed: int
    dim: int
    wide_bytes: int

    def __post_init__(self) -> None:
        self.program = self.around.program
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
        for way in self.around.ways(index):
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
            return value in self.around.made or not isinstance(written, int)
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
        return value in self.around.made or self.program.value_bytes[value] >= self.wide_bytes

    def between(self) -> list[int]:
        """The fusible eqns on paths of such from member to member, ascending."""
        after = self.reached(self.members, self.around.readers)
        before = self.reached(self.members, self.around.writers)
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
