"""The closed loop: plan, compile, read XLA's bytes, plan again with what was learnt.

In: a `Program`, how to compile it, a planner, a budget. Out: `Fitted`, the fastest compiled
program found that fits, with every compilation on the way.

Predicted bytes are a guide and compiled bytes the judge.

1. The program as it is comes first, wherever it might fit. So nothing is recomputed, and no more
   is held, than plain `jax.jit` does without a reason.
2. A budget that is a footprint stated before compiles the plan that has it.
3. Plans for the budget: where a compiled program is over it by some bytes, the next plan is made
   with what that program showed, or, where that explains nothing, for as many bytes less, up to
   `MAX_COMPILATIONS` programs; before these up to `MAX_OWN_SCHEDULES` where XLA's own schedule is
   worth it.
4. Before a budget is refused, the program as it is and all that `find_floor` tries are compiled,
   whatever is predicted of them, and the least that was ever stated for the program. So nothing
   is refused that plain `jax.jit` meets, or that was met before.

What each program shows is learnt before the next is planned (`memjax.fitting.learning`). What
step 4 tries depends on the budget only by that, and step 1 leaves out only what cannot meet it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from memjax.emit.compile import OutOfMemory, keeps_barriers
from memjax.emit.plan import Plan
from memjax.fitting.attempts import AS_IT_IS, GIVEN, Attempt, BudgetInfeasible, Fitted
from memjax.fitting.closed_loop import Loop
from memjax.fitting.learning import learn_from, unexplained_bytes
from memjax.fitting.stated import Footing
from memjax.helpers.budget import format_bytes
from memjax.planning.simulate import InvalidPlan, simulate
from memjax.pricing.residents import device_bytes
from memjax.xla.copies import copies_at_the_ends
from memjax.xla.held import fragmentation_bytes, sized_like

MAX_COMPILATIONS = 4
MAX_OWN_SCHEDULES = 2
QUICK_EQNS = 5_000
"""Programs up to this size are compiled as they are before anything is decided about them, since
XLA takes at most a few seconds (3 s at 4,200 eqns, XLA:CPU)."""
NEAR_FACTOR = 1.15
"""Larger ones where they are predicted at up to this much over the budget: predictions err on
the high side where XLA fuses well. Likewise a plan that misses the budget by prediction."""
MARGIN = 0.01
"""The first plan leaves this part of what is not resident unused: what fragmentation and the
barriers' small copies took on the GPT and the small models, rounded up."""
NEAR_BOUND = 1.03
"""The tightest plan is not looked for any more where it is predicted this near to what its
largest eqn holds; a guess: predictions themselves are off by as much."""
AIMS = 3
"""So many searches aim between the tightest plan and that bound."""
LOWEST_AIM = 0.9
"""None of them aims at less than this part of the best so far; a guess."""
LOOSER_PERCENT = 4
"""Besides the tightest plan one that is predicted this much larger is compiled: each further
segment has a barrier's small copies, so that it may take less."""
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
    for attempt in _at_once(loop, budget_bytes, given):
        if attempt.runs and attempt.total_bytes <= budget_bytes:
            return loop.result(attempt)
    if budget_bytes >= loop.bound_bytes:
        for for_memory in loop.schedules:
            if not _fitting(loop, budget_bytes):
                _tighten(loop, budget_bytes, for_memory)
                _loosen(loop, budget_bytes)
    for _ in _least(loop, budget_bytes):
        if _fitting(loop, budget_bytes):
            break
    fitting = _fitting(loop, budget_bytes)
    if not fitting:
        raise _infeasible(loop, budget_bytes)
    return loop.result(min(fitting, key=lambda a: (a.for_memory, a.plan.overhead, a.total_bytes)))


def _fitting(loop: Loop, budget_bytes: int) -> list[Attempt]:
    return [a for a in loop.attempts if a.runs and a.total_bytes <= budget_bytes]


def _at_once(loop: Loop, budget_bytes: int, given: Plan | None) -> Iterator[Attempt]:
    """What is compiled before anything is planned."""
    if given is not None:
        for for_memory in loop.schedules:
            yield loop.compile_given(given, GIVEN, for_memory=for_memory)
    near = NEAR_FACTOR * budget_bytes
    if (
        loop.eqns <= QUICK_EQNS
        or loop.plain_plan(loop.as_it_is, budget_bytes).predicted_bytes <= near
    ):
        untouched = _untouched(loop, budget_bytes, most_bytes=budget_bytes)
        yield untouched
        learn_from(loop, untouched)
    stated = loop.stated.exactly(budget_bytes)
    if stated is not None:
        yield from _again(loop, stated)
    plain = loop.plain_plan(loop.prepared, budget_bytes)
    if plain.predicted_bytes <= near:
        for for_memory in loop.schedules:
            yield loop.compile(plain, "without recomputation", for_memory=for_memory)


