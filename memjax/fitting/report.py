"""What was found: the report of a plan, the analysis of a step as it is.

In: the results of all stages. Out: `Report` and `Analysis`, which are data; how they print is the
view's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memjax.emit.compile import Footprint
from memjax.emit.plan import Plan, decisions, schedule_of_plan
from memjax.fitting.attempts import AS_IT_IS, Attempt, Fitted
from memjax.helpers import looks
from memjax.helpers.budget import format_bytes
from memjax.loops.notes import LoopNote, loop_notes
from memjax.planning.simulate import Timeline
from memjax.pricing.coarsen import PricedProgram
from memjax.pricing.doubts import Doubt, doubts
from memjax.pricing.holders import Holder, Ledger, Share, by_line, by_module, by_phase
from memjax.pricing.idle import IdleGap, idle_gaps
from memjax.pricing.liveness import Gap
from memjax.pricing.residents import Resident
from memjax.pricing.segments import emitted_order, segments
from memjax.program.donation import Donation
from memjax.split.notes import SplitNote, split_notes
from memjax.xla.peak import XlaPeak, xla_peak

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Analysis:
    """What a step holds, position by position, as it is.

    Attributes:
        name: of the step.
        timeline: by position in the schedule of stored values.
        peak_bytes: predicted footprint.
        base_bytes: of these, held for the whole step: arguments and results.
        holders: what is held at the peak, largest first.
        eqns: of the flattened program.
        flops: of one plain step, by memjax's own count.
        donations: verdict for each argument.
        values: where each stored value comes from, by the ids that the timeline uses.
        idle: the idle gaps of stored values, in positions of the timeline.
        loops: what is stacked, how often, at which line.
        doubts: where the prediction may be far off.
        compiled: XLA's bytes of the step as it is; None where nothing was compiled.
        xla: what is held at XLA's own peak; None where nothing was compiled, or XLA does not say.
        device: what it is for, and whether that is attached.
    """

    name: str
    timeline: Timeline
    peak_bytes: int
    base_bytes: int
    holders: tuple[Holder, ...]
    eqns: int
    flops: int
    donations: tuple[Donation, ...]
    values: tuple[Holder, ...]
    idle: tuple[IdleGap, ...]
    loops: tuple[LoopNote, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    compiled: Footprint | None = None
    xla: XlaPeak | None = None
    device: str = ""

    def __repr__(self) -> str:
        return f"<Analysis of {self.name!r}: peak {format_bytes(self.peak_bytes)}>"

    def __str__(self) -> str:
        return self.text()

    def text(self, most: int | None = looks.MOST) -> str:
        """As `str`, with at most so many rows in a table; None for all."""
        return looks.text(self, most)

    def _repr_html_(self) -> str:
        return looks.html(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each stored value: its bytes, origin and life."""
        return looks.to_pandas(self)

    def by_line(self) -> tuple[Share, ...]:
        """Bytes held at the peak by the user's line, largest first."""
        return by_line(self.holders)

    def by_module(self, depth: int | None = None) -> tuple[Share, ...]:
        """Bytes held at the peak by module path, cut to `depth` names, largest first."""
        return by_module(self.holders, depth)

    def by_phase(self) -> tuple[Share, ...]:
        """Bytes held at the peak by phase, largest first."""
        return by_phase(self.holders)

    def to_dict(self) -> dict[str, Any]:
        """The analysis as plain values that JSON can write."""
        return looks.to_dict(self)

    def save_html(self, path: str | Path) -> Path:
        """Write an HTML page that stands alone; see `memjax.page`."""
        return looks.save_html(self, path)


