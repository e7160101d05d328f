"""The idle gaps of a problem's plain schedule, as arrays.

In: a `Schedule`. Out: `Gaps`: for each stretch in which a value waits for its next reader, what
making it again at the end of the stretch takes and reads.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memjax.planning.planners.incremental import Schedule
from memjax.planning.problem import Problem

_Gap = tuple[int, int, int, int]
"""(node, stages at either end, bytes)."""


@dataclass(frozen=True)
class Gaps:
    """Arrays by gap.

    Attributes:
        node: that writes the value.
        since: the stage that it was written or last read in.
        until: the stage of its next reader.
        bytes: of the value.
        cost: of the node, never 0.
        read_bytes: of what the node reads, of shape (gaps, most inputs); 0 where there is none.
        read_since: the stage of the last reader of that before the end of the gap.
    """

    node: NDArray[np.int64]
    since: NDArray[np.int64]
    until: NDArray[np.int64]
    bytes: NDArray[np.float64]
    cost: NDArray[np.float64]
    read_bytes: NDArray[np.float64]
    read_since: NDArray[np.int64]

    @staticmethod
    def of(schedule: Schedule) -> Gaps:
        """The gaps of a schedule's problem."""
        gaps = list(_gaps(schedule.problem))
        table = np.array(gaps, np.int64).reshape(-1, 4)
        node, since, until = (table[:, i].copy() for i in range(3))
        costs = np.array(schedule.costs, float)[node]
        costs += 1e-9 * max(1e-30, schedule.problem.total_cost)
        return Gaps(node, since, until, table[:, 3].astype(float), costs, *_reads(schedule, gaps))


def _gaps(problem: Problem) -> Iterator[_Gap]:
    kept = set(problem.outputs)
    for index, node in enumerate(problem.nodes):
        if not node.recomputable:
            continue
        for value in node.outputs:
            before = index
            for reader in problem.consumers[value]:
                if reader > before + 1:
                    yield index, before, reader, problem.value_bytes[value]
                before = reader
            if value in kept and len(problem.nodes) - 1 > before + 1:
                yield index, before, len(problem.nodes) - 1, problem.value_bytes[value]


def _reads(
    schedule: Schedule, gaps: Sequence[_Gap]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    consumers, ins = schedule.problem.consumers, schedule.ins
    most = max((len(ins[gap[0]]) for gap in gaps), default=0)
    sizes, since = np.zeros((2, len(gaps), most), np.int64)
    for index, (node, _, to, _) in enumerate(gaps):
        for place, (value, size, producer) in enumerate(ins[node]):
            readers = consumers[value]
            last = bisect_right(readers, to)
            sizes[index, place] = size
            since[index, place] = readers[last - 1] if last else producer
    return sizes.astype(float), since
