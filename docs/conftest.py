"""Runs the code blocks of the pages as tests: `pytest docs`.

The blocks of a page share one namespace, as a reader would paste them one after the other.
A block behind `<!-- skip: next -->` is shown, not run.
"""

from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from memjax.targets.attach import missing
from memjax.targets.names import named


def with_names(namespace: dict[str, Any]) -> None:
    """What the conditions of `skip` may ask."""
    namespace["cannot_compile_for"] = lambda device: missing(named(device).figures)


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    pattern="*.md",
    excludes=["_build/*", "_generated/*"],
    setup=with_names,
).pytest()
