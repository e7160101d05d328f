"""How large a batch fits a budget.

In: a function from a batch size to a step's arguments, the step, a budget. Out: `MaxBatch`,
the largest size whose compiled program is within the budget, and overheads at smaller sizes.

The search needs no device memory and compiles nothing: at each size tried it traces the
step with shapes alone, and asks the planner for the smallest footprint it can reach. That
grows nearly linearly with the size, so the search follows the line through the last two sizes,
and halves the bracket where the line misleads. Then the answer is compiled. By how much the
compiled bytes differ from the predicted ones corrects the search, so that a second and a third
answer may be compiled.

Assumed: the smallest footprint does not fall as the size grows. Where it does (a search that
had more luck at the larger size), a size is found that fits, and a few per cent beyond it there
may be another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from memjax.api import BudgetedStep, explained, loop_for, memory_budget
from memjax.arguments import as_arguments, shapes_of
from memjax.batch_result import BatchPoint, MaxBatch
from memjax.budget import budget_bytes, format_bytes
from memjax.donation import Donation
from memjax.fit import BudgetInfeasible, Fitted, Loop, with_device_scale
from memjax.largest import FINE, largest_within
from memjax.loops.decisions import Decisions
from memjax.plan import Plan, fingerprint, schedule_of_plan
from memjax.problem import Solution
from memjax.report import make_report
from memjax.setup import device_of, fit_with_cache, spreads
from memjax.simulate import InvalidPlan

AT_MOST = 2**20
"""Where the search ends unless told otherwise; no real batch is larger."""
MAX_VERIFIED = 4
"""After so many sizes were compiled the largest that fits is taken, and where none does,
predictions are given up and the bracket is halved."""
WORTH = 0.01
"""A larger size is tried where the tightest plan compiles to this part of the budget less than
predicted. Small GPTs are predicted 3 to 5 % too high at their floor."""
NEAR = 1.1
"""Up to this much over the budget, a search that aims at the budget is asked as well: it may
find less than one that aims at nothing (3 % less on a small GPT)."""

MakeArguments = Callable[[int], Any]
OnProgress = Callable[[str], None]


def max_batch(
    make_arguments: MakeArguments,
    step: Callable[..., Any],
    budget: int | str,
    *,
    at_least: int = 1,
    at_most: int | None = None,
    multiple_of: int = 1,
    points: int = 6,
    on_progress: OnProgress | None = None,
    **settings: Any,
) -> MaxBatch:
    """The largest batch size with which a step fits into a budget.

    Any integer will do in place of a batch size: tokens, width, layers, …. Sizes above 256 are
    found to within one part in 256.

    Args:
        make_arguments: takes a size, and returns the step's arguments as a tuple (or the one
            argument). It is traced, so what it makes takes no memory;
            `jax.ShapeDtypeStruct` leaves will do, and arrays that exist already are used as
            they are.
        step: the step, decorated with `memory_budget` or not.
        budget: as in `memory_budget`.
        at_least: the smallest size worth knowing.
        at_most: the largest.
        multiple_of: sizes are multiples of it.
        points: how many sizes the curve of overheads has.
        on_progress: is told what is being done, in a few words.
        settings: as in `memory_budget`, for a step that is not decorated.

    Returns:
        The size, with its report, and the curve.

    Raises:
        BudgetInfeasible: not even the smallest size fits.
        TypeError: a size is not an integer.
        ValueError: there is no size in the range, the step does not trace at a size, or the
            footprint does not grow with the size and `at_most` is not given.
    """
    sizes = _sizes(at_least, at_most, multiple_of)
    if points < 1:
        raise ValueError(f"points must be at least 1, not {points}")
    tell = on_progress or (lambda _: None)
    probe = _Probe(make_arguments, _budgeted(step, budget, settings), sizes, tell)
    found = _Search(probe)
    index, fitted = found.run()
    size = sizes[index]
    if at_most is None and index == len(sizes) - 1:
        raise ValueError(
            f"the footprint hardly grows with the size: {size} still fits "
            f"{format_bytes(probe.limit_bytes)}; say how far to go with at_most"
        )
    report = make_report(fitted, probe.limit_bytes, probe.donations(index))
    return MaxBatch(
        name=report.name,
        size=size,
        budget_bytes=probe.limit_bytes,
        report=report,
        points=_curve(probe, index, fitted, points),
        refused=tuple((sizes[i], count) for i, count in sorted(found.refused.items())),
        at_end=index == len(sizes) - 1,
    )


def _sizes(at_least: int, at_most: int | None, multiple_of: int) -> range:
    """The sizes to choose from, ascending."""
    for name, number in (
        ("at_least", at_least),
        ("at_most", AT_MOST if at_most is None else at_most),
        ("multiple_of", multiple_of),
    ):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} is an integer, not {number!r}")
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
    first = -(-at_least // multiple_of) * multiple_of
    sizes = range(first, (AT_MOST if at_most is None else at_most) + 1, multiple_of)
    if not sizes:
        raise ValueError(
            f"there is no multiple of {multiple_of} from {at_least} to {at_most} to choose"
        )
    return sizes


def _budgeted(
    step: Callable[..., Any], budget: int | str, settings: dict[str, Any]
) -> BudgetedStep:
    """The step under the budget, with its own settings where it is decorated already."""
    if not isinstance(step, BudgetedStep):
        return memory_budget(budget, **settings)(step)
    if settings:
        raise ValueError(
            f"{step!r} has its own settings; take {', '.join(sorted(settings))} to its decorator"
        )
    return BudgetedStep(step._step, replace(step._settings, budget=budget))


@dataclass
class _Probe:
    """Loops by the index of their size; each step is traced once.

    Attributes:
        make_arguments: of a size.
        budgeted: the step with its settings.
        sizes: to choose from.
        tell: what is being done.
        limit_bytes: the budget.
        scale: bytes on one device over bytes of the jaxpr; None for a single device.
    """

    make_arguments: MakeArguments
    budgeted: BudgetedStep
    sizes: range
    tell: OnProgress
    scale: float | None = None

    def __post_init__(self) -> None:
        self.made: dict[int, tuple[Loop, tuple[Donation, ...]]] = {}
        self.tightest: dict[int, Plan] = {}
        loop = self.loop(0)
        settings = self.budgeted._settings
        device = device_of(settings, loop.target.arguments)
        self.limit_bytes = budget_bytes(settings.budget, device)
        if spreads(loop):
            self.tell(f"size {self.sizes[0]}: learning how XLA spreads it over devices")
            self.scale = with_device_scale(loop, self.limit_bytes).scale
            self.made.clear()

    def loop(self, index: int) -> Loop:
        """The loop of a size.

        Raises:
            ValueError: the step does not trace with these arguments.
        """
        if index not in self.made:
            size = self.sizes[index]
            self.tell(f"size {size}: tracing")
            try:
                args, kwargs = as_arguments(shapes_of(self.make_arguments, size))
                loop, donations = loop_for(self.budgeted, args, kwargs)
            except (TypeError, ValueError) as error:
                hint = "; if only some sizes are possible, give multiple_of" if size > 1 else ""
                raise ValueError(
                    f"the step cannot be traced at size {size}{hint}: {error}"
                ) from error
            if self.scale is not None:
                loop = replace(loop, scale=self.scale)
            self.made[index] = loop, donations
        return self.made[index][0]

    def donations(self, index: int) -> tuple[Donation, ...]:
        """The verdict on donation at a size."""
        self.loop(index)
        return self.made[index][1]

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


class _Search:
    """Predicted search, compiled verification, and what the one teaches the other.

    Attributes:
        fitted: programs within the budget, by index of their size.
        refused: compiled bytes of sizes that are over it, by index.
    """

    def __init__(self, probe: _Probe) -> None:
        self.probe = probe
        self.fitted: dict[int, Fitted] = {}
        self.refused: dict[int, int] = {}

    def run(self) -> tuple[int, Fitted]:
        """The index of the largest size that fits, and its program.

        Raises:
            BudgetInfeasible: the smallest size does not fit.
        """
        limit = self.probe.limit_bytes
        allowed_bytes = limit
        while True:
            index = self._next(allowed_bytes)
            if index in self.fitted:
                break
            off_bytes = self._verify(index)
            if index in self.fitted and off_bytes >= -WORTH * limit:
                break  # what more would fit is less than predictions are off by
            if len(self.fitted) + len(self.refused) >= MAX_VERIFIED and self.fitted:
                break
            allowed_bytes = limit - off_bytes
        best = max(self.fitted)
        return best, self.fitted[best]

    def _next(self, allowed_bytes: int) -> int:
        """The index to compile next; one that is known to fit where none is better."""
        low = max(self.fitted, default=0)
        high = len(self.probe.sizes) - 1
        if self.refused:
            smallest = min(self.refused)
            high = max(low, smallest - max(1, smallest // FINE))
        if len(self.refused) >= MAX_VERIFIED:
            return (low + high) // 2  # predictions do not help here
        known = {
            i: plan.predicted_bytes for i, plan in self.probe.tightest.items() if low <= i <= high
        }
        found = largest_within(self.probe.tightest_bytes, allowed_bytes, low, high, known)
        return low if found is None else found

    def _verify(self, index: int) -> int:
        """Compile a size; by how many bytes XLA's are more than predicted."""
        probe, size = self.probe, self.probe.sizes[index]
        loop = replace(probe.loop(index))
        probe.tell(f"size {size}: compiling")
        try:
            fitted = fit_with_cache(loop, probe.limit_bytes, probe.budgeted._settings)
        except BudgetInfeasible as error:
            if index == 0:
                why = explained(error, probe.donations(index), f"not even size {size} fits: ")
                raise why from None
            self.refused[index] = error.floor_bytes
            return error.floor_bytes - probe.tightest_bytes(index)
        self.fitted[index] = fitted
        # Not by the chosen plan alone: looser ones may be off by less, or the other way.
        plan = probe.tightest_plan(index)
        attempt = loop.attempt_of(plan) or loop.compile(plan, "the tightest plan")
        return attempt.total_bytes - plan.predicted_bytes


