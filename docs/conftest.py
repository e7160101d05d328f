"""Runs the code blocks of the pages as tests: `pytest docs`.

The blocks of a page share one namespace, as a reader would paste them one after the other.
A block behind `<!-- skip: next -->` is shown, not run.
"""

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    pattern="*.md",
    excludes=["_build/*", "_generated/*"],
).pytest()
