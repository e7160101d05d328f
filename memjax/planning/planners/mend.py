"""What else to try where a search has missed the budget.

In: a `Search`, its best schedule. Out: a better one, of any form.

1. A very small problem goes to the exact planner.
2. The best schedule so far and, unless the problem is large, the plain one are cut, one
   position at a time (`planners.mincut`).
3. From the top: schedules that make forward values again for every stage hold hardly more
   than one node needs (`repeated` in `planners.seeds`), and what the budget does not
   need is taken away from them.
4. A small problem is planned for less, as luck differs, and at last for no bytes at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from memjax.planning.planners.exact import ExactPlanner
from memjax.planning.planners.incremental import Schedule
from memjax.planning.planners.mincut import CutSearch
from memjax.planning.planners.search import Run, Search
from memjax.planning.planners.seeds import SEGMENTS, forward_of, repeated
from memjax.planning.problem import Problem, Solution, schedule_cost
from memjax.planning.simulate import simulate

SMALL = 20  # nodes: some hundred milliseconds of the exact planner
LARGE = 400  # nodes above which only one schedule is cut, and nothing is planned for less
TRIES = 800_000  # times nodes: about eight seconds
EARLIER = (0, 1, 2, 4, 8)  # stages before the highest one, from which values are made again
MOST_RUNS = 12_000  # of a schedule that holds least: about two seconds
LESS = (0.985, 0.97, 0.95)  # of a missed budget
FEW_NODES = 100  # up to which there is time for these


@dataclass(frozen=True)
class Best:
    """The best schedule so far, of any form: the least bytes above the budget, then the cost."""

    problem: Problem
    budget_bytes: int
    order: tuple[int, ...]

    @cached_property
    def missed_bytes(self) -> int:
        """Bytes of the peak above the budget."""
        return max(0, simulate(self.problem, self.order).peak_bytes - self.budget_bytes)

    @cached_property
    def rank(self) -> tuple[int, float]:
        """Less is better."""
        return self.missed_bytes, schedule_cost(self.problem, self.order)

    def or_else(self, order: Sequence[int]) -> Best:
        """The better of this one and another schedule; an empty one is none."""
        other = Best(self.problem, self.budget_bytes, tuple(order))
        return other if order and other.rank < self.rank else self


def mended(
    search: Search, best: Best, work: int, most_tries: int, plan_for: Callable[[int], Solution]
) -> Best:
    """The best schedule of the four steps; the first that meets the budget ends them.

    Args:
        search: at the schedule that it found.
        best: the best schedule so far.
        work: changes that the search may make for each start.
        most_tries: of cuts, for each start.
        plan_for: a plan for another budget, without these steps.
    """
    problem = best.problem
    if len(problem.nodes) <= SMALL:
        exact = ExactPlanner(branches=1_000).solve(problem, search.budget)
        best = best.or_else(exact.order if exact.met else ())
    if best.missed_bytes:
        best = _cut(search, best, work, most_tries)
    if best.missed_bytes:
        missed = search.score(), search.runs()
        if not _from_the_top(search, work):
            search.go_to(missed[1])
            if len(problem.nodes) <= LARGE:
                _from_less(search, missed, work, plan_for)
        best = best.or_else(search.schedule.order())
    return best


def _cut(search: Search, best: Best, work: int, most_tries: int) -> Best:
    """From the best schedule so far and from the plain one, by cuts."""
    problem = best.problem
    tries = min(most_tries, TRIES // len(problem.nodes))
    starts = (best.order, problem.identity)
    for start in dict.fromkeys(starts if len(problem.nodes) <= LARGE else starts[:1]):
        cuts = CutSearch(problem, start, search.budget)
        if cuts.lower(tries):
            cuts.cheapen(tries // 3)
        best = best.or_else(cuts.runs.left())
    if not best.missed_bytes:
        search.go_to(Schedule.runs_in(best.order))
        search.improve(work)
        best = best.or_else(search.schedule.order())
    return best


def _from_the_top(search: Search, work: int) -> bool:
    """Schedules that hold least, without what the budget does not need; False where none."""
    problem, found = search.schedule.problem, list[tuple[float, list[Run]]]()
    plain = Schedule(problem)
    for earlier in EARLIER:
        forward = forward_of(problem, plain, earlier)
        for count in reversed(SEGMENTS):
            runs = repeated(problem, forward, count)
            if len(runs) > MOST_RUNS:
                break
            search.go_to(runs)
            if search.excess() == 0:
                search.prune(search.dearest(runs))
                found.append((search.score(), search.runs()))
                break
    if found:
        search.go_to(min(found)[1])
        search.improve(work)
    return bool(found)


def _from_less(
    search: Search,
    missed: tuple[float, list[Run]],
    work: int,
    plan_for: Callable[[int], Solution],
) -> None:
    """From plans for less than the budget, and at last for no bytes; `missed` is as good."""
    few = len(search.schedule.problem.nodes) <= FEW_NODES
    for share in (*LESS, 0.0) if few else (0.0,):
        search.go_to(Schedule.runs_in(plan_for(int(share * search.budget)).order))
        if search.excess() == 0:
            search.prune(search.dearest(search.runs()))
            search.improve(work)
            return
    if search.score() > missed[0]:
        search.go_to(missed[1])
