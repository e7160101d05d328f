"""A recomputation with those of its inputs, judged before any of it is done.

In: a `Schedule`, a stage and a node. Out: the nodes to recompute there, and the excess of
the stages before. The schedule is not changed: what whole stages would hold is a few slices
of an array, which takes a quarter of the time of adding the runs and taking them away again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memjax.planning.planners.incremental import Schedule

DEPTH = 3  # inputs of inputs that are tried
LINKS = 4  # recomputations of inputs that are tried in all; 12 is worse for the same work


class Chain:
    """A recomputation and those of its inputs, and what they would do to the bytes.

    Only whole stages before the recomputation are looked at; what its own stage holds is
    seen when the chain is added.

    Attributes:
        nodes: to recompute.
        longer: values that are held up to the stage for these alone, and the stage of their
            last read before.
        work: runs tried.
    """

    def __init__(self, schedule: Schedule, run: tuple[int, int], level: NDArray[np.int64]) -> None:
        """`level` is the bytes of each stage above the budget, below zero where it is met."""
        self.schedule = schedule
        self.stage, self.node = run
        self.level = level[: self.stage].copy()
        self.nodes: list[int] = []
        self.longer: dict[int, int] = {}
        self.links = LINKS
        self.work = 0

    def grow(self) -> float:
        """Find `nodes`, in an order in which each is of use; the excess of earlier stages."""
        self._take(self.node)
        after = self._grow(self.node, self._excess(), DEPTH)
        self.work += len(self.nodes)
        return after

    def _excess(self) -> float:
        return float(np.maximum(self.level, 0).sum())

    def _take(self, node: int) -> None:
        """Recompute a node: its values are not held up to here, what it reads is."""
        schedule, stage = self.schedule, self.stage
        key = stage * schedule.step + node
        self.nodes.append(node)
        for value, size in schedule.outs[node]:
            since = self.longer.pop(value, -1)
            if since < 0:
                since = schedule.read_before(value, node, key) // schedule.step
            self.level[since + 1 : stage] -= size
        for value, size, producer in schedule.ins[node]:
            if value in self.longer or producer in self.nodes:
                continue
            last = schedule.last_read(value, producer, key)[1]
            since = last // schedule.step
            if since < stage:
                self.longer[value] = since
                self.level[since + 1 : stage] += size

    def _grow(self, node: int, after: float, depth: int) -> float:
        """Recompute inputs of a node as well where that lowers the excess further."""
        if depth == 0:
            return after
        for value, _, producer in self.schedule.ins[node]:
            if self.links == 0:
                break
            since = self.longer.get(value)
            if since is None or not self.schedule.problem.nodes[producer].recomputable:
                continue
            if (
                producer in self.schedule.stages[self.stage]
                or not (self.level[since + 1 :] > 0).any()
            ):
                continue
            self.links -= 1
            kept = self.level.copy(), self.nodes[:], dict(self.longer)
            self._take(producer)
            lower = self._grow(producer, self._excess(), depth - 1)
            if lower < after:
                after = lower
            else:
                self.work += len(self.nodes) - len(kept[1])
                self.level, self.nodes, self.longer = kept
        return after