@dataclass(frozen=True)
class Compilation:
    """One compilation of the closed loop, as reported."""

    purpose: str
    predicted_bytes: int
    footprint: Footprint
    seconds: float
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Report:
    """What was decided for one signature of a step, and what XLA made of it.

    Attributes:
        name: of the step.
        budget_bytes: asked for.
        plain_predicted_bytes: predicted footprint without recomputation.
        predicted_bytes: predicted footprint of the plan.
        compiled: XLA's bytes of the program that calls run.
        plan: what is recomputed where.
        compilations: all of them, in order.
        recomputed_flops: FLOPs beyond those of the plain step, by memjax's own count.
        plain_flops: FLOPs of the plain step, by the same count.
        compiled_flops: of the program that calls run, by XLA's count.
        overhead: predicted seconds of recomputation over those of the plain step.
        planning_seconds: spent in the planner.
        holders: what is held at the plan's predicted peak, largest first.
        donations: verdict for each argument.
        timeline: of the plan as it is carried out.
        recomputing: for each position of the timeline, whether it recomputes.
        decisions: `"keep"` or `"recompute"` for each idle gap of a stored value.
        plain_timeline: of the step without any decision.
        plain_values: where each of its stored values comes from, by the ids that it uses.
        values: the same for `timeline`; changed loops store other values.
        idle: the idle gaps of stored values in positions of `timeline`, with what is done.
        xla: what is held at the compiled program's own peak; None where XLA does not say.
        loops: what is stacked in each, and what is done about it.
        device: what it was compiled for, and whether that is attached.
        splits: what runs in chunks.
    """

    name: str
    budget_bytes: int
    plain_predicted_bytes: int
    predicted_bytes: int
    compiled: Footprint
    plan: Plan
    compilations: tuple[Compilation, ...]
    recomputed_flops: int
    plain_flops: int
    compiled_flops: float
    overhead: float
    planning_seconds: float
    holders: tuple[Holder, ...]
    donations: tuple[Donation, ...]
    timeline: Timeline
    recomputing: tuple[bool, ...]
    decisions: tuple[tuple[Gap, str], ...]
    plain_timeline: Timeline
    plain_values: tuple[Holder, ...]
    values: tuple[Holder, ...]
    idle: tuple[IdleGap, ...]
    xla: XlaPeak | None
    loops: tuple[LoopNote, ...] = ()
    device: str = ""
    splits: tuple[SplitNote, ...] = ()

    def __repr__(self) -> str:
        return (
            f"<Report of {self.name!r}: {format_bytes(self.compiled.total_bytes)} compiled of "
            f"{format_bytes(self.budget_bytes)}>"
        )

    def __str__(self) -> str:
        return self.text()

    def text(self, most: int | None = looks.MOST) -> str:
        """As `str`, with at most so many rows in a table; None for all."""
        return looks.text(self, most)

    def _repr_html_(self) -> str:
        return looks.html(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each stored value: its bytes, origin, life and decision."""
        return looks.to_pandas(self)

    def by_line(self) -> tuple[Share, ...]:
        """Bytes held at the predicted peak by the user's line, largest first."""
        return by_line(self.holders)

    def by_module(self, depth: int | None = None) -> tuple[Share, ...]:
        """Bytes held at the predicted peak by module path, cut to `depth` names."""
        return by_module(self.holders, depth)

    def by_phase(self) -> tuple[Share, ...]:
        """Bytes held at the predicted peak by phase, largest first."""
        return by_phase(self.holders)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values that JSON can write."""
        return looks.to_dict(self)

    def save_html(self, path: str | Path) -> Path:
        """Write an HTML page that stands alone; see `memjax.page`."""
        return looks.save_html(self, path)


def make_analysis(
    priced: PricedProgram,
    donations: Iterable[Donation],
    residents: tuple[Resident, ...],
    compiled: Fitted | None = None,
    device: str = "",
) -> Analysis:
    """The analysis of a program without recomputation.

    Args:
        priced: its problem.
        donations: verdict for each argument.
        residents: what is held throughout.
        compiled: the same program, if it was compiled.
        device: what it is for.
    """
    order = priced.problem.identity
    ledger = Ledger(priced, residents)
    timeline = ledger.timeline(order)
    holders = ledger.at_peak(timeline, order)
    peak_bytes = max(timeline.peak_bytes, priced.problem.base_bytes)
    return Analysis(
        name=priced.graph.program.name,
        timeline=timeline,
        peak_bytes=peak_bytes,
        base_bytes=priced.problem.base_bytes,
        holders=holders,
        eqns=len(priced.graph.program.eqns),
        flops=sum(priced.flops),
        donations=tuple(donations),
        values=ledger.values,
        idle=idle_gaps(priced.problem, order),
        loops=loop_notes(priced),
        doubts=doubts(priced.graph, peak_bytes),
        compiled=None if compiled is None else compiled.chosen.measured.footprint,
        xla=None if compiled is None else xla_peak(compiled.step.compiled, ledger, holders),
        device=device,
    )


def emitted_by(fitted: Fitted) -> tuple[int, ...]:
    """The schedule that the chosen program carries out."""
    priced, chosen = fitted.priced, fitted.chosen
    if chosen.purpose == AS_IT_IS:
        return priced.problem.identity
    return emitted_order(
        segments(priced, schedule_of_plan(priced, chosen.plan), chosen.plan.fences)
    )


def make_report(fitted: Fitted, budget_bytes: int) -> Report:
    """The report of a fitted program."""
    priced, chosen = fitted.priced, fitted.chosen
    problem = priced.problem
    flops = priced.flops
    plain_flops = sum(fitted.plain.flops)
    order = emitted_by(fitted)
    ledger = Ledger(priced, fitted.residents)
    timeline = ledger.timeline(order)
    untouched = fitted.plain is priced
    plain_ledger = ledger if untouched else Ledger(fitted.plain, fitted.residents)
    plain = plain_ledger.timeline(fitted.plain.problem.identity)
    holders = ledger.at_peak(timeline, order)
    return Report(
        name=priced.graph.program.name,
        budget_bytes=budget_bytes,
        plain_predicted_bytes=plain.peak_bytes,
        predicted_bytes=chosen.plan.predicted_bytes,
        compiled=chosen.measured.footprint,
        plan=chosen.plan,
        compilations=tuple(_compilation(a) for a in fitted.attempts),
        recomputed_flops=sum(flops[priced.eqn_of_node[n]] for n in order) - plain_flops,
        plain_flops=plain_flops,
        compiled_flops=chosen.measured.flops,
        overhead=chosen.plan.overhead,
        planning_seconds=fitted.planning_seconds,
        holders=holders,
        donations=fitted.donations,
        timeline=timeline,
        recomputing=_reruns(order),
        decisions=tuple(decisions(priced, order).items()),
        plain_timeline=plain,
        plain_values=plain_ledger.values,
        values=ledger.values,
        idle=idle_gaps(problem, order),
        xla=xla_peak(fitted.step.compiled, ledger, holders),
        loops=loop_notes(
            fitted.plain, priced.graph.program, chosen.plan.loops, chosen.plan.insides
        ),
        device=fitted.device,
        splits=split_notes(fitted.plain.graph.program, chosen.plan.splits),
    )


def _compilation(attempt: Attempt) -> Compilation:
    purpose = attempt.purpose
    if not attempt.for_memory and purpose != AS_IT_IS:
        purpose += ", XLA's own schedule"
    return Compilation(
        purpose=purpose,
        predicted_bytes=attempt.plan.predicted_bytes,
        footprint=attempt.measured.footprint,
        seconds=attempt.measured.seconds,
        options=tuple((k, str(v)) for k, v in attempt.measured.options.items()),
    )


def _reruns(order: Sequence[int]) -> tuple[bool, ...]:
    seen: set[int] = set()
    reruns = []
    for node in order:
        reruns.append(node in seen)
        seen.add(node)
    return tuple(reruns)
