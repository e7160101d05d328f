"""Results as text: aligned tables with bytes in human units, at most a screen high.

In: the objects that users get. Out: text. `most` is how many rows each table has at the most;
None stands for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from memjax.fitting.report import Analysis, Compilation, Report
from memjax.helpers.budget import format_bytes
from memjax.helpers.looks import MOST
from memjax.loops.notes import LoopNote
from memjax.pricing.holders import Holder, Share, by_module, by_phase, holder_lines
from memjax.program.donation import Donation
from memjax.split.notes import SplitNote
from memjax.xla.peak import EXPLAIN_FROM, XlaPeak


def analysis_text(found: Analysis, most: int | None = MOST) -> str:
    """An analysis: what is held at the peak."""
    lines = [
        f"{found.name}: {found.eqns} eqns, {found.flops / 1e9:.2f} GFLOP",
        *device_lines(found.device),
        f"  predicted peak     {format_bytes(found.peak_bytes):>12}",
        *_compiled_lines(found),
        *_doubt_lines(found, most),
        f"  held throughout    {format_bytes(found.base_bytes):>12}  (arguments, results)",
        "  held at the predicted peak:",
        *holder_lines(found.holders, most),
        *share_lines(found.holders, most),
        *_xla_holder_lines(found, most),
        *loop_lines(found.loops, most),
    ]
    return "\n".join(lines)


def device_lines(device: str) -> list[str]:
    """What a result is for; nothing where it does not say."""
    return [f"  device             {device}"] if device else []


def _compiled_lines(found: Analysis) -> list[str]:
    if found.compiled is None:
        return []
    total = found.compiled.total_bytes
    difference = total / max(found.peak_bytes, 1) - 1
    part = f"({100 * difference:+.1f} % of predicted)"
    return [f"  compiled           {format_bytes(total):>12}  {part}"]


def _doubt_lines(found: Analysis, most: int | None) -> list[str]:
    """Where the prediction is unsure; nothing where XLA itself was asked."""
    if found.compiled is not None or not found.doubts:
        return []
    shown = found.doubts[: None if most is None else max(1, most // 2)]
    lines = ["  unsure of (analyze(…, compile=True) asks XLA):", *(f"    {d}" for d in shown)]
    if len(found.doubts) > len(shown):
        lines.append(f"    and {len(found.doubts) - len(shown)} more")
    return lines


def _xla_holder_lines(found: Analysis, most: int | None) -> list[str]:
    if found.xla is None:
        return []
    where = f"  held at XLA's own peak, {format_bytes(found.xla.total_bytes)}:"
    return [where, *holder_lines(found.xla.holders, most), *share_lines(found.xla.holders, most)]


def report_text(found: Report, most: int | None = MOST) -> str:
    """A report: bytes, decisions, compilations, what is held at both peaks, donations."""
    return "\n".join(
        [
            *_bytes_lines(found),
            *_plan_lines(found),
            *split_lines(found.splits, most),
            *loop_lines(found.loops, most),
            "  compilations:",
            *(_compilation_line(number, c) for number, c in enumerate(found.compilations, 1)),
            "  held at the predicted peak:",
            *holder_lines(found.holders, most),
            *share_lines(found.holders, most),
            *xla_lines(found.xla, found.predicted_bytes, most),
            *donation_lines(found.donations, most),
        ]
    )


def _bytes_lines(found: Report) -> list[str]:
    compiled = found.compiled
    difference = compiled.total_bytes / max(found.predicted_bytes, 1) - 1
    return [
        f"{found.name}: {format_bytes(compiled.total_bytes)} compiled "
        f"of {format_bytes(found.budget_bytes)} budgeted",
        *device_lines(found.device),
        f"  budgeted           {format_bytes(found.budget_bytes):>12}",
        f"  predicted          {format_bytes(found.predicted_bytes):>12}  "
        f"({format_bytes(found.plain_predicted_bytes)} without recomputation)",
        f"  compiled           {format_bytes(compiled.total_bytes):>12}  "
        f"({100 * difference:+.1f} % of predicted)",
        f"    arguments {format_bytes(compiled.argument_bytes)}, "
        f"results {format_bytes(compiled.output_bytes)}, "
        f"aliased {format_bytes(compiled.alias_bytes)}, "
        f"temporaries {format_bytes(compiled.temp_bytes)}",
    ]


def _plan_lines(found: Report) -> list[str]:
    bound = found.plan.bound_overhead
    proven = ""
    if bound is not None and math.isfinite(bound):
        which = "plan of these loops" if found.plan.loops else "plan at this order"
        proven = f"; without splits no {which} has less than {100 * bound:.1f} %"
    again = sum(made == "recompute" for _, made in found.decisions)
    eqns = sum(len(r.eqns) for r in found.plan.recomputations)
    return [
        f"  decided            {again} of {len(found.decisions)} idle gaps "
        f"recomputed, {len(found.decisions) - again} kept",
        f"  recomputed         {eqns} eqns in {len(found.plan.recomputations)} segments, "
        f"{found.recomputed_flops / 1e9:.2f} of {found.plain_flops / 1e9:.2f} GFLOP, "
        f"predicted overhead {100 * found.overhead:.1f} %{proven}",
        f"  planner            {found.plan.planner}, {found.planning_seconds:.2f} s",
    ]


def split_lines(splits: Sequence[SplitNote], most: int | None = MOST) -> list[str]:
    """The regions that run in chunks."""
    shown = [f"    {note}" for note in splits[:most]]
    rest = len(splits) - len(shown)
    more = [f"    and {rest} more"] if rest else []
    return ["  in chunks:", *shown, *more] if shown else []


def loop_lines(loops: Sequence[LoopNote], most: int | None = MOST) -> list[str]:
    """The loops, those that stack or hold most first among their like, with largest stacks."""
    if not loops:
        return []
    weights = [max(note.length * note.stacked_bytes, note.peak_bytes) for note in loops]
    ranked = sorted(range(len(loops)), key=lambda i: -weights[i])
    shown = sorted(ranked[: None if most is None else (most + 1) // 2])
    lines = ["  loops:"]
    for number in shown:
        note = loops[number]
        lines.append(f"    {'  ' * note.depth}{note}")
        for stack in note.stacked[: None if most is None else 2]:
            lines.append(
                f"      {'  ' * note.depth}{format_bytes(stack.bytes):>10} × {note.length} "
                f"{stack.what}  {stack.source or ''}".rstrip()
            )
    if len(shown) < len(loops):
        lines.append(f"    and {len(loops) - len(shown)} that hold less")
    return lines


def _compilation_line(number: int, compilation: Compilation) -> str:
    return (
        f"    {number}. {compilation.purpose}: "
        f"{format_bytes(compilation.predicted_bytes)} predicted, "
        f"{format_bytes(compilation.footprint.total_bytes)} compiled, {compilation.seconds:.1f} s"
    )


def share_lines(holders: Sequence[Holder], most: int | None = MOST) -> list[str]:
    """The bytes at a peak by phase, and by module where there are modules; a line each."""
    lines = [f"  by phase           {_share_text(by_phase(holders), most)}"]
    if any(holder.module for holder in holders):
        lines.append(f"  by module          {_share_text(by_module(holders, depth=2), most)}")
    return lines


def _share_text(found: Sequence[Share], most: int | None) -> str:
    shown = found[: None if most is None else max(1, most // 2)]
    parts = [f"{share.label} {format_bytes(share.bytes)}" for share in shown]
    if len(found) > len(shown):
        rest = sum(share.bytes for share in found[len(shown) :])
        parts.append(f"{len(found) - len(shown)} more {format_bytes(rest)}")
    return ", ".join(parts)


def xla_lines(found: XlaPeak | None, predicted_bytes: int, most: int | None = MOST) -> list[str]:
    """XLA's own peak beside the predicted one, and what makes them differ where they do."""
    if found is None:
        return ["  XLA's own peak     not stated by this backend"]
    difference = found.total_bytes - predicted_bytes
    part = difference / max(predicted_bytes, 1)
    total = format_bytes(found.total_bytes)
    lines = [f"  XLA's own peak     {total:>12}  ({100 * part:+.1f} % of predicted)"]
    if abs(part) <= EXPLAIN_FROM:
        return lines
    lines.append("    what differs from what is held at the predicted peak:")
    shown = found.differences[:most]
    for d in shown:
        sides = f"{format_bytes(d.xla_bytes)} instead of {format_bytes(d.predicted_bytes)}"
        lines.append(f"    {_signed(d.bytes):>12}  {d.label}: {sides}")
    if len(found.differences) > len(shown):
        rest = sum(d.bytes for d in found.differences[len(shown) :])
        more = len(found.differences) - len(shown)
        lines.append(f"    {_signed(rest):>12}  in {more} more places")
    return lines


def _signed(count: int) -> str:
    return f"{'+' if count > 0 else ''}{format_bytes(count)}"


def donation_lines(donations: Sequence[Donation], most: int | None = MOST) -> list[str]:
    """What is donated, in sum, and the largest refusals with their reasons."""
    given = [d for d in donations if d.donated]
    kept = sorted((d for d in donations if not d.donated), key=lambda d: -d.bytes)
    shown = kept[: None if most is None else max(1, most // 2)]
    lines = [
        f"  donated            {format_bytes(sum(d.bytes for d in given)):>12}  "
        f"in {len(given)} of {len(donations)} arguments"
    ]
    lines += [f"    kept {d.name} ({format_bytes(d.bytes)}): {d.reason}" for d in shown]
    if len(kept) > len(shown):
        lines.append(f"    and {len(kept) - len(shown)} smaller ones")
    return lines


def xla_text(found: XlaPeak, most: int | None = MOST) -> str:
    """XLA's peak: what is held there."""
    return "\n".join(
        [
            f"XLA's own peak: {format_bytes(found.total_bytes)} at {found.at or 'its start'}",
            *holder_lines(found.holders, most),
            *share_lines(found.holders, most),
        ]
    )
