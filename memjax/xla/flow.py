"""The order in which a compiled module runs, and which buffers each instruction reads.

In: a `Module` and its `BufferAssignment`, XLA's own messages. Out: `Flow`: positions of one
flat order, and the stretch of positions in which each logical buffer is needed.

Definitions

1. The flat order is that of the entry computation's schedule. The computations that `while`,
   `call` and `conditional` run stand in it once, right before the instruction that runs them.
   Those of fusions and reductions take no buffers, and are not in it.
2. A buffer flows through what only passes it on: bitcasts, tuples and their elements,
   barriers, and into called computations and loops.
3. A buffer is needed from the position that defines it up to the last position that reads it,
   and to the end if the program's root has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_RUNS_OTHERS = frozenset({"while", "call", "conditional", "async-start"})
_PASSES_ON = frozenset({"bitcast", "opt-barrier", "while", "async-update", "add-dependency"})
_STARTED = {"copy-done": 0, "async-done": 1}
"""Which part of what was started is handed on when it is done. What starts a copy holds the copy,
the original and a context; what starts another operation its operands, its result, contexts."""

Index = tuple[int, ...]
Points = dict[Index, tuple[int, ...]]
"""Ids of the logical buffers at each index of an instruction's shape."""


@dataclass
class Flow:
    """When each buffer is needed.

    Attributes:
        order: instructions in the order in which they run.
        start: position that defines each logical buffer, by buffer id.
        stop: one past the last position that needs it.
    """

    module: Any
    defines: dict[int, dict[Index, int]]
    order: list[Any] = field(default_factory=list)
    start: dict[int, int] = field(default_factory=dict)
    stop: dict[int, int] = field(default_factory=dict)
    _points: dict[int, Points] = field(default_factory=dict)

    @staticmethod
    def of(module: Any, assignment: Any) -> Flow:
        """Walk a module."""
        defines: dict[int, dict[Index, int]] = {}
        for buffer in assignment.logical_buffers:
            place = buffer.defined_at
            defines.setdefault(place.instruction_id, {})[tuple(place.shape_index)] = buffer.id
        flow = Flow(module, defines)
        computations = {c.id: c for c in module.computations}
        entry = computations[module.entry_computation_id]
        flow._walk(entry, computations, [])
        for buffers in flow._points.get(entry.root_id, {}).values():
            for buffer in buffers:
                flow.stop[buffer] = len(flow.order)
        return flow

    def _walk(self, computation: Any, computations: dict[int, Any], passed: list[Points]) -> None:
        for instruction in _scheduled(self.module, computation):
            operands = [self._points.get(i, {}) for i in instruction.operand_ids]
            if instruction.opcode in _RUNS_OTHERS:
                for number, called in enumerate(instruction.called_computation_ids):
                    handed = _handed(instruction.opcode, operands, number)
                    self._walk(computations[called], computations, handed)
            position = len(self.order)
            self.order.append(instruction)
            for buffer in _read(instruction, operands):
                self.stop[buffer] = position + 1
            defined = self.defines.get(instruction.id, {})
            for buffer in defined.values():
                self.start[buffer] = position
                self.stop[buffer] = position + 1
            points = self._passed_on(instruction, operands, computations, passed)
            points.update({index: (buffer,) for index, buffer in defined.items()})
            self._points[instruction.id] = points

    def _passed_on(
        self,
        instruction: Any,
        operands: list[Points],
        computations: dict[int, Any],
        passed: list[Points],
    ) -> Points:
        """The buffers that an instruction has from others."""
        opcode = instruction.opcode
        if opcode == "parameter":
            number = instruction.parameter_number
            return dict(passed[number]) if number < len(passed) else {}
        if opcode == "tuple":
            return {
                (i, *index): buffers
                for i, points in enumerate(operands)
                for index, buffers in points.items()
            }
        if opcode == "get-tuple-element":
            inner = operands[0].items()
            return {i[1:]: b for i, b in inner if i[:1] == (instruction.tuple_index,)}
        if opcode in _PASSES_ON and operands:
            return dict(operands[0])
        if opcode in _STARTED and operands:
            place = (_STARTED[opcode],)
            return {i[1:]: b for i, b in operands[0].items() if i[:1] == place}
        if opcode == "copy-start" and operands:
            return {(1, *index): buffers for index, buffers in operands[0].items()}
        if opcode == "async-start":
            return {(0, n, *i): b for n, given in enumerate(operands) for i, b in given.items()}
        if opcode in ("call", "conditional"):
            merged: Points = {}
            for called in instruction.called_computation_ids:
                root = self._points.get(computations[called].root_id, {})
                for index, buffers in root.items():
                    merged[index] = tuple(dict.fromkeys((*merged.get(index, ()), *buffers)))
            return merged
        return {}

    def points(self, instruction_id: int) -> Points:
        """The buffers that an instruction's parts are in."""
        return self._points.get(instruction_id, {})


