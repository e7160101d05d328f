"""The default planner: checkpoint rules, pruned to the budget, then ruin and recreate.

In: a `Problem` and a budget. Out: a `Solution`, and the same one in every process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from memjax.planners.base import Planner
from memjax.planners.incremental import Schedule
from memjax.planners.search import Run, Search
from memjax.planners.seeds import forward_of, rules, runs_of
from memjax.problem import Problem, Solution

SEGMENTS = (1, 2, 4, 6, 9, 13, 17, 25, 33, 49, 65, 97)


@dataclass(frozen=True)
class AutoPlanner(Planner):
    """See the module.

    Attributes:
        work: changes of the schedule that the search may make, less for large problems.
        starts: how many rules are pruned to the budget.
        seed: of the search's randomness.
    """

    name: ClassVar[str] = "auto"
    work: int = 20_000
    starts: int = 6
    seed: int = 0

    def solve(self, problem: Problem, budget_bytes: int) -> Solution:
        """See `Planner.solve`."""
        schedule = Schedule(problem)
        if not problem.nodes or int(schedule.peaks.max()) <= budget_bytes:
            return Solution.identity(problem, self.name)
        search = Search(schedule, budget_bytes, self.seed)
        self._start(problem, search)
        search.improve(self._allowed(problem))
        return Solution(
            schedule.order(),
            self.name,
            met=int(schedule.peaks.max()) <= budget_bytes,
            bound_cost=problem.total_cost,
            iterations=search.work,
        )

    def _allowed(self, problem: Problem) -> int:
        """A change costs time that grows with the number of stages it spans."""
        return int(self.work / (1 + len(problem.nodes) / 4000))

    def _start(self, problem: Problem, search: Search) -> None:
        """Bring the search to the best of the rules and of the plain schedule, repaired."""
        best: tuple[float, list[Run]] | None = None
        for runs in ([], *self._rules(problem, search)):
            for per_byte in (False, True):
                search.go_to(runs)
                if search.recreate(0.0, self.work):
                    search.prune(search.dearest(search.runs(), per_byte))
                score = search.score()
                if best is None or score < best[0]:
                    best = score, search.runs()
        assert best is not None
        search.go_to(best[1])

    def _rules(self, problem: Problem, search: Search) -> list[list[Run]]:
        """The most promising rules: those that meet the budget, cheapest first."""
        forward = forward_of(problem, search.schedule)
        outcomes: list[tuple[float, float, list[Run]]] = []
        for gone in rules(problem, forward, SEGMENTS):
            runs = runs_of(problem, forward, gone)
            search.go_to(runs)
            outcomes.append((search.excess(), search.schedule.cost, runs))
        outcomes.sort()
        if outcomes and outcomes[0][0] > 0:
            return [outcomes[0][2]]
        return [runs for _, _, runs in outcomes[: self.starts]]
