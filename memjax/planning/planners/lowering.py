"""A schedule brought from its peak to a budget, in turns that look at all of its runs at once.

In: a `Problem`, a schedule, a budget. Out: schedules, one a turn, that come closer.

The search (`planners.search`) adds a few recomputations at a time. On graphs of 1,000
nodes it stops where what has to go is a value whose inputs are long gone, and theirs too. A
turn gets past that by what is cheap to do for the whole schedule:

1. cut: the relaxation (`planners.relaxation`) at the highest stages of the *expanded*
   problem, whose nodes are the runs of the schedule and whose values are the copies. Rounded,
   it is the cheapest closed set of further recomputations that relieves these stages;
2. anneal: the recomputations of a cut come in a heap before the first read. Annealing over the
   order of all runs (`planners.orders`) spreads them to where there is room; at fixed
   order the first runs keep their order among themselves;
3. search: runs that the budget does not need are taken away, others are added greedily, and
   ruin and recreate improves on it a little.

The budget of a turn falls in equal steps from the peak to the budget, so that a turn begins
close to a schedule that meets it.

What an annealing has brought to the budget holds more again in stage form. A *careful* lowering
therefore keeps such schedules where they are better, pruned as they are (`planners.copies`), and
drops turns that do not help. What else was tried is in `docs/planning.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memjax.planning.planners.copies import excess_of, pruned
from memjax.planning.planners.incremental import Schedule
from memjax.planning.planners.orders import annealed, expanded
from memjax.planning.planners.relaxation import highest_stages, relax
from memjax.planning.planners.search import Search
from memjax.planning.planners.seeds import runs_of
from memjax.planning.problem import Problem, schedule_cost
from memjax.planning.simulate import simulate

CUT_MARGINS = (0.95, 0.97, 0.92, 0.98)  # of the turn's budget, in turn
ANNEAL_MARGINS = (0.95, 0.98, 0.97)
CUT_ITERATIONS = 3_000  # of the simplex method: about a second; some programs take minutes
CUT_APART = 20  # stages between them at least
RECREATE = 1_500  # changes
WEIGHT = 2  # of excess, as of the search: a budget's bytes for one position cost two plain steps
LATE = 8  # times as much at the last budget, where a schedule that meets it is looked for


@dataclass(frozen=True)
class Lowering:
    """See the module.

    Attributes:
        problem: to plan.
        budget: in bytes, of the last turns.
        fixed: whether first runs keep the problem's order.
        careful: whether schedules that are not in stage form are kept where they are better,
            and at the last budget the one before where the turn has not improved it.
        cut_stages: that a cut relieves at once, at most.
        steps: turns on the way from the peak to the budget.
        work: changes that the search may make in a turn, and twice that at the last budget.
        seed: of all randomness.
    """

    problem: Problem
    budget: int
    fixed: bool = False
    careful: bool = False
    cut_stages: int = 2
    steps: int = 6
    work: int = 3_000
    seed: int = 0

    def turns(self, order: Sequence[int], peak_bytes: int, count: int) -> Iterator[list[int]]:
        """The schedules after each of so many turns.

        Args:
            order: the schedule to start from.
            peak_bytes: its peak.
            count: of turns.
        """
        for turn in range(1, count + 1):
            share = min(1.0, turn / self.steps)
            budget = int(peak_bytes + (self.budget - peak_bytes) * share)
            weight = self._weight(budget, turn)
            moved = self.cut(order, budget, CUT_MARGINS[turn % len(CUT_MARGINS)])
            target = int(ANNEAL_MARGINS[turn % len(ANNEAL_MARGINS)] * budget)
            moved = self.annealed(moved, target, turn)
            found = [self.searched(moved, budget, turn, self.work * (1 + (turn >= self.steps)))]
            if self.careful and 2 * turn >= self.steps:
                found.append(list(pruned(self.problem, moved, budget, weight)))
            if self.careful and turn > self.steps:
                found.append(list(order))
            order = min(found, key=lambda runs: self._score(runs, budget, weight))
            yield list(order)

    def _weight(self, budget: int, turn: int) -> float:
        """What a byte above the budget costs at each position; more at the last budget."""
        share = WEIGHT * (LATE if turn >= self.steps else 1)
        return share * self.problem.total_cost / max(1, budget)

    def score(self, order: Sequence[int]) -> float:
        """The cost of a schedule and its excess over the budget, weighed as in the last turns."""
        return self._score(order, self.budget, self._weight(self.budget, self.steps))

    def missed(self, order: Sequence[int]) -> bool:
        """Whether a schedule is above the budget."""
        return simulate(self.problem, order).peak_bytes > self.budget

    def _score(self, order: Sequence[int], budget: int, weight: float) -> float:
        excess = excess_of(simulate(self.problem, order).bytes_at, budget)
        return schedule_cost(self.problem, order) + weight * excess

    def cut(self, order: Sequence[int], budget: int, margin: float) -> Sequence[int]:
        """The schedule with the recomputations that its highest stages ask for."""
        runs, _ = expanded(self.problem, order)
        schedule = Schedule(runs)
        over = np.maximum(schedule.peaks - budget, 0)
        stages = highest_stages(over, self.cut_stages, CUT_APART)
        if not stages:
            return order
        for chosen in (sorted(stages), stages[:1]):
            relaxed = relax(runs, int(margin * budget), chosen, CUT_ITERATIONS)
            if relaxed.gone:
                for stage, run in runs_of(runs, chosen, relaxed.gone):
                    schedule.add(run, stage)
                break
        return [order[run] for run in schedule.order()]

    def annealed(self, order: Sequence[int], target_bytes: int, turn: int) -> Sequence[int]:
        """The same runs in an order with less excess over the target."""
        return annealed(self.problem, order, target_bytes, self.seed + turn, self.fixed)

    def searched(self, order: Sequence[int], budget: int, turn: int, work: int) -> Sequence[int]:
        """The schedule with recomputations taken away and added, at its order of first runs."""
        first = list(dict.fromkeys(order))
        place = {node: index for index, node in enumerate(first)}
        search = Search(Schedule(permuted(self.problem, first)), budget, self.seed + turn)
        search.go_to(Schedule.runs_in([place[node] for node in order]))
        search.prune(search.dearest(search.runs()))
        if search.excess() > 0:
            search.recreate(0.0, RECREATE)
            search.prune(search.dearest(search.runs()))
        search.improve(work)
        return [first[index] for index in search.schedule.order()]


def permuted(problem: Problem, order: Sequence[int]) -> Problem:
    """The same problem with its nodes in another topological order."""
    return replace(problem, nodes=tuple(problem.nodes[i] for i in order))
