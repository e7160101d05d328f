"""What a compiled program shows of the values of its program: see `memjax.pricing.learnt`.

In: a `Reading`, and the `Program` that was compiled. Out: `Learnt`.

Definitions

1. A buffer is *of* the eqn whose tag the instruction that writes it carries, or the nearest one
   that this is made of where XLA made it without a name: a copy into another memory or layout.
2. It *holds* the eqn's value if it has as many elements. What has others (workspace of kernels,
   partial sums) is held while the eqn runs.
3. Values that are other views of one (reshaped, transposed) are that one.
4. An eqn *runs* at the positions of the instructions that carry its tag and have the size of its
   value, those inside of fusions included.
5. A value is *free* if no buffer holds it, or if it is elementwise and its eqn runs again when
   its buffers are gone: XLA computes it where it is read. It is *stored* if its eqn never runs
   behind the position that writes it. All others are between the two, and the rules decide.

What lies unused between XLA's buffers at its peak is no part of them: another plan packs otherwise.

Not handled: values of loops' bodies, and eqns with several results. Rules go on to hold for these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from memjax.pricing.learnt import Learnt
from memjax.program import primitives
from memjax.program.eqns import Program
from memjax.program.tags import Path, path_of
from memjax.xla.flow import Index, Names, behind
from memjax.xla.held import Reading
from memjax.xla.shapes import CHIP_MEMORY, DEVICE_MEMORY, part_of

_NO_WORK = frozenset(
    """bitcast broadcast constant convert copy copy-done copy-start fusion get-tuple-element iota
    parameter reshape transpose tuple""".split()
)
"""What XLA puts round the work of an eqn, and under its name."""
_VIEWS = primitives.ALIASES | {"transpose", "copy", "copy_p"}


@dataclass(frozen=True)
class Found:
    """A buffer of an eqn.

    Attributes:
        eqn: index in the program.
        value: what it holds; None for what else the eqn needs.
        start: position in XLA's order that writes it.
        stop: one past the last that reads it.
        bytes: in the device's memory; 0 in another.
        place: its bytes in XLA's allocations: where two are equal, they are one.
    """

    eqn: int
    value: int | None
    start: int
    stop: int
    bytes: int
    place: tuple[int, int]


def learn(
    reading: Reading, program: Program, base_bytes: int, *, counts_chip: bool = False
) -> Learnt:
    """What a compiled program shows.

    Args:
        reading: of it.
        program: what it was compiled from, its tags in place.
        base_bytes: of its arguments and results, by XLA's count.
        counts_chip: whether what lives in memory on the chip counts as if it did not.
    """
    matcher = _Matcher(reading, program, counts_chip)
    held: dict[int, list[Found]] = {}
    beside: dict[int, list[Found]] = {}
    for buffer in matcher.found():
        if buffer.value is not None:
            held.setdefault(buffer.value, []).append(buffer)
        else:
            beside.setdefault(buffer.eqn, []).append(buffer)
    eqns = {
        eqn.outputs[0]: index
        for index, eqn in enumerate(program.eqns)
        if len(eqn.outputs) == 1 and eqn.nest is None
    }
    _share_out(held, eqns, program)
    last_run = {value: matcher.last_run.get(index, -1) for value, index in eqns.items()}
    gone = {
        v
        for v, index in eqns.items()
        if v not in held or (_is_elementwise(program, index) and last_run[v] >= _end(held[v]))
    }
    return Learnt(
        stored=frozenset(v for v in eqns if v in held and last_run[v] <= _begin(held[v])),
        free=frozenset(gone - program.result_values),
        bytes={v: _bytes(held[v], reading.held.position) for v in eqns if v in held},
        workspace={v: _most(beside.get(i, ())) for v, i in eqns.items()},
        over=_written_over(held),
        base_bytes=base_bytes,
    )


def _share_out(held: dict[int, list[Found]], eqns: dict[int, int], program: Program) -> None:
    """Give each matmul its own buffer where XLA made one of several that read the same operand,
    and named all its parts after one of them.
    """
    for value, index in eqns.items():
        eqn = program.eqns[index]
        if value in held or eqn.primitive != "dot_general":
            continue
        readers = sorted({r for v in eqn.reads for r in program.consumers[v]} - {index})
        for other in readers:
            sibling = program.eqns[other].outputs[0]
            buffers = held.get(sibling, [])
            same = program.avals[sibling].shape == program.avals[value].shape
            if same and len({b.place for b in buffers}) > 1:
                held[value] = [buffers.pop()]
                break


def _is_elementwise(program: Program, index: int) -> bool:
    return program.eqns[index].primitive in primitives.FUSIBLE


def _begin(buffers: list[Found]) -> int:
    return max(b.start for b in buffers)


def _end(buffers: list[Found]) -> int:
    return max(b.stop for b in buffers)


def _bytes(buffers: list[Found], peak: int) -> int:
    """What a value takes at XLA's peak, or else on an average over its life."""
    at_peak = _at(buffers, peak)
    if at_peak is not None:
        return at_peak
    edges = sorted({e for b in buffers for e in (b.start, b.stop)})
    total = length = 0
    for start, stop in pairwise(edges):
        here = _at(buffers, start)
        if here is not None:
            total += here * (stop - start)
            length += stop - start
    return total // max(1, length)


