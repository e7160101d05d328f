"""Write `docs/benchmarks.md` and the table of `README.md` from the files in `benchmarks/results`.

python -m docs.benchmark_tables

A result whose code has changed since it was made is marked (`benchmarks/provenance.py` says what
its code is).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import provenance

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- table: written by docs/benchmark_tables.py -->", "<!-- end of table -->"
STALE = " · *the code has changed since*"
MIB = 2**20
INTRODUCTION = """# Benchmarks

What memjax was measured to do, on what, and how to measure it again. This page is written by
`python -m docs.benchmark_tables` from the files in `benchmarks/results/`, which say for every row
the versions, the device and the commit."""
BUDGETS = """## Budgets on a GPT

`python -m benchmarks.budgets_are_met`: GPT-2 style, Flax, 8 unrolled layers, width 256, 8 heads,
256 tokens, batch 8, vocabulary 4096, AdamW, float32; the state is donated everywhere. *checkpoint*
is `jax.checkpoint` round each block, keeping all matmuls (*dots*), those without batch dimensions
(*nobatch*), or nothing (*full*); on CPU with jax before 0.12 compiled with an option without which
it would save nothing. Step times are medians of interleaved runs; FLOPs are XLA's own count beyond
the plain step's. *floor* is the smallest budget that works."""
POLICIES = """## At the bytes of a policy

`python -m benchmarks.fewer_flops_than_policies`: the same model, with the compiled bytes of each
policy of `jax.checkpoint` as the budget."""
LOOPS = """## Loops

`python -m benchmarks.loops_beat_hand_checkpointing`: train steps with loops as they are, with
`jax.checkpoint` by hand (on the body of the scan, or round a scan over chunks), and within budgets.
*gpt* scans over 8 layers, *thin gpt* over 64; *lstm* has its loss on the last of 1,000 states,
*lstm states* (Flax) on all of them. An extra forward pass is the FLOPs of the plain step's forward
scan, or a third of the step's where there is none."""
PLANNING = """## Time to plan and compile

`python -m benchmarks.planning_keeps_to_compile_time`: seconds over those that XLA takes to compile
the plain step, donated alike. A budget between the floor and plain, the floor, and a refusal;
*within* says whether that is at most 3 c + 2 s (a budget) or 8 c (the others) for c up to 5 s, and
2 c or 4 c beyond."""
LOSSES = """## Equal losses

`python -m benchmarks.losses_are_equal`: over 20 steps the largest relative difference from plain
`jax.jit`, and what starting one rounding away from the same state makes of plain `jax.jit`
itself."""
CALLS = """## A call, once compiled

`python -m benchmarks.calls_add_microseconds`."""
FUZZ = """## Random programs

`python -m benchmarks.fuzz`: train steps drawn at random, each under some ten budgets against plain
`jax.jit` in float64. *Failed* are those that break any promise."""
PLANS = """## Plans of graphs

`python -m benchmarks.plans_are_near_optimal`: overhead in % of the plain cost, with the budget as a
share of the peak. Checkmate, Moccasin (both at fixed order) and FastSA (free order) are *as
published*, rounded by their authors, on their machines. *Proven* is the bound that comes with our
plan at fixed order. Seconds are ours, on one core. The graphs with a seed in their names are drawn
by `benchmarks/graphs.py` like the published random ones."""
FLOORS = """The same at fixed order with 1.15 times the bytes that one node needs for itself, below
which nothing fits:"""
PLANS_FIGURE = (
    "![Overhead against budget for the four published graphs: memjax at fixed and free order, the "
    "proven bound, and the published results.](../benchmarks/results/plans_are_near_optimal.png)"
)
MADE_BY = {"peaks_have_lines_times": "peaks_have_lines", "budgets_are_met_gpt2": "budgets_are_met"}
"""The module of a result that is not called like it."""
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


def where(rows: Sequence[Row], module: str) -> str:
    """What a file was measured on, and whether by the code of today.

    Args:
        rows: of the file.
        module: of `benchmarks`, that made it.
    """
    row = rows[0]
    commit = f", commit {row['commit']}" if row.get("commit") else ""
    return (
        f"jax {row['jax']}, jaxlib {row['jaxlib']}, Python {row['python']}, "
        f"{row['device_kind']} ({row['machine']}), {row['date']}{commit}"
        f"{'' if provenance.is_current(row, module) else STALE}"
    )


def stale() -> list[str]:
    """The result files whose code has changed since they were made."""
    found = []
    for path in sorted(RESULTS.glob("*-*-jax*.csv")):
        module = MADE_BY.get(name := path.stem.split("-")[0], name)
        row = next(csv.DictReader(path.open(encoding="utf-8")))
        if not provenance.is_current(row, module):
            found.append(path.name)
    return found


