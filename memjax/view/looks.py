"""How each kind of result looks: the view's end of `memjax.helpers.looks`.

In: a result. Out: text, HTML, plain values or a page, by the function that knows its kind. A new
kind of result, or a new view of one, is a line at the end.
"""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path
from typing import Any

from memjax.emit.plan import Plan
from memjax.fitting.batch_result import MaxBatch
from memjax.fitting.curve import Frontier
from memjax.fitting.report import Analysis, Report
from memjax.view import html as _html, page, plan_text, searches, text as _text, to_dict as _dict
from memjax.xla.peak import XlaPeak


@singledispatch
def text(found: object, most: int | None) -> str:
    """A result as text, with at most so many rows in a table; None for all."""
    raise TypeError(f"a {type(found).__name__} has no text")


@singledispatch
def summary(found: object) -> str:
    """A result in one line."""
    raise TypeError(f"a {type(found).__name__} has no summary")


@singledispatch
def html(found: object) -> str:
    """What a notebook shows of a result."""
    raise TypeError(f"a {type(found).__name__} has no HTML")


@singledispatch
def to_dict(found: object) -> dict[str, Any]:
    """A result as plain values that JSON can write."""
    raise TypeError(f"a {type(found).__name__} has no plain values")


@singledispatch
def rows(found: object) -> list[dict[str, Any]]:
    """The rows of a result, for a `DataFrame`."""
    raise TypeError(f"a {type(found).__name__} has no rows")


def save_html(found: Analysis | Report, path: str | Path) -> Path:
    """Write the page of a result that stands alone."""
    return page.write(found, path)


text.register(Analysis, _text.analysis_text)
text.register(Report, _text.report_text)
text.register(XlaPeak, _text.xla_text)
text.register(Plan, plan_text.plan_text)
text.register(Frontier, searches.frontier_text)
text.register(MaxBatch, searches.max_batch_text)

summary.register(Plan, plan_text.summary)

html.register(Analysis, _html.analysis_html)
html.register(Report, _html.report_html)
html.register(Plan, plan_text.plan_html)
html.register(Frontier, searches.frontier_html)
html.register(MaxBatch, searches.max_batch_html)

to_dict.register(Analysis, _dict.analysis)
to_dict.register(Report, _dict.report)
to_dict.register(Frontier, _dict.frontier)
to_dict.register(MaxBatch, _dict.max_batch)

rows.register(Analysis, _dict.value_rows)
rows.register(Report, _dict.value_rows)
rows.register(Plan, plan_text.eqn_rows)
rows.register(Frontier, _dict.frontier_rows)
rows.register(MaxBatch, _dict.max_batch_rows)
