"""Write the measured numbers into `README.md`, between its markers, from the CSV files.

python docs/readme_numbers.py
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- numbers: written by docs/readme_numbers.py -->", "<!-- end of numbers -->"
MIB = 2**20
LOSSES = """Losses over 20 steps: the largest relative difference from plain `jax.jit`, and what
starting one rounding away from the same state makes of plain `jax.jit` itself:"""

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


def numbers() -> str:
    """Everything between the markers."""
    lines = [BEGIN, ""]
    for rows in read("gpt_budgets"):
        lines += budgets(rows)
    lines += [LOSSES, "", *losses(read("losses")), "", "A call, once compiled:", ""]
    lines += [*overheads(read("call_overhead")), "", END]
    return "\n".join(lines)


def main() -> None:
    """Replace what is between the markers."""
    path = ROOT / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(before + numbers() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