def _again(loop: Loop, stated: Footing) -> Iterator[Attempt]:
    """Compile what was stated before; nothing if it is no plan for this program any more."""
    try:
        known = loop.attempt_of(stated.plan, for_memory=stated.for_memory)
        yield known or loop.compile_given(stated.plan, "found before", for_memory=stated.for_memory)
    except InvalidPlan:
        return


def _tighten(loop: Loop, budget_bytes: int, for_memory: bool) -> None:
    """Compile tighter and tighter plans until one fits or the planner has no tighter one."""
    target_bytes, purpose = _first_target(loop, budget_bytes), "planned for the budget"
    most = MAX_COMPILATIONS if for_memory else MAX_OWN_SCHEDULES
    for _ in range(most):
        plan, met = loop.solve(budget_bytes, target_bytes)
        if not met and not (for_memory and plan.predicted_bytes <= NEAR_FACTOR * budget_bytes):
            return
        known = loop.attempt_of(plan, for_memory=for_memory)
        if known is None and loop.compilations(for_memory=for_memory) >= most:
            return
        attempt = known or loop.compile(
            plan, purpose if met else "the nearest plan", for_memory=for_memory
        )
        over = attempt.total_bytes - budget_bytes
        if over <= 0 or not met:
            return
        if known is None and learn_from(loop, attempt):
            target_bytes = _first_target(loop, budget_bytes) - unexplained_bytes(loop, attempt)
            purpose = "planned with what was learnt"
        else:
            target_bytes = min(target_bytes, plan.predicted_bytes) - over
            purpose = f"planned {format_bytes(budget_bytes - target_bytes)} tighter"


def _first_target(loop: Loop, budget_bytes: int) -> int:
    """The predicted bytes that a plan for a budget is made for, before one was compiled."""
    dynamic_bytes = max(0, budget_bytes - loop.prepared.problem.base_bytes)
    return budget_bytes - int(MARGIN * dynamic_bytes)


def _loosen(loop: Loop, budget_bytes: int) -> None:
    """Use what a fitting plan left unused, with one more compilation at the most."""
    if not loop.attempts or loop.compilations(for_memory=True) >= MAX_COMPILATIONS:
        return
    last = loop.attempts[-1]
    unused = budget_bytes - last.total_bytes
    if not last.plan.changes_anything or unused <= SLACK * budget_bytes:
        return
    target_bytes = last.plan.predicted_bytes + unused
    if learn_from(loop, last):
        target_bytes = _first_target(loop, budget_bytes) - unexplained_bytes(loop, last)
    plan, met = loop.solve(budget_bytes, target_bytes)
    known = loop.attempt_of(plan, for_memory=last.for_memory)
    if met and plan.overhead < last.plan.overhead and known is None:
        purpose = f"planned {format_bytes(unused)} looser"
        loop.compile(plan, purpose, for_memory=last.for_memory)


def _least(loop: Loop, budget_bytes: int) -> Iterator[Attempt]:
    """The least that memjax knows for a program, whatever the budget: as it is, with its
    tightest plans, where these are no better prepared without recomputation, and what was
    stated before.
    """
    untouched = _untouched(loop, budget_bytes)
    yield untouched
    learn_from(loop, untouched)
    if budget_bytes >= loop.prepared.problem.base_bytes or not budget_bytes:
        tight = []
        for plan, purpose in _tightest_plans(loop, budget_bytes):
            tight.append(loop.attempt_of(plan) or loop.compile(plan, purpose))
            yield tight[-1]
        if all(untouched.total_bytes <= attempt.total_bytes for attempt in tight):
            plain = loop.plain_plan(loop.prepared, budget_bytes)
            yield loop.attempt_of(plain) or loop.compile(plain, "without recomputation")
    least = loop.stated.least
    if least is not None and all(least.bytes < a.total_bytes for a in loop.attempts):
        yield from _again(loop, least)