def _curve(probe: _Probe, last: int, fitted: Fitted, points: int) -> tuple[BatchPoint, ...]:
    """Plans for the budget at sizes up to the one that was compiled.

    Decisions that fit a size fit a smaller one too, so the cheaper of those and the size's own
    is taken: overheads do not rise as sizes fall, but for costs that do not grow in step with
    the size.
    """
    plan = fitted.chosen.plan
    done = [_point(probe, last, plan, fitted.chosen.total_bytes)]
    count = min(points, last + 1)
    for number in reversed(range(count - 1)):
        index = last * number // (count - 1)
        probe.tell(f"size {probe.sizes[index]}: planning for the curve")
        plan = _cheapest(probe.loop(index), probe.limit_bytes, plan)
        done.append(_point(probe, index, plan))
    return tuple(reversed(done))


def _point(probe: _Probe, index: int, plan: Plan, compiled_bytes: int | None = None) -> BatchPoint:
    loop = probe.loop(index)
    plain = loop.plain_plan(loop.prepared, probe.limit_bytes)
    return BatchPoint(
        size=probe.sizes[index],
        plain_bytes=plain.predicted_bytes,
        predicted_bytes=plan.predicted_bytes,
        overhead=plan.overhead,
        compiled_bytes=compiled_bytes,
    )


def _cheapest(loop: Loop, limit_bytes: int, larger: Plan) -> Plan:
    """The cheaper of a size's own plan and the decisions for a larger size, where they fit."""
    own, met = loop.solve(limit_bytes, limit_bytes)
    moved = _moved(loop, larger, limit_bytes)
    if moved is None or moved.predicted_bytes > limit_bytes:
        return own
    if met and own.overhead <= moved.overhead:
        return own
    return replace(moved, bound_overhead=own.bound_overhead)


def _moved(loop: Loop, plan: Plan, limit_bytes: int) -> Plan | None:
    """The decisions of another size's plan for this size; None where it has other eqns."""
    plan = replace(plan, program=fingerprint(loop.prepared.graph.program))
    try:
        coarse = loop.coarse_of(plan)
        solution = Solution(schedule_of_plan(coarse, plan), plan.planner)
        decisions = Decisions(plan.loops, plan.insides)
        return loop.make_plan(coarse, solution, limit_bytes, decisions)
    except InvalidPlan:
        return None
