"""The buffers of a compiled module, where XLA does not state them: on all backends but CPU.

In: a `Module`. Out: a `BufferAssignment` with a logical buffer for every array that an instruction
writes, and an allocation for each set of buffers that are one in memory. The messages are those
in which XLA:CPU states its own assignment, so that whoever reads these reads both.

Definitions

1. Every array of an instruction's shape is a buffer, but for what only passes buffers on (`_PASSES`
   and `memjax.xla.flow`).
2. Two buffers are *one* where XLA must put them on the same bytes: the state of a loop before,
   inside and after it, the results of branches, operands that are updated in place, arguments
   that are given up and the results that take their place.
3. Where it may do so and a result is as large as an operand that dies, it does
   (`memjax.xla.in_place`).
4. Constants are left out. The *color* of a buffer is its memory (`memjax.xla.shapes`).

XLA packs all temporaries into one allocation. How is not stated, so each set has an allocation of
its own here, and what XLA's takes beyond those alive at the peak is fragmentation.

Source: XLA's `HloDataflowAnalysis` and `HloAliasAnalysis`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from memjax.xla import buffers_pb2 as pb
from memjax.xla.flow import Flow, Names, Points
from memjax.xla.in_place import may_write_over, must_write_over
from memjax.xla.shapes import Index, array_bytes, arrays, memory_of

_PASSES = frozenset(
    """tuple get-tuple-element bitcast opt-barrier while call conditional copy-done async-update
    async-done add-dependency after-all constant""".split()
)
_STARTS = {"copy-start": 0, "async-start": 1}
"""Which part of what starts an operation is its result; the others are operands and contexts."""


def assignment_of(module: Any) -> tuple[Any, Flow]:
    """The buffers of a module, and when each is needed."""
    assignment = pb.BufferAssignment()
    entry = next(c for c in module.computations if c.id == module.entry_computation_id)
    for computation in _with_buffers(module):
        for instruction in computation.instructions:
            if instruction.opcode == "parameter" and computation.id != entry.id:
                continue
            for index, shape in _written(instruction):
                place = pb.LogicalBuffer.Location(instruction_id=instruction.id, shape_index=index)
                number = len(assignment.logical_buffers) + 1
                assignment.logical_buffers.add(
                    id=number,
                    size=array_bytes(shape),
                    defined_at=place,
                    color=memory_of(shape),
                )
    flow = Flow.of(module, assignment)
    _allocate(assignment, flow, entry)
    return assignment, flow


def _with_buffers(module: Any) -> Iterator[Any]:
    """The computations whose instructions write buffers: those that have a schedule."""
    return (c for c in module.computations if c.id in module.schedule.sequences)


def _written(instruction: Any) -> Iterator[tuple[Index, Any]]:
    """The arrays that an instruction writes."""
    if instruction.opcode in _PASSES:
        return
    started = _STARTS.get(instruction.opcode)
    for index, shape in arrays(instruction.shape):
        is_own = started is None or index[0] == started
        if is_own and array_bytes(shape):
            yield index, shape


def _allocate(assignment: Any, flow: Flow, entry: Any) -> None:
    """An allocation for each set of buffers that are one."""
    sizes = {b.id: b.size for b in assignment.logical_buffers if b.id in flow.start}
    kinds = {b.id: (b.size, b.color) for b in assignment.logical_buffers}
    sets = _Sets({b: (flow.start[b], flow.stop[b]) for b in sizes})
    names = Names.of(flow.module)
    for one, other in _ones(flow, names, entry):
        for a, b in _paired(one, other):
            sets.join(a, b)
    arguments, results = _ends(flow, entry)
    fixed = {sets.root(b) for b in (*arguments, *results) if b in sizes}
    for position, instruction in enumerate(flow.order):
        _write_over(position, instruction, flow, names, sets, kinds, fixed)
    for members in sets.all():
        numbers = [arguments[b] for b in members if b in arguments]
        assignment.buffer_allocations.add(
            index=len(assignment.buffer_allocations),
            size=max(sizes[b] for b in members),
            is_entry_computation_parameter=bool(numbers),
            parameter_number=numbers[0] if numbers else 0,
            maybe_live_out=any(b in results for b in members),
            color=kinds[members[0]][1],
            assigned=[
                pb.BufferAllocation.Assigned(logical_buffer_id=b, size=sizes[b]) for b in members
            ],
        )


def _write_over(
    position: int,
    instruction: Any,
    flow: Flow,
    names: Names,
    sets: _Sets,
    kinds: dict[int, tuple[int, int]],
    fixed: set[int],
) -> None:
    """Make a result one with an operand that dies: definition 3."""
    own = flow.defines.get(instruction.id)
    if not own:
        return
    for output, number, inner in may_write_over(instruction, names):
        written = own.get(output)
        if written is None or sets.root(written) in fixed or sets.first(written) < position:
            continue
        for old in flow.points(instruction.operand_ids[number]).get(inner, ()):
            free = sets.root(old) not in fixed and sets.stop(old) <= position + 1
            if free and kinds[old] == kinds[written]:
                sets.join(old, written)
                break


def _ends(flow: Flow, entry: Any) -> tuple[dict[int, int], frozenset[int]]:
    """The parameter's number of each buffer that is one, and the buffers of the results."""
    arguments = {
        buffer: instruction.parameter_number
        for instruction in entry.instructions
        if instruction.opcode == "parameter"
        for buffers in flow.points(instruction.id).values()
        for buffer in buffers
    }
    root = flow.points(entry.root_id).values()
    return arguments, frozenset(buffer for buffers in root for buffer in buffers)


