"""The curve of budgets against overheads.

In: a `Problem` and budgets. Out: a `Solution` for each, monotone.

Budgets are planned from the largest to the smallest, each starting from the schedule of the
one before as well. Then two facts that hold for any planner make the curve monotone:

1. a schedule for a smaller budget is one for every larger budget, so the cheaper is taken;
2. a bound for a larger budget is one for every smaller budget, so the higher is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memjax.planning.planners.auto import AutoPlanner
from memjax.planning.planners.base import Planner
from memjax.planning.problem import Problem, Solution, schedule_cost


def frontier(
    problem: Problem, budgets: Sequence[int], planner: Planner | None = None
) -> tuple[Solution, ...]:
    """A schedule for each budget.

    Args:
        problem: to plan.
        budgets: in bytes, in any order.
        planner: of each budget; the default planner shares work between budgets.

    Returns:
        A solution for each budget, in the given order. Among those that are met, a larger
        budget never costs more than a smaller one, and where a budget is met so are all
        larger ones.
    """
    planner = planner or AutoPlanner()
    found: dict[int, Solution] = {}
    last: Solution | None = None
    for budget in sorted(set(budgets), reverse=True):
        if isinstance(planner, AutoPlanner):
            solution = planner.solve(problem, budget, () if last is None else (last,))
        else:
            solution = planner.solve(problem, budget)
        found[budget] = last = _with_bound_of(solution, last)
    best: Solution | None = None
    for budget in sorted(found):
        found[budget] = best = _cheaper(problem, found[budget], best)
    return tuple(found[budget] for budget in budgets)


def _with_bound_of(solution: Solution, larger: Solution | None) -> Solution:
    """The higher of two bounds; the second is of a larger budget."""
    if larger is None or larger.bound_cost is None or solution.reordered != larger.reordered:
        return solution
    bound = max(larger.bound_cost, solution.bound_cost or 0.0)
    return replace(solution, bound_cost=bound)


def _cheaper(problem: Problem, solution: Solution, smaller: Solution | None) -> Solution:
    """The schedule of a smaller budget, where it is met and costs less."""
    if smaller is None or not smaller.met:
        return solution
    cost = schedule_cost(problem, smaller.order)
    if solution.met and schedule_cost(problem, solution.order) <= cost:
        return solution
    return replace(smaller, bound_cost=solution.bound_cost)
