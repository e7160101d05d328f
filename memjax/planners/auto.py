"""The default planner: checkpoint rules and a relaxation to start from, then a local search.

In: a `Problem` and a budget. Out: a `Solution`, and the same one in every process.

1. The relaxation at the turn (`memjax.planners.relaxation`) gives a bound, and, rounded, a
   few schedules: each for a share of the budget, as what is recomputed needs room too.
2. They are repaired and pruned. If the best is at the bound, that is all: the usual case for
   train steps with budgets that one extra forward pass can reach.
3. Otherwise checkpoint rules (`memjax.planners.seeds`) and the plain schedule compete too,
   and the best is improved by ruin and recreate (`memjax.planners.search`).
4. The bound is raised by the relaxation at several stages.

Tried, in per cent of overhead at 80 % of the peak for the published random layered graphs of
100 and 250 nodes at fixed order, and at 40 % for a step of an 8-layer GPT of about 1,000 nodes
(whose bound is 7.417):

- the best gap first, from the plain schedule: stuck; stuck; 15.07;
- the same with chains of recomputations, pruned: 5.54; stuck; -
- rules, pruned: -; -; 7.89, and 7.86 after 400,000 changes of ruin and recreate;
- the relaxation, rounded and pruned: -; -; 7.441;
- ruin and recreate with 16 gaps tried and 4 links: 2.296 (the optimum); 4.261 (three seeds:
  4.261 to 4.266). With 12 links 4.73 to 5.06; with 6 gaps and 12 links 4.82 to 5.70; with
  3 gaps 5.15 to 8.25.

Numba and OR-tools would make the search faster, but either adds a heavy dependency, and
numba some seconds of compilation to the first plan; both are left out. Min-cut seeds are the
relaxation at one stage, which HiGHS solves in milliseconds.

Not handled: a node that runs twice within one stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from memjax.planners.base import Planner
from memjax.planners.incremental import Schedule
from memjax.planners.relaxation import relax
from memjax.planners.search import Run, Search
from memjax.planners.seeds import Forward, forward_of, rules, runs_of
from memjax.problem import Problem, Solution

SEGMENTS = (1, 2, 4, 6, 9, 13, 17, 25, 33, 49, 65, 97)
MARGINS = (1.0, 0.97, 0.9, 0.8, 0.65)  # of the budget: what is recomputed needs room as well


@dataclass(frozen=True)
class AutoPlanner(Planner):
    """See the module.

    Attributes:
        work: changes of the schedule that a round of the search may make, less for large
            problems.
        rounds: of the search at most.
        starts: how many rules are pruned to the budget.
        seed: of the search's randomness.
        enough: the search ends early at this overhead above the bound, as a share.
    """

    name: ClassVar[str] = "auto"
    work: int = 120_000
    rounds: int = 5
    starts: int = 3
    seed: int = 0
    enough: float = 2e-4
    bound_columns: int = 12_000

    def solve(
        self, problem: Problem, budget_bytes: int, hints: Sequence[Solution] = ()
    ) -> Solution:
        """See `Planner.solve`.

        Args:
            problem: to plan.
            budget_bytes: for the peak.
            hints: schedules of the same problem, at fixed order, to start from as well.
        """
        schedule = Schedule(problem)
        if not problem.nodes or int(schedule.peaks.max()) <= budget_bytes:
            return Solution.identity(problem, self.name)
        peaks = schedule.peaks.copy()
        search = Search(schedule, budget_bytes, self.seed)
        hinted = [Schedule.runs_in(hint.order) for hint in hints]
        bound = self._start(problem, search, hinted)
        if search.score() > bound + self.enough * problem.total_cost:
            self._improve(search, self._allowed(problem), self.rounds if bound < math.inf else 1)
            bound = max(bound, self._bound(problem, budget_bytes, peaks))
        return Solution(
            schedule.order(),
            self.name,
            met=int(schedule.peaks.max()) <= budget_bytes,
            bound_cost=problem.total_cost + bound,
            iterations=search.work,
        )

    def quick(self) -> AutoPlanner:
        """See `Planner.quick`."""
        return replace(self, work=self.work // 10, rounds=1)

    def _improve(self, search: Search, work: int, rounds: int) -> None:
        """Search in rounds, as long as a round gains a hundredth."""
        for _ in range(rounds):
            before = search.score()
            search.improve(work)
            if search.score() > 0.99 * before:
                return

    def _allowed(self, problem: Problem) -> int:
        """A change costs time that grows with the number of stages it spans."""
        count = len(problem.nodes)
        return int(min(self.work, 800 * count) / (1 + count / 500))

    def _bound(self, problem: Problem, budget: int, peaks: np.typing.NDArray[np.int64]) -> float:
        """The relaxation at several stages above the budget, as many as its size allows."""
        over = np.flatnonzero(peaks > budget)
        wanted = max(1, min(12, self.bound_columns // (2 * len(problem.nodes))))
        places = np.linspace(0, len(over) - 1, wanted).astype(int)
        stages = sorted({int(peaks.argmax()), *(int(over[i]) for i in places)})
        return relax(problem, budget, stages).extra_cost

    def _start(self, problem: Problem, search: Search, hinted: list[list[Run]]) -> float:
        """Bring the search to the best start; returns the bound at the turn."""
        forward = forward_of(problem, search.schedule)
        bound, starts = self._relaxed(problem, forward, search.budget)
        best = self._best(search, [*hinted, *starts], None)
        enough = self.enough * (1 + len(problem.nodes) / 500)  # rules cost time that grows, too
        if best is None or best[0] > bound + enough * problem.total_cost:
            best = self._best(search, [[], *self._rules(problem, forward, search)], best)
        assert best is not None
        search.go_to(best[1])
        return bound

    def _best(
        self, search: Search, starts: list[list[Run]], best: tuple[float, list[Run]] | None
    ) -> tuple[float, list[Run]] | None:
        """The best of the starts, brought within the budget, and of `best`."""
        for runs in starts:
            search.go_to(runs)
            met = search.recreate(0.0)
            repaired = search.runs()
            for per_byte in (True, False) if met else (True,):
                search.go_to(repaired)
                if met:
                    search.prune(search.dearest(repaired, per_byte))
                score = search.score()
                if best is None or score < best[0]:
                    best = score, search.runs()
        return best

    def _relaxed(
        self, problem: Problem, forward: Forward, budget: int
    ) -> tuple[float, list[list[Run]]]:
        """The bound at the turn, and the starts that relaxations with less room give."""
        bound = math.inf
        starts: list[list[Run]] = []
        for margin in MARGINS:
            relaxed = relax(problem, int(margin * budget), [forward.turn])
            if margin == 1.0:
                bound = relaxed.extra_cost
            if not relaxed.held:
                break
            gone = frozenset(v for v in forward.values if v not in relaxed.held[0])
            starts.append(runs_of(problem, forward, gone))
        return bound, starts

    def _rules(self, problem: Problem, forward: Forward, search: Search) -> list[list[Run]]:
        """The most promising rules: those that meet the budget, cheapest first."""
        if not self.starts:
            return []
        outcomes: list[tuple[float, float, list[Run]]] = []
        for gone in rules(problem, forward, SEGMENTS):
            runs = runs_of(problem, forward, gone)
            search.go_to(runs)
            outcomes.append((search.excess(), search.schedule.cost, runs))
        outcomes.sort()
        if outcomes and outcomes[0][0] > 0:
            return [outcomes[0][2]]
        return [runs for _, _, runs in outcomes[: self.starts]]
