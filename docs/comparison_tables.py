"""Write the tables of `docs/comparison.md` from the files in `benchmarks/results`."""

from __future__ import annotations

import csv
from pathlib import Path

from docs.benchmark_tables import RESULTS, policies, table

SYSTEMS = ("Checkmate", "Moccasin", "FastSA")
Row = dict[str, str]


def graphs() -> str:
    """Overheads on published graphs: as published, and by memjax's planners."""
    published = _rows(RESULTS / "plans_are_near_optimal_published.csv")
    ours = _rows(RESULTS / "plans_are_near_optimal.csv")
    keys = dict.fromkeys((row["graph"], row["budget"]) for row in published)
    header = (
        "graph", "budget", *(f"{name}, published" for name in SYSTEMS),
        "memjax", "memjax, free order",
    )  # fmt: skip
    lines = [
        (
            graph,
            f"{100 * float(budget):.0f} %",
            *(_published(published, graph, budget, system) for system in SYSTEMS),
            _measured(ours, graph, budget, "fixed"),
            _measured(ours, graph, budget, "free"),
        )
        for graph, budget in keys
    ]
    return "\n".join(table(header, lines))


def _rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _published(rows: list[Row], graph: str, budget: str, system: str) -> str:
    for row in rows:
        if (row["graph"], row["budget"], row["system"]) == (graph, budget, system):
            if not row["overhead_percent"]:
                return row["seconds"]
            return f"{row['overhead_percent']} % in {row['seconds']} s"
    return ""


def _measured(rows: list[Row], graph: str, budget: str, mode: str) -> str:
    for row in rows:
        if (row["graph"], row["budget"], row["mode"]) == (graph, budget, mode):
            if row["met"] != "True":
                return "not met"
            return f"{float(row['overhead_percent']):.3f} % in {float(row['seconds']):.1f} s"
    return ""


def write(folder: Path) -> None:
    """Write each table into a file of its own, to be included."""
    folder.mkdir(exist_ok=True)
    for name, make in {"graphs": graphs, "policies": lambda: "\n".join(policies())}.items():
        (folder / f"{name}.md").write_text(make() + "\n", encoding="utf-8")