def _at(buffers: Sequence[Found], position: int) -> int | None:
    """What buffers take at a position; None where none of them is needed."""
    there = {b.place: b.bytes for b in buffers if b.start <= position < b.stop}
    return sum(there.values()) if there else None


def _most(buffers: Sequence[Found]) -> int:
    return max((_at(buffers, b.start) or 0 for b in buffers), default=0)


def _written_over(held: dict[int, list[Found]]) -> dict[int, tuple[int, ...]]:
    """The values whose bytes each value takes over in the instruction that writes it."""
    dying = {
        (buffer.place, buffer.stop - 1): value
        for value, buffers in held.items()
        for buffer in buffers
        if buffer.bytes
    }
    found: dict[int, tuple[int, ...]] = {}
    for value, buffers in held.items():
        old = [dying.get((b.place, b.start)) for b in buffers if b.bytes]
        others = tuple(dict.fromkeys(o for o in old if o is not None and o != value))
        if others:
            found[value] = others
    return found


@dataclass(frozen=True)
class _Matcher:
    """Finds the eqn and the value behind each buffer."""

    reading: Reading
    program: Program
    counts_chip: bool

    @cached_property
    def eqns(self) -> dict[Path, int]:
        """Eqns by their tags."""
        return {eqn.path: index for index, eqn in enumerate(self.program.eqns)}

    @cached_property
    def _paths(self) -> dict[int, Path]:
        return {i: path_of(x.metadata.op_name) for i, x in self.names.instructions.items()}

    def _path(self, instruction: Any) -> Path:
        """The tags in an instruction's name."""
        return self._paths[instruction.id]

    @cached_property
    def names(self) -> Names:
        """Instructions and computations by id."""
        return Names.of(self.reading.module)

    @cached_property
    def last_run(self) -> dict[int, int]:
        """The last position at which each eqn runs, by eqn index: definition 4."""
        last: dict[int, int] = {}

        def mark(instruction: Any, position: int) -> None:
            eqn = self.eqns.get(self._path(instruction))
            if eqn is None or instruction.opcode in _NO_WORK:
                return
            if self._value(eqn, instruction.shape) is not None:
                last[eqn] = max(last.get(eqn, -1), position)

        for position, instruction in enumerate(self.reading.flow.order):
            mark(instruction, position)
            if instruction.opcode == "fusion":
                (fused, *_) = instruction.called_computation_ids
                for inner in self.names.computations[fused].instructions:
                    mark(inner, position)
        return last

    def found(self) -> Iterator[Found]:
        """The buffers that are of some eqn, arguments and constants left out."""
        flow = self.reading.flow
        memories = (DEVICE_MEMORY, CHIP_MEMORY) if self.counts_chip else (DEVICE_MEMORY,)
        places = {
            part.logical_buffer_id: (allocation.index, part.offset)
            for allocation in self.reading.assignment.buffer_allocations
            for part in allocation.assigned
            if not allocation.is_constant
        }
        for buffer in self.reading.assignment.logical_buffers:
            writer = self.names.instructions.get(buffer.defined_at.instruction_id)
            if buffer.id not in flow.start or buffer.id not in places or writer is None:
                continue
            index = tuple(buffer.defined_at.shape_index)
            eqn = self._eqn(writer, index)
            if eqn is None:
                continue
            yield Found(
                eqn=eqn,
                value=self._value(eqn, part_of(writer.shape, index)),
                start=flow.start[buffer.id],
                stop=flow.stop[buffer.id],
                bytes=buffer.size if buffer.color in memories else 0,
                place=places[buffer.id],
            )

    def _eqn(self, instruction: Any, index: Index) -> int | None:
        """The eqn that a part of an instruction is of; None inside of bodies, and of arguments.

        A fusion has the name of one of its results, or of something in it: where that is of
        another size, what is fused is looked through for the eqn that has the part's size.
        """
        shape = part_of(instruction.shape, index)
        home = self.names.home[instruction.id].id
        named: int | None = None
        for candidate, _ in behind(self.names, instruction, index):
            if candidate.id in self._arguments:
                return named
            path = self._path(candidate)
            is_read = candidate is not instruction and self.names.home[candidate.id].id == home
            if not path or (named is not None and is_read):
                continue
            eqn = self.eqns.get(path)
            if eqn is None:
                return named
            if self._value(eqn, shape) is not None:
                return eqn
            named = eqn if named is None else named
        return named

    @cached_property
    def _arguments(self) -> frozenset[int]:
        entry = self.names.computations[self.reading.module.entry_computation_id]
        return frozenset(i.id for i in entry.instructions if i.opcode == "parameter")

    def _value(self, index: int, shape: Any) -> int | None:
        """The value that an array is, or None."""
        eqn = self.program.eqns[index]
        if len(eqn.outputs) != 1:
            return None
        (value,) = eqn.outputs
        elements = math.prod(int(d) for d in shape.dimensions)
        if elements != math.prod(int(d) for d in getattr(self.program.avals[value], "shape", ())):
            return None
        return self._viewed(value)

    def _viewed(self, value: int) -> int:
        """What a value is another view of."""
        producer = self.program.producer[value]
        while producer >= 0 and self.program.eqns[producer].primitive in _VIEWS:
            (*_, source) = self.program.eqns[producer].reads or (value,)
            if self.program.producer[source] < 0 or source == value:
                break
            value, producer = source, self.program.producer[source]
        return value