def _scheduled(module: Any, computation: Any) -> list[Any]:
    """The instructions of a computation in the order of its schedule."""
    by_id = {i.id: i for i in computation.instructions}
    if computation.id not in module.schedule.sequences:
        return list(computation.instructions)
    ids = module.schedule.sequences[computation.id].instruction_ids
    return [by_id[i] for i in ids if i in by_id]


def _handed(opcode: str, operands: list[Points], number: int) -> list[Points]:
    """What a called computation gets as its parameters."""
    if opcode == "conditional":
        return operands[number + 1 : number + 2]
    return operands


def _read(instruction: Any, operands: list[Points]) -> Iterator[int]:
    """The buffers that an instruction reads; of a tuple's element, only that element's."""
    element = (instruction.tuple_index,)
    for points in operands:
        for index, buffers in points.items():
            if instruction.opcode != "get-tuple-element" or index[:1] == element:
                yield from buffers


@dataclass(frozen=True)
class Names:
    """Instructions and computations of a module by their ids.

    Attributes:
        instructions: by id.
        computations: by id.
        home: the computation that each instruction is in, by instruction id.
        callers: the instructions that run each computation, by computation id.
    """

    instructions: dict[int, Any]
    computations: dict[int, Any]
    home: dict[int, Any]
    callers: dict[int, list[Any]]

    @staticmethod
    def of(module: Any) -> Names:
        """Index a module."""
        home = {i.id: c for c in module.computations for i in c.instructions}
        callers: dict[int, list[Any]] = {}
        for computation in module.computations:
            for instruction in computation.instructions:
                for called in instruction.called_computation_ids:
                    callers.setdefault(called, []).append(instruction)
        instructions = {i.id: i for c in module.computations for i in c.instructions}
        return Names(instructions, {c.id: c for c in module.computations}, home, callers)

    def results_of(self, caller: Any) -> list[Any]:
        """What the computations return that make an instruction's result, of a loop its body."""
        called = caller.called_computation_ids
        if caller.opcode == "while":  # XLA writes its body first, then its condition
            called = called[:1]
        return [self.instructions[self.computations[i].root_id] for i in called]


def sources(names: Names, instruction: Any, index: Index) -> Iterator[tuple[Any, Index]]:
    """What a part of an instruction is made of, nearest first: other parts of instructions.

    A loop's state is made by its body, and before that by what the loop is given: the same part
    of it. What else runs computations is given other parts than it returns.
    """
    operands = [names.instructions[i] for i in instruction.operand_ids]
    opcode = instruction.opcode
    if opcode == "get-tuple-element":
        yield operands[0], (instruction.tuple_index, *index)
    elif opcode == "tuple" and index:
        yield operands[index[0]], index[1:]
    elif opcode == "opt-barrier":
        yield operands[0], index
    elif opcode == "dynamic-update-slice":
        yield operands[1], ()
        yield operands[0], ()
    elif opcode in _RUNS_OTHERS or instruction.called_computation_ids:
        yield from ((root, index) for root in names.results_of(instruction))
        part = index if opcode == "while" else ()
        yield from ((operand, part) for operand in operands)
    elif opcode == "parameter":
        home = names.home[instruction.id]
        for caller in names.callers.get(home.id, ()):
            if caller.opcode == "while":
                yield from ((root, index) for root in names.results_of(caller))
            place = instruction.parameter_number
            if caller.opcode == "conditional":  # its first operand chooses the branch
                place = 1 + list(caller.called_computation_ids).index(home.id)
            given = [names.instructions[i] for i in caller.operand_ids]
            yield from ((g, index) for g in given[place:][:1])
    else:
        yield from ((operand, ()) for operand in operands)


FAR = 200
"""So many instructions are looked at for one with a telling name."""


def behind(names: Names, instruction: Any, index: Index = ()) -> Iterator[tuple[Any, Index]]:
    """A part of an instruction, and what it is made of, nearest first."""
    queue = [(instruction, index)]
    seen = {(instruction.id, index)}
    for candidate, part in queue:
        yield candidate, part
        for following in sources(names, candidate, part):
            key = following[0].id, following[1]
            if key not in seen and len(seen) < FAR:
                seen.add(key)
                queue.append(following)
