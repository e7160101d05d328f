"""Local search by minimum cuts of a schedule, at one position at a time.

In: a `Problem`, a schedule of any form, a budget. Out: a schedule closer to the budget, or
within it and cheaper.

A try takes a position above the budget and asks which earlier runs to make again after it,
so that it holds less. With a price for each byte that the position holds, that is a minimum
cut (`cut`), a hundred times as fast as a relaxation of the same question. What the cut asks
for is put where there is room (`planners.placing`), recomputations that are no longer
worth their cost are taken away (`planners.copies`), and the schedule is kept if it is
better. The cut knows nothing of the bytes at other positions, so the costs that it sees are
drawn anew for each try, sometimes with a share for what a run writes.

`CutSearch.lower` makes tries until the budget is met. Where they stop helping, all runs are
annealed (`planners.orders`), and then the best schedule is *kicked*: a larger cut is
made whatever it costs, and mended by further tries (Lourenço et al., *Iterated local search*,
2003). `CutSearch.cheapen` takes recomputations that stand together away, and mends.

Not handled: the order of first runs, which stays.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from memjax.planning.planners.copies import Ints, Operations, Runs, excess_of
from memjax.planning.planners.orders import annealed
from memjax.planning.planners.placing import Settling, inserted
from memjax.planning.problem import Problem

WEIGHT = 16  # a budget's bytes above the budget, at one position, cost so many plain steps
NOISE = 6.0  # the spread of the random factor on costs, drawn up to this; 4 to 10 are much alike
BYTES = 30.0  # mean costs that a run pays for writing the mean bytes of a value, at most
AIMS = (-3.0, 0.5)  # of a try: bytes to free, as the power of ten of what is above the budget
KICKS = (-1.0, 0.5)  # the same of a kick
MOST = 150  # runs that a try makes again; larger cuts are hardly ever better
UNIFORM = 0.3  # of the tries are at any position above the budget, the others at high ones
DOUBLINGS = 10  # of the price, until a cut frees enough
HALVINGS = 2  # of the interval between the last two prices
PRICES = 20  # of the last cuts, whose median is the first price of the next
PATIENCE = 8  # tries without a gain before a kick
GAIN = 0.01  # of the score, less is none
THOROUGH = 0.2  # of the gains are pruned everywhere, not only near the cut
ANNEALED = 0.98  # of the budget, which annealing aims at
ANNEAL_AFTER = 0.1  # of the score, gained since the last best schedule
RUIN = 40  # recomputations taken away at once, at most
MENDING = 6  # tries after that
MANY = 2**28  # the largest flow; twice as much fits into 32 bits

Floats = NDArray[np.float64]


class CutSearch:
    """A schedule on its way to a budget.

    Attributes:
        runs: of the schedule; none was taken away.
        tries: cuts made so far, and times that recomputations were taken away at once.
    """

    def __init__(
        self, problem: Problem, order: Sequence[int], budget_bytes: int, seed: int = 0
    ) -> None:
        self.problem, self.budget = problem, budget_bytes
        plain_cost = problem.total_cost or 1.0
        self.weight = WEIGHT * plain_cost / max(1, budget_bytes)
        self.random = np.random.RandomState(seed)  # its stream is frozen across versions
        self.tries = 0
        self.operations = Operations.of(problem)
        self.runs = Runs(self.operations, order)
        may_run = np.array([node.recomputable for node in problem.nodes])
        self._costs = np.where(may_run, self.operations.costs, np.inf)
        self._written = np.array(
            [float(sum(problem.value_bytes[v] for v in n.outputs)) for n in problem.nodes]
        )
        mean_bytes = max(1.0, sum(problem.value_bytes) / max(1, len(problem.value_bytes)))
        self._unit = plain_cost / max(1, len(problem.nodes)) / mean_bytes
        self._prices: deque[float] = deque([1.0], PRICES)

    def over(self, runs: Runs) -> Ints:
        """Bytes above the budget at each position."""
        over: Ints = np.maximum(runs.bytes - self.budget, 0)
        return over

    def score(self, runs: Runs) -> float:
        """What the search makes small: the cost and the excess, weighed."""
        return runs.cost + self.weight * excess_of(runs.bytes, self.budget)

    def met(self) -> bool:
        """Whether the schedule is within the budget."""
        return not self.over(self.runs).any()

    def lower(self, tries: int) -> bool:
        """Bring the schedule to the budget, in so many tries at most; say whether it is there."""
        best, stuck, stop = self.runs, 0, self.tries + tries
        while self.tries < stop and not self.met():
            if stuck == PATIENCE:
                best, stuck = self._kicked(best), 0
            else:
                stuck = 0 if self._improved(GAIN) else stuck + 1
        self.runs = min(self.runs, best, key=self.score)
        return self.met()

    def cheapen(self, tries: int) -> None:
        """Lower the cost of a schedule that is within the budget, in so many tries at most."""
        stop = self.tries + tries
        while self.tries < stop and self.met():
            best = self.runs
            if not self._ruin():
                return
            for _ in range(MENDING):
                if self.met() or self.runs.cost >= best.cost:
                    break
                self._improved()
            if not self.met() or self.runs.cost >= best.cost:
                self.runs = best

    def _improved(self, gain: float = 0.0) -> bool:
        """Make one try, keep what is better, and say whether it is by this share of the score."""
        found = self._tried(AIMS, MOST)
        score = self.score(self.runs)
        if found is None or self.score(found) >= score:
            return False
        if self.random.rand() < THOROUGH:
            found.prune(found.again(), self.budget, self.weight)
        least = gain * (score - self.problem.total_cost)
        self._go_to(found)
        return score - self.score(self.runs) > least

    def _kicked(self, best: Runs) -> Runs:
        """Anneal a much better schedule, or else change the best one; return the best."""
        gain = self.score(best) - self.score(self.runs)
        if gain > 0:
            best = self.runs
            large = gain > ANNEAL_AFTER * (self.score(best) - self.problem.total_cost)
            if large and self._annealed():
                return best
        self.runs = best
        self.tries += 1
        found = self._tried(KICKS, self.runs.count)
        if found is not None:
            found.prune(found.again(), self.budget, self.weight)
            self._go_to(found)
        return best

    def _go_to(self, runs: Runs) -> None:
        self.runs = Runs(self.operations, runs.left()) if runs.gone else runs

    def _annealed(self) -> bool:
        """Anneal over the order of all runs; say whether it is better now."""
        target = int(ANNEALED * self.budget)
        order = annealed(self.problem, self.runs.left(), target, self.tries)
        found = Runs(self.operations, order)
        found.prune(found.again(), self.budget, self.weight)
        score = self.score(self.runs)
        if self.score(found) < score:
            self._go_to(found)
        return self.score(self.runs) < score - GAIN * (score - self.problem.total_cost)

    def _ruin(self) -> bool:
        """Take some recomputations away that stand together; False where there are none."""
        runs = Runs(self.operations, self.runs.order)
        again = runs.again()
        if not again:
            return False
        self.tries += 1  # so that trying ends where all of them cost nothing, and stay
        count = min(len(again), int(self.random.randint(1, RUIN + 1)))
        first = int(self.random.randint(0, len(again) - count + 1))
        for at in again[first : first + count]:
            runs.take_away(at, self.budget, 0.0)
        self._go_to(runs)
        return True

    def _tried(self, aims: tuple[float, float], most: int) -> Runs | None:
        """The schedule after one cut; None where none frees enough with so few runs."""
        self.tries += 1
        over, random = self.over(self.runs), self.random
        chances = (over > 0) if random.rand() < UNIFORM else over
        at = int(random.choice(len(over), p=chances / chances.sum()))
        again = self._again(at, float(over[at]) * 10.0 ** random.uniform(*aims), most)
        if again is None:
            return None
        order, new = inserted(self.runs, at, again)
        settling = Settling(Runs(self.operations, order), new, at, self.budget)
        settling.settle()
        found = Runs(self.operations, settling.order())
        near = np.zeros(len(self.problem.nodes), bool)
        near[self.runs.order[again]] = True
        found.prune(
            [run for run in found.again() if near[found.order[run]]], self.budget, self.weight
        )
        return found

    def _again(self, at: int, freed_bytes: float, most: int) -> list[int] | None:
        """The runs of the smallest cut found that frees so many bytes at a position."""
        random = self.random
        share = self._unit * BYTES ** random.rand() * random.randint(2)
        order = self.runs.order[:at]
        costs = self._costs[order] + share * self._written[order]
        costs *= np.exp(NOISE * random.rand() * random.randn(at))
        low, price = 0.0, median(self._prices) * math.exp(0.5 * random.randn())
        again, freed = cut(self.runs, at, self._unit * price, costs)
        for _ in range(DOUBLINGS):
            if freed >= freed_bytes:
                break
            low, price = price, 2 * price
            again, freed = cut(self.runs, at, self._unit * price, costs)
        if freed < freed_bytes or not len(again):
            return None
        for _ in range(HALVINGS if low else 0):
            lower = math.sqrt(low * price)
            fewer, freed = cut(self.runs, at, self._unit * lower, costs)
            if freed >= freed_bytes:
                price, again = lower, fewer
            else:
                low = lower
        self._prices.append(price if len(again) <= MOST else price / 2)
        return [int(run) for run in again] if len(again) <= most else None


def cut(runs: Runs, at: int, price: float, costs: Floats) -> tuple[Ints, float]:
    """The cheapest runs to make again after a position, when bytes held there have a price.

    A copy that is made before `at` and read after it, or by a run that is made again, is held
    at `at` or made again. The minimum cut has the runs that are made again on its source's
    side; it pays for each of these, and for each copy that is needed and held.

    Args:
        runs: of a schedule; none was taken away.
        at: the position.
        price: of a byte that is held there.
        costs: of the runs before it; infinite for those that must not run again.

    Returns:
        Positions of the runs, ascending, and the bytes that `at` no longer holds.
    """
    from scipy.sparse import coo_array, csr_array  # here: small plans need not wait for it
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    copies, reads = int(runs.written_from[at]), int(runs.read_from[at])
    size, writer = runs.size[:copies], runs.writer[:copies]
    live = np.flatnonzero(runs.last[:copies] > at)
    operands = runs.reads_at(at)
    hold = price * size
    hold[operands] = 0.0
    total = float(hold[live].sum())
    if not total:
        return np.empty(0, np.int64), 0.0
    unit = MANY / total
    source, sink = copies + at, copies + at + 1
    run = np.arange(copies, source)
    tail = (np.full(len(live), source), run[runs.reader[:reads]], np.arange(copies), run)
    head = (live, runs.read[:reads], run[writer], np.full(at, sink))
    room = np.concatenate(
        (
            np.full(len(live) + reads, 2 * MANY),
            np.clip(unit * hold, 0, MANY),
            np.clip(unit * costs, 1, MANY),
        )
    )
    ends = np.concatenate(tail).astype(np.int32), np.concatenate(head).astype(np.int32)
    arcs = coo_array((room.astype(np.int32), ends), shape=(sink + 1, sink + 1)).tocsr()
    rest = csr_array(arcs - maximum_flow(arcs, source, sink).flow)
    rest.data = np.maximum(rest.data, 0)
    rest.eliminate_zeros()
    near = np.zeros(sink + 1, bool)
    near[breadth_first_order(rest, source, return_predecessors=False)] = True
    given_up = near[live] & near[run[writer[live]]] & ~np.isin(live, operands)
    return np.flatnonzero(near[copies:source]), float(size[live[given_up]].sum())
