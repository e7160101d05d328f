"""Local search by minimum cuts of a schedule, one position at a time.

In: a `Problem`, a schedule, a budget. Out: a schedule closer to the budget, or a cheaper one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from memjax.planners.copies import Ints, Operations, Runs
from memjax.planners.placing import Settling, inserted
from memjax.problem import Problem

PRUNE = 1
RISE = 2
PATIENT = 40
POWERS = (-3, -1)
HEAT = 0.0
MODE = 0
NEAR = 0.97
JITTER = 4.0
BYTES = 0.0
DOUBLINGS = 10
HALVINGS = 2
NEEDS = (1.0, 2.0, 4.0)
MANY = 2**28

Floats = NDArray[np.float64]


def cut(runs: Runs, at: int, hold: Floats, costs: Floats) -> tuple[Ints, float]:
    """The cheapest runs to make again after a position, when bytes held there have a price.

    A copy made before `at` and read after it, or by a run that is made again, is held at
    `at` or made again. A minimum cut, with the runs that are made again on its source's
    side, pays for each of these, and for each copy that is needed and held.

    Args:
        runs: of a schedule; none was taken away.
        at: the position.
        price: of a byte that is held there.
        costs: of the runs before it.

    Returns:
        Positions of the runs, ascending, and the bytes that `at` no longer holds.
    """
    from scipy.sparse import coo_array, csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    copies, reads = int(runs.written_from[at]), int(runs.read_from[at])
    size, writer = runs.size[:copies], runs.writer[:copies]
    live = np.flatnonzero(runs.last[:copies] > at)
    operands = runs.reads_at(at)
    hold = hold.copy()
    hold[operands] = 0.0
    unit = MANY / max(1e-300, float(hold[live].sum()))
    source, sink = copies + at, copies + at + 1
    run = np.arange(copies, source)
    tail = (np.full(len(live), source), run[runs.reader[:reads]], np.arange(copies), run)
    head = (live, runs.read[:reads], run[writer], np.full(at, sink))
    rooms = (
        np.full(len(live) + reads, 2 * MANY),
        np.clip(unit * hold, 0, MANY),
        np.clip(unit * costs, 1, MANY),
    )
    ends = np.concatenate(tail).astype(np.int32), np.concatenate(head).astype(np.int32)
    shape = (sink + 1, sink + 1)
    arcs = coo_array((np.concatenate(rooms).astype(np.int32), ends), shape=shape).tocsr()
    rest = csr_array(arcs - maximum_flow(arcs, source, sink).flow)
    rest.data = np.maximum(rest.data, 0)
    rest.eliminate_zeros()
    near = np.zeros(sink + 1, bool)
    near[breadth_first_order(rest, source, return_predecessors=False)] = True
    given_up = near[live] & near[run[writer[live]]] & ~np.isin(live, operands)
    return np.flatnonzero(near[copies:source]), float(size[live[given_up]].sum())


class CutSearch:
    """A schedule on its way to a budget.

    Attributes:
        runs: of the schedule.
        tries: cuts made so far.
    """

    def __init__(
        self, problem: Problem, order: Sequence[int], budget_bytes: int, weight: float, seed: int = 0
    ) -> None:
        self.problem, self.budget, self.weight = problem, budget_bytes, weight
        self.random = np.random.RandomState(seed)
        self.mean_cost = problem.total_cost / max(1, len(problem.nodes))
        self.mean_bytes = max(1.0, sum(problem.value_bytes) / max(1, len(problem.value_bytes)))
        self.prices: deque[float] = deque([1.0], 20)
        self.tries = 0
        self.fails = 0
        self.operations = Operations.of(problem)
        may_run = [node.recomputable for node in problem.nodes]
        self.costs = np.where(may_run, self.operations.costs, np.inf)
        sizes = problem.value_bytes
        self.written = np.array([float(sum(sizes[v] for v in n.outputs)) for n in problem.nodes])
        self.runs = Runs(self.operations, order)

    def excess(self, runs: Runs) -> NDArray[np.int64]:
        return np.maximum(runs.bytes - self.budget, 0)

    def score(self, runs: Runs) -> float:
        return runs.cost + self.weight * float(self.excess(runs).sum())

    def lower(self, tries: int, soft: float = 1.0) -> bool:
        """Cut until the budget is met, so many times at most."""
        hard = self.weight
        score = self.score(self.runs)
        best = score, self.runs
        for turn in range(tries):
            over = self.excess(self.runs)
            if not over.any():
                break
            found = self.proposed(over)
            self.fails += 1
            if found is None: continue
            heat = HEAT * self.problem.total_cost * (1 - turn / tries)
            if self.score(found) < score - heat * math.log(1e-12 + self.random.rand()):
                if self.score(found) < score - 1e-3 * self.problem.total_cost: self.fails = 0
                self.go_to(found)
                score = self.score(self.runs)
                if score < best[0]: best = score, self.runs
        if self.excess(self.runs).any(): self.runs = best[1]
        return not self.excess(self.runs).any()

    def go_to(self, runs: Runs) -> None:
        self.runs = Runs(self.operations, runs.left())

    def cheapen(self, tries: int, size: int = 40, cuts: int = 6) -> None:
        """Take neighbouring recomputations away and cut again, while that costs less."""
        for _ in range(tries):
            before = self.runs
            cost = self.runs.cost
            self.ruin(size)
            score = self.score(self.runs)
            for _ in range(cuts):
                over = self.excess(self.runs)
                if not over.any() or self.runs.cost >= cost:
                    break
                found = self.proposed(over)
                if found is not None and self.score(found) < score:
                    self.go_to(found)
                    score = self.score(found)
            if self.excess(self.runs).any() or self.runs.cost >= cost:
                self.runs = before

    def ruin(self, size: int) -> None:
        runs = Runs(self.operations, self.runs.order)
        again = runs.again()
        count = min(len(again), int(self.random.randint(1, size + 1)))
        first = int(self.random.randint(0, len(again) - count + 1))
        for at in again[first : first + count]:
            runs.take_away(at, self.budget, 0.0)
        self.go_to(runs)

    def proposed(self, over: NDArray[np.int64]) -> Runs | None:
        """The schedule after one cut at a position that is above the budget."""
        self.tries += 1
        random = self.random
        at = int(random.choice(len(over), p=over / over.sum()))
        need = float(over[at]) * 10.0 ** (random.uniform(*POWERS) + min(RISE, RISE * self.fails / PATIENT))
        again = self._again(at, need)
        if again is None:
            return None
        order, new = inserted(self.runs, at, again)
        settling = Settling(Runs(self.operations, order), new, at, self.budget)
        settling.settle()
        runs = Runs(self.operations, settling.order())
        cost = self.operations.costs[runs.order]
        again_nodes = np.zeros(len(self.costs), bool)
        again_nodes[self.runs.order[again]] = True
        those = np.array(runs.again())
        if PRUNE == 1:
            those = those[again_nodes[runs.order[those]]]
        elif PRUNE == 2:
            pick = again_nodes[runs.order[those]] | (self.random.rand(len(those)) < .1)
            those = those[pick]
        for run in those[np.lexsort((those, -cost[those]))].tolist():
            runs.take_away(run, self.budget, self.weight)
        if PRUNE and self.score(runs) < self.score(self.runs):
            those = np.array(runs.again())
            for run in those[np.lexsort((those, -cost[those]))].tolist():
                if run not in runs.gone: runs.take_away(run, self.budget, self.weight)
        return runs

    def hold(self, at):
        runs = self.runs
        copies = int(runs.written_from[at])
        if MODE == 0:
            return runs.size[:copies].astype(float)
        readers, begin = runs._sorted_reads
        step = runs.count + 1
        keys = runs.read[np.argsort(runs.read, kind="stable")] * step + readers
        mine = np.arange(copies)
        place = np.searchsorted(keys, mine * step + at, side="right")
        before = np.where(place > begin[:copies], readers[np.maximum(place - 1, 0)], runs.writer[:copies])
        after = np.where(place < begin[1:copies + 1], readers[np.minimum(place, len(readers) - 1)], runs.count)
        live = runs.last[:copies] > at
        near = np.concatenate(([0], (runs.bytes > NEAR * self.budget).cumsum()))
        gap = np.where(live, near[after] - near[before + 1], near[at + 1] - near[np.minimum(before + 1, at)] + 1)
        return runs.size[:copies] * gap / 100.0

    def _again(self, at: int, need: float) -> list[int] | None:
        """The runs of the smallest cut that is found to free so many bytes at a position."""
        random = self.random
        share = BYTES * random.rand() * random.randint(2) * self.mean_cost / self.mean_bytes
        order = self.runs.order[:at]
        costs = self.costs[order] + share * self.written[order]
        costs = costs * np.exp(JITTER * random.rand() * random.randn(at))
        hold = self.hold(at)
        price = median(self.prices) * math.exp(0.5 * random.randn())
        unit = self.mean_cost / self.mean_bytes
        low, high, found = 0.0, math.inf, None
        for _ in range(DOUBLINGS):
            again, freed = cut(self.runs, at, unit * price * hold, costs)
            if freed >= need:
                high, found = price, again
                break
            low, price = price, 2 * price
        if found is None:
            return None
        for _ in range(HALVINGS if low else 0):
            price = math.sqrt(low * high)
            again, freed = cut(self.runs, at, unit * price * hold, costs)
            if freed >= need:
                high, found = price, again
            else:
                low = price
        self.prices.append(high)
        return [int(run) for run in found]
