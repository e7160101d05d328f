"""Write the measured numbers into `README.md`, between its markers, from the CSV files.

python docs/benchmark_tables.py
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- numbers: written by docs/benchmark_tables.py -->", "<!-- end of numbers -->"
MIB = 2**20
LOSSES = """Losses over 20 steps: the largest relative difference from plain `jax.jit`, and what
starting one rounding away from the same state makes of plain `jax.jit` itself:"""

LOOPS = """Train steps with loops (`benchmarks/loops.py`): as they are, with `jax.checkpoint` by
hand (on the body of the scan, or round a scan over chunks), and within budgets. *gpt* scans over
8 layers, *thin gpt* over 64; *lstm* has its loss on the last of 1,000 states, *lstm states*
(Flax) on all of them. An extra forward pass is the FLOPs of the plain step's forward scan, or a
third of the step's where there is none."""

PLANS = """Overhead of plans in % of the plain cost, with the budget as a share of the peak.
Checkmate, Moccasin (both at fixed order) and FastSA (free order) are *as published*, rounded by
their authors, on their machines. *Proven* is the bound that comes with our plan at fixed order.
Seconds are ours, on one core. The graphs with a seed in their names
are drawn by `benchmarks/graphs.py` like the published random ones:"""
FLOORS = """The same at fixed order with 1.15 times the bytes that one node needs for itself, below
which nothing fits:"""
PLANS_FIGURE = (
    "![Overhead against budget for the four published graphs: memjax at fixed and free order, the "
    "proven bound, and the published results.](benchmarks/results/plan_quality.png)"
)
SYSTEMS = ("Checkmate", "Moccasin", "FastSA")

Row = dict[str, str]


def read(name: str) -> list[list[Row]]:
    """The rows of each result file of a benchmark, one list a file, newest jax last."""
    paths = sorted(RESULTS.glob(f"{name}-*.csv"))
    files = [list(csv.DictReader(path.open(encoding="utf-8"))) for path in paths]
    return sorted(files, key=lambda rows: [int(part) for part in rows[0]["jax"].split(".")])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; all columns but the first to the right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return ["| " + " | ".join(line) + " |" for line in (header, rule, *rows)]


def where(rows: Sequence[Row]) -> str:
    """What a file was measured on."""
    row = rows[0]
    return (
        f"jax {row['jax']}, jaxlib {row['jaxlib']}, Python {row['python']}, "
        f"{row['device_kind']} ({row['machine']}), {row['date']}"
    )


def mib(text: str) -> str:
    """Bytes as MiB; empty stays empty."""
    return f"{int(text) / MIB:.0f}" if text else ""


def number(text: str, form: str, scale: float = 1.0) -> str:
    """A number in a form; empty stays empty."""
    written = format(float(text) * scale, form) if text else ""
    return written.removeprefix("-") if not written.strip("-0.") else written


def budgets(rows: Sequence[Row]) -> list[str]:
    """The GPT's budgets and references."""
    header = (
        "step", "compiled MiB", "predicted MiB", "recomputed GFLOP", "step time ÷ plain",
        "first call ÷ plain",
    )  # fmt: skip
    lines = (
        (
            f"**memjax, {row['variant'][:-3]} MiB**" if row["budget_bytes"] else row["variant"],
            mib(row["compiled_bytes"]),
            mib(row["predicted_bytes"]),
            number(row["recomputed_flops_xla"], ".1f", 1e-9),
            number(row["step_ratio"], ".2f"),
            number(row["first_call_ratio"], ".1f"),
        )
        for row in rows
    )
    return [where(rows), "", *table(header, lines), ""]


def losses(files: Sequence[Sequence[Row]]) -> list[str]:
    """Largest differences of losses, all versions in one table."""
    header = (
        "model, jax",
        "plain MiB",
        "budget MiB",
        "compiled MiB",
        "difference",
        "of one rounding",
    )
    lines = (
        (
            f"{row['model']}, {row['jax']}",
            number(row["plain_bytes"], ".1f", 1 / MIB),
            number(row["budget_bytes"], ".1f", 1 / MIB),
            number(row["compiled_bytes"], ".1f", 1 / MIB),
            number(row["largest_relative_difference"], ".0e"),
            number(row.get("difference_of_one_rounding", ""), ".0e"),
        )
        for rows in files
        for row in rows
    )
    return table(header, lines)


