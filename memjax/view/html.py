"""What a notebook shows of an analysis or a report: numbers, a chart, and tables.

In: the objects that users get. Out: HTML without scripts. The page that can be zoomed and
filtered is `memjax.page`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from memjax.fitting.report import Analysis, Report
from memjax.helpers.brief import heading, html_chart, html_table
from memjax.helpers.budget import format_bytes
from memjax.pricing.holders import Holder, Share, by_line, by_module, by_phase, shares

MOST = 8


def analysis_html(found: Analysis) -> str:
    """An analysis."""
    numbers = [
        ("predicted peak", format_bytes(found.peak_bytes)),
        *(
            ()
            if found.compiled is None
            else (("compiled", format_bytes(found.compiled.total_bytes)),)
        ),
        ("held throughout", format_bytes(found.base_bytes)),
        ("eqns", f"{found.eqns:,}"),
        ("GFLOP", f"{found.flops / 1e9:.2f}"),
    ]
    label = f"bytes held by {found.name}, position by position"
    return "".join(
        (
            f"<h4>{escape(heading(found.name, found.device))}</h4>",
            html_table(("", ""), numbers, right=(1,)),
            html_chart(found.timeline.bytes_at, label),
            *_peak_tables(found.holders),
        )
    )


def report_html(found: Report) -> str:
    """A report, with the timelines before and after on one scale."""
    numbers = [
        ("budgeted", format_bytes(found.budget_bytes)),
        ("without recomputation", format_bytes(found.plain_predicted_bytes)),
        ("predicted", format_bytes(found.predicted_bytes)),
        ("compiled", format_bytes(found.compiled.total_bytes)),
        ("predicted overhead", f"{100 * found.overhead:.1f} %"),
        ("compilations", str(len(found.compilations))),
    ]
    plain, planned = found.plain_timeline, found.timeline
    height = 90 * planned.peak_bytes / max(plain.peak_bytes, 1)
    return "".join(
        (
            f"<h4>{escape(heading(found.name, found.device))}</h4>",
            html_table(("", ""), numbers, right=(1,)),
            "<p>without recomputation, and as planned:</p>",
            f"<div>{html_chart(plain.bytes_at, 'without recomputation', height=90)}</div>",
            f"<div>{html_chart(planned.bytes_at, 'as planned', height=max(10, int(height)))}</div>",
            *_peak_tables(found.holders),
        )
    )


def _peak_tables(holders: Sequence[Holder]) -> list[str]:
    """The bytes at the predicted peak by what holds them, line, module and phase."""
    tables = (
        ("value", shares(holders, lambda h: h.what)),
        ("source line", by_line(holders)),
        ("module", by_module(holders, depth=2)),
        ("phase", by_phase(holders)),
    )
    return [
        f"<details{' open' if name == 'source line' else ''}><summary>held at the predicted peak, "
        f"by {name}</summary>{_share_table(name, found)}</details>"
        for name, found in tables
    ]


def _share_table(name: str, found: Sequence[Share]) -> str:
    rows: list[tuple[str, int | str, str]] = [
        (format_bytes(s.bytes), s.count, s.label) for s in found[:MOST]
    ]
    if len(found) > MOST:
        rest = sum(s.bytes for s in found[MOST:])
        rows.append((format_bytes(rest), "", f"in {len(found) - MOST} more"))
    return html_table(("bytes", "values", name), rows, right=(0, 1))
