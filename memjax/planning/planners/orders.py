"""Annealing over topological orders.

In: a `Problem`, a target. Out: an order of its nodes with little excess over the target.

A node that moves from position `p` to `q` changes only what is held between them:

- the nodes that it passes shift by one position, and hold its outputs no longer (moving
  later) or as well (moving earlier);
- an input of it that no other node reads after some position `l` is held by the nodes past
  `l` that it passes, as long as it lies behind them.

So the changes of all moves of a node are one cumulative sum over its window, in numpy, and
the position is drawn from all of them at once, as annealing at equilibrium would (a heat bath;
the draw is by the Gumbel trick). Li et al., *FastSA* (2023), move single nodes too.

Not handled: what in-place runs save, so that orders are judged a little too high here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from memjax.planning.problem import Node, Problem

MOST_MOVES = 12_000  # of an annealing of a schedule's runs
COLD = 1e-3  # of a byte: breaks ties at random

Bytes = NDArray[np.int64]
Ends = list[tuple[int, int]]


class Orders:
    """An order of a problem's nodes on its way to a target.

    Attributes:
        order: the node at each position.
        place: the position of each node.
        held: bytes before the run at each position, and at the end; shape (nodes + 1,).
    """

    def __init__(self, problem: Problem, more: Iterable[tuple[int, int]] = ()) -> None:
        """`more` are pairs of nodes that must keep their order, besides the edges."""
        count = len(problem.nodes)
        producer, size, kept = problem.producer, problem.value_bytes, set(problem.outputs)
        edges = {
            (producer[v], index)
            for index, node in enumerate(problem.nodes)
            for v in node.inputs
            if producer[v] >= 0
        }
        once = [i for i, node in enumerate(problem.nodes) if not node.recomputable]
        edges.update(more, pairwise(once))
        self.count = count
        self.before: list[list[int]] = [[] for _ in range(count)]
        self.after: list[list[int]] = [[] for _ in range(count)]
        for first, second in sorted(edges):
            self.before[second].append(first)
            self.after[first].append(second)
        self._ends = [  # inputs that may die: their bytes, and who else touches them
            [
                (size[v], [producer[v], *(r for r in problem.consumers[v] if r != index)])
                for v in node.inputs
                if producer[v] >= 0 and v not in kept and size[v]
            ]
            for index, node in enumerate(problem.nodes)
        ]
        self._lives = [
            sum(size[v] for v in node.outputs if problem.consumers[v] or v in kept)
            for node in problem.nodes
        ]
        written = [sum(size[v] for v in node.outputs) for node in problem.nodes]
        self._adds = np.array(
            [w + n.workspace_bytes for w, n in zip(written, problem.nodes, strict=True)], np.int64
        )
        self.mean_bytes = sum(size) / max(1, len(size))
        self.order = list(range(count))
        self.place = list(range(count))
        self.held = self._held_in_order(problem.base_bytes)

    def _held_in_order(self, base_bytes: int) -> Bytes:
        held = np.zeros(self.count + 1, np.int64)
        level = base_bytes
        for node in range(self.count):
            held[node] = level
            level += self._lives[node]
            level -= sum(size for size, others in self._ends[node] if max(others) < node)
        held[self.count] = level
        return held

    def anneal(self, target_bytes: int, moves: int, heat: float, seed: int) -> list[int]:
        """The order with the least excess seen.

        Args:
            target_bytes: what is above is excess.
            moves: how many nodes are drawn.
            heat: at the start, in mean bytes of a value.
            seed: of all randomness.
        """
        adds = self._adds[self.order]
        score = best_score = int(np.maximum(self.held[:-1] + adds - target_bytes, 0).sum())
        best, hot = self.order[:], heat * self.mean_bytes
        random = np.random.RandomState(seed)  # its stream is frozen across versions
        nodes = random.randint(0, max(1, self.count), moves).tolist()
        noise = random.gumbel(size=10 * self.count + 10)
        for move, node in enumerate(nodes):
            if best_score == 0:
                break
            source = self.place[node]
            low, high = self._window(node)
            if low == high:
                continue
            ends = self._ends_of(node)
            worse = self._changes(source, low, high, adds, target_bytes, ends)
            first = (move * 7919) % (len(noise) - (high - low))
            cool = hot * (1 - move / moves) ** 2 + COLD
            choice = int((worse - cool * noise[first : first + high - low + 1]).argmin())
            if low + choice == source:
                continue
            window, held = self._moved(source, low + choice, ends)
            self.held[window] = held
            self._shift(source, low + choice)
            adds[window] = self._adds[self.order[window]]
            score += int(worse[choice])
            if score < best_score:
                best, best_score = self.order[:], score
        return best

    def _window(self, node: int) -> tuple[int, int]:
        """The first and the last position that its inputs and readers leave a node."""
        place = self.place
        low = max([place[i] for i in self.before[node]], default=-1) + 1
        high = min([place[i] for i in self.after[node]], default=self.count) - 1
        return low, high

    def _ends_of(self, node: int) -> Ends:
        """Bytes of the inputs that may die, and the last position that touches each otherwise."""
        place = self.place
        return [(size, max([place[i] for i in others])) for size, others in self._ends[node]]

    def _changes(
        self, source: int, low: int, high: int, adds: Bytes, target_bytes: int, ends: Ends
    ) -> Bytes:
        """By how much a move to each position from `low` to `high` changes the excess.

        What a node that is passed holds afterwards does not depend on how far the move
        goes on, so that all positions are one cumulative sum.
        """
        node, held = self.order[source], self.held
        lives, own = self._lives[node], int(adds[source]) - target_bytes
        passed = held[low : high + 1] + lives
        passed[source - low :] -= 2 * lives
        alone = held[low : high + 2] + own
        alone = np.concatenate((alone[: source - low + 1], alone[source - low + 2 :] - lives))
        for size, last in ends:
            if last < source:
                passed[max(0, last + 1 - low) : source - low] -= size
                passed[source - low + 1 :] += size
                alone[source - low + 1 :] += size
            elif last <= high:
                passed[last + 1 - low :] += size
                alone[last - low :] += size
        over = adds[low : high + 1] - target_bytes
        change = np.maximum(passed + over, 0) - np.maximum(held[low : high + 1] + over, 0)
        change[source - low] = 0
        split = source - low
        total = np.concatenate((change[:split][::-1].cumsum()[::-1], change[split:].cumsum()))
        result: Bytes = total + np.maximum(alone, 0) - max(0, int(held[source]) + own)
        return result

    def _moved(self, source: int, target: int, ends: Ends) -> tuple[slice, Bytes]:
        """The positions that a move touches, and what is held there after it."""
        lives = self._lives[self.order[source]]
        if target > source:
            passed = self.held[source + 1 : target + 1] - lives
            for size, last in ends:
                if last < target:
                    passed[max(0, last - source) :] += size
            own = self.held[target + 1] - lives
            own += sum(size for size, last in ends if last <= target)
            return slice(source, target + 1), np.append(passed, own)
        passed = self.held[target:source] + lives
        for size, last in ends:
            if last < source:
                passed[max(0, last + 1 - target) :] -= size
        own = self.held[target]
        return slice(target, source + 1), np.concatenate(([own], passed))

    def _shift(self, source: int, target: int) -> None:
        order, place = self.order, self.place
        order.insert(target, order.pop(source))
        for index in range(min(source, target), max(source, target) + 1):
            place[order[index]] = index


def annealed(
    problem: Problem,
    order: Sequence[int],
    target_bytes: int,
    seed: int,
    fixed: bool = True,
    moves: int = 9,
    heat: float = 3.0,
) -> list[int]:
    """The runs of a schedule in an order with less excess over a target.

    Args:
        problem: to plan.
        order: the schedule.
        target_bytes: what is above is excess.
        seed: of all randomness.
        fixed: whether first runs keep their order among themselves.
        moves: for each run, up to `MOST_MOVES`.
        heat: at the start, in mean bytes of a value.
    """
    runs, edges = expanded(problem, order)
    if fixed:
        first: dict[int, int] = {}
        for index, node in enumerate(order):
            first.setdefault(node, index)
        edges += pairwise(first.values())
    count = min(MOST_MOVES, 500 + moves * len(order))
    moved = Orders(runs, edges).anneal(target_bytes, count, heat, seed)
    return [order[run] for run in moved]


def expanded(problem: Problem, order: Sequence[int]) -> tuple[Problem, list[tuple[int, int]]]:
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
