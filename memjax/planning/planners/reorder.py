"""The planner that may also run nodes in another order.

In: a `Problem` and a budget. Out: a `Solution` with `reordered=True` where the order of first
runs is another than the problem's.

1. Annealing over topological orders: one node at a time is moved within the window that its
   inputs and readers leave it, and what is made small is the excess over a target
   (`planners.orders`). The targets are shares of the budget, because the order with
   the least excess is not always the one that recomputation mends best. An order within the
   budget costs nothing, and is the answer.
2. Each order is lowered to the budget in turns (`planners.lowering`), which may move
   the first runs as well. The cheapest schedule on the way is taken.
3. Where all of them miss the budget, the best is brought closer by cuts
   (`planners.mincut`).
4. Where the relaxation says that the problem's own order may be cheaper, or may be the only
   one within the budget, it gets a full plan.

Reordering for memory alone is NP-hard (Sethi, 1975); annealing over orders and recomputations
at once is due to Li et al., *FastSA* (2023).

Not handled: a bound for free order, beyond running every node once. Nodes that must run once
keep their order among themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from memjax.planning.planners.auto import AutoPlanner
from memjax.planning.planners.base import Planner
from memjax.planning.planners.copies import excess_of
from memjax.planning.planners.incremental import Schedule
from memjax.planning.planners.lowering import Lowering, permuted
from memjax.planning.planners.mincut import CutSearch
from memjax.planning.planners.orders import Orders
from memjax.planning.planners.relaxation import highest_stages, relax
from memjax.planning.problem import Problem, Solution, schedule_cost
from memjax.planning.simulate import simulate

LARGE = 400  # nodes above which a full plan takes long
MOST_TRIES = 300  # of cuts
TRIES = 400_000  # times nodes
PESSIMISM = 1.3  # plans at a problem's own order cost at least so much above the bound: a guess


@dataclass(frozen=True)
class ReorderPlanner(Planner):
    """See the module.

    Attributes:
        moves: of an annealing of orders, for each node; `most_moves` at most.
        most_moves: see `moves`.
        heat: of these annealings, in mean bytes of a value. Cold ones stay in the valley of
            the problem's order.
        starts: annealings, each with a seed of its own; fewer for large problems.
        turns: of a lowering at most, after the budget was reached.
        patience: turns in a row without a gain after which a lowering is over.
        seed: of all randomness.
    """

    name: ClassVar[str] = "reorder"
    moves: int = 48
    most_moves: int = 60_000
    heat: float = 16.0
    starts: int = 4
    turns: int = 14
    patience: int = 4
    seed: int = 0

    def solve(self, problem: Problem, budget_bytes: int) -> Solution:
        """See `Planner.solve`."""
        best, bound = _Attempt.of(problem, budget_bytes, problem.identity), problem.total_cost
        if budget_bytes < problem.single_node_floor_bytes:
            lowest = AutoPlanner(seed=self.seed).solve(problem, budget_bytes)
            best, bound = _Attempt.of(problem, budget_bytes, lowest.order), math.inf
        elif best.score > 0:
            best = self._searched(problem, budget_bytes, best)
        return Solution(
            tuple(best.order),
            self.name,
            met=best.met,
            bound_cost=bound,
            reordered=best.reordered,
        )

    def _searched(self, problem: Problem, budget: int, best: _Attempt) -> _Attempt:
        """All steps, until a schedule costs nothing."""
        orders = self._orders(problem, budget)
        for order in orders:
            best = best.or_of(problem, budget, order)
        for start, order in enumerate(orders):
            if best.score <= 0:
                return best
            lowered = self._lowered(problem, budget, order, self.seed + start)
            best = min(best, lowered, key=lambda attempt: attempt.rank)
        if not best.met:
            cuts = CutSearch(problem, best.order, budget, self.seed)
            cuts.lower(min(MOST_TRIES, TRIES // len(problem.nodes)))
            best = best.or_of(problem, budget, cuts.runs.left())
        extra = schedule_cost(problem, best.order) - problem.total_cost
        peaks = Schedule(problem).peaks
        stages = sorted(highest_stages(peaks, 4 if best.met else 1, 1 + len(peaks) // 60))
        promise = relax(problem, budget, stages).extra_cost
        most = extra if best.met else math.inf
        if promise < most:
            full = AutoPlanner(rounds=2, seed=self.seed)
            if len(problem.nodes) > LARGE and PESSIMISM * promise >= most:
                short = replace(
                    full, work=4_000, rounds=0, starts=1, bound_columns=0, tries=0, turns=0
                )
                tried = _Attempt.of(problem, budget, short.solve(problem, budget).order)
                if tried.score >= most:
                    return best
            best = best.or_of(problem, budget, full.solve(problem, budget).order)
        return best

    def _orders(self, problem: Problem, budget: int) -> list[list[int]]:
        """The outcomes of step 1, those with the least excess first."""
        count = len(problem.nodes)
        found: list[tuple[int, list[int]]] = []
        moves = min(self.moves * count, self.most_moves)
        for start in range(max(1, min(self.starts, 1500 // count))):
            order = Orders(problem).anneal(budget, moves, self.heat, self.seed + start)
            peaks = Schedule(permuted(problem, order)).peaks
            found.append((excess_of(peaks, budget), order))
            if found[-1][0] == 0:
                break
        return [order for _, order in sorted(found)]

    def _lowered(self, problem: Problem, budget: int, order: list[int], seed: int) -> _Attempt:
        """Step 2: the best schedule on the way from an order."""
        best, stalled = _Attempt.of(problem, budget, order), 0
        peak_bytes = simulate(problem, order).peak_bytes
        lowering = Lowering(problem, budget, seed=seed)
        for schedule in lowering.turns(order, peak_bytes, lowering.steps + self.turns):
            after = best.or_of(problem, budget, schedule)
            stalled = 0 if not best.met or after.score < 0.99 * best.score else stalled + 1
            best = after
            if stalled == self.patience:
                break
        return best


@dataclass(frozen=True)
class _Attempt:
    """A schedule, and how good it is: the cost of recomputation and the excess, weighed."""

    order: Sequence[int]
    score: float
    met: bool
    reordered: bool

    @property
    def rank(self) -> tuple[bool, float]:
        """Smaller is better; a schedule that meets the budget is, whatever it costs."""
        return not self.met, self.score

    @staticmethod
    def of(problem: Problem, budget: int, order: Sequence[int]) -> _Attempt:
        # The judge itself: the expanded problem may miscount what is written over in place.
        excess = max(0, simulate(problem, order).peak_bytes - budget)
        extra = schedule_cost(problem, order) - problem.total_cost
        weighed = extra + 2 * problem.total_cost * excess / max(1, budget)
        first = list(dict.fromkeys(order))
        return _Attempt(order, weighed, excess == 0, first != sorted(first))

    def or_of(self, problem: Problem, budget: int, order: Sequence[int]) -> _Attempt:
        """The better of this and another schedule."""
        other = _Attempt.of(problem, budget, order)
        return other if other.rank < self.rank else self