def each(files: Sequence[Sequence[Row]], module: str) -> list[str]:
    """What several files were measured on, a line a file."""
    return [f"- {where(rows, module)}" for rows in files]


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
    return [where(rows, "budgets_are_met"), "", *table(header, lines), ""]


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


def policies() -> list[str]:
    """At the compiled bytes of each policy of `jax.checkpoint`: what is recomputed."""
    header = (
        "policy", "its MiB", "its GFLOP", "memjax's MiB", "memjax's GFLOP", "memjax ÷ policy",
    )  # fmt: skip
    parts: list[str] = []
    for rows in read("fewer_flops_than_policies"):
        lines = [
            (
                row["policy"],
                f"{int(row['policy_bytes']) / MIB:.0f}",
                f"{float(row['policy_recomputed_flops']) / 1e9:.1f}",
                f"{int(row['memjax_bytes']) / MIB:.0f}",
                f"{float(row['memjax_recomputed_flops']) / 1e9:.1f}",
                f"{float(row['flops_ratio']):.2f}",
            )
            for row in rows
        ]
        parts += [where(rows, "fewer_flops_than_policies"), "", *table(header, lines), ""]
    return parts


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
    return [where(rows, "loops_beat_hand_checkpointing"), "", *table(header, lines), ""]


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
    """Rows of `plans_are_near_optimal`, published graphs first."""
    paths = (
        RESULTS / "plans_are_near_optimal.csv",
        RESULTS / "plans_are_near_optimal_generated.csv",
    )
    return [row for path in paths for row in csv.DictReader(path.open(encoding="utf-8"))]


def plans() -> list[str]:
    """Overheads of plans, with the published ones beside them; a row a graph and budget."""
    header = (
        "graph, budget", "Checkmate", "Moccasin", "memjax, fixed", "proven", "s", "FastSA",
        "memjax, free", "s",
    )  # fmt: skip
    published: dict[tuple[str, ...], str] = {}
    with (RESULTS / "plans_are_near_optimal_published.csv").open(encoding="utf-8") as file:
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
    with (RESULTS / "plans_are_near_optimal_floors.csv").open(encoding="utf-8") as file:
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


def planning_times(rows: Sequence[Row]) -> list[str]:
    """How long planning and compiling takes, by model and question."""
    header = ("step", "asked for", "plain compiles in s", "÷ plain", "compilations", "within")
    lines = (
        (
            row["model"].replace("_", " "),
            row["what"],
            number(row["compile_seconds"], ".1f"),
            number(row["ratio"], ".1f"),
            row["compilations"],
            "yes" if row["within"] == "True" else "**no**",
        )
        for row in rows
    )
    return [where(rows, "planning_keeps_to_compile_time"), "", *table(header, lines), ""]


def fuzzed(files: Sequence[Sequence[Row]]) -> list[str]:
    """How many random programs failed."""
    header = ("jax", "programs", "of today's code", "failed", "seconds a program")
    columns = ("jax", "programs", "of_this_code", "failed", "seconds_a_program")
    return table(header, [[rows[0][column] for column in columns] for rows in files])


def demo() -> str:
    """The table of the README: what `memjax demo` prints, on the newest jax it was run with."""
    header = (
        "train step", "compiled MiB", "resident MiB", "step s", "first loss", "last loss"
    )  # fmt: skip
    rows = read("demo")[-1]
    lines = [
        (
            row["name"],
            number(row["compiled_bytes"], ".1f", 1 / MIB),
            number(row["resident_bytes"], ".1f", 1 / MIB),
            number(row["step_seconds"], ".2f"),
            number(row["first_loss"], ".4f"),
            number(row["last_loss"], ".4f"),
        )
        for row in rows
    ]
    return "\n".join([BEGIN, "", where(rows, "demo"), "", *table(header, lines), "", END])


def page() -> str:
    """The whole of `docs/benchmarks.md`."""
    lines = [INTRODUCTION, "", BUDGETS, ""]
    for rows in read("budgets_are_met"):
        lines += budgets(rows)
    lines += [POLICIES, "", *policies(), LOOPS, ""]
    for rows in read("loops_beat_hand_checkpointing"):
        lines += loops(rows)
    lines += [PLANNING, ""]
    for rows in read("planning_keeps_to_compile_time"):
        lines += planning_times(rows)
    for text, module, make in (
        (LOSSES, "losses_are_equal", losses),
        (CALLS, "calls_add_microseconds", overheads),
        (FUZZ, "fuzz", fuzzed),
    ):
        files = read(module)
        if files:
            lines += [text, "", *each(files, module), "", *make(files), ""]
    lines += [PLANS, "", *plans(), "", FLOORS, "", *floors(), "", PLANS_FIGURE]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page, and what is between the markers of the README."""
    (ROOT / "docs" / "benchmarks.md").write_text(page(), encoding="utf-8")
    path = ROOT / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    path.write_text(before + demo() + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
