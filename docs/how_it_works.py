"""Draw `docs/how_it_works.svg`, the picture in the README.

Above, the way of a step through memjax; below, what the reference GPT's step holds over time,
plain and under a budget, by memjax's own count.

    python docs/how_it_works.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

import memjax
from memjax.demo.gpt import gpt_task

BUDGET = "355MiB"
MIB = 2**20
INK, GREY, BLUE, ORANGE, RED = "#24292f", "#8c959f", "#0969da", "#fb8f44", "#cf222e"
STAGES = (
    ("train step", "yours,\nunedited"),
    ("program", "one jaxpr:\nforward, backward,\noptimizer"),
    ("pricing", "which values\nlie idle,\nfrom when to when"),
    ("planning", "keep or recompute\neach, for the\nleast extra time"),
    ("emit", "the same program\nwith barriers that\nhold XLA to it"),
    ("xla", "assigns bytes,\nwhich are read"),
)
"""The step, and the folders of `memjax/` that it goes through. `fitting` is the way back."""


def main() -> None:
    """Plan, draw, save."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "memjax"})
    plt.rcParams.update({"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GREY})
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(9, 5.6), height_ratios=(1, 2.6), layout="constrained"
    )
    draw_stages(top)
    draw_timelines(bottom)
    path = Path(__file__).with_suffix(".svg")
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    print(f"wrote {path}")


def draw_stages(axes: Any) -> None:
    """Boxes from left to right, and the loop back from the compiler to the planner."""
    axes.set(xlim=(0, len(STAGES)), ylim=(-0.55, 1))
    axes.axis("off")
    for index, (name, text) in enumerate(STAGES):
        box = {"boxstyle": "round,pad=0.35", "facecolor": "#f6f8fa", "edgecolor": GREY}
        axes.text(index + 0.5, 0.85, name, ha="center", va="center", weight="bold", bbox=box)
        axes.text(index + 0.5, 0.5, text, ha="center", va="top", fontsize=8)
        if index:
            arrow = {"arrowstyle": "-|>", "color": GREY}
            axes.annotate("", (index + 0.08, 0.85), (index - 0.08, 0.85), arrowprops=arrow)
    back = {"arrowstyle": "-|>", "color": RED, "connectionstyle": "bar,fraction=-0.06"}
    axes.annotate("", (3.5, -0.3), (5.5, -0.3), arrowprops=back)
    axes.text(4.5, -0.42, "fitting: over budget, plan tighter", ha="center", color=RED, fontsize=8)


def draw_timelines(axes: Any) -> None:
    """Bytes held at each position of the schedule, plain and planned."""
    task = gpt_task()
    plain = memjax.analyze(task.step, task.state, task.batch).timeline
    report = memjax.memory_budget(BUDGET)(task.step).report(task.state, task.batch)
    budget, held = report.budget_bytes / MIB, in_mib(report.timeline)
    draw_timeline(axes, in_mib(plain), GREY, "plain step, in the order of its jaxpr")
    draw_timeline(axes, held, BLUE, f"under a budget of {budget:.0f} MiB")
    axes.fill_between(
        range(len(held)), held, where=report.recomputing, color=ORANGE, alpha=0.6, linewidth=0,
        step="mid", label="recomputing",
    )  # fmt: skip
    axes.axhline(budget, color=RED, linewidth=1, linestyle="--")
    axes.text(3, budget + 8, f"budget {budget:.0f} MiB", color=RED)
    axes.set(xlim=(0, len(held)), ylim=(0, None))
    axes.set(xlabel="position in the schedule", ylabel="MiB held, by memjax's count")
    axes.legend(loc="upper right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def in_mib(timeline: memjax.Timeline) -> list[float]:
    """What is held at each position, in MiB."""
    return [count / MIB for count in timeline.bytes_at]


def draw_timeline(axes: Any, held: list[float], color: str, label: str) -> None:
    """Draw one schedule."""
    axes.plot(held, color=color, linewidth=1.3, label=label)
    axes.fill_between(range(len(held)), held, color=color, alpha=0.12, linewidth=0)


if __name__ == "__main__":
    main()
