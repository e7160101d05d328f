"""Recomputations taken away from any schedule, wherever that makes it better.

In: a `Problem`, a schedule, a budget, a weight. Out: the schedule with fewer runs.

`memjax.planners.search` prunes schedules in stage form. A schedule that annealing has made
(`memjax.planners.orders`) runs recomputations in an order of their own, and some nodes twice
between two first runs; in stage form it often needs more bytes. Here every run keeps its
place. A copy whose run is taken away is read from the copy before it, which is then held
longer; what the run reads is held shorter. Both are ranges of positions, so that a run is
judged by a few slices of an array.

Not handled: what in-place runs save, so that bytes are judged a little too high here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memjax.problem import Problem

Range = tuple[int, int, int]
"""The first position, the position after the last, and by how many bytes they change."""


def excess_of(bytes_at: ArrayLike, budget_bytes: int) -> int:
    """Bytes above a budget, summed over positions."""
    return int(np.maximum(np.asarray(bytes_at, np.int64) - budget_bytes, 0).sum())


def pruned(
    problem: Problem, order: Sequence[int], budget_bytes: int, weight: float
) -> tuple[int, ...]:
    """The schedule without the recomputations that are not worth their cost.

    Args:
        problem: to plan.
        order: a schedule.
        budget_bytes: for the peak.
        weight: what a byte above the budget costs at each position.
    """
    runs = _Runs(problem, order, budget_bytes, weight)
    dearest = sorted(runs.again, key=lambda at: (-problem.nodes[order[at]].cost, at))
    gone = {at for at in dearest if runs.take_away(at)}
    return tuple(node for at, node in enumerate(order) if at not in gone)


@dataclass(eq=False)
class _Copy:
    """One copy of a value: where it is written, and where it is read, ascending."""

    value: int
    start: int
    size: int
    reads: list[int] = field(default_factory=list)

    def last(self, but: int = -1) -> int:
        """The position of the last read, leaving out `but`; of the write where there is none."""
        if self.reads and self.reads[-1] != but:
            return self.reads[-1]
        return self.reads[-2] if len(self.reads) > 1 else self.start


class _Runs:
    """The runs of a schedule, each at its position, also when some are taken away.

    Attributes:
        again: positions of the recomputations.
        bytes: held while the run at each position runs.
    """

    def __init__(self, problem: Problem, order: Sequence[int], budget: int, weight: float) -> None:
        self.problem, self.order = problem, order
        self.budget, self.weight = budget, weight
        self.again: list[int] = []
        self.copies: dict[int, list[_Copy]] = {}
        self.read: list[list[_Copy]] = []
        self.written: list[list[_Copy]] = []
        seen: set[int] = set()
        for at, node in enumerate(order):
            self._write_down(at, node)
            if node in seen:
                self.again.append(at)
            seen.add(node)
        for value in dict.fromkeys(problem.outputs):
            if value in self.copies:
                self.copies[value][-1].reads.append(len(order))
        self.bytes = self._bytes()

    def _write_down(self, at: int, index: int) -> None:
        node, size = self.problem.nodes[index], self.problem.value_bytes
        self.read.append([self.copies[v][-1] for v in node.inputs if v in self.copies])
        for copy in self.read[-1]:
            copy.reads.append(at)
        self.written.append([_Copy(v, at, size[v]) for v in node.outputs])
        for copy in self.written[-1]:
            self.copies.setdefault(copy.value, []).append(copy)

    def _bytes(self) -> NDArray[np.int64]:
        count = len(self.order)
        change = np.zeros(count + 2, np.int64)
        for copies in self.copies.values():
            for copy in copies:
                change[copy.start] += copy.size
                change[copy.last() + 1] -= copy.size
        workspaces = [self.problem.nodes[node].workspace_bytes for node in self.order]
        held = np.cumsum(change)[:count] + np.array(workspaces, np.int64)
        return held + self.problem.base_bytes

    def take_away(self, at: int) -> bool:
        """Take a recomputation away, where its cost is more than the excess that this makes."""
        before = [self._before(copy) for copy in self.written[at]]
        changes = [
            (copy.last(at) + 1, at, -copy.size) for copy in self.read[at] if at == copy.last()
        ]
        for copy, older in zip(self.written[at], before, strict=True):
            if copy.reads:
                changes.append((older.last() + 1, at, copy.size))
        own = int(self.bytes[at])
        gain = self.problem.nodes[self.order[at]].cost + self.weight * max(0, own - self.budget)
        self.bytes[at] = 0
        gain -= self.weight * sum(self._change(change) for change in changes)
        if gain <= 0:
            for low, high, size in changes:
                self.bytes[low:high] -= size
            self.bytes[at] = own
            return False
        for copy in self.read[at]:
            copy.reads.remove(at)
        for copy, older in zip(self.written[at], before, strict=True):
            self._merge(copy, older)
        return True

    def _before(self, copy: _Copy) -> _Copy:
        """The copy of the same value before a copy."""
        copies = self.copies[copy.value]
        return copies[copies.index(copy) - 1]

    def _change(self, change: Range) -> int:
        """Make a change, and say by how much the excess grows."""
        low, high, size = change
        if low >= high:
            return 0
        held = self.bytes[low:high]
        before = excess_of(held, self.budget)
        held += size
        return excess_of(held, self.budget) - before

    def _merge(self, copy: _Copy, older: _Copy) -> None:
        """What read a copy reads the one before it."""
        for reader in copy.reads:
            if reader < len(self.order):
                read = self.read[reader]
                read[read.index(copy)] = older
        older.reads += copy.reads
        self.copies[copy.value].remove(copy)
