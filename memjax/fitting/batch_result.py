"""What `memjax.max_batch` finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from memjax.fitting.report import Report
from memjax.helpers import looks
from memjax.helpers.budget import format_bytes

if TYPE_CHECKING:
    import pandas


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
        return looks.text(self)

    def _repr_html_(self) -> str:
        return looks.html(self)

    def to_dict(self) -> dict[str, Any]:
        """The size and the curve in plain types, ready for JSON."""
        return looks.to_dict(self)

    def to_pandas(self) -> pandas.DataFrame:
        """The curve, a row a size."""
        return looks.to_pandas(self)
