"""The HTML page: its data, and what it does in a real browser without a window.

The browser is Chromium through Playwright: Playwright's own, or one on PATH. Where neither
starts, those tests are skipped with the reason.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest

from memjax import page
from memjax.planning.problem import Node, Problem
from memjax.planning.simulate import simulate
from memjax.pricing.holders import Holder
from tests.seen import BUDGET, analysis, report


def test_the_page_stands_alone():
    text = page.html(report(BUDGET))
    without_license = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", without_license)
    assert "@import" not in text
    assert "<!--" not in text
    assert "MIT" in text
    assert "Leon Sorokin" in text


def test_data_cannot_end_its_script():
    found = replace(analysis(), name="</script><b>")
    text = page.html(found)
    assert "</script><b>" not in text
    data = re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(data)["name"] == "</script><b>"


@pytest.mark.parametrize("found", [analysis, lambda: report(BUDGET)], ids=["analysis", "report"])
def test_copies_add_up_to_the_bytes_at_each_position(found):
    data = page.page_data(page.shown_of(found()))
    sizes = data["values"]["bytes"]
    base = sum(sizes[data["throughout"] :])
    for view in data["views"]:
        held = [base] * len(view["bytes"])
        copies = zip(*(view["held"][k] for k in ("value", "start", "stop")), strict=True)
        for value, start, stop in copies:
            for position in range(start, stop):
                held[position] += sizes[value]
        assert all(h <= b for h, b in zip(held, view["bytes"], strict=True))
        assert held[data_peak(view)] == view["bytes"][data_peak(view)]


def data_peak(view):
    return view["bytes"].index(max(view["bytes"]))


def test_overwritten_copies_are_not_counted_twice():
    """x is written over by y at position 1."""
    problem = Problem(
        nodes=(Node(1, (), (0,)), Node(1, (), (1,)), Node(1, (0, 1), (2,), in_place=(0,))),
        value_bytes=(8, 8, 8),
        outputs=(2,),
    )
    timeline = simulate(problem, range(3))
    assert timeline.bytes_at == (8, 16, 16)
    values = [Holder(8, "v", None, "")] * 3
    assert page._stops(timeline, values, 0) == [2, 3, 3]


def test_a_report_has_two_views_and_an_analysis_one():
    assert [v["name"] for v in page.page_data(page.shown_of(analysis()))["views"]] == ["as it is"]
    views = page.page_data(page.shown_of(report(BUDGET)))["views"]
    assert [v["name"] for v in views] == ["without recomputation", "as planned"]
    assert len(views[1]["bytes"]) > len(views[0]["bytes"])


# In a browser.


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        started = reason = None
        for path in (None, *map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
            try:
                started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
                break
            except api.Error as error:
                reason = reason or str(error).splitlines()[0]
        if started is None:
            pytest.skip(f"no Chromium starts here ({reason}); try: playwright install chromium")
        yield started
        started.close()


class Opened:
    """A page in the browser, and everything that it complained about or asked the network."""

    def __init__(self, browser, path):
        self.page = browser.new_page(viewport={"width": 1400, "height": 900})
        self.complaints = []
        self.page.on("console", lambda m: self.complaints.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("request", self.requested)
        self.page.goto(path.as_uri())
        self.page.wait_for_function("window.memjaxTimings && memjaxTimings.first !== null")
        self.box = self.page.locator(".u-over").bounding_box()

    def requested(self, request):
        if not request.url.startswith(("file:", "data:")):
            self.complaints.append(f"asks for {request.url}")

    def point(self, x, y):
        """A point of the chart, as parts of its width and height."""
        return self.box["x"] + x * self.box["width"], self.box["y"] + y * self.box["height"]

    def drawings(self, kind, count):
        """Wait until a kind of drawing was made so often."""
        self.page.wait_for_function(f"memjaxTimings.{kind}.length >= {count}")

    def rows(self):
        return self.page.locator("#rows tr").all_inner_texts()

    def caption(self):
        return self.page.inner_text("#caption")


@pytest.fixture
def opened(browser, tmp_path):
    made = Opened(browser, report(BUDGET).save_html(tmp_path / "report.html"))
    yield made
    assert made.complaints == []
    made.page.close()


def test_it_loads_with_summary_legend_and_table(opened):
    summary = opened.page.inner_text("#summary")
    assert "4.5 MiB" in summary
    legend = opened.page.inner_text("#legend")
    assert "GPT/block_0" in legend
    assert 10 < len(opened.rows()) <= 200
    assert opened.page.locator("#views button[aria-pressed=true]").inner_text() == "as planned"
    assert opened.page.locator("canvas").first.is_visible()


def test_hovering_tells_bytes_line_phase_and_decision(opened):
    opened.page.mouse.move(*opened.point(0.25, 0.9))
    tip = opened.page.locator("#tip")
    tip.wait_for(state="visible")
    text = tip.inner_text()
    assert re.search(
        r"[\d.]+ MiB held at position \d+, (forward|backward|optimizer|recompute)", text
    )
    assert "gpt.py:" in text
    assert re.search(r"largest: [\d.]+ [KM]iB", text)
    assert re.search(r"(keep|recompute|no idle gap|held throughout)", text)
    opened.page.mouse.move(*opened.point(0.5, -0.3))
    tip.wait_for(state="hidden")


def test_dragging_zooms_and_the_table_follows(opened):
    before = opened.caption()
    opened.page.mouse.move(*opened.point(0.3, 0.5))
    opened.page.mouse.down()
    opened.page.mouse.move(*opened.point(0.4, 0.5), steps=3)
    opened.page.mouse.up()
    opened.drawings("zoom", 1)
    start, stop = map(int, re.search(r"positions (\d+) to (\d+)", opened.caption()).groups())
    whole = len(report(BUDGET).timeline.bytes_at)
    assert start == pytest.approx(0.3 * whole, abs=2)
    assert stop == pytest.approx(0.4 * whole, abs=2)
    opened.page.mouse.dblclick(*opened.point(0.5, 0.5))
    opened.drawings("zoom", 2)
    opened.page.click("#clear")
    assert opened.caption() == before


def test_buttons_zoom_and_move(opened):
    def span():
        return tuple(map(int, re.search(r"positions (\d+) to (\d+)", opened.caption()).groups()))

    whole = span()
    opened.page.click("#in")
    inner = span()
    assert whole[0] < inner[0] < inner[1] < whole[1]
    opened.page.click("#right")
    assert span()[0] > inner[0]
    opened.page.click("#out")
    opened.page.click("#all")
    assert span() == whole


def test_the_filter_filters_chart_and_table(opened):
    opened.page.fill("#filter", "block_1 forward")
    opened.drawings("filter", 1)
    rows = opened.rows()
    assert rows
    assert all("GPT/block_1" in row and "forward" in row for row in rows)
    assert "not matching" in opened.page.inner_text("#legend")
    opened.page.fill("#filter", "nothing like this")
    opened.drawings("filter", 2)
    assert opened.rows() == []
    opened.page.click("#clear")
    assert len(opened.rows()) > len(rows)
    assert "not matching" not in opened.page.inner_text("#legend")


def test_an_area_of_the_legend_filters(opened):
    opened.page.select_option("#by", "phase")
    opened.page.locator("#legend button", has_text="backward").click()
    assert opened.rows()
    assert all("\tbackward\t" in row for row in opened.rows())


def test_the_toggle_shows_before_and_after(opened):
    opened.page.locator("#views button").first.click()
    opened.drawings("filter", 1)
    assert opened.page.locator("#views button[aria-pressed=true]").inner_text() == (
        "without recomputation"
    )
    count = len(report(BUDGET).plain_timeline.bytes_at)
    assert f"to {count}" in opened.caption()
    opened.page.locator("#views button").last.click()
    assert f"to {len(report(BUDGET).timeline.bytes_at)}" in opened.caption()


def test_a_click_shows_what_is_held_there(opened):
    """What is held at the peak adds up to the peak."""
    opened.page.click("#peak")
    found = report(BUDGET).timeline
    match = re.search(r"held at position (\d+): ([\d.]+) MiB", opened.caption())
    assert int(match[1]) == found.peak_position
    assert float(match[2]) == pytest.approx(found.peak_bytes / 2**20, abs=0.06)
    opened.page.mouse.click(*opened.point(0.8, 0.5))
    assert f"position {match[1]}:" not in opened.caption()


def test_columns_sort(opened):
    first = opened.rows()[0]
    opened.page.locator("#heads th", has_text="bytes").click()
    assert opened.page.locator("th[aria-sort=ascending]").inner_text().startswith("bytes")
    assert opened.rows()[0] != first


def test_many_numbered_modules_are_drawn_together(browser, tmp_path):
    """40 blocks, one value each, held to the end: eight areas of five blocks."""
    count = 40
    nodes = tuple(Node(1.0, (), (i,)) for i in range(count))
    timeline = simulate(Problem(nodes, (2**20,) * count, tuple(range(count))), range(count))
    values = tuple(Holder(2**20, "v", "a.py:1 (f)", "", f"M/b_{i}/d") for i in range(count))
    shown = page.Shown(
        "many", (), None, values, ("",) * count, (), (page.View("as it is", timeline),)
    )
    made = Opened(browser, page.write(shown, tmp_path / "many.html"))
    legend = made.page.locator("#legend li").all_inner_texts()
    assert len(legend) == 8
    assert "M/b_0 to 4" in legend[-1]
    assert all("5.0 MiB" in item for item in legend)
    made.page.locator("#legend button", has_text="M/b_35 to 39").click()
    assert len(made.rows()) == 5
    assert made.complaints == []


def test_xlas_own_peak_is_a_table(opened):
    opened.page.click("#xla summary")
    rows = opened.page.locator("#xla-rows tr").all_inner_texts()
    assert rows
    total = report(BUDGET).xla.total_bytes / 2**20
    assert f"{total:.1f} MiB" in opened.page.inner_text("#xla summary")
    assert any("gpt.py" in row for row in rows)


def test_an_analysis_has_a_page_too(browser, tmp_path):
    made = Opened(browser, analysis().save_html(tmp_path / "analysis.html"))
    assert made.page.locator("#views button").count() == 1
    assert "predicted peak" in made.page.inner_text("#summary")
    assert not made.page.is_visible("#xla")
    assert made.complaints == []
