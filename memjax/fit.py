"""The closed loop: plan, compile, read XLA's bytes, plan again with what was learnt.

In: a `Program`, how to compile it, a planner, a budget. Out: `Fitted`, the fastest compiled
program found that fits, with every compilation on the way.

Predicted bytes are a guide and compiled bytes the judge. Where a compiled program is over
budget by some bytes, the next plan is made for a budget that is smaller by as much. At most
`MAX_COMPILATIONS` programs are compiled, and before these `MAX_OWN_SCHEDULES` where XLA's own
schedule is worth it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memjax.budget import format_bytes
from memjax.closed_loop import AS_IT_IS, Attempt, BudgetInfeasible, Fitted, Loop
from memjax.plan import Plan
from memjax.simulate import simulate

MAX_COMPILATIONS = 4
MAX_OWN_SCHEDULES = 2
AS_IT_IS_FACTOR = 1.6
"""The program is first compiled untouched where the budget is this much more than predicted:
XLA:CPU's default schedule took up to 1.36 times the predicted bytes."""
NEAR_FACTOR = 1.15
"""Up to this much over budget by prediction, the program is compiled without recomputation
before anything is recomputed: predictions err on the high side where XLA fuses well."""
HOPELESS_FACTOR = 1.15
"""Above this much of the budget, the tightest plans' neighbours are not tried."""
MARGIN = 0.01
"""The first plan leaves this part of what is not resident unused: what fragmentation and the
barriers' small copies took on the GPT and the small models, rounded up."""
LOWER_AIM, LOWER_AIMS = 0.9, 4
"""The tightest plan is looked for in so many steps of so much; guesses."""
SLACK = 0.04
"""A plan that recomputes is made again, looser, if it leaves more than this part unused."""


def fit(loop: Loop, budget_bytes: int, given: Plan | None = None) -> Fitted:
    """Find a program within the budget.

    Args:
        loop: a fresh loop.
        budget_bytes: of the compiled footprint on one device.
        given: a plan to try first (from disk).

    Raises:
        BudgetInfeasible: nothing that was compiled fits.
        InvalidPlan: `given` is for another program, or cannot be carried out.
    """
    if given is not None:
        for for_memory in loop.schedules:
            attempt = loop.compile_given(given, for_memory=for_memory)
            if attempt.total_bytes <= budget_bytes:
                return loop.result(attempt)
    for attempt in _without_recomputation(loop, budget_bytes):
        if attempt.total_bytes <= budget_bytes:
            return loop.result(attempt)
    for for_memory in loop.schedules:
        if not _fitting(loop, budget_bytes):
            _tighten(loop, budget_bytes, for_memory)
            _loosen(loop, budget_bytes)
    if not _fitting(loop, budget_bytes):
        _last_resorts(loop, budget_bytes)
    fitting = _fitting(loop, budget_bytes)
    if not fitting:
        raise _infeasible(loop, budget_bytes)
    return loop.result(min(fitting, key=lambda a: (a.for_memory, a.plan.overhead)))


def _fitting(loop: Loop, budget_bytes: int) -> list[Attempt]:
    return [a for a in loop.attempts if a.total_bytes <= budget_bytes]


def _without_recomputation(loop: Loop, budget_bytes: int) -> Iterator[Attempt]:
    """What to compile before anything is recomputed: the untouched program where the budget is
    generous, and where it is near what is predicted, the program scheduled for memory first.
    """
    plain = loop.plain_plan(loop.prepared, budget_bytes)
    if AS_IT_IS_FACTOR * plain.predicted_bytes <= budget_bytes:
        yield loop.compile_as_it_is(budget_bytes)
    elif plain.predicted_bytes <= NEAR_FACTOR * budget_bytes:
        for for_memory in loop.schedules:
            yield loop.compile(plain, "without recomputation", for_memory=for_memory)
        yield loop.compile_as_it_is(budget_bytes)


def _tighten(loop: Loop, budget_bytes: int, for_memory: bool) -> None:
    """Compile tighter and tighter plans until one fits or the planner has no tighter one."""
    dynamic_bytes = max(0, budget_bytes - loop.prepared.problem.base_bytes)
    target_bytes, purpose = budget_bytes - int(MARGIN * dynamic_bytes), "planned for the budget"
    most = MAX_COMPILATIONS if for_memory else MAX_OWN_SCHEDULES
    for _ in range(most):
        plan, met = loop.solve(budget_bytes, target_bytes)
        if not (met or for_memory):
            return
        known = loop.attempt_of(plan, for_memory=for_memory)
        if known is None and loop.compilations(for_memory=for_memory) >= most:
            return
        attempt = known or loop.compile(
            plan, purpose if met else "the tightest plan", for_memory=for_memory
        )
        over = attempt.total_bytes - budget_bytes
        if over <= 0 or not met:
            return
        target_bytes = min(target_bytes, plan.predicted_bytes) - over
        purpose = f"planned {format_bytes(budget_bytes - target_bytes)} tighter"


