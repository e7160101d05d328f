"""Which operands an instruction writes over: those it must, and those it may.

In: an instruction of a compiled module. Out: parts of its shape, each with the operand whose bytes
it takes over.

Definitions

1. It *must* write over what it updates: the target of a `dynamic-update-slice` or a `scatter`, also
   as the last thing of a fusion, and what the module says of it (`output_operand_aliasing`).
2. It *may* write over an operand that it reads elementwise, if nobody reads that one later and
   both take as many bytes: every use of the operand inside of it, up to its results, computes an
   element from the same element.

Source: XLA's `HloDataflowAnalysis` (`GetInPlaceInputOutputPairs`, `CanShareOperandBufferWithUser`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from memjax.xla.flow import Names
from memjax.xla.shapes import Index

_UPDATES = frozenset({"dynamic-update-slice", "scatter"})
_THROUGH = frozenset({"bitcast", "convert", "copy", "reshape", "transpose"})
"""What may stand between a fusion's parameter and the update of it in place."""
_ELEMENTWISE = frozenset(
    """abs add and atan2 cbrt ceil clamp compare complex convert copy cosine count-leading-zeros
    divide erf exponential exponential-minus-one floor imag is-finite log log-plus-one logistic
    maximum minimum multiply negate not or popcnt power real reduce-precision remainder
    round-nearest-afz round-nearest-even rsqrt select shift-left shift-right-arithmetic
    shift-right-logical sign sine sqrt stochastic-convert subtract tan tanh xor""".split()
)

Written = tuple[Index, int, Index]
"""The part of an instruction's shape, the operand's number, the part of the operand's shape."""


def must_write_over(instruction: Any, names: Names) -> Iterator[Written]:
    """Definition 1."""
    for alias in instruction.output_operand_aliasing:
        output, inner = tuple(alias.output_shape_index), tuple(alias.operand_shape_index)
        yield output, int(alias.operand_index), inner
    if instruction.output_operand_aliasing:
        return
    if instruction.opcode in _UPDATES:
        yield (), 0, ()
    elif instruction.opcode == "fusion":
        for output, result in _results(instruction, names):
            update = _behind(names, result)
            if update.opcode in _UPDATES:
                target = _behind(names, names.instructions[update.operand_ids[0]])
                if target.opcode == "parameter":
                    yield output, int(target.parameter_number), ()


def may_write_over(instruction: Any, names: Names) -> Iterator[Written]:
    """Definition 2, but for the bytes and the later readers."""
    if instruction.opcode in _ELEMENTWISE and instruction.opcode != "copy":
        yield from (((), number, ()) for number in range(len(instruction.operand_ids)))
    elif instruction.opcode == "fusion":
        fused = names.computations[instruction.called_computation_ids[0]]
        for inner in fused.instructions:
            if inner.opcode == "parameter" and _is_read_elementwise(fused, inner.id):
                for output, _ in _results(instruction, names):
                    yield output, int(inner.parameter_number), ()


def _results(fusion: Any, names: Names) -> Iterator[tuple[Index, Any]]:
    root = names.instructions[names.computations[fusion.called_computation_ids[0]].root_id]
    if root.opcode != "tuple":
        yield (), root
        return
    for number, part in enumerate(root.operand_ids):
        yield (number,), names.instructions[part]


def _behind(names: Names, instruction: Any) -> Any:
    while instruction.opcode in _THROUGH:
        instruction = names.instructions[instruction.operand_ids[0]]
    return instruction


def _is_read_elementwise(fused: Any, parameter: int) -> bool:
    """Whether all that depends on a parameter of a fused computation is elementwise."""
    depends = {parameter}
    for inner in _in_order(fused):
        if depends.isdisjoint(inner.operand_ids):
            continue
        if inner.opcode not in _ELEMENTWISE and inner.opcode != "tuple":
            return False
        depends.add(inner.id)
    return True


def _in_order(computation: Any) -> list[Any]:
    """The instructions of a computation, operands before what reads them."""
    by_id = {i.id: i for i in computation.instructions}
    done: dict[int, Any] = {}
    stack = [computation.root_id]
    while stack:
        instruction = by_id[stack[-1]]
        waiting = [o for o in instruction.operand_ids if o not in done]
        if waiting:
            stack += waiting
            continue
        done[stack.pop()] = instruction
    return list(done.values())