def loops(rows: Sequence[Row]) -> list[str]:
    """Steps with loops, checkpointed by hand and within budgets."""
    header = (
        "program", "variant", "compiled MiB", "temporaries MiB", "predicted MiB",
        "extra forward passes", "step time ÷ plain", "largest loss difference",
    )  # fmt: skip
    lines = (
        (
            row["program"].replace("_", " "),
            f"**{row['variant']}**" if row["budget_bytes"] else row["variant"],
            number(row["compiled_bytes"], ".1f", 1 / MIB),
            number(row["temp_bytes"], ".1f", 1 / MIB),
            number(row["predicted_bytes"], ".1f", 1 / MIB),
            number(row["extra_passes"], ".2f"),
            number(row["step_ratio"], ".2f"),
            number(row["loss_difference"], ".0e") if row["budget_bytes"] else "",
        )
        for row in rows
        if row["compiled_bytes"]
    )
    return [where(rows), "", *table(header, lines), ""]


def overheads(files: Sequence[Sequence[Row]]) -> list[str]:
    """What a call costs more."""
    header = ("arrays in the state, jax", "jax.jit µs", "memjax µs")
    lines = (
        (
            f"{row['leaves']}, {row['jax']}",
            number(row["jit_seconds"], ".1f", 1e6),
            number(row["memjax_seconds"], ".1f", 1e6),
        )
        for rows in files
        for row in rows
    )
    return table(header, lines)


def plan_rows() -> list[Row]:
    """Rows of `plan_quality`, published graphs first."""
    paths = (RESULTS / "plan_quality.csv", RESULTS / "plan_quality_generated.csv")
    return [row for path in paths for row in csv.DictReader(path.open(encoding="utf-8"))]


def plans() -> list[str]:
    """Overheads of plans, with the published ones beside them; a row a graph and budget."""
    header = (
        "graph, budget", "Checkmate", "Moccasin", "memjax, fixed", "proven", "s", "FastSA",
        "memjax, free", "s",
    )  # fmt: skip
    published: dict[tuple[str, ...], str] = {}
    with (RESULTS / "plan_quality_published.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            published[row["system"], row["graph"], row["budget"]] = row["overhead_percent"]
    pairs: dict[tuple[str, str], dict[str, Row]] = {}
    for row in plan_rows():
        pairs.setdefault((row["graph"], row["budget"]), {})[row["mode"]] = row
    lines = []
    for key, modes in pairs.items():
        theirs = [published.get((system, *key), "") for system in SYSTEMS]
        ours = [cell for mode in ("fixed", "free") for cell in plan_cells(modes.get(mode), mode)]
        label = f"{key[0]}, {float(key[1]):.0%}"
        lines.append((label, *theirs[:2], *ours[:3], theirs[2], *ours[3:]))
    return table(header, lines)


def floors() -> list[str]:
    """Plans at 1.15 times what the node that needs most holds with its operands."""
    header = ("graph", "budget", "overhead", "proven", "s")
    with (RESULTS / "plan_quality_floors.csv").open(encoding="utf-8") as file:
        lines = [
            (row["graph"], f"{float(row['budget']):.1%}", *plan_cells(row, "fixed"))
            for row in csv.DictReader(file)
        ]
    return table(header, lines)


def plan_cells(row: Row | None, mode: str) -> list[str]:
    """Overhead, bound (at fixed order) and seconds of a row; empty without one."""
    if row is None:
        return [""] * (3 if mode == "fixed" else 2)
    missed = "no plan exists" if row["bound_percent"] == "inf" else "none found"
    overhead = number(row["overhead_percent"], ".3f") if row["met"] == "True" else missed
    proven = number(row["bound_percent"], ".3f").replace("inf", "")
    bound = [proven] if mode == "fixed" else []
    return [overhead, *bound, number(row["seconds"], ".1f")]


def numbers() -> str:
    """Everything between the markers."""
    lines = [BEGIN, ""]
    for rows in read("gpt_budgets"):
        lines += budgets(rows)
    lines += [LOOPS, ""]
    for rows in read("loops"):
        lines += loops(rows)
    lines += [LOSSES, "", *losses(read("losses")), "", "A call, once compiled:", ""]
    lines += [*overheads(read("call_overhead")), "", PLANS, "", *plans(), ""]
    lines += [FLOORS, "", *floors(), "", PLANS_FIGURE, "", END]
    return "\n".join(lines)


def main() -> None:
    """Replace what is between the markers."""
    path = ROOT / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(before + numbers() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
