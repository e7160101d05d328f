"""What users see of the objects: short reprs, a screen of text, HTML, dicts, data frames."""

from __future__ import annotations

import builtins
import json
from html.parser import HTMLParser

import pytest

from memjax.emit.plan import Plan
from memjax.helpers import brief
from memjax.planning.problem import Node, Problem
from memjax.planning.simulate import simulate
from tests.seen import BUDGET, ROOMY, analysis, frontier, report

SCREEN = 40
OBJECTS = {
    "analysis": analysis,
    "planned": lambda: report(BUDGET),
    "as it is": lambda: report(ROOMY),
    "plan": lambda: report(BUDGET).plan,
    "timeline": lambda: report(BUDGET).timeline,
    "frontier": frontier,
    "xla": lambda: report(BUDGET).xla,
}


@pytest.fixture(params=OBJECTS, ids=str)
def shown(request):
    return OBJECTS[request.param]()


def test_reprs_are_one_short_line(shown):
    assert "\n" not in repr(shown)
    assert len(repr(shown)) <= 100
    assert type(shown).__name__ in repr(shown)


def test_text_is_a_screen_at_most(shown):
    lines = str(shown).splitlines()
    assert 1 < len(lines) <= SCREEN
    assert any(unit in str(shown) for unit in ("KiB", "MiB"))


@pytest.mark.parametrize("name", ["analysis", "planned"])
def test_all_of_it_on_request(name):
    shown = OBJECTS[name]()
    assert len(shown.text(None).splitlines()) > len(str(shown).splitlines())
    assert len(shown.text(2).splitlines()) < len(str(shown).splitlines())


def test_a_plan_lists_as_many_segments_as_asked_for():
    plan = report(BUDGET).plan
    segments = len(plan.recomputations)
    assert segments > 2
    assert len(plan.text(None).splitlines()) == 2 + segments
    assert plan.text(2).splitlines()[-1] == f"  and {segments - 2} more segments"


class Tags(HTMLParser):
    """Counts tags and checks that they nest."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["analysis", "planned", "plan", "timeline", "frontier"])
def test_html_of_notebooks_nests_and_runs_nothing(name):
    tags = Tags()
    tags.feed(OBJECTS[name]()._repr_html_())
    assert tags.open == []
    assert "table" in tags.seen
    assert "script" not in tags.seen


def test_html_escapes_names():
    assert "<b>" not in brief.html_table(("<b>",), [("<b>",)])
    assert "&lt;b&gt;" in brief.html_table(("<b>",), [("<b>",)])


@pytest.mark.parametrize("name", ["analysis", "planned", "plan", "timeline", "frontier"])
def test_dicts_go_through_json(name):
    content = OBJECTS[name]().to_dict()
    assert json.loads(json.dumps(content)) == json.loads(json.dumps(content, sort_keys=True))
    assert content


def test_the_dict_of_a_report():
    found = report(BUDGET)
    content = found.to_dict()
    assert content["compiled_bytes"] == found.compiled.total_bytes
    assert content["gaps_kept"] + content["gaps_recomputed"] == len(found.decisions)
    assert content["gaps_recomputed"] > 0
    assert sum(h["bytes"] for h in content["holders"]) == content["timeline"]["peak_bytes"]
    assert sum(h["bytes"] for h in content["xla"]["holders"]) == content["compiled_bytes"]
    assert content["plain_timeline"]["peak_bytes"] > content["timeline"]["peak_bytes"]
    assert Plan.from_json(json.dumps(content["plan"])) == found.plan


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    found = report(BUDGET)
    timeline = found.timeline.to_pandas()
    assert list(timeline["bytes"]) == list(found.timeline.bytes_at)
    assert set(timeline["phase"]) == {"forward", "backward", "optimizer", "recompute"}
    values = found.to_pandas()
    assert set(values["decision"]) == {"keep", "recompute", "no idle gap"}
    again = values[values["decision"] == "recompute"]
    assert (again["copies"] > 1).all()
    assert len(found.plan.to_pandas()) == sum(len(r.eqns) for r in found.plan.recomputations)
    assert list(frontier().to_pandas()["met"]) == [p.met for p in frontier().points]
    assert isinstance(analysis().to_pandas(), pandas.DataFrame)


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def no_pandas(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError("no pandas")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_pandas)
    with pytest.raises(ImportError, match="pip install pandas"):
        analysis().timeline.to_pandas()


def test_an_empty_timeline_reads():
    empty = simulate(Problem((), ()), ())
    assert repr(empty) == "<Timeline: no positions>"
    assert "no positions" in str(empty)
    assert empty.to_dict()["peak_position"] is None
    assert "svg" in empty._repr_html_()


def test_a_timeline_without_phases_reads():
    bare = simulate(Problem((Node(1.0, (), (0,)),), (2048,)), (0,))
    assert repr(bare) == "<Timeline: 1 positions, peak 2.0 KiB at 0>"
    assert str(bare).splitlines() == ["Timeline: 1 positions, peak 2.0 KiB at 0", "  █"]


def test_sparks_keep_peaks():
    """One high number among a thousand is the only full block."""
    numbers = [1] * 1000
    numbers[617] = 100
    line = brief.spark(numbers, 10)
    assert len(line) == 10
    assert [i for i, block in enumerate(line) if block == "█"] == [6]
    assert brief.bins(list(range(7)), 3) == [1, 3, 6]
    assert brief.spark([]) == ""


def test_tables_are_aligned():
    assert brief.table(("a", "b"), [("x", 10), ("yy", 7)], right=(1,)) == [
        "a    b",
        "x   10",
        "yy   7",
    ]
