"""Draw `docs/measured.svg`, the measured picture in the README, from the CSV files.

python docs/measured.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from docs.benchmark_tables import MIB, STALE, Row, read, where
from memjax.view.palette import GREY, INK, LINES

PLAIN = "plain"


def main() -> None:
    """Draw the newest result files."""
    budgets, policies = read("budgets_are_met")[-1], read("fewer_flops_than_policies")[-1]
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10, "svg.hashsalt": "memjax"})
    plt.rcParams.update({"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GREY})
    figure, axes = plt.subplots(figsize=(8, 3.9), layout="constrained")
    draw(axes, budgets, policies)
    measured_on = where(budgets, "budgets_are_met").removesuffix(STALE)
    figure.supxlabel(f"Compiled footprint of one train step, MiB\n{measured_on}", fontsize=9)
    path = Path(__file__).with_suffix(".svg")
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    print(f"wrote {path}")


def draw(axes: Any, budgets: list[Row], policies: list[Row]) -> None:
    """Bytes against recomputed FLOPs: by hand, by plan."""
    hand = [(row["variant"], *point(row)) for row in budgets if "checkpoint" in row["variant"]]
    planned = [("", *point(row)) for row in budgets if row["budget_bytes"]]
    planned += [
        ("", int(row["memjax_bytes"]) / MIB, float(row["memjax_recomputed_flops"]) / 1e9)
        for row in policies
    ]
    planned.sort(key=lambda found: found[1])
    plain = next(point(row) for row in budgets if row["variant"] == PLAIN)
    axes.plot(*plain, "s", color=GREY, markersize=9)
    axes.annotate("jax.jit", plain, xytext=(-6, 10), textcoords="offset points", ha="right")
    axes.plot(
        [x for _, x, _ in planned], [y for _, _, y in planned], "o-", color=LINES[0],
        label="memjax: a number in front of the step",
    )  # fmt: skip
    axes.plot(
        [x for _, x, _ in hand], [y for _, _, y in hand], "^", color=LINES[1], markersize=9,
        label="jax.checkpoint: policies round each block, by hand",
    )  # fmt: skip
    for name, x, y in hand:
        axes.annotate(
            name.removeprefix("checkpoint "), (x, y), xytext=(9, 4), textcoords="offset points"
        )
    axes.set(xlim=(0, None), ylim=(-0.8, 25), ylabel="GFLOP recomputed")
    axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")


def point(row: Row) -> tuple[float, float]:
    """A row's place: MiB, GFLOP by XLA's count beyond the plain step's."""
    flops = float(row["recomputed_flops_xla"] or 0)
    return int(row["compiled_bytes"]) / MIB, max(flops, 0.0) / 1e9


if __name__ == "__main__":
    main()
