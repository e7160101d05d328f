"""Figures of what a step holds, by matplotlib (`pip install 'memjax[viz]'`).

In: an `Analysis`, a `Report` or a `Frontier`. Out: a matplotlib `Figure`, which a notebook shows
and `save` writes at print quality. Nothing is left open in pyplot.

Every figure can be read in greyscale: phases have hatches, lines have styles, points have
shapes (`memjax.view.palette`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from memjax.fitting.curve import Frontier
from memjax.fitting.report import Analysis, Report
from memjax.helpers.brief import heading
from memjax.helpers.budget import format_bytes
from memjax.planning.simulate import Timeline
from memjax.pricing.holders import Holder, shares
from memjax.pricing.idle import IdleGap
from memjax.view.drawing import new_figure, phase_legend, save
from memjax.view.palette import BUDGET, GREY, INK, LINES, PHASES, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["frontier", "live_ranges", "peak", "save", "timeline"]

MIB = 2**20


def timeline(found: Report | Analysis) -> Figure:
    """Bytes held at each position, shaded by phase.

    A report's figure has the step without recomputation above and the plan below, on one
    scale of bytes, with the budget as a line.
    """
    panels: list[tuple[str, Timeline]] = [("", found.timeline)]
    budget_bytes = getattr(found, "budget_bytes", None)
    plain = getattr(found, "plain_timeline", None)
    if plain is not None:
        panels = [("without recomputation", plain), ("as planned", found.timeline)]
    with new_figure(len(panels), 7.2, 1.1 + 1.9 * len(panels)) as (figure, axes):
        top = max(budget_bytes or 0, *(t.peak_bytes for _, t in panels)) / MIB
        for axis, (name, shown) in zip(axes, panels, strict=True):
            _draw_timeline(axis, shown)
            title = f"{heading(found.name, found.device)}{', ' + name if name else ''}: "
            axis.set_title(f"{title}peak {format_bytes(shown.peak_bytes)}")
            axis.set(ylim=(0, 1.12 * top), ylabel="MiB held")
            if budget_bytes is not None:
                _draw_budget(axis, budget_bytes)
        axes[-1].set_xlabel("position in the schedule")
        phase_legend(figure, {p for _, t in panels for p in t.phases})
    return figure


NARROW = 0.02
"""Runs of a phase below this part of the width have no hatch, which would only be noise."""


def _draw_timeline(axis: Axes, shown: Timeline) -> None:
    held = [count / MIB for count in shown.bytes_at]
    edges = range(len(held) + 1)
    for (phase, wide), positions in _runs(shown).items():
        style = look(phase)
        at = [float("nan")] * len(held)
        for position in positions:
            at[position] = held[position]
        axis.stairs(
            at, edges, fill=True, facecolor=style.color, hatch=style.hatch if wide else None,
            edgecolor="white", linewidth=0,
        )  # fmt: skip
    axis.stairs(held, edges, color=INK, linewidth=0.7, baseline=None)
    axis.set_xlim(0, max(len(held), 1))


def _runs(shown: Timeline) -> dict[tuple[str, bool], list[int]]:
    """Positions by phase, and by whether they are in a wide run of it."""
    found: dict[tuple[str, bool], list[int]] = {}
    phases = shown.phases or ("",) * len(shown.bytes_at)
    start = 0
    for phase, run in groupby(phases):
        stop = start + len(list(run))
        wide = stop - start >= NARROW * len(phases)
        found.setdefault((phase, wide), []).extend(range(start, stop))
        start = stop
    return found


def _draw_budget(axis: Axes, budget_bytes: int) -> None:
    axis.axhline(budget_bytes / MIB, color=BUDGET, linewidth=1.2, linestyle=(0, (6, 3)))
    axis.annotate(
        f"budget {format_bytes(budget_bytes)}", (1, budget_bytes / MIB), (-2, 3),
        xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", fontsize=8,
    )  # fmt: skip


def live_ranges(found: Report | Analysis, most: int = 24) -> Figure:
    """When the largest values are held, read by nobody, or dropped and computed again.

    Args:
        found: whose values.
        most: how many are shown: those with the most bytes times positions of idle gaps.
    """
    rows = _largest(found, most)
    with new_figure(1, 7.2, 1.2 + 0.2 * len(rows)) as (figure, axes):
        axis = axes[0]
        for row, (value, gaps) in enumerate(rows):
            _draw_life(axis, row, found, value, gaps)
        axis.set_yticks(range(len(rows)), [_label(found.values[v]) for v, _ in rows], fontsize=7)
        axis.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, max(len(found.timeline.bytes_at), 1)))
        axis.set_xlabel("position in the schedule")
        axis.set_title(
            f"{heading(found.name, found.device)}: lives of the values that lie idle most"
        )
        axis.tick_params(axis="y", length=0)
        _life_legend(figure, {found.values[v].phase for v, _ in rows})
    return figure


def _largest(found: Report | Analysis, most: int) -> list[tuple[int, list[IdleGap]]]:
    gaps: dict[int, list[IdleGap]] = {h.value: [] for h in found.timeline.held}
    for gap in found.idle:
        gaps[gap.value].append(gap)

    def rank(value: int) -> tuple[int, int, int]:
        size = found.values[value].bytes
        return -size * sum(g.stop - g.start for g in gaps[value]), -size, value

    ranked = sorted(gaps, key=rank)[:most]
    first = {h.value: h.start for h in reversed(found.timeline.held)}
    return [(v, gaps[v]) for v in sorted(ranked, key=lambda v: first[v])]


def _draw_life(
    axis: Axes, row: int, found: Report | Analysis, value: int, gaps: Sequence[IdleGap]
) -> None:
    style = look(found.values[value].phase)
    for copy in found.timeline.held:
        if copy.value == value:
            axis.barh(
                row, copy.stop - copy.start, left=copy.start, height=0.62, color=style.color,
                edgecolor=INK, linewidth=0.4,
            )  # fmt: skip
    for gap in gaps:
        if gap.decision == "keep":
            axis.barh(
                row, gap.stop - gap.start, left=gap.start, height=0.62, color="white",
                edgecolor=style.color, linewidth=0.4, hatch="/////",
            )  # fmt: skip
        else:
            axis.plot((gap.start, gap.stop), (row, row), color=INK, linewidth=0.9, linestyle=":")


def _life_legend(figure: Figure, phases: set[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor="#e0e0e0", edgecolor=INK, linewidth=0.4, label="in use"),
        Patch(facecolor="white", edgecolor=GREY, hatch="/////", label="idle gap: keep"),
        Line2D([], [], color=INK, linestyle=":", label="idle gap: recompute"),
    ]
    handles += [
        Patch(facecolor=look(p).color, label=f"written in {p}") for p in PHASES if p in phases
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _label(holder: Holder) -> str:
    place = (holder.source or "").split(" ")[0].rsplit("/", 1)[-1]
    primitive = holder.what.split(" ")[0]
    return f"{primitive}  {place}  {format_bytes(holder.bytes)}"


def frontier(found: Frontier, policies: Mapping[str, tuple[int, float]] | None = None) -> Figure:
    """Overhead against bytes: what each budget costs.

    Args:
        found: the curve.
        policies: what else to show as points: name → (bytes, overhead), such as the policies of
            `jax.checkpoint`, in compiled bytes and as a part of the plain step's seconds or FLOPs.
    """
    with new_figure(1, 6.4, 4.0) as (figure, axes):
        axis = axes[0]
        _draw_curve(axis, found)
        markers = "^vDPX*<>hp"
        for index, (name, (count, overhead)) in enumerate((policies or {}).items()):
            axis.plot(
                count / MIB, 100 * overhead, linestyle="none", color=LINES[1],
                marker=markers[index % len(markers)], markersize=7, label=name,
            )  # fmt: skip
        axis.set(xlabel="footprint, MiB", ylabel="overhead, % of the plain step")
        axis.set_title(f"{heading(found.name, found.device)}: bytes against overhead")
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.grid(color=GREY, alpha=0.3, linewidth=0.5)
        axis.legend(loc="upper right")
    return figure


def _draw_curve(axis: Axes, found: Frontier) -> None:
    met = [p for p in found.points if p.met]
    unmet = [p for p in found.points if not p.met]
    xs = [p.plan.predicted_bytes / MIB for p in met]
    overheads = [100 * p.plan.overhead for p in met]
    axis.plot(xs, overheads, "o-", color=LINES[0], markersize=4, label="memjax, predicted")
    bounded = [p for p in met if p.plan.bound_overhead is not None]
    if bounded:
        axis.plot(
            [p.plan.predicted_bytes / MIB for p in bounded],
            [100 * (p.plan.bound_overhead or 0.0) for p in bounded],
            color=GREY, linestyle="--", linewidth=1, label="no plan at this order has less",
        )  # fmt: skip
    compiled = [p for p in found.points if p.compiled_bytes is not None]
    if compiled:
        axis.plot(
            [(p.compiled_bytes or 0) / MIB for p in compiled],
            [100 * p.plan.overhead for p in compiled],
            "x", color=INK, markersize=6, label="memjax, compiled",
        )  # fmt: skip
    if unmet:
        axis.plot(
            [p.plan.predicted_bytes / MIB for p in unmet],
            [100 * p.plan.overhead for p in unmet],
            "o", color=LINES[0], markerfacecolor="white", markersize=5, label="budget not met",
        )  # fmt: skip


REST = "all others"
VISIBLE = 0.001
"""What has a smaller part of the bytes has no bar and no place in the legend of the peak."""


def peak(
    found: Report | Analysis, by: Literal["module", "line", "what"] = "module", most: int = 12
) -> Figure:
    """What fills the predicted peak and, in a report, XLA's own: bars, split by phase.

    Args:
        found: whose peak.
        by: what a bar is: a module path (two names deep), a source line, or what is held.
        most: how many bars; the rest is one more.
    """
    label = _labels(by)
    xla = getattr(found, "xla", None)
    peaks = [("predicted", found.holders)] + ([("XLA's own", xla.holders)] if xla else [])
    everything = [holder for _, held in peaks for holder in held]
    total = sum(h.bytes for h in everything)
    ranked = [s.label for s in shares(everything, label) if s.bytes >= VISIBLE * total]
    names = ranked[:most]
    if sum(h.bytes for h in everything if label(h) not in names) >= VISIBLE * total:
        names.append(REST)
    height = 0.24 if len(peaks) == 1 else 0.34
    with new_figure(1, 7.2, 1.2 + height * len(names)) as (figure, axes):
        axis = axes[0]
        for number, (name, held) in enumerate(peaks):
            _draw_bars(axis, _bars(held, label, names), number, len(peaks), name)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        axis.margins(x=0.16)
        totals = [f"{n} peak {format_bytes(sum(h.bytes for h in held))}" for n, held in peaks]
        axis.set_title(f"{heading(found.name, found.device)}: {', '.join(totals)}")
        axis.set_xlabel("MiB")
        phase_legend(figure, {h.phase for h in everything if h.bytes >= VISIBLE * total})
    return figure


def _bars(
    holders: Sequence[Holder], label: Callable[[Holder], str], names: Sequence[str]
) -> list[dict[str, int]]:
    """Bytes by phase of each bar; what has no bar of its own goes into `REST`, if that is one."""
    bars: dict[str, dict[str, int]] = {name: {} for name in names}
    for holder in holders:
        bar = bars.get(label(holder), bars.get(REST, {}))
        bar[holder.phase] = bar.get(holder.phase, 0) + holder.bytes
    return list(bars.values())


def _labels(by: str) -> Callable[[Holder], str]:
    if by == "line":
        return lambda h: h.source or "no line"
    if by == "what":
        return lambda h: h.what
    return lambda h: (
        "/".join(h.module.split("/")[:2]) or ("outside of modules" if h.phase else h.what)
    )


def _draw_bars(
    axis: Axes, bars: Sequence[Mapping[str, int]], number: int, of: int, name: str
) -> None:
    height = 0.74 / of
    for row, bar in enumerate(bars):
        y = row - 0.37 + height * (number + 0.5)
        left = 0.0
        for phase in (*PHASES, *(p for p in bar if p not in PHASES)):
            width = bar.get(phase, 0) / MIB
            style = look(phase)
            if width:
                axis.barh(
                    y, width, left=left, height=0.92 * height, color=style.color,
                    hatch=style.hatch, edgecolor="white", linewidth=0,
                )  # fmt: skip
            left += width
        text = format_bytes(sum(bar.values())) + (f"  {name}" if of > 1 and not row else "")
        axis.annotate(text, (left, y), (3, 0), textcoords="offset points", va="center", fontsize=7)
