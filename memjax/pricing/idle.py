"""The idle gaps of a schedule as it is carried out, for tables and figures.

In: a `Problem` and a schedule. Out: `IdleGap`s in positions of the schedule, which is what a
`Timeline` uses; `memjax.emit.plan.decisions` names the same gaps by the program's eqns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from memjax.planning.problem import Problem


@dataclass(frozen=True)
class IdleGap:
    """A stretch `[start, stop)` of positions in which nobody reads a value.

    Attributes:
        value: id in the problem.
        start: one past the position that wrote or read it last.
        stop: the position that reads it next, or that writes it again.
        decision: whether the value is held meanwhile.
    """

    value: int
    start: int
    stop: int
    decision: Literal["keep", "recompute"]


def idle_gaps(problem: Problem, order: Sequence[int]) -> tuple[IdleGap, ...]:
    """The idle gaps of all values that take bytes, in the order in which they end.

    Args:
        problem: what is scheduled.
        order: a valid schedule.
    """
    last: dict[int, int] = {}
    gaps: list[IdleGap] = []

    def end(value: int, position: int, decision: Literal["keep", "recompute"]) -> None:
        if value in last and last[value] + 1 < position and problem.value_bytes[value]:
            gaps.append(IdleGap(value, last[value] + 1, position, decision))
        last[value] = position

    for position, index in enumerate(order):
        node = problem.nodes[index]
        for value in node.inputs:
            if problem.producer[value] >= 0:
                end(value, position, "keep")
        for value in node.outputs:
            end(value, position, "recompute")
    for value in problem.outputs:
        end(value, len(order), "keep")
    return tuple(gaps)