def _untouched(loop: Loop, budget_bytes: int, most_bytes: float = math.inf) -> Attempt:
    """The program as it is, in the smallest way where there are several.

    Where XLA drops the barriers of the user's `jax.checkpoint` unless it is told not to, either
    may hold less; for donation see `_without_donation`.

    Args:
        loop: what was compiled so far.
        budget_bytes: what it is for.
        most_bytes: ways that hold more are of no interest.
    """
    known = [a for a in loop.attempts if a.purpose == AS_IT_IS]
    if not known:
        known.append(loop.compile_as_it_is(budget_bytes))
        if keeps_barriers(known[0].measured.options):
            known.append(loop.compile_as_it_is(budget_bytes, keeps_barriers=False))
    may_keep = bool(loop.target.donated) and not loop.donation_is_asked
    if may_keep and all(attempt.donates for attempt in known):
        for attempt in known.copy():
            if _without_donation(loop, attempt) < min(attempt.total_bytes, most_bytes):
                keeps = keeps_barriers(attempt.measured.options)
                known.append(
                    loop.compile_as_it_is(budget_bytes, donates=False, keeps_barriers=keeps)
                )
    return min(known, key=lambda a: a.total_bytes)


def _without_donation(loop: Loop, attempt: Attempt) -> float:
    """Bytes that a program may hold if nothing is given up, at the least.

    XLA copies an argument that is given up where it cannot prove that its update comes after
    all other reads, and packs all else anew: at best without what lies unused in between. What a
    result is made of step by step, as gradients are summed in a loop, takes the result's buffer
    only if that is not an argument's.
    """
    step = loop.steps[loop.attempts.index(attempt)]
    if step is None:
        return math.inf
    held = attempt.measured.footprint
    needless_bytes = copies_at_the_ends(step.compiled) + fragmentation_bytes(step.compiled)
    given_up = (loop.target.arguments[index] for index in loop.target.donated)
    needless_bytes += sized_like(step.compiled, map(device_bytes, given_up))
    return held.total_bytes + held.alias_bytes - needless_bytes


def _tightest_plans(loop: Loop, budget_bytes: int) -> Iterator[tuple[Plan, str]]:
    """The plan with the lowest prediction, and one that is a little looser: the one that was the
    tightest before, or else one that is planned for it.
    """
    *before, plan = _ever_tighter(loop, budget_bytes)
    yield plan, "the tightest plan"
    if before:
        yield before[-1], "the tightest but one"
        return
    percent = 100 + LOOSER_PERCENT
    looser, met = loop.solve(budget_bytes, plan.predicted_bytes * percent // 100, patient=False)
    if met:
        yield looser, f"{LOOSER_PERCENT} % looser than the tightest"


def _ever_tighter(loop: Loop, budget_bytes: int) -> list[Plan]:
    """Plans down to the lowest prediction: a search that aims at 0 bytes may stop above what
    one reaches that aims between its outcome and what no plan at this order can go below.
    """
    found = [loop.solve(budget_bytes, 0, patient=False)[0]]
    for _ in range(AIMS):
        best_bytes = found[-1].predicted_bytes
        if best_bytes <= NEAR_BOUND * loop.bound_bytes:
            break
        halfway_bytes = (best_bytes + loop.bound_bytes) // 2
        aim_bytes = max(halfway_bytes, int(LOWEST_AIM * best_bytes))
        lower, _ = loop.solve(budget_bytes, aim_bytes, patient=False)
        if lower.predicted_bytes >= best_bytes:
            break
        found.append(lower)
    return found


def find_floor(loop: Loop) -> Fitted:
    """The smallest compiled footprint of the untouched program and the tightest plans."""
    for _ in _least(loop, 0):
        pass
    return loop.result(_smallest(loop))


def _smallest(loop: Loop) -> Attempt:
    """The attempt with the fewest bytes that runs.

    Raises:
        OutOfMemory: XLA refused all of them.
    """
    running = [a for a in loop.attempts if a.runs]
    if running:
        return min(running, key=lambda a: (a.total_bytes, a.plan.overhead))
    least = min(loop.attempts, key=lambda a: a.total_bytes)
    message = (
        f"the smallest program found of {loop.program.name!r} takes "
        f"{format_bytes(least.total_bytes)}, more than the device has, and XLA compiles none "
        "of that; a smaller batch or a larger device would help"
    )
    raise OutOfMemory(message, least.measured)


def _infeasible(loop: Loop, budget_bytes: int) -> BudgetInfeasible:
    smallest = _smallest(loop)
    fitted = loop.result(smallest)
    message = (
        f"no plan fits {format_bytes(budget_bytes)}: the smallest compiled footprint reached "
        f"is {format_bytes(smallest.total_bytes)} ({smallest.total_bytes} bytes)"
    )
    base_bytes = loop.prepared.problem.base_bytes
    if budget_bytes < base_bytes:
        message += f", and arguments and results alone take {format_bytes(base_bytes)}"
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
