"""Random problems, and the cheapest schedule by exhaustive search.

The search is a shortest path over what is in memory, so it shares nothing with the planners.
A state is the next first run, the values held, and (in stage form) the last node of the
stage. After each run any of the values may be given up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import combinations
from random import Random

from memjax.planning.problem import Node, Problem

State = tuple[int, int, frozenset[int]]


def random_problem(seed: int, nodes: int, plain: bool = False, folded: bool = False) -> Problem:
    """A problem with everything that `Problem` can say, or one value a node and no more.

    Args:
        seed: of the draw.
        nodes: how many.
        plain: whether each node writes one value, and nothing else is said.
        folded: whether nodes read the one before and, from the middle on, the forward values,
            last first, as a backward pass does. Without that, hardly a small problem fits less
            than its peak.
    """
    random = Random(seed)
    made: list[Node] = []
    value_bytes = [random.randint(1, 9) for _ in range(0 if plain else random.randint(0, 2))]
    available = list(range(len(value_bytes)))
    for index in range(nodes):
        inputs = tuple(sorted(random.sample(available, min(len(available), random.randint(0, 3)))))
        if folded:
            mirrored = {index - 1, nodes - 1 - index}
            inputs = tuple(sorted(v for i in mirrored if 0 <= i < index for v in made[i].outputs))
        outputs = range(
            len(value_bytes), len(value_bytes) + (1 if plain else random.choice((1, 1, 1, 2, 0)))
        )
        value_bytes += [random.randint(0 if not plain else 1, 9) for _ in outputs]
        in_place = tuple(v for v in inputs if not plain and random.random() < 0.3)
        made.append(
            Node(
                cost=float(random.randint(0, 9)),
                inputs=inputs,
                outputs=tuple(outputs),
                workspace_bytes=0 if plain else random.choice((0, 0, 3)),
                recomputable=plain or random.random() > 0.15,
                in_place=in_place,
                name=f"n{index}",
            )
        )
        available += outputs
    kept = tuple(v for v in available if not plain and random.random() < 0.2)
    return Problem(tuple(made), tuple(value_bytes), kept, 0 if plain else random.randint(0, 3))


def cheapest(problem: Problem, budget_bytes: int, stage_form: bool) -> float | None:
    """The least cost of a schedule within the budget; None where there is none.

    Args:
        stage_form: within a stage each node once at most and in ascending order; otherwise
            recomputations come in any order and number.
    """
    start: State = (0, -1, frozenset())
    best = {start: 0.0}
    queue: list[tuple[float, int, State]] = [(0.0, 0, start)]
    ticket = 0
    while queue:
        cost, _, state = heapq.heappop(queue)
        if cost > best[state]:
            continue
        if state[0] == len(problem.nodes):
            return cost
        for index in _candidates(problem, state, stage_form):
            for after in _runs(problem, budget_bytes, state, index):
                total = cost + problem.nodes[index].cost
                if total < best.get(after, float("inf")):
                    best[after] = total
                    ticket += 1
                    heapq.heappush(queue, (total, ticket, after))
    return None


def _candidates(problem: Problem, state: State, stage_form: bool) -> Iterator[int]:
    stage, last, held = state
    for index in range(last + 1 if stage_form else 0, stage + 1):
        node = problem.nodes[index]
        if index < stage and not node.recomputable:
            continue
        ready = all(v in held for v in node.inputs if problem.producer[v] >= 0)
        if ready and not held.intersection(node.outputs):
            yield index


def _runs(problem: Problem, budget: int, state: State, index: int) -> Iterator[State]:
    """The states after running a node, one for each choice of what to give up."""
    stage, _, held = state
    node, size = problem.nodes[index], problem.value_bytes
    before = problem.base_bytes + sum(size[v] for v in held)
    written = sum(size[v] for v in node.outputs)
    full = held.union(node.outputs)
    first = index == stage
    for count in range(len(full) + 1):
        for given in combinations(sorted(full), count):
            over = sum(size[v] for v in node.in_place if v in given and v not in problem.outputs)
            during = max(before, before - over + written) + node.workspace_bytes
            after = full.difference(given)
            done = first and stage + 1 == len(problem.nodes)
            if during > budget or (done and not _complete(problem, after)):
                continue
            yield (stage + first, -1 if first else index, frozenset(after))


def _complete(problem: Problem, held: frozenset[int]) -> bool:
    return all(v in held for v in problem.outputs if problem.producer[v] >= 0)
