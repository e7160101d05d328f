"""A schedule as its copies: where each is written and read, and the bytes at each position.

In: a `Problem`, a schedule. Out: `Runs`, from which runs can be taken away one by one.

Every run keeps its position, also when others are taken away. A copy whose run is taken away
is read from the copy before it, which is then held longer; what the run reads is held
shorter. Both are ranges of positions, so that a run is judged by a few slices of an array.
All of a schedule is worked out in numpy; lists are made for the few runs that are looked at.

Not handled: what in-place runs save is counted in the schedule as it comes, and not changed
when runs are taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memjax.planning.problem import Problem

Ints = NDArray[np.int64]
Range = tuple[int, int, int]
"""The first position, the position after the last, and by how many bytes they change."""


def excess_of(bytes_at: ArrayLike, budget_bytes: int) -> int:
    """Bytes above a budget, summed over positions."""
    return int(np.maximum(np.asarray(bytes_at, np.int64) - budget_bytes, 0).sum())


@dataclass(frozen=True)
class _Ragged:
    """Lists of values, one for each node, one after the other."""

    start: Ints
    values: Ints

    @staticmethod
    def of(lists: Iterable[Sequence[int]]) -> _Ragged:
        """The lists as arrays."""
        rows = list(lists)
        start = np.cumsum([0, *map(len, rows)])
        return _Ragged(start, np.array([v for row in rows for v in row], np.int64))

    def rows(self, chosen: Ints) -> tuple[Ints, Ints]:
        """The lists of the chosen nodes, one after the other, and where each begins."""
        counts = self.start[chosen + 1] - self.start[chosen]
        begin = np.concatenate(([0], counts.cumsum()))
        at = np.arange(begin[-1]) + np.repeat(self.start[chosen] - begin[:-1], counts)
        return self.values[at], begin


@dataclass(frozen=True)
class Operations:
    """What the nodes of a problem read and write, as arrays.

    Attributes:
        problem: whose nodes they are.
        read: the values with a producer that each node reads.
        written: the values that it writes.
        in_place: those that it may write over.
        sizes: bytes, by value id.
        costs: by node.
        workspaces: bytes, by node.
    """

    problem: Problem
    read: _Ragged
    written: _Ragged
    in_place: _Ragged
    sizes: Ints
    costs: NDArray[np.float64]
    workspaces: Ints

    @staticmethod
    def of(problem: Problem) -> Operations:
        """The arrays of a problem."""
        nodes, producer = problem.nodes, problem.producer
        return Operations(
            problem,
            _Ragged.of([v for v in node.inputs if producer[v] >= 0] for node in nodes),
            _Ragged.of(node.outputs for node in nodes),
            _Ragged.of([v for v in node.in_place if producer[v] >= 0] for node in nodes),
            np.array(problem.value_bytes, np.int64),
            np.array([node.cost for node in nodes], float),
            np.array([node.workspace_bytes for node in nodes], np.int64),
        )


class Runs:
    """The runs of a schedule, each at its position, also when some are taken away.

    Attributes:
        operations: of the problem.
        order: the node that runs at each position, also where it was taken away.
        read: the copies that the runs read, one position after the other.
        read_from: where the reads of each position begin in `read`.
        written_from: the number of the first copy that each position writes; copies are
            numbered in the order they are written.
        value: of each copy.
        size: bytes of each copy.
        writer: the position that writes each copy.
        last: the last position that reads it, or writes it; past the end where it is kept.
        bytes: held while the run at each position runs; 0 where it was taken away.
        cost: of the runs that are left.
        gone: positions of those that were taken away.
    """

    def __init__(self, operations: Operations, order: Sequence[int] | Ints) -> None:
        self.operations = operations
        self.order = np.asarray(order, np.int64)
        self.count = len(self.order)
        self.value, self.written_from = operations.written.rows(self.order)
        self.writer = _owners(self.written_from)
        self.size = operations.sizes[self.value]
        read, self.read_from = operations.read.rows(self.order)
        self.reader = _owners(self.read_from)
        self._arrange(read)
        self.gone: set[int] = set()
        self._reads: dict[int, list[int]] = {}
        self._into: dict[int, int] = {}

    def _arrange(self, read: Ints) -> None:
        """Find the copy that each read sees, and what is held when."""
        problem, step = self.operations.problem, self.count + 1
        by_value = np.argsort(self.value, kind="stable")
        keys = self.value[by_value] * step + self.writer[by_value]

        def newest(values: Ints, before: Ints) -> Ints:
            return by_value[np.searchsorted(keys, values * step + before) - 1]

        self.read = newest(read, self.reader)
        self._older = np.full(len(self.value), -1)
        same = self.value[by_value[1:]] == self.value[by_value[:-1]]
        self._older[by_value[1:][same]] = by_value[:-1][same]
        self.last = self.writer.copy()
        np.maximum.at(self.last, self.read, self.reader)
        outputs = [v for v in dict.fromkeys(problem.outputs) if problem.producer[v] >= 0]
        self.kept = newest(np.array(outputs, np.int64), np.full(len(outputs), self.count))
        self.last[self.kept] = self.count
        change = np.zeros(self.count + 2, np.int64)
        np.add.at(change, self.writer, self.size)
        np.subtract.at(change, self.last + 1, self.size)
        in_place, begin = self.operations.in_place.rows(self.order)
        at = _owners(begin)
        self.bytes = np.cumsum(change)[: self.count] - self._overwritten(newest(in_place, at), at)
        self.bytes += problem.base_bytes + self.operations.workspaces[self.order]
        self.cost = float(self.operations.costs[self.order].sum())

    def _overwritten(self, copies: Ints, at: Ints) -> Ints:
        """Bytes that outputs take over at each position, from copies read there in place."""
        dies = (self.last[copies] == at) & (self.writer[copies] < at)
        dies &= ~np.isin(self.value[copies], self.operations.problem.outputs)
        over, written = np.zeros((2, self.count), np.int64)
        np.add.at(over, at[dies], self.size[copies[dies]])
        np.add.at(written, self.writer, self.size)
        return np.minimum(over, written)

    @cached_property
    def _sorted_reads(self) -> tuple[Ints, Ints]:
        """The readers of each copy, one copy after the other, and where each copy begins."""
        by_copy = np.argsort(self.read, kind="stable")
        begin = np.searchsorted(self.read[by_copy], np.arange(len(self.value) + 1))
        return self.reader[by_copy], begin

    @cached_property
    def _are_kept(self) -> frozenset[int]:
        return frozenset(self.kept.tolist())

    def again(self) -> list[int]:
        """Positions of the recomputations, ascending."""
        _, first = np.unique(self.order, return_index=True)
        later = np.ones(self.count, bool)
        later[first] = False
        return [int(at) for at in np.flatnonzero(later)]

    def reads(self, copy: int) -> list[int]:
        """The positions that read a copy, ascending; past the end where it is kept."""
        if copy not in self._reads:
            readers, begin = self._sorted_reads
            found = readers[begin[copy] : begin[copy + 1]].tolist()
            self._reads[copy] = [*found, self.count] if copy in self._are_kept else found
        return self._reads[copy]

    def reads_at(self, at: int) -> list[int]:
        """The copies that a run reads."""
        read = self.read[self.read_from[at] : self.read_from[at + 1]].tolist()
        return [self._seen(copy) for copy in read] if self._into else read

    def writes_at(self, at: int) -> range:
        """The copies that a run writes."""
        return range(int(self.written_from[at]), int(self.written_from[at + 1]))

    def left(self) -> list[int]:
        """The schedule without the runs that were taken away."""
        if not self.gone:
            return [int(node) for node in self.order]
        return [int(node) for at, node in enumerate(self.order) if at not in self.gone]

    def _seen(self, copy: int) -> int:
        """The copy that is read instead of one whose run was taken away."""
        while copy in self._into:
            copy = self._into[copy]
        return copy

    def _end(self, copy: int, but: int = -1) -> int:
        """The position of the last read, leaving out `but`; of the write where there is none."""
        reads = self.reads(copy)
        if reads and reads[-1] != but:
            return reads[-1]
        return reads[-2] if len(reads) > 1 else int(self.writer[copy])

    def take_away(self, at: int, budget_bytes: int, weight: float) -> bool:
        """Take a recomputation away, where its cost is more than the excess that this makes.

        Args:
            at: its position.
            budget_bytes: for the peak.
            weight: what a byte above the budget costs at each position; 0 takes every run
                that costs something.
        """
        changes: list[Range] = []
        for copy in self.reads_at(at):
            if self._end(copy) == at:
                changes.append((self._end(copy, at) + 1, at, -int(self.size[copy])))
        for copy in self.writes_at(at):
            if self.reads(copy):
                older = self._seen(int(self._older[copy]))
                changes.append((self._end(older) + 1, at, int(self.size[copy])))
        own, cost = int(self.bytes[at]), float(self.operations.costs[self.order[at]])
        gain = cost + weight * max(0, own - budget_bytes)
        self.bytes[at] = 0
        gain -= weight * sum(self._change(change, budget_bytes) for change in changes)
        if gain <= 0:
            for low, high, size in changes:
                self.bytes[low:high] -= size
            self.bytes[at] = own
            return False
        self._leave(at)
        self.cost -= cost
        return True

    def prune(self, again: Iterable[int], budget_bytes: int, weight: float) -> None:
        """Take away those recomputations that are not worth their cost, dearest first."""
        cost = self.operations.costs[self.order]
        for at in sorted(again, key=lambda at: (-cost[at], at)):
            if at not in self.gone:
                self.take_away(at, budget_bytes, weight)

    def _change(self, change: Range, budget_bytes: int) -> int:
        """Make a change, and say by how much the excess grows."""
        low, high, size = change
        if low >= high:
            return 0
        over = self.bytes[low:high] - budget_bytes
        before = int(np.maximum(over, 0).sum())
        self.bytes[low:high] += size
        return int(np.maximum(over + size, 0).sum()) - before

    def _leave(self, at: int) -> None:
        """The run reads nothing any more, and its readers read the copies before its own."""
        for copy in self.reads_at(at):
            self.reads(copy).remove(at)
        for copy in self.writes_at(at):
            older = self._seen(int(self._older[copy]))
            self.reads(older).extend(self.reads(copy))
            self._reads[copy] = []
            self._into[copy] = older
        self.gone.add(at)


def _owners(begin: Ints) -> Ints:
    """The row of each entry of lists that begin there."""
    return np.repeat(np.arange(len(begin) - 1), np.diff(begin))


def pruned(
    problem: Problem, order: Sequence[int], budget_bytes: int, weight: float
) -> tuple[int, ...]:
    """The schedule without the recomputations that are not worth their cost, dearest first.

    A schedule that annealing has made (`planners.orders`) runs recomputations in an
    order of their own, and some nodes twice between two first runs. In stage form, as
    `planners.search` prunes, it often needs more bytes.

    Args:
        problem: to plan.
        order: a schedule.
        budget_bytes: for the peak.
        weight: what a byte above the budget costs at each position.
    """
    runs = Runs(Operations.of(problem), order)
    runs.prune(runs.again(), budget_bytes, weight)
    return tuple(runs.left())
