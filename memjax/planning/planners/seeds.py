"""Where the search starts on train steps: checkpoint rules, tried in families.

In: a `Problem`. Out: sets of recomputations, cheap to make.

A train step holds most at the turn from forward to backward. A *rule* says which values
made before the turn are still there after it; all others are recomputed at their first need
after the turn, together with what they need themselves, and then kept to their last need:
every node runs at most twice. The family has two parameters:

1. `segments`: values that cross the boundaries of so many segments of the forward pass are
   kept. Boundaries lie at equal shares of the forward bytes, where few bytes cross. That is
   the √n rule of Chen et al., *Training deep nets with sublinear memory cost* (2016), and
   with as many segments as blocks, `jax.checkpoint` round each block;
2. `density`: values whose node costs more than this for each byte are kept. That is
   selective checkpointing (Korthikanti et al., 2022).

A rule is then pruned to the budget by the search, which starts closer to the optimum than
adding recomputations to the plain schedule one by one does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memjax.planning.planners.incremental import Schedule
from memjax.planning.problem import Problem

SEGMENTS = (1, 2, 4, 6, 9, 13, 17, 25, 33, 49, 65, 97)  # of the forward pass, to try
QUANTILES = (0.4, 0.7, 0.9, 1.0)


@dataclass(frozen=True)
class Forward:
    """What lies before the turn.

    Attributes:
        turn: the stage with the highest bytes.
        values: ids of values that can be recomputed, made before the turn.
        last_read: the last reader at or before the turn (the producer where there is
            none), by value id; only for values made before the turn.
        boundaries: positions where few bytes cross, ascending.
    """

    turn: int
    values: tuple[int, ...]
    last_read: dict[int, int]
    boundaries: tuple[int, ...]


def forward_of(problem: Problem, schedule: Schedule, earlier: int = 0) -> Forward:
    """The part of a problem before the highest stage of its plain schedule.

    Args:
        problem: to plan.
        schedule: its plain schedule.
        earlier: so many stages before the highest one.
    """
    turn = max(0, int(schedule.peaks.argmax()) - earlier)
    change = np.zeros(turn + 2)
    last_read: dict[int, int] = {}
    for node in range(turn + 1):
        for value in problem.nodes[node].outputs:
            readers = problem.consumers[value]
            index = bisect_right(readers, turn)
            last_read[value] = readers[index - 1] if index else node
            change[node] += problem.value_bytes[value]
            change[last_read[value]] -= problem.value_bytes[value]
    crossing = np.cumsum(change)[: turn + 1]
    around = np.pad(crossing, 8, constant_values=np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(around, 17)
    low = crossing <= windows.min(axis=1)
    if low.any():
        low &= crossing <= np.median(crossing[low])
    values = tuple(v for v in last_read if problem.nodes[problem.producer[v]].recomputable)
    return Forward(turn, values, last_read, tuple(int(i) for i in np.flatnonzero(low)))


def rules(problem: Problem, forward: Forward, counts: Sequence[int]) -> list[frozenset[int]]:
    """The values that each rule of the family gives up at the turn, without repeats.

    Args:
        counts: numbers of segments to try.
    """
    producer, size = problem.producer, problem.value_bytes
    density = {v: problem.nodes[producer[v]].cost / max(1, size[v]) for v in forward.values}
    if not density:
        return []
    levels = np.quantile(np.array(list(density.values())), QUANTILES, method="higher")
    found: dict[frozenset[int], None] = {}
    for count in counts:
        kept = _crossing(problem, forward, _boundaries(problem, forward, count))
        for level in dict.fromkeys(levels.tolist()):
            gone = frozenset(v for v in forward.values if v not in kept and density[v] <= level)
            found[gone] = None
    return [gone for gone in found if gone]


def repeated(problem: Problem, forward: Forward, count: int) -> list[tuple[int, int]]:
    """(stage, node) of the recomputations where values are made again for each stage alone.

    What crosses the boundaries of `count` segments of the forward pass is kept; all else that
    it makes is given up again after every stage behind the turn. No rule holds less, and none
    recomputes more: on a chain with one segment, every value from the start each time.
    """
    kept = _crossing(problem, forward, _boundaries(problem, forward, count))
    kept.update(problem.nodes[forward.turn].outputs)
    gone = frozenset(v for v in forward.values if v not in kept)
    stages = range(forward.turn, len(problem.nodes))
    return runs_of(problem, stages, [gone] * len(stages))


def runs_of(
    problem: Problem, stages: Sequence[int], gone: Sequence[frozenset[int]]
) -> list[tuple[int, int]]:
    """(stage, node) of the recomputations when values are given up at stages.

    Args:
        problem: to plan.
        stages: ascending.
        gone: for each stage the values, made before it, that are given up behind it.
    """
    present = [True] * len(problem.value_bytes)
    given_up = dict(zip(stages, gone, strict=True))
    runs: list[tuple[int, int]] = []
    for stage in range(stages[0], len(problem.nodes)):
        needed: set[int] = set()
        stack = [v for v in problem.nodes[stage].inputs if not present[v]]
        while stack:
            node = problem.producer[stack.pop()]
            if node not in needed:
                needed.add(node)
                stack += [v for v in problem.nodes[node].inputs if not present[v]]
        for node in sorted(needed):
            runs.append((stage, node))
            for value in problem.nodes[node].outputs:
                present[value] = True
        for value in given_up.get(stage, ()):
            present[value] = False
    return runs


def _boundaries(problem: Problem, forward: Forward, count: int) -> list[int]:
    """Positions that cut the forward pass into `count` segments of about equal bytes."""
    if not forward.boundaries:
        return []
    written = [
        sum(problem.value_bytes[v] for v in node.outputs)
        for node in problem.nodes[: forward.turn + 1]
    ]
    total = np.cumsum(written)
    at = np.array(forward.boundaries)
    chosen = {
        int(at[np.abs(total[at] - total[-1] * part / count).argmin()]) for part in range(1, count)
    }
    return sorted(chosen)


def _crossing(problem: Problem, forward: Forward, boundaries: Sequence[int]) -> set[int]:
    """Values made at or before one of the boundaries and read by the forward pass after it."""
    kept = set()
    for value, last in forward.last_read.items():
        index = bisect_right(boundaries, last - 1) - 1
        if index >= 0 and boundaries[index] >= problem.producer[value]:
            kept.add(value)
    return kept
