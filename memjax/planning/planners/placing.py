"""Where runs that a cut asks for go in a schedule.

In: the `Runs` of a schedule, a position, earlier runs to make again after it. Out: the
schedule with these.

1. `inserted` puts each new run as late as its first reader lets it;
2. `Settling` moves them, one at a time, to where the excess over the budget is least. Between
   its inputs and its first reader a run may stand before each position. The outputs are held
   from there on, and the inputs up to there, so that the excess of all these places is
   a cumulative sum. A position that a run has left stays, as a sample of what is held there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memjax.planning.planners.copies import Runs

SWEEPS = 3  # over all runs; most have found their places after two


def inserted(runs: Runs, at: int, again: Sequence[int]) -> tuple[list[int], list[int]]:
    """A schedule with runs made again, each as late as its readers let it.

    Args:
        runs: of the schedule; none was taken away.
        at: what is read up to here, and made again, is read from the copies that are there.
        again: positions up to `at` of the runs to make again, ascending.

    Returns:
        The schedule, and the positions of the new runs in it, ascending.
    """
    chosen, slot = set(again), dict[int, int]()
    readers: dict[int, int] = {}  # the first slot of a new reader, by the run that it reads from
    for run in reversed(again):
        first = readers.get(run, runs.count)
        for copy in runs.writes_at(run):
            reads = runs.reads(copy)
            later = bisect_right(reads, at)
            first = min(first, reads[later]) if later < len(reads) else first
        slot[run] = first
        for copy in runs.reads_at(run):
            writer = int(runs.writer[copy])
            if writer in chosen:
                readers[writer] = min(first, readers.get(writer, first))
    before: dict[int, list[int]] = {}
    for run in again:
        before.setdefault(slot[run], []).append(int(runs.order[run]))
    order, places = list[int](), list[int]()
    for position, node in enumerate([*runs.order.tolist(), -1]):
        for new in before.get(position, ()):
            places.append(len(order))
            order.append(new)
        order.append(node)
    return order[:-1], places


@dataclass(eq=False, slots=True)
class _Hold:
    """A copy that moving runs write or read.

    Attributes:
        size: bytes.
        writer: the moving run that writes it; -1 where another run does.
        start: where other runs write it.
        until: past the last position of other runs that need it.
        readers: moving runs that read it.
    """

    size: int
    writer: int
    start: int
    until: int
    readers: list[int] = field(default_factory=list)


class Settling:
    """Runs of a schedule on their way to where they cause the least excess; see the module.

    A moving run is named by its first position.
    """

    def __init__(self, runs: Runs, moving: Sequence[int], after: int, budget_bytes: int) -> None:
        """Args:
        runs: of the schedule; none was taken away.
        moving: positions of the runs that may move, ascending.
        after: a position that they may not move to, or before.
        budget_bytes: what is above is excess.
        """
        self.runs, self.moving, self.after, self.budget = runs, moving, after, budget_bytes
        self.bytes = np.append(runs.bytes, 0)
        self.slot = {run: run for run in moving}
        self.outs: dict[int, list[_Hold]] = {}
        self.ins: dict[int, list[_Hold]] = {}
        holds: dict[int, _Hold] = {}
        for run in moving:
            self.outs[run] = [self._hold(copy, holds) for copy in runs.writes_at(run)]
            self.ins[run] = [self._hold(copy, holds) for copy in runs.reads_at(run)]
        self.first_read = {run: self._first_read(run) for run in moving}

    def _hold(self, copy: int, holds: dict[int, _Hold]) -> _Hold:
        if copy not in holds:
            runs, writer = self.runs, int(self.runs.writer[copy])
            reads = runs.reads(copy)
            fixed = [reader for reader in reads if reader not in self.slot]
            until = fixed[-1] + 1 if fixed else writer + (writer not in self.slot)
            moving = [reader for reader in reads if reader in self.slot]
            inside = writer if writer in self.slot else -1
            holds[copy] = _Hold(int(runs.size[copy]), inside, writer, until, moving)
        return holds[copy]

    def _first_read(self, run: int) -> int:
        """The first position of a run that does not move and reads what this one writes."""
        first = self.runs.count
        for copy in self.runs.writes_at(run):
            reads = self.runs.reads(copy)
            first = next((r for r in reads if r not in self.slot and r < first), first)
        return first

    def _end(self, hold: _Hold, but: int) -> int:
        """Past the last position that holds it, leaving out the reader `but`."""
        end = hold.start if hold.writer < 0 else self.slot[hold.writer]
        end = max(end, hold.until)
        for reader in hold.readers:
            if reader != but and self.slot[reader] >= end:
                end = self.slot[reader] + 1
        return end

    def settle(self) -> None:
        """Move the runs while that makes the excess less."""
        for sweep in range(SWEEPS):
            moved = 0
            for run in self.moving if sweep % 2 else self.moving[::-1]:
                moved += self._move(run)
            if not moved:
                break

    def _move(self, run: int) -> bool:
        """Move one run; say whether it was."""
        earlier = (self.slot[hold.writer] for hold in self.ins[run] if hold.writer >= 0)
        readers = (self.slot[reader] for hold in self.outs[run] for reader in hold.readers)
        low = max(self.after + 1, max(earlier, default=0))
        high = min(self.first_read[run], min(readers, default=self.first_read[run]))
        slot, held = self.slot[run], self.bytes
        if high <= low or int(held[low : high + 1].max()) <= self.budget:
            return False
        written = sum(hold.size for hold in self.outs[run])
        held[slot:high] -= written
        read = [(self._end(hold, run), hold.size) for hold in self.ins[run]]
        for end, size in read:
            held[end : slot + 1] -= size
        best = low + self._least(held[low : high + 1], low, written, read, slot)
        held[best:high] += written
        for end, size in read:
            held[end : best + 1] += size
        self.slot[run] = best
        return best != slot

    def _least(
        self,
        held: NDArray[np.int64],
        low: int,
        written: int,
        read: list[tuple[int, int]],
        slot: int,
    ) -> int:
        """The place with the least excess, counted from `low`; the present one where it is as good.

        Args:
            held: bytes without the run, from the first place to the last.
            low: the first place.
            written: bytes of its outputs, held from its place on.
            read: for each input the end of what holds it otherwise, and its bytes.
            slot: the present place.
        """
        longer = np.zeros(len(held), np.int64)
        for end, size in read:
            longer[max(0, end - low) :] += size
        more = np.full(len(held), written)
        more[-1] = 0  # held there anyway
        over = held - self.budget
        alone = np.maximum(over, 0)
        total = np.maximum(over + longer + more, 0) - alone
        total[1:] += (np.maximum(over + longer, 0) - alone)[:-1].cumsum()
        total[:-1] += (np.maximum(over + more, 0) - alone)[1:][::-1].cumsum()[::-1]
        best = int(total.argmin())
        return slot - low if total[slot - low] == total[best] else best

    def order(self) -> list[int]:
        """The schedule with the runs in their places."""
        before: dict[int, list[int]] = {}
        for run in self.moving:
            before.setdefault(self.slot[run], []).append(int(self.runs.order[run]))
        order: list[int] = []
        for at, node in enumerate(self.runs.order.tolist()):
            order += before.get(at, ())
            if at not in self.slot:
                order.append(node)
        return order + before.get(self.runs.count, [])
