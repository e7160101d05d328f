"""What a person reads: the report of a plan, the analysis of a step as it is.

In: the results of all stages. Out: `Report` and `Analysis`, which print as tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from memjax.budget import format_bytes
from memjax.coarsen import Coarse
from memjax.compile import Footprint
from memjax.donation import Donation
from memjax.fit import AS_IT_IS, Attempt, Fitted
from memjax.liveness import Gap
from memjax.plan import Plan, decisions, schedule_of_plan
from memjax.segments import emitted_order, segments
from memjax.simulate import Timeline, simulate


@dataclass(frozen=True)
class Holder:
    """Something that takes bytes at a peak.

    Attributes:
        bytes: on one device.
        what: primitive and type, or the name of an argument.
        source: the user's own line, where there is one.
        name_stack: module path and transforms.
    """

    bytes: int
    what: str
    source: str | None
    name_stack: str


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
    """

    name: str
    timeline: Timeline
    peak_bytes: int
    base_bytes: int
    holders: tuple[Holder, ...]
    eqns: int
    flops: int
    donations: tuple[Donation, ...]

    def __repr__(self) -> str:
        return f"<Analysis of {self.name!r}: peak {format_bytes(self.peak_bytes)}>"

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.eqns} eqns, {self.flops / 1e9:.2f} GFLOP",
            f"  predicted peak     {format_bytes(self.peak_bytes):>12}",
            f"  held throughout    {format_bytes(self.base_bytes):>12}  (arguments, results)",
            "  held at the peak:",
            *holder_lines(self.holders),
        ]
        return "\n".join(lines)


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

    def __repr__(self) -> str:
        return (
            f"<Report of {self.name!r}: {format_bytes(self.compiled.total_bytes)} compiled of "
            f"{format_bytes(self.budget_bytes)}>"
        )

    def __str__(self) -> str:
        return "\n".join(_report_lines(self))


def _report_lines(report: Report) -> list[str]:
    difference = report.compiled.total_bytes / max(report.predicted_bytes, 1) - 1
    bound = report.plan.bound_overhead
    proven = ""
    if bound is not None and math.isfinite(bound):
        which = "plan of these loops" if report.plan.loops else "plan at this order"
        proven = f"; no {which} has less than {100 * bound:.1f} %"
    eqns = sum(len(r.eqns) for r in report.plan.recomputations)
    compiled = report.compiled
    return [
        f"{report.name}: {format_bytes(compiled.total_bytes)} compiled "
        f"of {format_bytes(report.budget_bytes)} budgeted",
        f"  budgeted           {format_bytes(report.budget_bytes):>12}",
        f"  predicted          {format_bytes(report.predicted_bytes):>12}  "
        f"({format_bytes(report.plain_predicted_bytes)} without recomputation)",
        f"  compiled           {format_bytes(compiled.total_bytes):>12}  "
        f"({100 * difference:+.1f} % of predicted)",
        f"    arguments {format_bytes(compiled.argument_bytes)}, "
        f"results {format_bytes(compiled.output_bytes)}, "
        f"aliased {format_bytes(compiled.alias_bytes)}, "
        f"temporaries {format_bytes(compiled.temp_bytes)}",
        f"  decided            {_count(report, 'recompute')} of {len(report.decisions)} idle gaps "
        f"recomputed, {_count(report, 'keep')} kept",
        f"  recomputed         {eqns} eqns in {len(report.plan.recomputations)} segments, "
        f"{report.recomputed_flops / 1e9:.2f} of {report.plain_flops / 1e9:.2f} GFLOP, "
        f"predicted overhead {100 * report.overhead:.1f} %{proven}",
        f"  planner            {report.plan.planner}, {report.planning_seconds:.2f} s",
        "  compilations:",
        *(_compilation_line(number, c) for number, c in enumerate(report.compilations, 1)),
        "  held at the predicted peak:",
        *holder_lines(report.holders),
        *donation_lines(report.donations),
    ]


def _count(report: Report, decision: str) -> int:
    return sum(made == decision for _, made in report.decisions)


def _compilation_line(number: int, compilation: Compilation) -> str:
    return (
        f"    {number}. {compilation.purpose}: "
        f"{format_bytes(compilation.predicted_bytes)} predicted, "
        f"{format_bytes(compilation.footprint.total_bytes)} compiled, {compilation.seconds:.1f} s"
    )


