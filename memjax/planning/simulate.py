"""Judge a schedule: the bytes at each position, and the overhead.

In: a `Problem` and a schedule (`Solution` or a sequence of node indices).
Out: a `Timeline`.

This is the plainest code that can be right, and it shares none with the planners, which it
judges. The definitions are those of `memjax.planning.problem`. While the node at a position runs,
the bytes are

    max(before, before - overwritten + written) + workspace

where `before` is what is held when it starts, its inputs included, `written` is what it
writes, and `overwritten` its `in_place` inputs that are read here for the last time.
Without in-place inputs that is `before + written + workspace`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from memjax.helpers.brief import data_frame, html_chart, html_table, spark, table
from memjax.helpers.budget import format_bytes
from memjax.planning.problem import Problem, Solution

if TYPE_CHECKING:
    import pandas


class InvalidPlan(ValueError):
    """A schedule or a plan that cannot be carried out; the message names the decision."""


@dataclass(frozen=True)
class Held:
    """One copy of a value, held over the half-open stretch `[start, stop)` of positions."""

    value: int
    start: int
    stop: int


@dataclass(frozen=True)
class Timeline:
    """What a schedule holds, position by position.

    Attributes:
        bytes_at: bytes held while the node at each position runs, `base_bytes` included.
        held: the copies with their live ranges, in the order they are written.
        cost: of all runs.
        plain_cost: of each node once.
        phases: a label for each position, such as `"forward"`; empty where nobody gave any.
    """

    bytes_at: tuple[int, ...]
    held: tuple[Held, ...]
    cost: float
    plain_cost: float
    phases: tuple[str, ...] = ()

    @cached_property
    def peak_bytes(self) -> int:
        """The highest bytes at any position; 0 for an empty schedule."""
        return max(self.bytes_at, default=0)

    @property
    def peak_position(self) -> int:
        """The first position that holds the peak."""
        return self.bytes_at.index(self.peak_bytes)

    @property
    def overhead(self) -> float:
        """Cost of recomputation over cost of the plain step; 0 where the step costs nothing."""
        extra = self.cost - self.plain_cost
        return extra / self.plain_cost if self.plain_cost else 0.0

    def __repr__(self) -> str:
        if not self.bytes_at:
            return "<Timeline: no positions>"
        peak = f"peak {format_bytes(self.peak_bytes)} at {self.peak_position}"
        return f"<Timeline: {len(self.bytes_at)} positions, {peak}>"

    def __str__(self) -> str:
        lines = [repr(self)[1:-1], f"  {spark(self.bytes_at)}"]
        if self.phases:
            lines += [f"  {line}" for line in table(_HEADERS, _phase_rows(self), right=(1, 2))]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = html_table(_HEADERS, _phase_rows(self), right=(1, 2)) if self.phases else ""
        return f"<p>{repr(self)[1:-1]}</p>{html_chart(self.bytes_at, repr(self)[1:-1])}{rows}"

    def to_dict(self) -> dict[str, Any]:
        """The timeline as plain values that JSON can write."""
        return {
            "bytes_at": list(self.bytes_at),
            "phases": list(self.phases),
            "peak_bytes": self.peak_bytes,
            "peak_position": self.peak_position if self.bytes_at else None,
            "overhead": self.overhead,
        }

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each position: its bytes, and its phase where phases are known."""
        phases = {"phase": self.phases} if self.phases else {}
        return data_frame({"bytes": self.bytes_at, **phases})

    def holders(self, position: int) -> tuple[int, ...]:
        """Ids of the values held at a position, in the order they were written."""
        return tuple(h.value for h in self.held if h.start <= position < h.stop)


_HEADERS = ("phase", "positions", "peak")


def _phase_rows(timeline: Timeline) -> list[tuple[str, int, str]]:
    """For each phase, in order of appearance: how many positions, and the most bytes held."""
    at: dict[str, list[int]] = {}
    for phase, count in zip(timeline.phases, timeline.bytes_at, strict=True):
        at.setdefault(phase, []).append(count)
    return [(phase, len(counts), format_bytes(max(counts))) for phase, counts in at.items()]


def simulate(problem: Problem, solution: Solution | Sequence[int]) -> Timeline:
    """Replay a schedule.

    Raises:
        InvalidPlan: a node reads a value that no earlier position wrote, runs twice although
            it must not, or never runs.
    """
    order = solution.order if isinstance(solution, Solution) else tuple(solution)
    _check(problem, order)
    held = _live_ranges(problem, order)
    return Timeline(
        bytes_at=_bytes_at(problem, order, held),
        held=held,
        cost=sum(problem.nodes[i].cost for i in order),
        plain_cost=problem.total_cost,
    )


def _check(problem: Problem, order: Sequence[int]) -> None:
    runs = [0] * len(problem.nodes)
    for position, index in enumerate(order):
        if not 0 <= index < len(problem.nodes):
            raise InvalidPlan(f"position {position} runs node {index}, which does not exist")
        node = problem.nodes[index]
        label = f"node {index} ({node.name})" if node.name else f"node {index}"
        if runs[index] and not node.recomputable:
            raise InvalidPlan(f"position {position} runs {label} again, which must run once")
        for value in node.inputs:
            producer = problem.producer[value]
            if producer >= 0 and not runs[producer]:
                raise InvalidPlan(
                    f"position {position} runs {label}, but value {value}, "
                    f"which it reads, was not written by node {producer} yet"
                )
        runs[index] += 1
    missing = [i for i, count in enumerate(runs) if count == 0]
    if missing:
        raise InvalidPlan(f"node {missing[0]} never runs")


def _live_ranges(problem: Problem, order: Sequence[int]) -> tuple[Held, ...]:
    written: list[tuple[int, int]] = []
    stop: list[int] = []
    newest: dict[int, int] = {}
    for position, index in enumerate(order):
        node = problem.nodes[index]
        for value in node.inputs:
            if value in newest:
                stop[newest[value]] = position + 1
        for value in node.outputs:
            newest[value] = len(written)
            written.append((value, position))
            stop.append(position + 1)
    for value in problem.outputs:
        if value in newest:
            stop[newest[value]] = len(order)
    return tuple(Held(v, start, end) for (v, start), end in zip(written, stop, strict=True))


def _bytes_at(problem: Problem, order: Sequence[int], held: Sequence[Held]) -> tuple[int, ...]:
    """Positions are half-open: a copy with `stop == p + 1` is read for the last time at `p`."""
    arrives = [0] * (len(order) + 1)
    leaves = [0] * (len(order) + 1)
    overwritten = [0] * (len(order) + 1)
    kept_to_the_end = set(problem.outputs)
    for copy in held:
        size = problem.value_bytes[copy.value]
        arrives[copy.start] += size
        leaves[copy.stop] += size
        last = copy.stop - 1
        if copy.value in kept_to_the_end or copy.start == last:
            continue
        if copy.value in problem.nodes[order[last]].in_place:
            overwritten[last] += size
    result = []
    before = problem.base_bytes
    for position, index in enumerate(order):
        before -= leaves[position]
        during = max(before, before - overwritten[position] + arrives[position])
        result.append(during + problem.nodes[index].workspace_bytes)
        before += arrives[position]
    return tuple(result)
