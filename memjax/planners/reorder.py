"""The planner that may also run nodes in another order.

In: a `Problem` and a budget. Out: a `Solution` with `reordered=True` where the order of first
runs is another than the problem's.

Two searches, one after the other. First annealing over topological orders: one node at a
time is moved within the window that its inputs and readers leave it, and what is made small
is the excess over a target. The memory of an order is computed anew for each move, by numpy
in time linear in the edges: for some hundred nodes that is faster than to keep a structure
up to date. Then the default planner on the problem in the order that was found. The target
is the budget, or a little more or less, because the order with the least excess is not
always the one that recomputation mends best; the cheapest outcome counts. The problem's own
order always takes part, so that reordering never costs more than planning at fixed order.

Reordering for memory alone is NP-hard (Sethi, 1975); the moves are those of Li et al.,
*FastSA* (2023), which anneals orders and recomputations at once.

Not handled: a bound for free order, beyond running every node once. Nodes that must run once
keep their order among themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memjax.planners.auto import AutoPlanner
from memjax.planners.base import Planner
from memjax.problem import Problem, Solution, schedule_cost


@dataclass(frozen=True)
class ReorderPlanner(Planner):
    """See the module.

    Attributes:
        moves: moves of one annealing, fewer for large problems.
        targets: of the annealings, as shares of the budget.
        inner: plans at each order that was found.
        seed: of the annealings' randomness.
    """

    name: ClassVar[str] = "reorder"
    moves: int = 40_000
    targets: tuple[float, ...] = (1.0, 0.93, 1.06)
    inner: AutoPlanner = field(default_factory=AutoPlanner)
    seed: int = 0

    def solve(self, problem: Problem, budget_bytes: int) -> Solution:
        """See `Planner.solve`."""
        plain = self.inner.solve(problem, budget_bytes)
        best = replace(plain, planner=self.name, bound_cost=problem.total_cost)
        if plain.met and schedule_cost(problem, plain.order) <= problem.total_cost:
            return best
        orders = Orders(problem)
        moves = int(self.moves / (1 + len(problem.nodes) / 500))
        for target in self.targets:
            order = orders.anneal(int(target * budget_bytes), moves, Random(self.seed))
            inner = self.inner.solve(reordered(problem, order), budget_bytes)
            found = Solution(
                tuple(order[i] for i in inner.order), self.name, met=inner.met,
                bound_cost=problem.total_cost, iterations=best.iterations + inner.iterations,
                reordered=True,
            )
            best = _better(problem, best, found)
            if best.met and schedule_cost(problem, best.order) <= problem.total_cost:
                break
        return best


def _better(problem: Problem, first: Solution, second: Solution) -> Solution:
    """The one that meets the budget; of two, the cheaper; of two alike, the first."""
    if first.met != second.met:
        return first if first.met else second
    dearer = schedule_cost(problem, second.order) >= schedule_cost(problem, first.order)
    return first if dearer else second


def reordered(problem: Problem, order: Sequence[int]) -> Problem:
    """The same problem with its nodes in another topological order."""
    return replace(problem, nodes=tuple(problem.nodes[i] for i in order))


class Orders:
    """Topological orders of a problem, and the bytes of each.

    Attributes:
        before: by node, the nodes that must come earlier.
        after: by node, the nodes that must come later.
    """

    def __init__(self, problem: Problem) -> None:
        count = len(problem.nodes)
        edges = {
            (problem.producer[v], index)
            for index, node in enumerate(problem.nodes)
            for v in node.inputs
            if problem.producer[v] >= 0
        }
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

    def anneal(self, target_bytes: int, moves: int, random: Random) -> list[int]:
        """An order with little excess over a target, starting from the problem's order."""
        order = list(range(self.count))
        place = list(range(self.count))
        score = best_score = self._excess(order, target_bytes)
        best, heat = order[:], 0.02 * score
        for move in range(moves):
            if best_score == 0:
                break
            drawn = self._draw(place, random)
            if drawn is None:
                continue
            _shift(order, place, *drawn)
            outcome = self._excess(order, target_bytes)
            cool = heat * (1 - move / moves) ** 2
            worse = outcome - score
            if worse <= 0 or (cool > 0 and random.random() < math.exp(-worse / cool)):
                score = outcome
                if score < best_score:
                    best, best_score = order[:], score
            else:
                _shift(order, place, drawn[1], drawn[0])
        return best

    def _excess(self, order: Sequence[int], target_bytes: int) -> float:
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
