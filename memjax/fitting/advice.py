"""What would help a step that does not fit its budget: only what can work, with its bytes.

In: the smallest program that was compiled, the verdict on donation, the budget. Out: sentences,
and the error that carries them.

- The budget that works.
- The batch size that fits, where the budget has room for what does not grow with the batch. The
  batch is the leading dimension that most of the arguments share that are kept; what has a
  dimension that is a multiple of it grows with it. Predicted from the smallest program's own peak.
- Donation of arguments whose buffers some result could take.
- The largest values, with the axis along which a loop over chunks would make one smaller; or with
  the lines that mix their axes, so that no split can (`memjax.split`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from memjax.fitting.attempts import BudgetInfeasible, Fitted
from memjax.fitting.report import emitted_by, make_report
from memjax.helpers.budget import format_bytes
from memjax.planning.simulate import simulate
from memjax.pricing.holders import holder_lines
from memjax.program.donation import Donation, match_donations
from memjax.program.eqns import Program
from memjax.split.notes import narrowing

WORTH = 0.1
"""A value is worth a loop over chunks from this part of the peak on; a guess."""


def explained(error: BudgetInfeasible, lead: str = "") -> BudgetInfeasible:
    """Say what fills the floor and what would help, after `lead`."""
    report = make_report(error.fitted, error.budget_bytes)
    held = report.holders if report.xla is None else report.xla.holders
    whose = "the predicted" if report.xla is None else "XLA's own"
    message = "\n".join(
        [
            f"{lead}{error}.",
            f"Held at {whose} peak of that program:",
            *holder_lines(held),
            "What helps:",
            *(f"  - {help}" for help in helps(error.fitted, error.budget_bytes)),
        ]
    )
    return BudgetInfeasible(message, error.budget_bytes, error.floor_bytes, error.fitted)


def helps(fitted: Fitted, budget_bytes: int) -> tuple[str, ...]:
    """What to do about a budget that is not met, one sentence each, the surest first.

    Args:
        fitted: the smallest program found, which is over the budget.
        budget_bytes: what was asked for.
    """
    floor_bytes, donations = fitted.chosen.total_bytes, fitted.donations
    found = [f"a budget of at least {floor_bytes} bytes (memjax.floor may find less)"]
    found += _smaller_batch(fitted, donations, budget_bytes)
    found += _donation(fitted.traced, donations)
    found += _chunks(fitted, donations)
    return tuple(found)


def _held(fitted: Fitted) -> list[int]:
    """The program's values that are held at the predicted peak, arguments and results too."""
    order = emitted_by(fitted)
    timeline = simulate(fitted.priced.problem, order)
    values = timeline.holders(timeline.peak_position) if order else ()
    return [*(r.value for r in fitted.residents), *(fitted.priced.value_of[v] for v in values)]


def _smaller_batch(
    fitted: Fitted, donations: Sequence[Donation], budget_bytes: int
) -> Iterator[str]:
    program = fitted.priced.graph.program
    size = _batch_size(program, donations)
    if not size:
        return
    held = _held(fitted)
    total = sum(program.value_bytes[v] for v in held)
    state = {program.arguments[d.index] for d in donations if _leading(program, d) != size}
    grows = sum(
        program.value_bytes[v]
        for v in held
        if v not in state and any(n and n % size == 0 for n in program.avals[v].shape)
    )
    growing_bytes = fitted.chosen.total_bytes * grows / max(total, 1)
    room_bytes = budget_bytes - (fitted.chosen.total_bytes - growing_bytes)
    fits = int(size * room_bytes / growing_bytes) if growing_bytes else 0
    if 0 < fits < size:
        name = next(d.name for d in donations if _leading(program, d) == size)
        yield f"a batch of about {fits} instead of {size} (the first axis of {name}; predicted)"


def _batch_size(program: Program, donations: Sequence[Donation]) -> int:
    """The leading dimension that most of the kept arguments share; 0 where there is none."""
    counts = Counter(_leading(program, d) for d in donations)
    del counts[0]
    return max(counts, key=lambda n: (counts[n], n), default=0)


def _leading(program: Program, donation: Donation) -> int:
    """The leading dimension of a kept argument; 0 of others, and where it is 1 or none."""
    shape = program.avals[program.arguments[donation.index]].shape
    return 0 if donation.donated or not shape or shape[0] == 1 else int(shape[0])


def _donation(program: Program, donations: Sequence[Donation]) -> Iterator[str]:
    given = frozenset(d.index for d in donations if d.donated)
    possible = match_donations(program, frozenset(range(len(donations))))
    more = [d for d in possible if d.donated and d.index not in given and d.bytes]
    if more:
        roots = ", ".join(dict.fromkeys(_root(d.name) for d in more))
        bytes_ = format_bytes(sum(d.bytes for d in more))
        yield f"giving up {roots} ({bytes_}) by donate=, if nobody reads it after the call"


def _root(name: str) -> str:
    return name.split(".")[0].split("['")[0]


def _chunks(fitted: Fitted, donations: Sequence[Donation]) -> Iterator[str]:
    """What chunks would do for the widest values that are held, and why they cannot."""
    program = fitted.priced.graph.program
    least = WORTH * fitted.chosen.total_bytes
    own = [v for v in _held(fitted) if program.producer[v] >= 0]
    for value in sorted(own, key=lambda v: (-program.value_bytes[v], v)):
        eqn = program.eqns[program.producer[value]]
        if program.value_bytes[value] < least or eqn.nest is not None:
            return
        where = f" at {eqn.source}" if eqn.source else ""
        what = f"{program.avals[value].str_short()}{where}"
        size = format_bytes(program.value_bytes[value])
        axis, mixing = narrowing(program, value, _batch_size(program, donations))
        if axis is not None:
            length = program.avals[value].shape[axis]
            yield (
                f"a loop over chunks of axis {axis} ({length} long) of {what}, which takes "
                f"{size} whole"
            )
            return
        if mixing:
            yield f"to write {what} ({size}) in another way: {'; '.join(mixing)}"
