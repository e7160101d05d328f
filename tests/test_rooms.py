"""The layout shows the way: rooms in one order, held by the contracts in pyproject.toml."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
TOP = sorted(path for path in (ROOT / "memjax").iterdir() if path.name != "__pycache__")
ROOMS = [path for path in TOP if path.is_dir()]
PIPELINE = "program pricing planning loops split emit xla fitting view".split()


def test_every_import_goes_down(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


def test_at_most_18_entries():
    assert len(TOP) <= 18


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_what_it_is_for(room):
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    assert text
    if room.name in PIPELINE:
        assert re.search(r"^In: .* Out: ", text, re.MULTILINE | re.DOTALL)


def test_contributing_shows_the_rooms_in_the_order_of_the_contract():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = [name.strip() for layer in layers for name in layer.split("|")]
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)`", page, re.MULTILINE) == rooms