def _ones(flow: Flow, names: Names, entry: Any) -> Iterator[tuple[Points, Points]]:
    """Pairs of parts of instructions whose buffers are one at each index: definition 2."""
    for instruction in flow.order:
        own = flow.points(instruction.id)
        if instruction.opcode == "while":
            for root in names.results_of(instruction):
                yield own, flow.points(root.id)
        elif instruction.opcode == "conditional":
            yield own, own
        for output, number, inner in must_write_over(instruction, names):
            given = flow.points(instruction.operand_ids[number])
            yield {(): own.get(output, ())}, {(): given.get(inner, ())}
    results = flow.points(entry.root_id)
    parameters = {i.parameter_number: i for i in entry.instructions if i.opcode == "parameter"}
    for alias in flow.module.input_output_alias.entries:
        given = flow.points(parameters[alias.parameter_number].id)
        result = results.get(tuple(alias.output_shape_index), ())
        yield {(): given.get(tuple(alias.parameter_shape_index), ())}, {(): result}


def _paired(one: Points, other: Points) -> Iterator[tuple[int, int]]:
    """The buffers at equal indices, as pairs that make them one."""
    for index, buffers in one.items():
        together = (*buffers, *other.get(index, ()))
        yield from pairwise(together)


class _Sets:
    """Disjoint sets of buffers (union-find with path halving), and when each is needed."""

    def __init__(self, needed: dict[int, tuple[int, int]]) -> None:
        self._parent = {member: member for member in needed}
        self._needed = dict(needed)

    def root(self, member: int) -> int:
        """What stands for a set."""
        while self._parent[member] != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def first(self, member: int) -> int:
        """The position from which on a member's set is needed."""
        return self._needed[self.root(member)][0]

    def stop(self, member: int) -> int:
        """One past the position up to which a member's set is needed."""
        return self._needed[self.root(member)][1]

    def join(self, one: int, other: int) -> None:
        """Make two sets one."""
        kept, gone = self.root(one), self.root(other)
        first, stop = zip(self._needed[kept], self._needed[gone], strict=True)
        self._needed[kept] = min(first), max(stop)
        self._parent[gone] = kept

    def all(self) -> list[list[int]]:
        """The sets, each in order, by their first."""
        found: dict[int, list[int]] = {}
        for member in self._parent:
            found.setdefault(self.root(member), []).append(member)
        return list(found.values())
