"""What made a result: the commit, and a digest of the code that decides its figures.

In: the name of a module of this folder. Out: what its rows carry, so that a figure whose code has
changed since can be told from one that is up to date (`docs/benchmark_tables.py` marks it, and
a test reports it).

*The code of a benchmark* is the module with all that it imports, of memjax and of this folder,
directly or not. How results look is left out, unless the benchmark itself imports it. Of code
only what runs counts: neither comments nor docstrings nor empty lines.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
PACKAGES = ("memjax", "benchmarks")
LOOKS = ("memjax.helpers.looks", "memjax.view.looks")
"""The one import that goes up to the view; no figure depends on it."""


def commit() -> str:
    """The commit that is measured; empty outside of a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip()


@cache
def code_digest(module: str) -> str:
    """A digest of the code of a benchmark, the same under every Python and on every machine."""
    imports = _imports()
    digest = hashlib.sha256()
    for name in sorted({module, *imports.find_upstream_modules(module)}):
        digest.update("\n".join((name, *code_lines(_source(name)))).encode())
    return digest.hexdigest()[:12]


def is_current(row: Mapping[str, str], module: str) -> bool:
    """Whether the code of a module of this folder is still that which made a row."""
    return row.get("code") == code_digest(f"benchmarks.{module}")


@cache
def _imports() -> grimp.ImportGraph:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    graph.remove_import(importer=LOOKS[0], imported=LOOKS[1])
    return graph


def _source(module: str) -> str:
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text(encoding="utf-8")


def code_lines(source: str) -> Iterator[str]:
    """The lines of a module that run."""
    prose: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for number, line in enumerate(source.splitlines(), 1):
        if number not in prose and line.strip() and not line.lstrip().startswith("#"):
            yield line.rstrip()
