"""Run a region in chunks: a program to another program with a loop in the region's place.

In: a `Region` and how many chunks. Out: a `Program` with the same results, up to the order in
which sums are taken.

Each phase becomes one loop (`memjax.loops.builder`): it slices what comes in with the axis, reads
what comes in without it as it is, makes masks, counts and zeros by chunk, updates what goes out
with the axis in place in one buffer, and adds to what is summed away. Where the chunks do not
divide the axis, the last one is smaller and runs behind the loop.

Sums of 16-bit numbers are taken in 32 bits, as matmuls and reductions take theirs, and rounded
once at the end.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import jax
import numpy as np
from jax import lax

from memjax import _compat
from memjax.loops.builder import ZERO, Level, Ref, Source, type_of
from memjax.program.eqns import Constant, Eqn, Operand, Program
from memjax.program.trace import program_of_jaxpr, without_dead
from memjax.split import pieces
from memjax.split.axes import Place
from memjax.split.phases import Phase
from memjax.split.regions import Region
from memjax.split.rules import RULES


def split_region(region: Region, chunks: int) -> Program:
    """The program with a region in about so many chunks, as equal as its units allow."""
    program = region.program
    size = -(-region.units // chunks)
    avals = list(program.avals)
    loops = [_PhaseLoop(region, phase, size, avals).eqns() for phase in region.phases]
    eqns = _in_order(region, loops)
    return replace(
        program, eqns=without_dead(eqns, program.results), avals=tuple(avals), jaxpr=None
    )


@dataclass
class _PhaseLoop:
    """One phase on its way to a loop.

    Attributes:
        region: that it is of.
        phase: itself.
        size: units of the axis in a chunk.
        avals: of the new program, growing.
    """

    region: Region
    phase: Phase
    size: int
    avals: list[Any]

    def eqns(self) -> list[Eqn]:
        """The loop, what it starts from, and the rest of the axis behind it."""
        region, phase = self.region, self.phase
        level = Level(self.like(), self.avals)
        state = [self.first(level, value) for value in (*phase.written, *phase.reduced)]
        count, left = divmod(region.units, self.size)

        def step(body: Level, index: Ref, state: list[Ref]) -> list[Source]:
            start = body.affine(index, self.size, ZERO)
            return _Chunk(self, level, body, start, self.size).run(list(state))

        filled: list[Source] = list(level.loop(step, count, False, ZERO, state, in_chunks=True))
        if left:
            start = Constant(np.int32(count * self.size))
            filled = _Chunk(self, level, level, start, left).run(filled)
        return self.named(level, filled)

    def like(self) -> Eqn:
        """A scan in the name of what is widest in the phase."""
        program = self.region.program

        def width(index: int) -> tuple[int, int]:
            return max(program.value_bytes[v] for v in program.eqns[index].outputs), -index

        widest = program.eqns[max(self.phase.eqns, key=width)]
        raw = _compat.replace_eqn(
            _some_scan(), source_info=widest.raw.source_info, ctx=widest.raw.ctx
        )
        return Eqn(raw, (), (), widest.name_stack, widest.call)

    def first(self, level: Level, value: int) -> Source:
        """What the loop starts from for a value that it leaves behind."""
        place, aval = self.region.places[value], self.region.program.avals[value]
        if isinstance(place, int):
            return level.call(pieces.empty, like=_compat.struct(aval))
        eqn, way = self.writer(value)
        if way.into is not None:
            return _whole(level, level, self.region, eqn.inputs[way.into], {})
        assert place is not None
        like = _compat.struct(aval)
        dtype = pieces.summed_in(like.dtype)
        if not like.shape:
            return Constant(np.array(pieces.nothing(dtype, place), dtype))
        return level.call(pieces.filled, like=like.update(dtype=dtype), how=place)

    def writer(self, value: int) -> tuple[Eqn, Any]:
        """The eqn that writes a value, and its way."""
        index = self.region.program.producer[value]
        return self.region.program.eqns[index], self.region.ways[index]

    def named(self, level: Level, filled: Sequence[Source]) -> list[Eqn]:
        """The eqns so far; what they leave behind has the ids that the program knows it by."""
        program = self.region.program
        name: dict[int, int] = {}
        for source, value in zip(filled, (*self.phase.written, *self.phase.reduced), strict=True):
            aval = program.avals[value]
            if not _same_type(type_of(source), aval):
                source = level.call(pieces.typed, source, like=_compat.struct(aval))
            assert isinstance(source, Ref)
            name[source.value] = value
        return [
            replace(
                eqn,
                inputs=tuple(name.get(v, v) if isinstance(v, int) else v for v in eqn.inputs),
                outputs=tuple(name.get(v, v) for v in eqn.outputs),
            )
            for eqn in level.eqns
        ]


@dataclass
class _Chunk:
    """One chunk of a phase, in the body of the loop or behind it.

    Attributes:
        loop: of the phase.
        outside: level of the program.
        level: where the chunk runs.
        start: its first unit.
        size: its units.
    """

    loop: _PhaseLoop
    outside: Level
    level: Level
    start: Source
    size: int
    known: dict[int, Source] = field(default_factory=dict)
    slices: dict[tuple[int, int], Source] = field(default_factory=dict)
    whole: dict[int, Source] = field(default_factory=dict)

    def run(self, state: list[Source]) -> list[Source]:
        """Run the phase's eqns; each value that is left behind goes to its place at once."""
        phase, region = self.loop.phase, self.loop.region
        number = {v: n for n, v in enumerate((*phase.written, *phase.reduced))}
        for index in phase.eqns:
            eqn, way = region.program.eqns[index], region.ways[index]
            if way.into is not None and eqn.outputs[0] in number:
                place = number[eqn.outputs[0]]
                state[place] = self.bind(index, {way.into: state[place]})[0]
                continue
            for value, source in zip(eqn.outputs, self.bind(index, {}), strict=True):
                self.known[value] = source
                if value in number:
                    state[number[value]] = self.leave(value, source, state[number[value]])
        return state

    def leave(self, value: int, source: Source, sofar: Source) -> Source:
        """What is left of a value after this chunk."""
        place = self.loop.region.places[value]
        if isinstance(place, int):
            start = self.first_of(value, place)
            return self.level.call(pieces.written, sofar, source, start, dim=place)
        assert place is not None
        dtype = type_of(sofar).dtype
        if type_of(source).dtype != dtype:
            source = self.level.call(lax.convert_element_type, source, new_dtype=dtype)
        return self.level.call(pieces.COMBINE[place], sofar, source)

    def bind(self, index: int, given: Mapping[int, Source]) -> list[Source]:
        """Run one eqn of the region on this chunk.

        Args:
            index: of the eqn.
            given: operands by number that are not read as they are.
        """
        region = self.loop.region
        eqn, way, program = region.program.eqns[index], region.ways[index], region.program
        sources = [
            given[n] if n in given else self.read(operand, place)
            for n, (operand, place) in enumerate(zip(eqn.inputs, way.operands, strict=True))
        ]
        types = [type_of(s) for s in sources]
        results = [
            self.chunk_type(program.avals[v], place)
            for v, place in zip(eqn.outputs, way.outputs, strict=True)
        ]
        rule, params = RULES[eqn.primitive], dict(eqn.raw.params)
        if rule.params is not None:
            params |= rule.params(params, way, [t.shape for t in types], [t.shape for t in results])
        raw = _compat.with_types(eqn.raw, types, results, params)
        outputs: list[Source] = list(
            self.level.copy(
                replace(eqn, raw=raw), sources, dict(zip(eqn.outputs, results, strict=True))
            )
        )
        place = way.outputs[0]
        if rule.counts and isinstance(place, int) and place == eqn.raw.params["dimension"]:
            start = self.first_of(eqn.outputs[0], place)
            outputs = [self.level.call(pieces.counted_from, outputs[0], start)]
        return outputs

    def read(self, operand: Operand, place: Place) -> Source:
        """An operand: of this chunk, or from outside of the loop."""
        if not isinstance(operand, int):
            return operand
        if place is None:
            return _whole(self.level, self.outside, self.loop.region, operand, self.whole)
        if operand in self.known:
            return self.known[operand]
        assert isinstance(place, int), "an unfinished sum is read outside of its loop"
        if (operand, place) not in self.slices:
            start = self.first_of(operand, place)
            size = self.size * self.unit(operand, place)
            whole = Ref(self.outside, operand)
            self.slices[operand, place] = self.level.call(
                pieces.sliced, whole, start, dim=place, size=size
            )
        return self.slices[operand, place]

    def unit(self, value: int, dim: int) -> int:
        """How long a unit of the axis is in a value."""
        return int(self.loop.region.program.avals[value].shape[dim]) // self.loop.region.units

    def first_of(self, value: int, dim: int) -> Source:
        """Where this chunk starts in a value."""
        unit = self.unit(value, dim)
        if isinstance(self.start, Constant):
            return Constant(np.int32(self.start.value * unit))
        return self.start if unit == 1 else self.level.affine(self.start, unit, ZERO)

    def chunk_type(self, aval: Any, place: Place) -> Any:
        """The type of a chunk of a value."""
        if not isinstance(place, int):
            return aval
        shape = list(aval.shape)
        shape[place] = shape[place] // self.loop.region.units * self.size
        return aval.update(shape=tuple(shape))