def _loosen(loop: Loop, budget_bytes: int) -> None:
    """Use what a fitting plan left unused, with one more compilation at the most."""
    if not loop.attempts or loop.compilations(for_memory=True) >= MAX_COMPILATIONS:
        return
    last = loop.attempts[-1]
    unused = budget_bytes - last.total_bytes
    if not last.plan.changes_anything or unused <= SLACK * budget_bytes:
        return
    plan, met = loop.solve(budget_bytes, last.plan.predicted_bytes + unused)
    known = loop.attempt_of(plan, for_memory=last.for_memory)
    if met and plan.overhead < last.plan.overhead and known is None:
        purpose = f"planned {format_bytes(unused)} looser"
        loop.compile(plan, purpose, for_memory=last.for_memory)


def _last_resorts(loop: Loop, budget_bytes: int) -> None:
    """What may fit after the plans for the budget did not: the untouched program, whose
    schedule is XLA's own, and then whatever `find_floor` would try. So a floor that was once
    reached is reached again when it is asked for as a budget.
    """
    nearest = min(a.total_bytes for a in loop.attempts)
    untouched = any(a.purpose == AS_IT_IS for a in loop.attempts)
    if not untouched and nearest <= HOPELESS_FACTOR * budget_bytes:
        loop.compile_as_it_is(budget_bytes)
    for plan, purpose in _tightest_plans(loop, budget_bytes):
        if _fitting(loop, budget_bytes):
            return
        if loop.attempt_of(plan) is None:
            loop.compile(plan, purpose)
        if min(a.total_bytes for a in loop.attempts) > HOPELESS_FACTOR * budget_bytes:
            return


def _tightest_plans(loop: Loop, budget_bytes: int) -> Iterator[tuple[Plan, str]]:
    """The plan with the lowest prediction, and some that are a little looser: these may
    compile to fewer bytes, since each further segment has a barrier's small copies.
    """
    plan = _tightest(loop, budget_bytes)
    yield plan, "the tightest plan"
    for percent in (2, 4, 7):
        looser, met = loop.solve(budget_bytes, plan.predicted_bytes * (100 + percent) // 100)
        if met:
            yield looser, f"{percent} % looser than the tightest"


def _tightest(loop: Loop, budget_bytes: int) -> Plan:
    """The plan with the lowest prediction: a search that aims at 0 bytes may stop above what
    one that aims a little below the best so far reaches.
    """
    best, _ = loop.solve(budget_bytes, 0)
    aim_bytes = best.predicted_bytes
    for _ in range(LOWER_AIMS):
        aim_bytes = int(LOWER_AIM * aim_bytes)
        lower, _ = loop.solve(budget_bytes, aim_bytes)
        if lower.predicted_bytes < best.predicted_bytes:
            best = lower
            aim_bytes = min(aim_bytes, lower.predicted_bytes)
    return best


def find_floor(loop: Loop) -> Fitted:
    """The smallest compiled footprint of the untouched program and the tightest plans."""
    for plan, purpose in _tightest_plans(loop, 0):
        if loop.attempt_of(plan) is None:
            loop.compile(plan, purpose)
    if not any(a.plan.changes_anything for a in loop.attempts):
        loop.compile_as_it_is(0)
    return loop.result(min(loop.attempts, key=lambda a: (a.total_bytes, a.plan.overhead)))


def _infeasible(loop: Loop, budget_bytes: int) -> BudgetInfeasible:
    smallest = min(loop.attempts, key=lambda a: a.total_bytes)
    fitted = loop.result(smallest)
    message = (
        f"no plan fits {format_bytes(budget_bytes)}: the smallest compiled footprint reached "
        f"is {format_bytes(smallest.total_bytes)} ({smallest.total_bytes} bytes)"
    )
    return BudgetInfeasible(message, budget_bytes, smallest.total_bytes, fitted)


def with_device_scale(loop: Loop, budget_bytes: int) -> Loop:
    """A loop whose problem counts bytes on one device, learnt by compiling the plain program.

    Values of a program that runs on several devices are spread by XLA, not by the jaxpr.
    """
    plan = loop.plain_plan(loop.prepared, budget_bytes)
    attempt = loop.compile(plan, "plain, to learn spread")
    problem = loop.prepared.problem
    whole = simulate(problem, problem.identity).peak_bytes - problem.base_bytes
    scale = attempt.measured.footprint.temp_bytes / whole if whole else 1.0
    scaled = replace(loop, scale=min(1.0, scale))
    scaled.record(attempt, loop.steps[-1])
    return scaled
