"""What a closed loop learns from each program that it compiles.

In: a `Loop` and an `Attempt` of it. Out: the loop plans with what the attempt showed from then on.

- A prediction that holds needs no correction, and what corrects nothing is not taken.
- What was scheduled in another way than plans are shows nothing of them: XLA:CPU schedules a
  program as it is breadth-first, and values live longer.
- Which values are stored only a program as it is can show. In a plan a value is free, or stored,
  because it was taken for that: behind each barrier the free ones are computed again. A plan shows
  bytes, workspace, and what is written over what.
- What lives on the chip of a TPU in a program as it is counts in full, since it does not live there
  in a plan: most of it goes through barriers. (Small GPT, v5e: a plan that was predicted 134 MiB
  without took 281.) What a plan shows of it is believed.
- A program that XLA refuses for its bytes shows these, and nothing of its values.
"""

from __future__ import annotations

from memjax.emit.plan import schedule_of_plan
from memjax.fitting.attempts import AS_IT_IS, Attempt
from memjax.fitting.closed_loop import Loop
from memjax.pricing.learnt import Learnt
from memjax.pricing.liveness import liveness
from memjax.pricing.segments import emitted_timeline
from memjax.xla.held import reading_of
from memjax.xla.learn import learn

LEARN_FROM = 0.03
"""Predictions that are off by no more are as good as what could be learnt."""


def learn_from(loop: Loop, attempt: Attempt) -> bool:
    """Take from a compiled program what it shows; once, as later ones know better.

    Returns:
        whether anything was learnt, so that plans will be other ones.
    """
    if loop.target.backend.scheduler_options and not attempt.for_memory:
        return False
    if any(attempt is known for known in loop.looked_at):
        return False
    loop.looked_at.append(attempt)
    off_bytes = abs(_predicted(loop, attempt, loop.learnt) - attempt.total_bytes)
    if off_bytes <= LEARN_FROM * attempt.total_bytes or not attempt.donates:
        return False
    seen = _seen(loop, attempt)
    if seen is None or abs(_predicted(loop, attempt, seen) - attempt.total_bytes) >= off_bytes:
        return False
    loop.know(seen)
    return True


def unexplained_bytes(loop: Loop, attempt: Attempt) -> int:
    """What an attempt's program takes beyond what is predicted of it by now."""
    return attempt.total_bytes - _predicted(loop, attempt, loop.learnt)


def _seen(loop: Loop, attempt: Attempt) -> Learnt | None:
    """All that was learnt, with what an attempt shows; None where XLA does not show it."""
    step = loop.steps[loop.attempts.index(attempt)]
    reading = None if step is None else reading_of(step.compiled)
    if reading is None:
        return None
    untouched = attempt.purpose == AS_IT_IS
    priced = loop.as_it_is if untouched else loop.priced_of(attempt.plan)
    held = attempt.measured.footprint
    base_bytes = held.total_bytes - held.temp_bytes
    shown = learn(reading, priced.graph.program, base_bytes, counts_chip=untouched)
    if not untouched:
        shown = shown.deciding((), ())
    return loop.learnt.updated(shown).against(liveness(loop.prepared_program).free)


def _predicted(loop: Loop, attempt: Attempt, learnt: Learnt) -> int:
    """The footprint of an attempt's program by what was learnt."""
    fences: tuple[int, ...] = ()
    if attempt.purpose == AS_IT_IS:
        corrected = loop.coarsen(loop.as_it_is.graph.program, learnt=learnt)
        order = corrected.problem.identity
    else:
        priced, plan = loop.priced_of(attempt.plan), attempt.plan
        learnt = learnt.deciding(plan.stored, plan.free)
        corrected = loop.coarsen(priced.graph.program, priced.keeps_order, learnt=learnt)
        order, fences = schedule_of_plan(corrected, plan), plan.fences
    peak_bytes = emitted_timeline(corrected, order, fences).peak_bytes
    return max(peak_bytes, corrected.problem.base_bytes)
