"""How large a batch fits a budget.

In: `Probe`, which plans and compiles a step under a budget at any of its sizes. Out: `MaxBatch`,
the largest size whose compiled program is within the budget, and overheads at smaller sizes.

The search (`memjax.fitting.batch_search`) needs no device memory: at each size tried it traces the
step with shapes alone, and asks the planner for the smallest footprint it can reach. That
grows nearly linearly with the size, so the search follows the line through the last two sizes,
and halves the bracket where the line misleads. Then the answer is compiled, and the next
larger sizes are tried. The result says what was compiled, and what is only predicted.

Not certain: whether a size fits that is larger than the smallest one that was refused. The
planner is a heuristic, which may have more luck there.
"""

from __future__ import annotations

from dataclasses import replace

from memjax.emit.plan import Plan
from memjax.fitting.attempts import Fitted
from memjax.fitting.batch_result import BatchPoint, MaxBatch
from memjax.fitting.batch_search import Probe, Search, moved
from memjax.fitting.closed_loop import Loop
from memjax.fitting.report import make_report
from memjax.helpers.budget import format_bytes

AT_MOST = 2**20
"""Where the search ends unless told otherwise; no real batch is larger."""


def find_max_batch(probe: Probe, points: int, *, may_end: bool) -> MaxBatch:
    """The largest size that fits, and the curve below it.

    Args:
        probe: the step at any of its sizes.
        points: how many sizes the curve of overheads has.
        may_end: whether the largest size of all may be the answer.

    Raises:
        BudgetInfeasible: not even the smallest size fits.
        ValueError: the step does not trace at a size, or the largest fits and may not.
    """
    sizes = probe.sizes
    search = Search(probe)
    index, fitted = search.run()
    size = sizes[index]
    if not may_end and index == len(sizes) - 1:
        raise ValueError(
            f"the footprint hardly grows with the size: {size} still fits "
            f"{format_bytes(probe.limit_bytes)}; say how far to go with at_most"
        )
    report = make_report(fitted, probe.limit_bytes)
    return MaxBatch(
        name=report.name,
        size=size,
        budget_bytes=probe.limit_bytes,
        report=report,
        points=_curve(probe, index, fitted, points),
        refused=tuple(refusal for _, refusal in sorted(search.refused.items())),
        compilations=search.compilations,
        at_end=index == len(sizes) - 1,
    )


def sizes_between(at_least: int, at_most: int | None, multiple_of: int) -> range:
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


def _curve(probe: Probe, last: int, fitted: Fitted, points: int) -> tuple[BatchPoint, ...]:
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


def _point(probe: Probe, index: int, plan: Plan, compiled_bytes: int | None = None) -> BatchPoint:
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
    same = moved(loop, larger, limit_bytes)
    if same is None or same.predicted_bytes > limit_bytes:
        return own
    if met and own.overhead <= same.overhead:
        return own
    return replace(same, bound_overhead=own.bound_overhead)
