"""Which argument buffers a step may give up.

In: a `Program`. Out: a verdict for each flat argument, with the reason.

An argument is donated when some result has its shape and dtype and is an *update* of it:
the argument itself, or reached from it through elementwise eqns that keep the shape. In a
train step that is true of parameters, optimizer state and running statistics, and not of
the batch, whose traces in the results go through matmuls and reductions. Each result is
taken by one argument.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from memjax import primitives
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
    """Match arguments with results.

    Args:
        program: the step.
        candidates: indices of the flat arguments that the caller wants to give up, who then
            need no update of theirs among the results, only one of the same type; None
            decides by updates.
    """
    free_results = dict(enumerate(program.results))
    verdicts = []
    for index, value in enumerate(program.arguments):
        result, reason = None, "kept as asked"
        if candidates is None or index in candidates:
            result, reason = _find_result(program, value, free_results, candidates is None)
        if result is not None:
            free_results.pop(result)
        name = program.argument_names[index]
        verdicts.append(Donation(index, name, program.value_bytes[value], result, reason))
    return tuple(verdicts)


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
