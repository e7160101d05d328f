"""The planner that may also run nodes in another order.

In: a `Problem` and a budget. Out: a `Solution` with `reordered=True` where the order of first
runs is another than the problem's.

1. Annealing over topological orders: one node at a time is moved within the window that its
   inputs and readers leave it, and what is made small is the excess over a target. The bytes
   of an order are computed anew for each move, by numpy in time linear in the edges: for
   some hundred nodes that is faster than to keep a structure up to date. The targets are
   shares of the budget, because the order with the least excess is not always the one that
   recomputation mends best.
2. A short plan by the default planner at each order that was found; the cheapest is taken.
3. In turns: annealing over the order of *all* runs, recomputations included, to a target
   below the budget, which makes room; and the search of the default planner at the order
   that came out, which uses the room to recompute less.

The problem's own order takes part, so that reordering never costs more than planning at
fixed order. Reordering for memory alone is NP-hard (Sethi, 1975); annealing over orders and
recomputations at once is due to Li et al., *FastSA* (2023).

Tried: only 1 and a full plan leaves 1.3 and 4.5 % on the published graph of 100 nodes at 80
and 70 % of its peak.

Not handled: a bound for free order, beyond running every node once. Nodes that must run once
keep their order among themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memjax.planners.auto import AutoPlanner
from memjax.planners.base import Planner
from memjax.planners.incremental import Schedule
from memjax.planners.search import Search
from memjax.problem import Node, Problem, Solution, schedule_cost


@dataclass(frozen=True)
class ReorderPlanner(Planner):
    """See the module.

    Attributes:
        moves: moves of one annealing, fewer for large problems.
        starts: of the first annealings: the target as a share of the budget, and the heat
            in mean bytes of a value. Cold ones stay in the valley of the problem's order.
        turns: how often step 3 is done.
        work: changes that the search may make in each turn, fewer for large problems.
        seed: of all randomness.
    """

    name: ClassVar[str] = "reorder"
    moves: int = 15_000
    starts: tuple[tuple[float, float], ...] = (
        (1.0, 1.0), (1.0, 8.0), (0.95, 8.0), (1.0, 16.0), (0.95, 4.0), (1.05, 8.0)
    )
    turns: int = 8
    work: int = 20_000
    seed: int = 0

    def solve(self, problem: Problem, budget_bytes: int) -> Solution:
        """See `Planner.solve`."""
        plain = AutoPlanner(seed=self.seed).solve(problem, budget_bytes)
        best = _Attempt.of(problem, budget_bytes, plain.order)
        total, share = problem.total_cost, 1 + len(problem.nodes) / 500
        moves, work = int(self.moves / share), int(self.work / share)
        for target, heat in self.starts:
            if best.score <= 0:
                break
            order = Orders(problem).anneal(
                int(target * budget_bytes), moves, heat, Random(self.seed)
            )
            quick = AutoPlanner(work=work, rounds=1, seed=self.seed)
            inner = quick.solve(_permuted(problem, order), budget_bytes)
            found = [order[i] for i in inner.order]
            best = min(best, _Attempt.of(problem, budget_bytes, found), key=lambda a: a.score)
        for turn in range(self.turns):
            if best.score > 0:
                found = self._turn(problem, budget_bytes, best.order, turn, moves // 2, work)
                best = min(best, _Attempt.of(problem, budget_bytes, found),
                           key=lambda a: a.score)
        return Solution(
            tuple(best.order), self.name, met=best.met, bound_cost=total,
            iterations=plain.iterations, reordered=best.reordered,
        )

    def _turn(
        self, problem: Problem, budget: int, order: Sequence[int], turn: int, moves: int, work: int
    ) -> list[int]:
        """Step 3 once, from a schedule to a schedule."""
        expanded, edges = _expanded(problem, order)
        target = int(budget * (0.98, 0.95, 0.9, 0.85)[turn % 4])
        runs = Orders(expanded, edges).anneal(target, moves, 1.0, Random(self.seed + turn))
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
        expanded, _ = _expanded(problem, order)
        excess = Orders(expanded).excess(range(len(order)), budget)
        extra = schedule_cost(problem, order) - problem.total_cost
        weighed = extra + 2 * problem.total_cost * excess / max(1, budget)
        first = list(dict.fromkeys(order))
        return _Attempt(order, weighed, excess == 0, first != sorted(first))


def _permuted(problem: Problem, order: Sequence[int]) -> Problem:
    """The same problem with its nodes in another topological order."""
    return replace(problem, nodes=tuple(problem.nodes[i] for i in order))


def _expanded(
    problem: Problem, order: Sequence[int]
) -> tuple[Problem, list[tuple[int, int]]]:
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


class Orders:
    """Topological orders of a problem, and the bytes of each.

    Attributes:
        before: by node, the nodes that must come earlier.
        after: by node, the nodes that must come later.
    """

    def __init__(self, problem: Problem, more: Iterable[tuple[int, int]] = ()) -> None:
        count = len(problem.nodes)
        edges = {
            (problem.producer[v], index)
            for index, node in enumerate(problem.nodes)
            for v in node.inputs
            if problem.producer[v] >= 0
        }
        edges.update(more)
        once = [i for i, node in enumerate(problem.nodes) if not node.recomputable]
        edges.update(pairwise(once))
        self.count = count
        self.before: list[list[int]] = [[] for _ in range(count)]
        self.after: list[list[int]] = [[] for _ in range(count)]
        for first, second in sorted(edges):
            self.before[second].append(first)
            self.after[first].append(second)
        self._tabulate(problem)

    def _tabulate(self, problem: Problem) -> None:
        """The problem as arrays: one entry for each read, for each value, for each node."""
        made = [v for node in problem.nodes for v in node.outputs]
        rank = {v: i for i, v in enumerate(made)}
        kept = set(problem.outputs)
        readers = [[problem.producer[v], *problem.consumers[v]] for v in made]
        over = [
            (rank[v], i)
            for i, n in enumerate(problem.nodes)
            for v in n.in_place
            if v in rank and v not in kept
        ]
        self._readers = np.array([i for row in readers for i in row], np.int64)
        self._first_reader = np.cumsum([0, *map(len, readers)])[:-1].astype(np.int64)
        self._over = np.array(over, np.int64).reshape(-1, 2)
        self._bytes = np.array([problem.value_bytes[v] for v in made], np.int64)
        self._maker = np.array([problem.producer[v] for v in made], np.int64)
        self._kept = np.array([rank[v] for v in problem.outputs if v in rank], np.int64)
        self._written = np.array(
            [sum(problem.value_bytes[v] for v in n.outputs) for n in problem.nodes], np.int64
        )
        self._workspace = np.array([n.workspace_bytes for n in problem.nodes], np.int64)
        self._base = problem.base_bytes

    def bytes_at(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes while the node at each position runs."""
        position = np.empty(self.count, np.int64)
        position[order] = np.arange(self.count)
        last = np.maximum.reduceat(position[self._readers], self._first_reader)
        last[self._kept] = self.count
        change = np.bincount(position[self._maker] + 1, self._bytes, self.count + 2)
        change -= np.bincount(last + 1, self._bytes, self.count + 2)
        held = np.cumsum(change)[: self.count].astype(np.int64) + self._base
        grown = self._written[order]
        if len(self._over):
            value, node = self._over[:, 0], self._over[:, 1]
            dies = last[value] == position[node]
            saved = np.bincount(position[node][dies], self._bytes[value][dies], self.count)
            grown = np.maximum(0, grown - saved.astype(np.int64))
        at: NDArray[np.int64] = held + grown + self._workspace[order]
        return at

    def anneal(
        self, target_bytes: int, moves: int, heat: float, random: Random
    ) -> list[int]:
        """An order with little excess over a target, starting from the problem's order."""
        order = list(range(self.count))
        place = list(range(self.count))
        score = best_score = self.excess(order, target_bytes)
        best, heat = order[:], heat * float(self._bytes.mean()) if len(self._bytes) else 0.0
        for move in range(moves):
            if best_score == 0:
                break
            drawn = self._draw(place, random)
            if drawn is None:
                continue
            _shift(order, place, *drawn)
            outcome = self.excess(order, target_bytes)
            cool = heat * (1 - move / moves) ** 2
            worse = outcome - score
            if worse <= 0 or (cool > 0 and random.random() < math.exp(-worse / cool)):
                score = outcome
                if score < best_score:
                    best, best_score = order[:], score
            else:
                _shift(order, place, drawn[1], drawn[0])
        return best

    def excess(self, order: Sequence[int], target_bytes: int) -> float:
        """Bytes above a target, summed over positions."""
        at = self.bytes_at(np.array(order, np.int64))
        return float(np.maximum(at - target_bytes, 0).sum())

    def _draw(self, place: Sequence[int], random: Random) -> tuple[int, int] | None:
        """Where to take a node from and where to put it; None where it has no room."""
        node = random.randrange(self.count)
        low = max((place[i] for i in self.before[node]), default=-1) + 1
        high = min((place[i] for i in self.after[node]), default=self.count) - 1
        if low == high:
            return None
        target = random.randrange(low, high)
        return place[node], target + (target >= place[node])


def _shift(order: list[int], place: list[int], source: int, target: int) -> None:
    """Move one entry of an order, and keep the places of all up to date."""
    order.insert(target, order.pop(source))
    for index in range(min(source, target), max(source, target) + 1):
        place[order[index]] = index
