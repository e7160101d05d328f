"""What every figure has in common: style, size, the legend of phases, how it is written.

In: sizes, phases, a path. Out: matplotlib figures, of which none stays open in pyplot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memjax.view.palette import GREY, INK, PHASES, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRINT_DPI = 300
STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "memjax",
}


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure at print quality; the suffix says how (`.png`, `.pdf`, `.svg`)."""
    path = Path(path).expanduser()
    figure.savefig(path, dpi=PRINT_DPI, bbox_inches="tight", facecolor="white")
    return path


@contextmanager
def new_figure(rows: int, width: float, height: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """A new figure with axes one above the other; closed in pyplot, alive for the caller."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'memjax[viz]'") from error
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, 1, figsize=(width, height), layout="constrained", squeeze=False
        )
        plt.close(figure)
        yield figure, list(axes[:, 0])


def phase_legend(figure: Figure, phases: set[str]) -> None:
    """The colours and hatches of some phases, below a figure."""
    from matplotlib.patches import Patch

    shown = [p for p in PHASES if p in phases]
    handles = [
        Patch(facecolor=look(p).color, hatch=look(p).hatch, edgecolor="white", label=p)
        for p in shown
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
