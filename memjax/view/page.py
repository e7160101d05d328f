"""An HTML page that stands alone: what a step holds, to zoom, hover and filter in a browser.

In: an `Analysis` or a `Report`. Out: one file, with its data, styles and scripts inside; it
loads nothing from the network.

The page draws stacked areas of at most a dozen groups of values (by phase, line, module path
or decision) and a table of the values in sight. Whatever the number of eqns, the drawing has
one position for each few pixels: of each bin the one that holds most, with what it holds, so
that no peak is lost. Bins are made anew at each zoom.

The plotting library is uPlot (MIT, Leon Sorokin), a copy of which is in `web/vendor`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from memjax.fitting.report import Analysis, Report
from memjax.helpers.budget import format_bytes
from memjax.planning.simulate import Timeline
from memjax.pricing.holders import Holder
from memjax.view.palette import AREAS, PHASES
from memjax.view.to_dict import decisions_of

THROUGHOUT = "held throughout"


@dataclass(frozen=True)
class View:
    """A timeline that the page can show.

    Attributes:
        name: on its button.
        timeline: what is drawn.
        first_value: where the timeline's values start among those of the page.
    """

    name: str
    timeline: Timeline
    first_value: int = 0


@dataclass(frozen=True)
class Shown:
    """What the page shows.

    Attributes:
        name: of the step.
        summary: label and text of the numbers above the chart.
        budget_bytes: drawn as a line; None for none.
        values: where each value comes from.
        decisions: what is done in each value's idle gaps.
        throughout: what is held at all positions.
        views: before and after.
        xla: what is held at XLA's own peak; empty where it is not known.
    """

    name: str
    summary: tuple[tuple[str, str], ...]
    budget_bytes: int | None
    values: tuple[Holder, ...]
    decisions: tuple[str, ...]
    throughout: tuple[Holder, ...]
    views: tuple[View, ...]
    xla: tuple[Holder, ...] = ()


def write(found: Report | Analysis | Shown, path: str | Path) -> Path:
    """Write the page of a report, before and after, or of an analysis.

    Returns:
        The path.
    """
    path = Path(path).expanduser()
    path.write_text(html(found), encoding="utf-8")
    return path


def shown_of(found: Report | Analysis | Shown) -> Shown:
    """What the page shows of an object."""
    if isinstance(found, Shown):
        return found
    values, decisions = found.values, tuple(decisions_of(found))
    views: tuple[View, ...] = (View("as it is", found.timeline),)
    plain_values = getattr(found, "plain_values", None)
    if plain_values is not None:
        first = 0 if plain_values is values else len(plain_values)
        plain = View("without recomputation", getattr(found, "plain_timeline", found.timeline))
        views = (plain, View("as planned", found.timeline, first))
        values = (*plain_values[:first], *values)
        decisions = (*("" for _ in range(first)), *decisions)
    xla = getattr(found, "xla", None)
    return Shown(
        name=found.name,
        summary=_summary(found),
        budget_bytes=getattr(found, "budget_bytes", None),
        values=values,
        decisions=decisions,
        throughout=tuple(h for h in found.holders if h.phase in ("argument", "result")),
        views=views,
        xla=() if xla is None else xla.holders,
    )


def html(found: Report | Analysis | Shown) -> str:
    """The page as one text."""
    shown = shown_of(found)
    web = files("memjax.view") / "web"
    text = (web / "page.html").read_text(encoding="utf-8")
    parts = {
        "title": f"memjax: {_escaped(shown.name)}",
        "style": _read(web / "vendor" / "uPlot.min.css") + _read(web / "page.css"),
        "license": _read(web / "vendor" / "uPlot.LICENSE"),
        "library": _read(web / "vendor" / "uPlot.iife.min.js"),
        "script": _read(web / "model.js") + _read(web / "page.js"),
        "data": _for_script(page_data(shown)),
    }
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    return text


def _read(file: Any) -> str:
    return str(file.read_text(encoding="utf-8"))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _for_script(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def page_data(shown: Shown) -> dict[str, Any]:
    """What the page's script reads; keys as in `web/model.js`."""
    texts = _Texts()
    base_bytes = sum(h.bytes for h in shown.throughout)
    decisions = [*shown.decisions, *(THROUGHOUT for _ in shown.throughout)]
    return {
        "name": shown.name,
        "summary": shown.summary,
        "budget": shown.budget_bytes,
        "values": _columns(texts, [*shown.values, *shown.throughout], decisions),
        "throughout": len(shown.values),
        "views": [_view(texts, view, shown.values, base_bytes) for view in shown.views],
        "xla": _columns(texts, shown.xla, ["" for _ in shown.xla]),
        "phases": {name: look.color for name, look in PHASES.items()},
        "areas": list(AREAS),
        "texts": texts.known,
    }


