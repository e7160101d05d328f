"""The search for the largest size that fits: by prediction, then by compiling near the answer.

In: `Probe`, which traces, plans and compiles a step at any of its sizes. Out: the index of the
largest size found, its program, and what is known of larger ones.

1. The first guess is the largest size whose tightest plan is predicted within the budget. The
   closed loop compiles it.
2. The least compilation of each size, by its decisions, is a prediction for every other size,
   corrected by what it was off. The next guess is the largest size within the budget by these,
   and the plan that is predicted to fit there is compiled first.
3. Where that is the size that fits already, the next larger one is compiled, and what it
   teaches is used as above. The search ends where the next larger size does not fit.
4. That size may have been bad luck of the planner. So it is asked for plans for sizes 2, 4, 8, …
   further on, up to `REACH`, and one that is predicted to fit is compiled.

The planner is a heuristic, so what fits is not monotone in the size. What is certain is stated
in the result: the largest size that fits, and the larger ones that were tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from memjax.emit.fingerprint import fingerprint
from memjax.emit.plan import Plan, schedule_of_plan
from memjax.fitting.advice import explained
from memjax.fitting.attempts import AS_IT_IS, Attempt, BudgetInfeasible, Fitted
from memjax.fitting.batch_result import Refusal
from memjax.fitting.budgeted import BudgetedStep, loop_for
from memjax.fitting.closed_loop import Loop
from memjax.fitting.fit import with_device_scale
from memjax.fitting.setup import fit_with_cache, limit_of, spreads
from memjax.helpers.largest import largest_within
from memjax.loops.decisions import Decisions
from memjax.planning.problem import Solution
from memjax.planning.simulate import InvalidPlan
from memjax.program.arguments import as_arguments, shapes_of

MAX_FITS = 8
"""So many sizes are compiled at the most; mostly it is two to four."""
MAX_HELPED = 4
"""After so many sizes that do not fit, predictions are given up and the bracket is halved."""
REACH = 16
"""Luck is looked for up to one part in so many above the answer."""
ROUGH = 1 / 16
"""The first guess may be too small by this part of it, as each size on the way is planned anew;
what it compiles to says more than finer guesses would."""
DOUBT = 1.1
"""The size next to the answer is compiled up to this much predicted over the budget."""
NEAR = 1.1
"""Up to this much over the budget, a search that aims at the budget is asked as well: it may
find less than one that aims at nothing (3 % less on a small GPT)."""

MakeArguments = Callable[[int], Any]
OnProgress = Callable[[str], None]


@dataclass
class Probe:
    """Loops by the index of their size; each step is traced once.

    Attributes:
        make_arguments: of a size.
        budgeted: the step with its settings.
        sizes: to choose from.
        tell: what is being done.
        limit_bytes: the budget.
        scale: bytes on one device over bytes of the jaxpr; None for a single device.
        compilations: made to learn that.
    """

    make_arguments: MakeArguments
    budgeted: BudgetedStep
    sizes: range
    tell: OnProgress
    scale: float | None = None
    compilations: int = 0

    def __post_init__(self) -> None:
        self.made: dict[int, Loop] = {}
        self.tightest: dict[int, Plan] = {}
        loop = self.loop(0)
        self.limit_bytes = limit_of(self.budgeted._settings, loop.target.arguments)
        if spreads(loop):
            self.tell(f"size {self.sizes[0]}: learning how XLA spreads it over devices")
            self.scale = with_device_scale(loop, self.limit_bytes).scale
            self.compilations = 1
            self.made.clear()

    def loop(self, index: int) -> Loop:
        """The loop of a size.

        Raises:
            ValueError: the step does not trace with these arguments.
        """
        if index not in self.made:
            size = self.sizes[index]
            self.tell(f"size {size}: tracing")
            what = "the arguments cannot be made"
            try:
                args, kwargs = as_arguments(shapes_of(self.make_arguments, size))
                what = "the step cannot be traced"
                loop, _ = loop_for(self.budgeted, args, kwargs)
            except (TypeError, ValueError) as error:
                hint = "; if only some sizes are possible, give multiple_of" if size > 1 else ""
                raise ValueError(f"{what} at size {size}{hint}: {error}") from error
            if self.scale is not None:
                loop = replace(loop, scale=self.scale)
            self.made[index] = loop
        return self.made[index]

    def tightest_plan(self, index: int) -> Plan:
        """The plan with the smallest predicted footprint at a size."""
        if index not in self.tightest:
            loop = self.loop(index)
            self.tell(f"size {self.sizes[index]}: planning")
            plans = [loop.solve(0, 0)[0]]
            if self.limit_bytes < plans[0].predicted_bytes <= NEAR * self.limit_bytes:
                plans.append(loop.solve(self.limit_bytes, self.limit_bytes)[0])
            self.tightest[index] = min(plans, key=lambda plan: plan.predicted_bytes)
        return self.tightest[index]

    def tightest_bytes(self, index: int) -> int:
        """The smallest predicted footprint at a size."""
        return self.tightest_plan(index).predicted_bytes


class Search:
    """Predicted search, compiled verification, and what the one teaches the other.

    Attributes:
        fitted: programs within the budget, by index of their size.
        refused: what is known of sizes that are over it, by index.
        least: the compilation with the fewest bytes, by index.
        off: its bytes over what the rules predict of it.
        compilations: made so far.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.fitted: dict[int, Fitted] = {}
        self.refused: dict[int, Refusal] = {}
        self.least: dict[int, Attempt] = {}
        self.off: dict[int, float] = {}
        self.compilations = probe.compilations

    def run(self) -> tuple[int, Fitted]:
        """The index of the largest size that fits, and its program.

        Raises:
            BudgetInfeasible: the smallest size does not fit.
        """
        index: int | None = self._first_guess()
        while index is not None:
            self._fit(index)
            index = self._next()
        best = max(self.fitted)
        return best, self.fitted[best]

    @property
    def _last(self) -> int:
        return len(self.probe.sizes) - 1

    def _first_guess(self) -> int:
        limit, tightest = self.probe.limit_bytes, self.probe.tightest_bytes
        return largest_within(tightest, limit, 0, self._last, rough=ROUGH) or 0

    def _next(self) -> int | None:
        """The index to compile next; None where the search is over."""
        if not self.fitted:
            over = min(self.refused)
            if len(self.refused) >= MAX_HELPED:
                return over // 2
            guess = largest_within(self._corrected, self.probe.limit_bytes, 0, over - 1)
            return guess or 0
        if len(self.least) >= MAX_FITS:
            return None
        best = max(self.fitted)
        over = min((i for i in self.refused if i > best), default=self._last + 1)
        if over > best + 1:
            top = largest_within(self._corrected, self.probe.limit_bytes, best, over - 1) or best
            if top == over - 1 and over <= self._last:
                return (best + over) // 2  # the correction holds for neither side: halve
            if top > best:
                return top
            if self._corrected(best + 1) <= DOUBT * self.probe.limit_bytes:
                return best + 1
            self._refuse(best + 1, self._corrected(best + 1))
        return self._luckier(best)

    def _luckier(self, best: int) -> int | None:
        """A size a little beyond one that was refused, for which the planner finds less."""
        stride = 2
        while best + stride <= min(self._last, best + best // REACH):
            index = best + stride
            if index not in self.refused:
                own_bytes = int(self._ratio(best) * self.probe.tightest_bytes(index))
                least_bytes = min(own_bytes, self._corrected(index))
                if least_bytes <= self.probe.limit_bytes:
                    return index
                self._refuse(index, least_bytes)
            stride *= 2
        return None

    def _refuse(self, index: int, predicted_bytes: int) -> None:
        self.refused[index] = Refusal(self.probe.sizes[index], predicted_bytes, "predicted")

    def _ratio(self, near: int) -> float:
        """Compiled over predicted bytes at the compiled size nearest to one."""
        return self.off[min(self.least, key=lambda i: (abs(i - near), i))]

    def _how_far_off(self, index: int) -> float:
        """Compiled over predicted bytes at a compiled size. What its programs showed is not known
        of other sizes, so the prediction is that by the rules.
        """
        attempt = self.least[index]
        by_rules = moved(self.probe.loop(index), attempt.plan, self.probe.limit_bytes)
        return attempt.total_bytes / max(1, (by_rules or attempt.plan).predicted_bytes)

    def _corrected(self, index: int) -> int:
        """The fewest bytes that a plan compiled at another size takes at this one, by
        prediction, and corrected by what it was off there.
        """
        found = self._moved(index)
        if not found:  # the sizes' programs have other eqns
            return int(self._ratio(index) * self.probe.tightest_bytes(index))
        return min(found)[0]

    def _moved(self, index: int) -> list[tuple[int, int, Plan]]:
        """The plans compiled at other sizes, for this one: corrected bytes, which one, plan."""
        found = []
        loop = self.probe.loop(index)
        for place, attempt in self.least.items():
            plan = moved(loop, attempt.plan, self.probe.limit_bytes)
            if plan is not None:
                found.append((int(self.off[place] * plan.predicted_bytes), place, plan))
        return found

    def _fit(self, index: int) -> None:
        """Run the closed loop at a size, and remember what came of it.

        Raises:
            BudgetInfeasible: the size is the smallest, and does not fit.
        """
        probe, size = self.probe, self.probe.sizes[index]
        probe.tell(f"size {size}: compiling")
        try:
            loop, settings = replace(probe.loop(index)), probe.budgeted._settings
            if settings.plan is None and (known := self._moved(index)):
                settings = replace(settings, plan=min(known)[-1])
            fitted = fit_with_cache(loop, probe.limit_bytes, settings)
            self.fitted[index] = fitted
        except BudgetInfeasible as error:
            if index == 0:
                why = explained(error, f"not even size {size} fits: ")
                raise why from None
            fitted = error.fitted
            self.refused[index] = Refusal(size, error.floor_bytes, "compiled")
        self.compilations += len(fitted.attempts)
        attempts = [a for a in fitted.attempts if a.purpose != AS_IT_IS] or fitted.attempts
        self.least[index] = min(attempts, key=lambda a: a.total_bytes)
        self.off[index] = self._how_far_off(index)


def moved(loop: Loop, plan: Plan, limit_bytes: int) -> Plan | None:
    """The decisions of another size's plan for a size; None where it has other eqns."""
    plan = replace(plan, program=fingerprint(loop.prepared.graph.program))
    try:
        priced = loop.priced_of(plan)
        solution = Solution(schedule_of_plan(priced, plan), plan.planner)
        decisions = Decisions(plan.loops, plan.insides)
        return loop.make_plan(priced, solution, limit_bytes, decisions, plan.splits)
    except InvalidPlan:
        return None
