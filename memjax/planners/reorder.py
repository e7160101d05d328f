"""The planner that may also run nodes in another order.

In: a `Problem` and a budget. Out: a `Solution` with `reordered=True` where the order of first
runs is another than the problem's.

1. Annealing over topological orders: one node at a time is moved within the window that its
   inputs and readers leave it, and what is made small is the excess over a target
   (`memjax.planners.orders`). The targets are shares of the budget, because the order with
   the least excess is not always the one that recomputation mends best. An order within the
   budget costs nothing, and is the answer.
2. A short plan by the default planner at each order that was found; the cheapest is taken.
   Where the problem's own order does about as well, it gets a full plan.
3. In turns, until they stop helping: annealing over the order of *all* runs, recomputations
   included, to a target below the budget, which makes room; and the search of the default
   planner at the order that came out, which uses the room to recompute less.

Reordering for memory alone is NP-hard (Sethi, 1975); annealing over orders and recomputations
at once is due to Li et al., *FastSA* (2023).

Tried, on the published graphs of 100 and 250 nodes at 70 % of their peak:

- only 1 and a full plan: 4.5 %; -
- single random moves, 15,000 each from six starts: 2.20 and 1.26 % in 17 and 32 s;
- drawing among all positions of a node at once: 2.20 and 0.80 % in 2 and 4 s;
- orders made greedily (least bytes next, or the nearest value to finish): peaks 5 to 20 %
  above those of annealing;
- other seeds: 2.20 to 4.41 %, and 0.57 to 1.03 %.

Not handled: a bound for free order, beyond running every node once. Nodes that must run once
keep their order among themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from memjax.planners.auto import AutoPlanner
from memjax.planners.base import Planner
from memjax.planners.incremental import Schedule
from memjax.planners.orders import Orders
from memjax.planners.search import Search
from memjax.problem import Node, Problem, Solution, schedule_cost
from memjax.simulate import simulate


@dataclass(frozen=True)
class ReorderPlanner(Planner):
    """See the module.

    Attributes:
        moves: moves of one annealing.
        starts: of the first annealings: the target as a share of the budget, and the heat
            in mean bytes of a value. Cold ones stay in the valley of the problem's order.
        tries: of the orders that came out, so many are planned at.
        turns: how often step 3 is done at most.
        patience: turns in a row without a gain after which it is over.
        work: changes that the search may make in each turn, fewer for large problems.
        seed: of all randomness.
    """

    name: ClassVar[str] = "reorder"
    moves: int = 15_000
    starts: tuple[tuple[float, float], ...] = (
        (1.0, 16.0),
        (0.95, 8.0),
        (0.95, 16.0),
        (1.0, 32.0),
        (0.95, 4.0),
        (0.9, 8.0),
    )
    tries: int = 6
    turns: int = 24
    patience: int = 3
    work: int = 20_000
    seed: int = 0

    def solve(self, problem: Problem, budget_bytes: int) -> Solution:
        """See `Planner.solve`."""
        identity = tuple(range(len(problem.nodes)))
        best, bound = _Attempt.of(problem, budget_bytes, identity), problem.total_cost
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
        """The three steps, until a schedule costs nothing or turns stop helping."""
        orders = self._orders(problem, budget)
        for order in orders:
            best = best.or_of(problem, budget, order)
        if best.score <= 0:
            return best
        count = len(problem.nodes)
        work = int(min(self.work, 150 * count) / (1 + count / 500))
        quick = AutoPlanner(
            work=4 * work,
            rounds=0,
            starts=2,
            bound_columns=0,
            margins=(1.0, 0.9),
            mend=False,
            seed=self.seed,
        )
        plain = _Attempt.of(problem, budget, quick.solve(problem, budget).order)
        for order in orders[: round(self.tries / (1 + count / 1000))]:
            inner = quick.solve(_permuted(problem, order), budget)
            best = best.or_of(problem, budget, [order[i] for i in inner.order])
        if plain.score < 2 * best.score:
            full = AutoPlanner(rounds=2, seed=self.seed).solve(problem, budget)
            best = best.or_of(problem, budget, plain.order).or_of(problem, budget, full.order)
        stalled = 0
        for turn in range(self.turns):
            if best.score <= 0 or stalled == self.patience * (1 if best.met else 2):
                break
            after = best.or_of(problem, budget, self._turn(problem, budget, best.order, turn, work))
            stalled = 0 if after.score < 0.99 * best.score else stalled + 1
            best = after
        return best

    def _orders(self, problem: Problem, budget: int) -> list[list[int]]:
        """The outcomes of step 1, those with the least excess first."""
        found: list[tuple[int, list[int]]] = []
        moves = min(self.moves, 1000 + 15 * len(problem.nodes))
        for target, heat in self.starts:
            order = Orders(problem).anneal(int(target * budget), moves, heat, self.seed)
            found.append((_excess(_permuted(problem, order), budget), order))
            if found[-1][0] == 0:
                break
        found.sort()
        return [
            order
            for index, (_, order) in enumerate(found)
            if order not in [o for _, o in found[:index]]
        ]

    def _turn(
        self, problem: Problem, budget: int, order: Sequence[int], turn: int, work: int
    ) -> list[int]:
        """Step 3 once, from a schedule to a schedule."""
        expanded, edges = _expanded(problem, order)
        target = int(budget * (0.98, 0.95, 0.9, 0.85)[turn % 4])
        moves = min(self.moves // 2, 500 + 8 * len(expanded.nodes))
        runs = Orders(expanded, edges).anneal(target, moves, 1.0, self.seed + turn)
        moved = [order[i] for i in runs]
        first = list(dict.fromkeys(moved))
        place = {node: index for index, node in enumerate(first)}
        schedule = Schedule(_permuted(problem, first))
        search = Search(schedule, budget, self.seed + turn)
        search.go_to(Schedule.runs_in([place[node] for node in moved]))
        if search.recreate(0.0):
            search.prune(search.dearest(search.runs()))
        search.improve(work)
        return [first[i] for i in schedule.order()]


@dataclass(frozen=True)
class _Attempt:
    """A schedule, and how good it is: the cost of recomputation and the excess, weighed."""

    order: Sequence[int]
    score: float
    met: bool
    reordered: bool

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
        return other if other.score < self.score else self


def _permuted(problem: Problem, order: Sequence[int]) -> Problem:
    """The same problem with its nodes in another topological order."""
    return replace(problem, nodes=tuple(problem.nodes[i] for i in order))


def _expanded(problem: Problem, order: Sequence[int]) -> tuple[Problem, list[tuple[int, int]]]:
    """The problem whose nodes are the runs of a schedule, and whose values are the copies.

    Returns:
        The problem, and pairs of its nodes that must keep their order for reads to see the
        same copies: a run after the readers of the copy before it.
    """
    newest: dict[int, int] = {}
    touched: dict[int, list[int]] = {}
    edges: list[tuple[int, int]] = []
    nodes: list[Node] = []
    value_bytes: list[int] = []
    for index, run in enumerate(order):
        node = problem.nodes[run]
        inputs = tuple(newest[v] for v in node.inputs if v in newest)
        in_place = tuple(newest[v] for v in node.in_place if v in newest)
        for value in node.inputs:
            touched.setdefault(value, []).append(index)
        for value in node.outputs:
            edges += [(earlier, index) for earlier in touched.get(value, ())]
            touched[value] = [index]
            newest[value] = len(value_bytes)
            value_bytes.append(problem.value_bytes[value])
        outputs = tuple(newest[v] for v in node.outputs)
        nodes.append(replace(node, inputs=inputs, outputs=outputs, in_place=in_place))
    kept = tuple(newest[v] for v in problem.outputs if v in newest)
    return Problem(tuple(nodes), tuple(value_bytes), kept, problem.base_bytes), edges


def _excess(problem: Problem, budget: int) -> int:
    """Bytes above a budget, summed over the positions of the problem's own order."""
    return int(np.maximum(Schedule(problem).peaks - budget, 0).sum())
