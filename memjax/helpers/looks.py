"""The one way up: a result asks the view how it looks.

In: a result. Out: what `memjax.view.looks` makes of it.

Results are data, and stand in rooms below the view: a `Report`, a `Plan`, a `Frontier`. How they
print, and what a notebook or a file shows of them, is the view's, which knows them all. It is
imported here, when a result is first looked at, and nowhere else below.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memjax.helpers.brief import data_frame

if TYPE_CHECKING:
    import pandas

MOST = 6
"""Rows of a table where nobody asked for more; a report is then at most 40 lines high."""


def _view() -> Any:
    from memjax.view import looks

    return looks


def text(found: object, most: int | None = None) -> str:
    """A result as text, with at most so many rows in a table; None for all."""
    return str(_view().text(found, most))


def summary(found: object) -> str:
    """A result in one line."""
    return str(_view().summary(found))


def html(found: object) -> str:
    """What a notebook shows of a result."""
    return str(_view().html(found))


def to_dict(found: object) -> dict[str, Any]:
    """A result as plain values that JSON can write."""
    return dict(_view().to_dict(found))


def to_pandas(found: object) -> pandas.DataFrame:
    """The rows of a result.

    Raises:
        ImportError: pandas is not installed.
    """
    return data_frame(_view().rows(found))


def save_html(found: object, path: str | Path) -> Path:
    """Write the page of a result that stands alone."""
    return Path(_view().save_html(found, path))
