"""The default planner: relaxations and checkpoint rules to start from, then a local search.

In: a `Problem` and a budget. Out: a `Solution`, and the same one in every process.

1. The relaxation at the turn (`planners.relaxation`) gives a bound, and, rounded, a
   few schedules: each for a share of the budget, as what is recomputed needs room too.
2. They are repaired and pruned. If the best is at the bound, that is all: the usual case for
   train steps with budgets that one extra forward pass can reach.
3. Otherwise the relaxation is solved at more and more stages, those that the last one left
   highest. Its bound is higher, and its rounding another start. The plain schedule and
   checkpoint rules (`planners.seeds`) are starts as well, and where none meets the
   budget, the plain schedule brought to smaller and smaller budgets.
   Where all of these are far from the bound, the plain schedule is lowered to the budget in
   turns (`planners.lowering`).
4. Ruin and recreate (`planners.search`) improves the best few a little, and the best
   of the outcomes in rounds.
5. Where the budget is still missed, `planners.mend` tries other ways.

What else was tried is in `docs/planning.md`. Not handled, but for a lowering: a node that runs
twice within one stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memjax.planning.planners.base import Planner
from memjax.planning.planners.copies import excess_of
from memjax.planning.planners.incremental import Schedule
from memjax.planning.planners.lowering import Lowering
from memjax.planning.planners.mend import Best, mended
from memjax.planning.planners.relaxation import Relaxation, highest_stages, relax
from memjax.planning.planners.search import Run, Search
from memjax.planning.planners.seeds import SEGMENTS, Forward, forward_of, rules, runs_of
from memjax.planning.problem import Problem, Solution
from memjax.planning.simulate import simulate

Outcome = tuple[float, list[Run]]
"""A score of the search, and the recomputations that have it."""

MARGINS = (1.0, 0.97, 0.9, 0.8, 0.65)  # of the budget: what is recomputed needs room as well

FEW_MARGINS = (1.0, 0.95)
FAR = 0.005  # of the cost, above the bound: worth a lowering
LARGE = 400  # nodes above which a lowering to a hard budget goes down slowly and carefully
HARD = 0.05  # of the cost, to be recomputed at the least; below, the quick one plans better
PATIENT_TRIES = 40  # of cuts: a second; with 600 no train step tried held less
PATIENCE = 3  # turns without a gain after which it is over
EFFORT = 4e7  # iterations times variables of a relaxation, after which the next takes long
STEPS = 16  # of budgets on the way to one that is hard to meet
HOPELESS = 0.01  # of the budget, above it at each position of a lowering that has ended


@dataclass(frozen=True)
class AutoPlanner(Planner):
    """See the module.

    Attributes:
        work: changes of the schedule that a round of the search may make, less for large
            problems.
        rounds: of the search at most.
        starts: how many schedules the search starts from, and how many rules are pruned.
        seed: of the search's randomness.
        enough: the search ends early at this overhead above the bound, as a share.
        bound_columns: variables of the relaxations at several stages, a third more for large
            problems; they are left out where one stage takes a quarter of these.
        margins: shares of the budget for the relaxation at the turn.
        tries: of cuts in step 5, for each start; with 0 there is no step 5.
        turns: of the lowering of step 3.
        repair: changes after which bringing a start within the budget is put off.
    """

    name: ClassVar[str] = "auto"
    work: int = 120_000
    rounds: int = 5
    starts: int = 3
    seed: int = 0
    enough: float = 2e-4
    bound_columns: int = 18_000
    margins: tuple[float, ...] = MARGINS
    tries: int = 600
    turns: int = 16
    repair: int = 5_000

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
        plain_bytes = int(schedule.peaks.max(initial=0))
        if plain_bytes <= budget_bytes or not problem.nodes:
            return Solution.identity(problem, self.name)
        if plain_bytes <= problem.single_node_floor_bytes:  # no schedule is lower
            identity = Solution.identity(problem, self.name)
            return replace(identity, met=False, bound_cost=math.inf)
        search = Search(schedule, budget_bytes, self.seed)
        hinted = [Schedule.runs_in(hint.order) for hint in hints]
        bound, lowered = self._plan(problem, search, hinted)
        best = Best(problem, budget_bytes, tuple(schedule.order())).or_else(lowered)
        if best.missed_bytes and self.tries and budget_bytes > 0 and bound < math.inf:
            plain = replace(self, tries=0, turns=0)
            work = self._allowed(problem)
            best = mended(search, best, work, self.tries, lambda less: plain.solve(problem, less))
        return Solution(
            best.order,
            self.name,
            met=not best.missed_bytes,
            bound_cost=problem.total_cost + bound,
            iterations=search.work,
        )

    def quick(self) -> AutoPlanner:
        """See `Planner.quick`."""
        return replace(
            self,
            work=self.work // 10,
            rounds=1,
            starts=1,
            tries=0,
            turns=0,
            repair=self.repair // 5,
            bound_columns=self.bound_columns // 4,
        )

    def patient(self) -> AutoPlanner:
        """See `Planner.patient`."""
        return replace(self.quick(), tries=PATIENT_TRIES)

    def _plan(
        self, problem: Problem, search: Search, hinted: list[list[Run]]
    ) -> tuple[float, tuple[int, ...]]:
        """Bring the search to the best schedule found.

        Returns:
            The bound, and the best schedule of a lowering, which need not have stage form;
            empty where there was none.
        """
        peaks = search.schedule.peaks.copy()
        forward = forward_of(problem, search.schedule)
        relaxed, starts = self._relaxed(problem, search.budget, [forward.turn], self.margins)
        bound, size = relaxed.extra_cost, relaxed.size
        pool = self._outcomes(search, [*hinted, *starts])
        if self._is_enough(problem, pool, bound):
            search.go_to(pool[0][1])
            return bound, ()
        more: list[list[Run]] = []
        if bound < math.inf:
            higher, more = self._at_several(problem, search, peaks, size)
            bound = max(bound, higher)
        pool += self._outcomes(search, [[], *more])
        pool += self._outcomes(search, self._rules(problem, forward, search, pool))
        far = min(pool)[0] > bound + FAR * problem.total_cost
        lowered: tuple[int, ...] = ()
        if far and self.turns and bound < math.inf and 4 * size <= self._columns(problem):
            hard = bound > HARD * problem.total_cost
            outcome, lowered = self._lowered(problem, search, int(peaks.max()), hard)
            pool.append(outcome)
        search.go_to(min(pool)[1])
        if search.excess() > 0 and bound < math.inf and not lowered:
            pool.append(self._gradually(search, int(peaks.max())))
        lowered_misses = lowered and simulate(problem, lowered).peak_bytes > search.budget
        if not (lowered_misses and search.excess() > 0):  # those are mended
            self._improve(problem, search, pool, bound)
        return bound, lowered

    def _lowered(
        self, problem: Problem, search: Search, peak_bytes: int, hard: bool
    ) -> tuple[Outcome, tuple[int, ...]]:
        """The best on the way of the plain schedule to the budget, in turns.

        Returns:
            The best in stage form, and the best at all.
        """
        lowering = Lowering(problem, search.budget, fixed=True, cut_stages=4, seed=self.seed)
        if hard and len(problem.nodes) > LARGE:
            lowering = replace(lowering, careful=True, cut_stages=3, steps=12, work=4_000)
        outcomes: list[Outcome] = []
        best, lowest = (True, math.inf), problem.identity
        stalled = 0
        for turn, order in enumerate(lowering.turns(lowest, peak_bytes, self.turns), 1):
            search.go_to(Schedule.runs_in(order))
            outcomes.append((search.score(), search.runs()))
            found = lowering.missed(order), lowering.score(order)
            gained = found[0] < best[0] or found[1] < 0.99 * best[1]
            stalled = 0 if gained else stalled + 1
            if found < best:
                best, lowest = found, tuple(order)
            ended = hard and turn > lowering.steps + 1 and self._is_far(problem, order, search)
            if stalled == PATIENCE or ended:
                break
        return min(outcomes), lowest

    def _is_far(self, problem: Problem, order: Sequence[int], search: Search) -> bool:
        excess = excess_of(simulate(problem, order).bytes_at, search.budget)
        return excess > HOPELESS * search.budget * len(order)

    def _gradually(self, search: Search, peak_bytes: int) -> Outcome:
        """The plain schedule, brought to smaller and smaller budgets down to the search's own."""
        budget = search.budget
        search.go_to([])
        for step in range(1, STEPS + 1):
            search.budget = peak_bytes + (budget - peak_bytes) * step // STEPS
            if search.recreate(0.0, 2 * self.repair):
                search.prune(search.dearest(search.runs()))
        return search.score(), search.runs()

    def _is_enough(self, problem: Problem, pool: list[Outcome], bound: float) -> bool:
        pool.sort()
        share = self.enough * (1 + len(problem.nodes) / 500)  # the search costs time that grows
        return bool(pool) and pool[0][0] <= bound + share * problem.total_cost

    def _improve(self, problem: Problem, search: Search, pool: list[Outcome], bound: float) -> None:
        """Search a little from the best starts, then in rounds from the best outcome."""
        work = self._allowed(problem)
        pool = list({tuple(runs): (score, runs) for score, runs in sorted(pool)}.values())
        tried: list[Outcome] = []
        for _, runs in pool[: self.starts if bound < math.inf else 1]:
            search.go_to(runs)
            if search.excess() > 0 and search.recreate(0.0, 6 * self.repair):
                search.prune(search.dearest(search.runs(), per_byte=True))
            search.improve(work // 4)
            tried.append((search.score(), search.runs()))
            if self._is_enough(problem, tried, bound):
                break
        search.go_to(min(tried)[1])
        for _ in range(self.rounds if bound < math.inf else 0):
            before = search.score()
            if before <= bound + self.enough * problem.total_cost:
                return
            search.improve(work)
            if search.score() > 0.995 * before:
                return

    def _allowed(self, problem: Problem) -> int:
        """A change costs time that grows with the number of stages it spans."""
        count = len(problem.nodes)
        return int(min(self.work, 800 * count) / (1 + count / 1000))

    def _outcomes(self, search: Search, starts: list[list[Run]]) -> list[Outcome]:
        """Scores of starts that were brought within the budget, and their runs."""
        outcomes: list[Outcome] = []
        for runs in starts:
            search.go_to(runs)
            met = search.recreate(0.0, self.repair)
            repaired = search.runs()
            for per_byte in (True, False) if met else (True,):
                search.go_to(repaired)
                if met:
                    search.prune(search.dearest(repaired, per_byte))
                outcomes.append((search.score(), search.runs()))
        return outcomes

    def _at_several(
        self, problem: Problem, search: Search, peaks: NDArray[np.int64], size: int
    ) -> tuple[float, list[list[Run]]]:
        """Relaxations at more and more stages: those that the last one left highest."""
        columns = self._columns(problem)
        most = min(10, columns // max(1, 2 * size))
        bound, starts = 0.0, []
        stages = [int(peaks.argmax())]
        while len(stages) < most and bound < math.inf:
            chosen = self._highest(search, peaks, stages, 2)
            if len(chosen) == len(stages):
                break
            stages = chosen
            few = 6 if len(problem.nodes) > LARGE else 3
            margins = FEW_MARGINS if few * len(stages) * size < columns else (1.0,)
            relaxed, more = self._relaxed(problem, search.budget, stages, margins)
            bound = max(bound, relaxed.extra_cost)
            starts += more
            if more:
                search.go_to(more[0])
                peaks = search.schedule.peaks.copy()
            if relaxed.iterations * relaxed.size > EFFORT:
                break
        return bound, starts

    def _columns(self, problem: Problem) -> int:
        return self.bound_columns * (4 if len(problem.nodes) > LARGE else 3) // 3

    def _highest(
        self, search: Search, peaks: NDArray[np.int64], stages: list[int], more: int
    ) -> list[int]:
        """Stages, and up to so many more: the highest above the budget, apart."""
        over = np.maximum(peaks - search.budget, 0)
        return sorted({*stages, *highest_stages(over, more, 1 + len(peaks) // 60)})

    def _relaxed(
        self, problem: Problem, budget: int, stages: list[int], margins: Sequence[float]
    ) -> tuple[Relaxation, list[list[Run]]]:
        """The relaxation with the budget at stages, and the starts that less room gives."""
        first = relax(problem, budget, stages)
        starts: list[list[Run]] = []
        for margin in margins:
            relaxed = first if margin == 1.0 else relax(problem, int(margin * budget), stages)
            if not relaxed.gone:
                break
            starts.append(runs_of(problem, stages, relaxed.gone))
        return first, starts

    def _rules(
        self, problem: Problem, forward: Forward, search: Search, pool: list[Outcome]
    ) -> list[list[Run]]:
        """The most promising rules: those that meet the budget, cheapest first."""
        if not self.starts:
            return []
        best = min(score for score, _ in pool)
        outcomes: list[tuple[float, float, list[Run]]] = []
        for gone in rules(problem, forward, SEGMENTS):
            runs = runs_of(problem, [forward.turn], [gone])
            if sum(search.schedule.costs[node] for _, node in runs) > 2 * best:
                continue
            search.go_to(runs)
            outcomes.append((search.excess(), search.schedule.cost, runs))
        outcomes.sort()
        if outcomes and outcomes[0][0] > 0:
            return [outcomes[0][2]]
        return [runs for _, _, runs in outcomes[: self.starts]]
