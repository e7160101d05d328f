"""First drawing, zooms, filters and hovers of the HTML page, in a browser without a window.

    python -m benchmarks.pages_stay_quick [--layers 100] [--shot page.png]

Two pages: a plan for a GPT of some 50,000 eqns at half of its predicted peak, planned but not
compiled, of which a quarter store something and so are positions; and a made-up chain with
50,000 positions. Needs playwright and a Chromium, its own or one on PATH.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.planning_is_near_linear import priced_of
from benchmarks.record import write_csv
from memjax.demo.gpt import gpt_task
from memjax.planning.planners import get_planner
from memjax.planning.problem import Node, Problem
from memjax.planning.simulate import simulate
from memjax.pricing.holders import Holder, Ledger
from memjax.program.trace import trace
from memjax.view.page import Shown, View, write

LAYERS = 100
POSITIONS = 50_000
ZOOMS = 20


def planned(layers: int) -> tuple[Shown, int]:
    """What the page shows of a plan for a GPT, and how many eqns the step has."""
    task = gpt_task(layers=layers, width=64, heads=2, tokens=32, batch=4, vocab=256)
    program = trace(task.step, (task.state, task.batch))
    priced = priced_of(program)
    order = priced.problem.identity
    plain = simulate(priced.problem, order)
    budget_bytes = plain.peak_bytes // 2
    solution = get_planner("auto").solve(priced.problem, budget_bytes)
    ledger = Ledger(priced, ())
    shown = Shown(
        name=program.name,
        summary=(("eqns", f"{len(program.eqns):,}"),),
        budget_bytes=budget_bytes,
        values=ledger.values,
        decisions=("keep",) * len(ledger.values),
        throughout=ledger.throughout,
        views=(
            View("without recomputation", ledger.timeline(order)),
            View("as planned", ledger.timeline(solution.order)),
        ),
    )
    return shown, len(program.eqns)


def chain(length: int) -> Shown:
    """A forward chain and its backward chain, `length` positions in all, in 50 modules."""
    half = length // 2
    forward = [Node(1.0, (i - 1,) if i else (), (i,)) for i in range(half)]
    backward = [
        Node(1.0, (i - 1, length - 1 - i) if i > half else (length - 1 - i,), (i,))
        for i in range(half, length)
    ]
    problem = Problem((*forward, *backward), (1 << 20,) * length, (length - 1,))
    phases = ("forward",) * half + ("backward",) * half
    values = tuple(
        Holder(
            bytes=1 << 20,
            what=f"dot_general float32[512,{i % 97}]",
            source=f"model.py:{i % 211} (apply)",
            name_stack="",
            module=f"Net/block_{min(i, length - 1 - i) * 50 // half}/Dense_{i % 4}",
            phase=phase,
        )
        for i, phase in enumerate(phases)
    )
    timeline = replace(simulate(problem, range(length)), phases=phases)
    views = (View("a", timeline), View("b", timeline))
    return Shown("chain", (), None, values, ("keep",) * length, (), views)


def measure(path: Path, shot: Path | None) -> dict[str, Any]:
    """Seconds in the browser."""
    from playwright.sync_api import sync_playwright

    own = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        start = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_function("window.memjaxTimings && memjaxTimings.first !== null")
        loaded = time.perf_counter() - start
        box = page.locator(".u-over").bounding_box()
        assert box is not None
        for index in range(ZOOMS):
            page.click("#all")
            x = box["x"] + box["width"] * (0.05 + 0.9 * index / ZOOMS)
            page.mouse.move(x, box["y"] + box["height"] / 2)
            page.mouse.down()
            page.mouse.move(x + 40, box["y"] + box["height"] / 2)
            page.mouse.up()
        for query in ("block_7", "backward", ""):
            before = page.evaluate("memjaxTimings.filter.length")
            page.fill("#filter", query)
            page.wait_for_function(f"memjaxTimings.filter.length > {before}")
        if shot is not None:
            page.click("#all")
            page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.6)
            page.screenshot(path=shot)
        times = page.evaluate("memjaxTimings")
        browser.close()
    zooms, filters = times["zoom"], times["filter"]
    return {
        "load_seconds": loaded,
        "first_drawing_seconds": times["first"] / 1000,
        "zooms": len(zooms),
        "zoom_median_seconds": statistics.median(zooms) / 1000,
        "zoom_worst_seconds": max(zooms) / 1000,
        "filter_median_seconds": statistics.median(filters) / 1000,
        "filter_worst_seconds": max(filters) / 1000,
    }


def main() -> None:
    """Plan, write the page, open it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--shot", type=Path, help="where to save a screenshot")
    arguments = parser.parse_args()
    shown, eqns = planned(arguments.layers)
    pages = (("gpt", shown, eqns, arguments.shot), ("chain", chain(POSITIONS), POSITIONS, None))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, shown, eqns, shot in pages:
            start = time.perf_counter()
            path = write(shown, Path(folder) / f"{name}.html")
            row = {
                "page": name,
                "eqns": eqns,
                "positions": len(shown.views[-1].timeline.bytes_at),
                "write_seconds": time.perf_counter() - start,
                "page_bytes": path.stat().st_size,
                **measure(path, shot),
            }
            print(row)
            rows.append(row)
    write_csv("pages_stay_quick", rows)


if __name__ == "__main__":
    main()
