"""What prints of searches over budgets and sizes: curves as tables.

In: a `Frontier` or a `MaxBatch`. Out: text, and HTML for notebooks.
"""

from __future__ import annotations

from html import escape

from memjax.fitting.batch_result import BatchPoint, MaxBatch
from memjax.fitting.curve import Frontier, FrontierPoint
from memjax.helpers.brief import heading, html_table, table
from memjax.helpers.budget import format_bytes

_FRONTIER = ("budget", "predicted", "compiled", "overhead", "at least", "")
_SIZES = ("size", "plain", "predicted", "compiled", "overhead")
_RIGHT = (0, 1, 2, 3, 4)
MAX_REFUSED = 3
"""So many refused sizes have a line of their own."""


def frontier_text(found: Frontier, most: int | None = None) -> str:
    """A frontier, a line a point."""
    rows = table(_FRONTIER, [_point(point) for point in found.points[:most]], right=_RIGHT)
    return "\n".join(
        [
            f"{heading(found.name, found.device)}: bytes against overhead",
            *(f"  {row}" for row in rows),
        ]
    )


def frontier_html(found: Frontier) -> str:
    """A frontier, a row a point."""
    rows = html_table(_FRONTIER, [_point(point) for point in found.points], right=_RIGHT)
    return f"<p>{escape(heading(found.name, found.device))}: bytes against overhead</p>{rows}"


def _point(point: FrontierPoint) -> tuple[str, ...]:
    bound = point.plan.bound_overhead
    return (
        format_bytes(point.budget_bytes),
        format_bytes(point.plan.predicted_bytes),
        "" if point.compiled_bytes is None else format_bytes(point.compiled_bytes),
        f"{100 * point.plan.overhead:.1f} %",
        "" if bound is None else f"{100 * bound:.1f} %",
        "" if point.met else "not met",
    )


def max_batch_text(found: MaxBatch, most: int | None = None) -> str:
    """The largest size that fits, with a line for each size of the curve."""
    rows = table(_SIZES, [_size(point) for point in found.points[:most]], right=_RIGHT)
    return "\n".join([_headline(found), *(f"  {row}" for row in rows), *max_batch_notes(found)])


def max_batch_html(found: MaxBatch) -> str:
    """The largest size that fits, with a row for each size of the curve."""
    rows = html_table(_SIZES, [_size(point) for point in found.points], right=_RIGHT)
    notes = "".join(f"<p>{escape(note)}</p>" for note in max_batch_notes(found))
    return f"<p>{escape(_headline(found))}</p>{rows}{notes}"


def _headline(found: MaxBatch) -> str:
    compiled = format_bytes(found.report.compiled.total_bytes)
    return (
        f"{heading(found.name, found.report.device)}: {found.size} is the largest size that fits "
        f"{format_bytes(found.budget_bytes)} ({compiled} compiled)"
    )


def max_batch_notes(found: MaxBatch) -> list[str]:
    """What the search over sizes has to say besides its curve, a line each."""
    notes = [
        f"  {r.size} does not fit: {format_bytes(r.bytes)} {r.judged}, "
        f"{format_bytes(r.bytes - found.budget_bytes)} over"
        for r in found.refused[:MAX_REFUSED]
    ]
    if len(found.refused) > MAX_REFUSED:
        rest = ", ".join(str(refusal.size) for refusal in found.refused[MAX_REFUSED:])
        notes.append(f"  nor does any of {rest}")
    if found.at_end:
        notes.append("  it is the largest that was asked about; larger ones may fit")
    plural = "" if found.compilations == 1 else "s"
    notes.append(f"  {found.compilations} compilation{plural} in all")
    return notes


def _size(point: BatchPoint) -> tuple[str, ...]:
    compiled = "" if point.compiled_bytes is None else format_bytes(point.compiled_bytes)
    return (
        str(point.size),
        format_bytes(point.plain_bytes),
        format_bytes(point.predicted_bytes),
        compiled,
        f"{100 * point.overhead:.1f} %",
    )
