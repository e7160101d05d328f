"""The curve of bytes against overhead for one step.

In: a closed loop that is ready to run, and budgets. Out: a `Frontier`, a point a budget.

Points are predicted; with `verify` each is compiled as well, which takes a compilation a
point. The planner shares work between budgets, and the curve is monotone: a smaller budget
never has a smaller overhead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from memjax.emit.plan import Plan
from memjax.fitting.closed_loop import Loop
from memjax.fitting.plans import Found
from memjax.helpers import looks
from memjax.planning.planners import frontier as solve_all

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class FrontierPoint:
    """One budget of a frontier.

    Attributes:
        budget_bytes: what was planned for.
        met: whether the plan meets it, by the planner's word.
        plan: with predicted bytes, overhead and its proven bound.
        recomputed_flops: beyond those of the plain step.
        compiled_bytes: XLA's footprint; None where it was not compiled.
    """

    budget_bytes: int
    met: bool
    plan: Plan
    recomputed_flops: int
    compiled_bytes: int | None = None


@dataclass(frozen=True)
class Frontier:
    """Points from the largest budget to the smallest."""

    name: str
    points: tuple[FrontierPoint, ...]
    device: str = ""

    def __repr__(self) -> str:
        return f"<Frontier of {self.name!r}: {len(self.points)} points>"

    def __str__(self) -> str:
        return looks.text(self)

    def _repr_html_(self) -> str:
        return looks.html(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each budget."""
        return looks.to_pandas(self)

    def to_dict(self) -> dict[str, Any]:
        """The frontier as plain values that JSON can write."""
        return looks.to_dict(self)


EASE_PERCENT = 2
"""By so much the smallest default budget is above the smallest predicted footprint, which
a search that aims right at it may miss."""


def default_budgets(loop: Loop, points: int) -> tuple[int, ...]:
    """Evenly spaced budgets from the plain program's footprint to the tightest plan's."""
    plain_bytes = loop.plain_plan(loop.prepared, 0).predicted_bytes
    tightest, _ = loop.solve(0, 0)
    span = plain_bytes - tightest.predicted_bytes * (100 + EASE_PERCENT) // 100
    steps = max(points - 1, 1)
    return tuple(plain_bytes - span * i // steps for i in range(points))


def make_frontier(loop: Loop, budgets: Sequence[int], *, verify: bool) -> Frontier:
    """Plan for each budget; compile each where `verify` says so."""
    ordered = sorted(set(budgets), reverse=True)
    plain_flops = sum(loop.prepared.flops)
    points = []
    for budget, (plan, met) in zip(ordered, _plans(loop, ordered), strict=True):
        compiled = loop.compile(plan, "a frontier's point").total_bytes if verify else None
        flops = loop.priced_of(plan).flops
        again = sum(flops) + sum(flops[e] for r in plan.recomputations for e in r.eqns)
        points.append(FrontierPoint(budget, met, plan, again - plain_flops, compiled))
    return Frontier(loop.prepared.graph.program.name, tuple(points), loop.device)


def _plans(loop: Loop, budgets: Sequence[int]) -> list[Found]:
    """A plan for each budget, from the largest to the smallest."""
    if loop.prepared.bodies:
        found = [loop.solve(budget, budget) for budget in budgets]
    else:
        solutions = solve_all(loop.prepared.problem, budgets, loop.patient)
        found = [
            loop.or_split(b, b, (loop.make_plan(loop.prepared, s, b), s.met))
            for s, b in zip(solutions, budgets, strict=True)
        ]
    return _monotone(budgets, found)


def _monotone(budgets: Sequence[int], found: Sequence[Found]) -> list[Found]:
    """The plan of a smaller budget where it is cheaper; what is proven of a budget stays."""
    cheapest: list[Found] = []
    for budget, (plan, met) in zip(reversed(budgets), reversed(found), strict=True):
        if cheapest and cheapest[-1][1]:
            smaller = cheapest[-1][0]
            if not met or smaller.overhead < plan.overhead:
                bound = None if smaller.splits else plan.bound_overhead
                plan, met = replace(smaller, budget_bytes=budget, bound_overhead=bound), True
        cheapest.append((plan, met))
    return cheapest[::-1]
