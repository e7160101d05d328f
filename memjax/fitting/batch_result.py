"""What `memjax.max_batch` finds, and how it prints."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from memjax.fitting.report import Report
from memjax.helpers.brief import data_frame, html_table, table
from memjax.helpers.budget import format_bytes

if TYPE_CHECKING:
    import pandas

_HEADERS = ("size", "plain", "predicted", "compiled", "overhead")
_RIGHT = (0, 1, 2, 3, 4)
MAX_REFUSED = 3
"""So many refused sizes have a line of their own where a result is printed."""


@dataclass(frozen=True)
class BatchPoint:
    """One size of the curve.

    Attributes:
        size: of the batch.
        plain_bytes: predicted footprint without recomputation.
        predicted_bytes: predicted footprint of the plan for the budget.
        overhead: predicted seconds of recomputation over those of the plain step.
        compiled_bytes: XLA's footprint; None where it was not compiled.
    """

    size: int
    plain_bytes: int
    predicted_bytes: int
    overhead: float
    compiled_bytes: int | None = None


@dataclass(frozen=True)
class Refusal:
    """A size that is over the budget.

    Attributes:
        size: that was tried.
        bytes: the least footprint found.
        judged: compiled, where memjax's whole search for a plan was compiled and none fits;
            predicted, where the plan with the smallest prediction is over budget, corrected by
            how far the prediction was off at the answer.
    """

    size: int
    bytes: int
    judged: Literal["compiled", "predicted"]


@dataclass(frozen=True)
class MaxBatch:
    """The largest size with which a step fits into a budget.

    Attributes:
        name: of the step.
        size: the largest that fits, verified by compiling.
        budget_bytes: asked for.
        report: of the program at that size.
        points: the curve of overheads, from the smallest size to the largest that fits.
        refused: larger sizes that were tried and are over budget, ascending. Where the first
            is not the next size, those between were not tried.
        compilations: made by the whole search.
        at_end: whether the size is the largest that was asked about, so that larger ones may
            fit as well.
    """

    name: str
    size: int
    budget_bytes: int
    report: Report
    points: tuple[BatchPoint, ...]
    refused: tuple[Refusal, ...] = ()
    compilations: int = 0
    at_end: bool = False

    def __repr__(self) -> str:
        return f"<MaxBatch of {self.name!r}: {self.size} within {format_bytes(self.budget_bytes)}>"

    def __str__(self) -> str:
        rows = table(_HEADERS, [_cells(point) for point in self.points], right=_RIGHT)
        return "\n".join([self._headline(), *(f"  {row}" for row in rows), *self._notes()])

    def _headline(self) -> str:
        compiled = format_bytes(self.report.compiled.total_bytes)
        return (
            f"{self.name}: {self.size} is the largest size that fits "
            f"{format_bytes(self.budget_bytes)} ({compiled} compiled)"
        )

    def _notes(self) -> list[str]:
        notes = [
            f"  {r.size} does not fit: {format_bytes(r.bytes)} {r.judged}, "
            f"{format_bytes(r.bytes - self.budget_bytes)} over"
            for r in self.refused[:MAX_REFUSED]
        ]
        if len(self.refused) > MAX_REFUSED:
            rest = ", ".join(str(refusal.size) for refusal in self.refused[MAX_REFUSED:])
            notes.append(f"  nor does any of {rest}")
        if self.at_end:
            notes.append("  it is the largest that was asked about; larger ones may fit")
        plural = "" if self.compilations == 1 else "s"
        notes.append(f"  {self.compilations} compilation{plural} in all")
        return notes

    def _repr_html_(self) -> str:
        rows = html_table(_HEADERS, [_cells(point) for point in self.points], right=_RIGHT)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self._notes())
        return f"<p>{escape(self._headline())}</p>{rows}{notes}"

    def to_dict(self) -> dict[str, Any]:
        """The size and the curve in plain types, ready for JSON."""
        return {
            "name": self.name,
            "size": self.size,
            "budget_bytes": self.budget_bytes,
            "compiled_bytes": self.report.compiled.total_bytes,
            "overhead": self.report.overhead,
            "compilations": self.compilations,
            "at_end": self.at_end,
            "refused": [vars(refusal).copy() for refusal in self.refused],
            "points": [vars(point).copy() for point in self.points],
        }

    def to_pandas(self) -> pandas.DataFrame:
        """The curve, a row a size."""
        return data_frame([vars(point) for point in self.points])


def _cells(point: BatchPoint) -> tuple[str, ...]:
    compiled = "" if point.compiled_bytes is None else format_bytes(point.compiled_bytes)
    return (
        str(point.size),
        format_bytes(point.plain_bytes),
        format_bytes(point.predicted_bytes),
        compiled,
        f"{100 * point.overhead:.1f} %",
    )