class _Texts:
    """Each text once, so that rows can name it by its index."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.index.setdefault(text, len(self.index))

    @property
    def known(self) -> list[str]:
        return list(self.index)


def _columns(
    texts: _Texts, holders: Sequence[Holder], decisions: Iterable[str]
) -> dict[str, list[int]]:
    return {
        "bytes": [h.bytes for h in holders],
        "what": [texts(h.what) for h in holders],
        "line": [texts(h.source or "no line") for h in holders],
        "module": [texts(h.module or "outside of modules") for h in holders],
        "phase": [texts(h.phase) for h in holders],
        "decision": [texts(d) for d in decisions],
    }


def _view(texts: _Texts, view: View, values: Sequence[Holder], base_bytes: int) -> dict[str, Any]:
    timeline = view.timeline
    own = values[view.first_value :]
    return {
        "name": view.name,
        "bytes": list(timeline.bytes_at),
        "phase": [texts(p) for p in timeline.phases],
        "held": {
            "value": [view.first_value + h.value for h in timeline.held],
            "start": [h.start for h in timeline.held],
            "stop": _stops(timeline, own, base_bytes),
        },
    }


def _stops(timeline: Timeline, values: Sequence[Holder], base_bytes: int) -> list[int]:
    """Where each copy ends, such that the copies at a position add up to its bytes.

    A copy that is overwritten at its last position gives its bytes to the result already
    there (see `memjax.simulate`). By how much the copies are too many is then its bytes, less
    the workspace of the position.
    """
    stops = [h.stop for h in timeline.held]
    sizes = [values[h.value].bytes for h in timeline.held]
    ending: dict[int, list[int]] = {}
    for index, copy in enumerate(timeline.held):
        if copy.start < copy.stop - 1:
            ending.setdefault(copy.stop - 1, []).append(index)
    for position, over in _excess(timeline, values, base_bytes).items():
        large = [i for i in ending.get(position, ()) if sizes[i] >= over]
        if large:
            stops[min(large, key=lambda i: sizes[i])] -= 1
    return stops


def _excess(timeline: Timeline, values: Sequence[Holder], base_bytes: int) -> dict[int, int]:
    """By how much the copies at a position are more than its bytes, where they are."""
    changes = [0] * (len(timeline.bytes_at) + 1)
    for copy in timeline.held:
        changes[copy.start] += values[copy.value].bytes
        changes[copy.stop] -= values[copy.value].bytes
    found = {}
    held = base_bytes
    for position, count in enumerate(timeline.bytes_at):
        held += changes[position]
        if held > count:
            found[position] = held - count
    return found


def _summary(found: Report | Analysis) -> tuple[tuple[str, str], ...]:
    """Label and text of the numbers above the chart."""
    compiled = getattr(found, "compiled", None)
    device = (("device", found.device),) if found.device else ()
    if compiled is None:
        return (
            *device,
            ("predicted peak", format_bytes(found.timeline.peak_bytes)),
            ("eqns", f"{getattr(found, 'eqns', 0):,}"),
        )
    return (
        *device,
        ("budgeted", format_bytes(getattr(found, "budget_bytes", 0))),
        ("without recomputation", format_bytes(getattr(found, "plain_predicted_bytes", 0))),
        ("predicted", format_bytes(getattr(found, "predicted_bytes", 0))),
        ("compiled", format_bytes(compiled.total_bytes)),
        ("overhead", f"{100 * found.timeline.overhead:.1f} %"),
    )