def _whole(
    level: Level, outside: Level, region: Region, operand: Operand, known: dict[int, Source]
) -> Source:
    """A value that a chunk reads whole; what is made of literals is made there and then."""
    if not isinstance(operand, int):
        return operand
    if operand not in region.made:
        return Ref(outside, operand)
    if operand not in known:
        program = region.program
        eqn = program.eqns[program.producer[operand]]
        inputs = [_whole(level, outside, region, v, known) for v in eqn.inputs]
        known.update(zip(eqn.outputs, level.copy(eqn, inputs, program.avals), strict=True))
    return known[operand]


def _in_order(region: Region, loops: Sequence[list[Eqn]]) -> list[Eqn]:
    """The other eqns and the loops, each as early as the program has it where that can be."""
    program = region.program
    gone = {i for i in region.ways if not region.made.issuperset(program.eqns[i].outputs)}
    items = [[eqn] for i, eqn in enumerate(program.eqns) if i not in gone] + list(loops)
    place = [i for i in range(len(program.eqns)) if i not in gone]
    place += [min(phase.eqns) for phase in region.phases]
    writer = {v: n for n, item in enumerate(items) for eqn in item for v in eqn.outputs}
    waits: list[set[int]] = [
        {writer[v] for eqn in item for v in eqn.reads if v in writer} - {n}
        for n, item in enumerate(items)
    ]
    effects = [n for n, item in enumerate(items) if any(eqn.has_effects for eqn in item)]
    for one, two in itertools.pairwise(effects):
        waits[two].add(one)
    return [eqn for n in _sorted(waits, place) for eqn in items[n]]


def _sorted(waits: list[set[int]], place: Sequence[int]) -> list[int]:
    """Items after all that they wait for, otherwise by place."""
    then: list[list[int]] = [[] for _ in waits]
    for item, others in enumerate(waits):
        for other in others:
            then[other].append(item)
    left = [len(others) for others in waits]
    ready = [(place[n], n) for n, count in enumerate(left) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, item = heapq.heappop(ready)
        order.append(item)
        for other in then[item]:
            left[other] -= 1
            if not left[other]:
                heapq.heappush(ready, (place[other], other))
    assert len(order) == len(waits), "a region needs itself"
    return order


def _same_type(one: Any, two: Any) -> bool:
    return (one.dtype, one.weak_type) == (two.dtype, two.weak_type)


@cache
def _some_scan() -> Any:
    """An eqn that stands for the loops that are made here: see `Eqn.raw`."""
    closed = jax.make_jaxpr(lambda x: lax.scan(lambda c, _: (c + 1, None), x, length=1))(0)
    return program_of_jaxpr(closed, "scan").eqns[0].raw
