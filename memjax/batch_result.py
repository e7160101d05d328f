"""What `memjax.max_batch` finds, and how it prints."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from memjax.brief import data_frame, html_table, table
from memjax.budget import format_bytes
from memjax.report import Report

if TYPE_CHECKING:
    import pandas

_HEADERS = ("size", "plain", "predicted", "compiled", "overhead")
_RIGHT = (0, 1, 2, 3, 4)


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
class MaxBatch:
    """The largest size with which a step fits into a budget.

    Attributes:
        name: of the step.
        size: the largest that fits, verified by compiling.
        budget_bytes: asked for.
        report: of the program at that size.
        points: the curve of overheads, from the smallest size to the largest that fits.
        refused: larger sizes that were compiled and are over budget, with the smallest bytes
            they compiled to.
        at_end: whether the size is the largest that was asked about, so that larger ones may
            fit as well.
    """

    name: str
    size: int
    budget_bytes: int
    report: Report
    points: tuple[BatchPoint, ...]
    refused: tuple[tuple[int, int], ...] = ()
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
            f"  {size} compiled to {format_bytes(count)} at the least, over budget"
            for size, count in self.refused
        ]
        if self.at_end:
            notes.append("  it is the largest that was asked about; larger ones may fit")
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
            "compilations": len(self.report.compilations),
            "at_end": self.at_end,
            "refused": [{"size": size, "compiled_bytes": count} for size, count in self.refused],
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