def holder_lines(holders: Sequence[Holder], most: int = 8) -> list[str]:
    """The largest holders, one a line; those of one line and type are added up."""
    groups: dict[tuple[str, str | None], list[int]] = {}
    for holder in holders:
        groups.setdefault((holder.what, holder.source), []).append(holder.bytes)
    ranked = sorted(groups.items(), key=lambda item: -sum(item[1]))
    lines = [
        f"    {format_bytes(sum(sizes)):>12}  {len(sizes):>3} × {what:<34} {source or ''}".rstrip()
        for (what, source), sizes in ranked[:most]
    ]
    if len(ranked) > most:
        rest = sum(sum(sizes) for _, sizes in ranked[most:])
        lines.append(f"    {format_bytes(rest):>12}  in {len(ranked) - most} more places")
    return lines


def donation_lines(donations: Sequence[Donation], most: int = 6) -> list[str]:
    """What is donated, in sum, and the largest refusals with their reasons."""
    given = [d for d in donations if d.donated]
    kept = sorted((d for d in donations if not d.donated), key=lambda d: -d.bytes)
    lines = [
        f"  donated            {format_bytes(sum(d.bytes for d in given)):>12}  "
        f"in {len(given)} of {len(donations)} arguments"
    ]
    lines += [f"    kept {d.name} ({format_bytes(d.bytes)}): {d.reason}" for d in kept[:most]]
    if len(kept) > most:
        lines.append(f"    and {len(kept) - most} smaller ones")
    return lines


def peak_holders(coarse: Coarse, timeline: Timeline) -> tuple[Holder, ...]:
    """What is held at a timeline's peak, largest first; arguments as one."""
    problem, program = coarse.problem, coarse.graph.program
    held = []
    if timeline.bytes_at:
        held = [_holder(coarse, v) for v in timeline.holders(timeline.peak_position)]
    held.append(Holder(problem.base_bytes, "arguments and results", None, program.name))
    return tuple(sorted((h for h in held if h.bytes), key=lambda h: -h.bytes))


def _holder(coarse: Coarse, value: int) -> Holder:
    program = coarse.graph.program
    eqn = program.eqns[coarse.eqn_of_node[coarse.problem.producer[value]]]
    aval = program.avals[coarse.value_of[value]]
    return Holder(
        bytes=coarse.problem.value_bytes[value],
        what=f"{eqn.primitive} {aval.str_short()}",
        source=eqn.source,
        name_stack=str(eqn.name_stack),
    )


def make_analysis(coarse: Coarse, donations: Iterable[Donation]) -> Analysis:
    """The analysis of a program without recomputation."""
    timeline = simulate(coarse.problem, range(len(coarse.problem.nodes)))
    return Analysis(
        name=coarse.graph.program.name,
        timeline=timeline,
        peak_bytes=max(timeline.peak_bytes, coarse.problem.base_bytes),
        base_bytes=coarse.problem.base_bytes,
        holders=peak_holders(coarse, timeline),
        eqns=len(coarse.graph.program.eqns),
        flops=sum(coarse.flops),
        donations=tuple(donations),
    )


def emitted_by(fitted: Fitted) -> tuple[int, ...]:
    """The schedule that the chosen program carries out."""
    coarse, chosen = fitted.coarse, fitted.chosen
    if chosen.purpose == AS_IT_IS:
        return tuple(range(len(coarse.problem.nodes)))
    return emitted_order(segments(coarse, schedule_of_plan(coarse, chosen.plan)))


def fitted_holders(fitted: Fitted) -> tuple[Holder, ...]:
    """What is held at the predicted peak of the chosen program, largest first."""
    return peak_holders(fitted.coarse, simulate(fitted.coarse.problem, emitted_by(fitted)))


def make_report(fitted: Fitted, budget_bytes: int, donations: Iterable[Donation]) -> Report:
    """The report of a fitted program."""
    coarse, chosen = fitted.coarse, fitted.chosen
    problem, plain = coarse.problem, fitted.plain.problem
    flops = coarse.flops
    plain_flops = sum(fitted.plain.flops)
    order = emitted_by(fitted)
    timeline = simulate(problem, order)
    return Report(
        name=coarse.graph.program.name,
        budget_bytes=budget_bytes,
        plain_predicted_bytes=simulate(plain, range(len(plain.nodes))).peak_bytes,
        predicted_bytes=chosen.plan.predicted_bytes,
        compiled=chosen.measured.footprint,
        plan=chosen.plan,
        compilations=tuple(_compilation(a) for a in fitted.attempts),
        recomputed_flops=sum(flops[coarse.eqn_of_node[n]] for n in order) - plain_flops,
        plain_flops=plain_flops,
        compiled_flops=chosen.measured.flops,
        overhead=chosen.plan.overhead,
        planning_seconds=fitted.planning_seconds,
        holders=peak_holders(coarse, timeline),
        donations=tuple(donations),
        timeline=timeline,
        recomputing=_reruns(order),
        decisions=tuple(decisions(coarse, order).items()),
    )


def _compilation(attempt: Attempt) -> Compilation:
    return Compilation(
        purpose=attempt.purpose,
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
