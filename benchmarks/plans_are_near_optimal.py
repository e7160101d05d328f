"""Overhead of plans on graphs, against what is proven and what is published.

    python benchmarks/plans_are_near_optimal.py --graphs DIR --budgets 0.9 0.8 0.7 0.5 \
        [--planner NAME] [--modes fixed free] [--csv OUT] \
        [--figure OUT --published CSV]

A row for each graph in DIR (`*.json`), budget (a share of the peak in the given order) and
mode: `fixed` order of first runs, or `free`. `--generate N SEED` adds seeded graphs of N
nodes. `--floors 1.15` adds budgets of so many times what the node that needs most holds with
its operands, below which nothing fits.

Each plan is made in a process of its own, with nothing imported or compiled before: `seconds`
is what a user waits, and `planner_bytes` is how far the process grew meanwhile.
`peak` and `overhead_percent` are the simulator's, which shares no code with the planners.
`bound_percent` is proven for the row's mode.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

PLANNER_OF_FREE_ORDER = "reorder"


@dataclass(frozen=True)
class Row:
    """One plan; see the module."""

    graph: str
    nodes: int
    budget: float
    mode: str
    planner: str
    met: bool
    peak: int
    overhead_percent: float
    bound_percent: float
    seconds: float
    planner_bytes: int


def measure(problem: Any, budget: float, mode: str, planner: str) -> Row:
    """Plan and judge one row, in this process."""
    from memjax.planning.planners import get_planner
    from memjax.planning.simulate import simulate

    limit = int(budget * simulate(problem, problem.identity).peak_bytes)
    chosen = get_planner(PLANNER_OF_FREE_ORDER if mode == "free" else planner)
    before, start = _resident_bytes(), time.perf_counter()
    solution = chosen.solve(problem, limit)
    seconds, after = time.perf_counter() - start, _resident_bytes()
    timeline = simulate(problem, solution)
    bound = solution.bound_cost if solution.bound_cost is not None else 0.0
    return Row(
        graph=problem.name,
        nodes=len(problem.nodes),
        budget=budget,
        mode=mode,
        planner=chosen.name,
        met=timeline.peak_bytes <= limit,
        peak=timeline.peak_bytes,
        overhead_percent=round(100 * timeline.overhead, 4),
        bound_percent=round(100 * max(0.0, bound / problem.total_cost - 1), 4),
        seconds=round(seconds, 3),
        planner_bytes=max(0, after - before),
    )


def _resident_bytes() -> int:
    """The most that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _budgets(problem: Any, budgets: Sequence[float], floors: Sequence[float]) -> list[float]:
    """Shares of the peak: those given, and multiples of the single-node floor, rounded up."""
    from memjax.planning.simulate import simulate

    peak_bytes = simulate(problem, problem.identity).peak_bytes
    floor = problem.single_node_floor_bytes / peak_bytes
    return [*budgets, *(math.ceil(10_000 * factor * floor) / 10_000 for factor in floors)]


def measure_all(
    graphs: Iterable[tuple[Any, Sequence[float]]], modes: Sequence[str], planner: str
) -> list[Row]:
    """All rows, each from a fresh process, printed as they come."""
    context = multiprocessing.get_context("spawn")
    rows = []
    print(" ".join(f"{f.name:>17}" for f in fields(Row)))
    for problem, budgets in graphs:
        for budget in budgets:
            for mode in modes:
                with context.Pool(1) as pool:
                    row = pool.apply(measure, (problem, budget, mode, planner))
                rows.append(row)
                print(" ".join(f"{value!s:>17.17}" for value in asdict(row).values()), flush=True)
    return rows


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """The rows with a header."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def draw(rows: Sequence[Row], published: Sequence[dict[str, str]], path: Path) -> None:
    """A panel for each graph: overhead against budget, ours, proven and published."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    graphs = list(dict.fromkeys(row.graph for row in rows))
    figure, axes = pyplot.subplots(
        1, len(graphs), figsize=(4.2 * len(graphs), 3.8), squeeze=False, layout="constrained"
    )
    for axis, graph in zip(axes[0], graphs, strict=True):
        _panel(
            axis,
            [r for r in rows if r.graph == graph],
            [p for p in published if p["graph"] == graph],
        )
        axis.set_title(graph)
    axes[0][0].set_ylabel("overhead (% of the plain cost)")
    handles = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)


def _panel(axis: Any, rows: Sequence[Row], published: Sequence[dict[str, str]]) -> None:
    for mode, colour in (("fixed", "tab:blue"), ("free", "tab:green")):
        met = sorted((100 * r.budget, r.overhead_percent) for r in rows if r.mode == mode and r.met)
        axis.plot(
            *zip(*met, strict=True) if met else ([], []),
            "o-",
            color=colour,
            label=f"memjax, {mode} order",
        )
    proven = sorted(
        {
            (100 * r.budget, r.bound_percent)
            for r in rows
            if r.mode == "fixed" and r.bound_percent < float("inf")
        }
    )
    axis.plot(
        *zip(*proven, strict=True) if proven else ([], []),
        ":",
        color="tab:blue",
        label="proven bound, fixed order",
    )
    marks = {"Checkmate": "s", "Moccasin": "^", "FastSA": "v"}
    for system, mark in marks.items():
        points = [
            (100 * float(p["budget"]), float(p["overhead_percent"]))
            for p in published
            if p["system"] == system and p["overhead_percent"]
        ]
        if points:
            axis.plot(
                *zip(*points, strict=True),
                mark,
                mfc="none",
                color="black",
                label=f"{system} (published)",
            )
    axis.set_xlabel("budget (% of the peak)")
    axis.invert_xaxis()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--graphs", type=Path, help="a directory of published graphs")
    parser.add_argument(
        "--generate",
        nargs=2,
        type=int,
        action="append",
        default=[],
        metavar=("NODES", "SEED"),
        help="a random layered graph; repeatable",
    )
    parser.add_argument("--budgets", nargs="*", type=float, default=[0.9, 0.8, 0.7, 0.5])
    parser.add_argument(
        "--floors", nargs="+", type=float, default=[], help="multiples of the single-node floor"
    )
    parser.add_argument("--planner", default="auto", help="of the rows at fixed order")
    parser.add_argument("--modes", nargs="+", choices=("fixed", "free"), default=["fixed", "free"])
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--published", type=Path, help="a CSV of published overheads")
    options = parser.parse_args(arguments)
    if options.planner == PLANNER_OF_FREE_ORDER:
        options.modes = ["free"]
    graphs = [(p, _budgets(p, options.budgets, options.floors)) for p in _problems(options)]
    rows = measure_all(graphs, options.modes, options.planner)
    if options.csv:
        write_csv(rows, options.csv)
    if options.figure:
        published: list[dict[str, str]] = []
        if options.published:
            with options.published.open(newline="") as file:
                published = list(csv.DictReader(file))
        draw(rows, published, options.figure)


def _problems(options: argparse.Namespace) -> list[Any]:
    from memjax.planning.problem import Problem

    problems = []
    if options.graphs:
        paths = sorted(options.graphs.glob("*.json"))
        problems += [Problem.from_json(path) for path in paths]
    if options.generate:
        from graphs import random_layered  # beside this file

        problems += [random_layered(nodes, seed) for nodes, seed in options.generate]
    if not problems:
        raise SystemExit("no graphs: give --graphs DIR with *.json in it, or --generate")
    return problems


if __name__ == "__main__":
    main()
