"""Short texts for timelines and plans, and tables for notebooks; knows nothing of JAX.

In: plain numbers and texts. Out: text, HTML, or a pandas `DataFrame`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

_BLOCKS = " ▁▂▃▄▅▆▇█"
SPARK_WIDTH = 64

Cells = Sequence[Sequence[object]]


def spark(numbers: Sequence[int], width: int = SPARK_WIDTH) -> str:
    """A line of blocks that shows the highest number in each of at most `width` bins."""
    if not numbers:
        return ""
    top = max(*numbers, 1)
    peaks = bins(numbers, width)
    return "".join(_BLOCKS[round(peak / top * (len(_BLOCKS) - 1))] for peak in peaks)


def bins(numbers: Sequence[int], width: int) -> list[int]:
    """The highest number in each of at most `width` equal stretches."""
    count = min(width, len(numbers))
    edges = [len(numbers) * i // count for i in range(count + 1)] if count else [0]
    return [max(numbers[a:b]) for a, b in itertools.pairwise(edges)]


def table(headers: Sequence[str], rows: Cells, right: Sequence[int] = ()) -> list[str]:
    """Aligned lines of a table; columns in `right` are aligned to the right."""
    cells = [list(headers), *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return [line(row) for row in cells]


def html_table(headers: Sequence[str], rows: Cells, right: Sequence[int] = ()) -> str:
    """A table in HTML; texts are escaped."""

    def cell(tag: str, index: int, content: object) -> str:
        side = "right" if index in right else "left"
        return f'<{tag} style="text-align:{side}">{escape(str(content))}</{tag}>'

    head = "".join(cell("th", i, h) for i, h in enumerate(headers))
    body = "".join(
        f"<tr>{''.join(cell('td', i, c) for i, c in enumerate(row))}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_chart(numbers: Sequence[int], label: str, width: int = 640, height: int = 80) -> str:
    """A filled curve as SVG: the highest number in each bin."""
    peaks = bins(numbers, width // 2)
    top = max(*peaks, 1) if peaks else 1
    step = width / max(len(peaks), 1)
    points = []
    for index, peak in enumerate(peaks):
        y = height * (1 - peak / top)
        points += [f"{index * step:.1f},{y:.1f}", f"{(index + 1) * step:.1f},{y:.1f}"]
    outline = f"0,{height} {' '.join(points)} {width},{height}"
    return (
        f'<svg role="img" aria-label="{escape(label)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><polygon points="{outline}" fill="#56b4e9" '
        f'stroke="#24292f" stroke-width="0.7"/></svg>'
    )


def data_frame(rows: Any) -> pandas.DataFrame:
    """A pandas `DataFrame`.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install pandas") from error
    return pandas.DataFrame(rows)


def heading(name: str, device: str) -> str:
    """A step and what it is for, as a title; the step alone where nobody says."""
    return f"{name} on {device}" if device else name
