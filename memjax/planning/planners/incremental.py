"""A schedule under change: add and take away runs, and know the bytes at once.

In: a `Problem`, then single changes. Out: bytes by stage after each change, and the order.

Definitions

1. First runs stay in the problem's order. *Stage* `t` is the stretch of the schedule after
   the first run of node `t - 1` up to and with the first run of node `t`.
2. Within a stage nodes run in ascending order, so a run is named by its *key*
   `stage * (n + 1) + node`, and keys sort in the order of the schedule. Any schedule that
   keeps the first runs in order and needs no node twice within a stage has this form: it is
   the frontier-advancing form of Jain et al., *Checkmate* (2020).
3. A copy of a value *covers* the runs after the one that writes it, up to and with its last
   read. The bytes at a run are the copies that cover it, and what it adds itself.

Adding a run moves the ends of a few copies. Each move is a range of runs that hold more or
fewer bytes: whole stages are a slice of an array, and only the stages at either end look at
their runs one by one. Annealing over such a structure is due to Li et al., *FastSA* (2023).

This shares no code with `memjax.simulate`, which judges what comes out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memjax.planning.problem import Problem


class Schedule:
    """Runs of nodes in stage form, with the bytes of each stage kept up to date.

    Attributes:
        stages: the nodes that run in each stage, ascending; the last is the stage itself.
        runs: the keys of the runs of each node, ascending.
        uses: the keys of the reads of each value, ascending; for values held to the end
            one more key after all.
        cost: of all runs.
    """

    def __init__(self, problem: Problem) -> None:
        count = len(problem.nodes)
        self.problem = problem
        self.count = count
        self.step = count + 1
        self.costs = [node.cost for node in problem.nodes]
        self.cost = problem.total_cost
        producer, size = problem.producer, problem.value_bytes
        self.outs = [[(v, size[v]) for v in node.outputs] for node in problem.nodes]
        self.ins = [
            [(v, size[v], producer[v]) for v in node.inputs if producer[v] >= 0]
            for node in problem.nodes
        ]
        kept = set(problem.outputs)
        self.in_place = [
            [v for v in node.in_place if producer[v] >= 0 and v not in kept]
            for node in problem.nodes
        ]
        self.written = [sum(size[v] for v in node.outputs) for node in problem.nodes]
        self.adds = [
            written + node.workspace_bytes
            for written, node in zip(self.written, problem.nodes, strict=True)
        ]
        self._has_in_place = any(self.in_place)
        self.end = count * self.step
        self.stages = [[t] for t in range(count)]
        self.runs = [[t * self.step + t] for t in range(count)]
        self.uses = [[t * self.step + t for t in readers] for readers in problem.consumers]
        for value in dict.fromkeys(problem.outputs):
            if producer[value] >= 0:
                self.uses[value].append(self.end - 1)
        self._levels: NDArray[np.int64] = np.zeros((2, count), np.int64)
        self._held = [[0] for _ in range(count)]
        self._own = [[0] for _ in range(count)]
        self._stale: dict[int, None] = {}
        self._fill()

    @property
    def peaks(self) -> NDArray[np.int64]:
        """The highest bytes in each stage, shape (nodes,). A view: do not write."""
        peaks: NDArray[np.int64] = self._levels[1]
        return peaks

    def order(self) -> tuple[int, ...]:
        """The schedule as node indices."""
        return tuple(node for stage in self.stages for node in stage)

    def extra_runs(self) -> list[tuple[int, int]]:
        """(stage, node) of each recomputation, in schedule order."""
        return [
            (t, node)
            for t, stage in enumerate(self.stages)
            if len(stage) > 1
            for node in stage[:-1]
        ]

    @staticmethod
    def runs_in(order: Sequence[int]) -> list[tuple[int, int]]:
        """(stage, node) of the recomputations of a schedule with first runs in order."""
        runs: dict[tuple[int, int], None] = {}
        stage = 0
        for node in order:
            if node == stage:
                stage += 1
            elif node < stage:
                runs[(stage, node)] = None
        return [run for run in runs if run[0] < stage]

    def last_read(self, value: int, node: int, key: int) -> tuple[int, int, int]:
        """The copy of a value that a read at `key` would see, `node` being its producer.

        Returns:
            The copy's start, the key of its last read (its start if none), and the key of
            the next copy (past all keys if none).
        """
        runs, uses = self.runs[node], self.uses[value]
        index = bisect_left(runs, key)
        start = runs[index - 1]
        following = runs[index] if index < len(runs) else self.end
        last = bisect_left(uses, following) - 1
        return start, (uses[last] if last >= 0 and uses[last] > start else start), following

    def read_before(self, value: int, node: int, key: int) -> int:
        """The key of the last read before `key` of the copy that is read there, or its start.

        Args:
            value: that is read.
            node: its producer.
            key: of the read.
        """
        runs, uses = self.runs[node], self.uses[value]
        here = bisect_left(uses, key)
        start = runs[bisect_left(runs, key) - 1]
        return max(start, uses[here - 1]) if here else start

    def add(self, node: int, stage: int) -> None:
        """Run `node` once more in `stage`, which is later than its first run."""
        key = stage * self.step + node
        row = self.stages[stage]
        place = bisect_left(row, node)
        row.insert(place, node)
        held, own = self._held[stage], self._own[stage]
        held.insert(place, held[place] - own[place] + self.adds[node])
        own.insert(place, self.adds[node])
        self._stale[stage] = None
        self.cost += self.costs[node]
        runs = self.runs[node]
        at = bisect_left(runs, key)
        previous = runs[at - 1]
        following = runs[at] if at < len(runs) else self.end
        runs.insert(at, key)
        touched = [key]
        for value, size in self.outs[node]:
            uses = self.uses[value]
            here = bisect_left(uses, key)
            if here < len(uses) and uses[here] < following:
                last = uses[here - 1] if here and uses[here - 1] > previous else previous
                touched.append(last)
                self._shift(last, key, -size)
        for value, size, producer in self.ins[node]:
            uses = self.uses[value]
            here = bisect_left(uses, key)
            sources = self.runs[producer]
            at = bisect_left(sources, key)
            uses.insert(here, key)
            if here + 1 < len(uses) and (at == len(sources) or uses[here + 1] < sources[at]):
                continue
            start = sources[at - 1]
            last = uses[here - 1] if here and uses[here - 1] > start else start
            touched.append(last)
            self._shift(last, key, size)
        self._settle(touched)

    def remove(self, node: int, stage: int) -> None:
        """Undo `add(node, stage)`, whatever was added since."""
        key = stage * self.step + node
        self.cost -= self.costs[node]
        touched = []
        for value, size, producer in self.ins[node]:
            uses = self.uses[value]
            here = bisect_left(uses, key)
            sources = self.runs[producer]
            at = bisect_left(sources, key)
            del uses[here]
            if here < len(uses) and (at == len(sources) or uses[here] < sources[at]):
                continue
            start = sources[at - 1]
            last = uses[here - 1] if here and uses[here - 1] > start else start
            touched.append(last)
            self._shift(last, key, -size)
        runs = self.runs[node]
        at = bisect_left(runs, key)
        del runs[at]
        previous = runs[at - 1]
        following = runs[at] if at < len(runs) else self.end
        for value, size in self.outs[node]:
            uses = self.uses[value]
            here = bisect_left(uses, key)
            if here < len(uses) and uses[here] < following:
                last = uses[here - 1] if here and uses[here - 1] > previous else previous
                touched.append(last)
                self._shift(last, key, size)
        row = self.stages[stage]
        place = bisect_left(row, node)
        del row[place]
        del self._held[stage][place]
        del self._own[stage][place]
        self._stale[stage] = None
        self._settle(touched)

    def _shift(self, low: int, high: int, delta: int) -> None:
        """Runs with keys in `(low, high]` hold `delta` bytes more."""
        first, after = divmod(low, self.step)
        last, upto = divmod(high, self.step)
        if first == last:
            self._shift_part(first, after, upto, delta)
            return
        if after < first:
            self._shift_part(first, after, first, delta)
        if upto < last:
            self._shift_part(last, -1, upto, delta)
            last -= 1
        if last > first:
            self._levels[:, first + 1 : last + 1] += delta

    def _shift_part(self, stage: int, after: int, upto: int, delta: int) -> None:
        row, held = self.stages[stage], self._held[stage]
        for place in range(bisect_right(row, after), bisect_right(row, upto)):
            held[place] += delta
        self._stale[stage] = None

    def _settle(self, touched: list[int]) -> None:
        """Bring what the touched runs add, and the peaks of changed stages, up to date."""
        if self._has_in_place:
            for key in touched:
                self._refresh_own(key)
        for stage in self._stale:
            self._levels[1, stage] = self._levels[0, stage] + max(self._held[stage])
        self._stale.clear()

    def _refresh_own(self, key: int) -> None:
        stage, node = divmod(key, self.step)
        if node >= self.count or not self.in_place[node]:
            return
        row = self.stages[stage]
        place = bisect_left(row, node)
        if place == len(row) or row[place] != node:
            return
        change = self._own_bytes(key, node) - self._own[stage][place]
        if change:
            self._own[stage][place] += change
            self._held[stage][place] += change
            self._stale[stage] = None

    def _own_bytes(self, key: int, node: int) -> int:
        """What a run adds to what is held before it."""
        overwritten = 0
        for value in self.in_place[node]:
            if self.last_read(value, self.problem.producer[value], key)[1] == key:
                overwritten += self.problem.value_bytes[value]
        grown = max(0, self.written[node] - overwritten)
        return grown + self.problem.nodes[node].workspace_bytes

    def _fill(self) -> None:
        """The bytes of the schedule without recomputation."""
        change = np.zeros(self.count + 1, np.int64)
        for node, outs in enumerate(self.outs):
            for value, size in outs:
                last = self.uses[value][-1] // self.step if self.uses[value] else node
                change[node + 1] += size
                change[min(last, self.count - 1) + 1] -= size
        self._levels[0] = np.cumsum(change)[:-1] + self.problem.base_bytes
        for node in range(self.count):
            self._own[node][0] = self._own_bytes(self.runs[node][0], node)
            self._held[node][0] = self._own[node][0]
        self._levels[1] = self._levels[0] + np.array([own[0] for own in self._own], np.int64)
