"""Draw `docs/how_it_works.svg`, the picture in the README.

Above, the way of a step through memjax; below, what the reference GPT's step holds over time,
plain and under a budget, by memjax's own count.

    python docs/how_it_works.py
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

import memjax
from memjax.demo.gpt import gpt_task
from memjax.plan import schedule_of_plan

BUDGET = "355MiB"
MIB = 2**20
INK, GREY, BLUE, ORANGE, RED = "#24292f", "#8c959f", "#0969da", "#fb8f44", "#cf222e"
STAGES = (
    ("train step", "yours,\nunedited"),
    ("trace", "one jaxpr:\nforward, backward,\noptimizer"),
    ("liveness", "which values\nlie idle,\nfrom when to when"),
    ("plan", "keep or recompute\neach, for the\nleast extra time"),
    ("rewrite", "the same program\nwith barriers that\nhold XLA to it"),
    ("compile", "XLA assigns\nbytes"),
)


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
    axes.text(4.5, -0.42, "over budget: plan tighter", ha="center", color=RED, fontsize=8)


def draw_timelines(axes: Any) -> None:
    """Bytes held over the seconds of the step, plain and planned."""
    task = gpt_task()
    step = memjax.memory_budget(BUDGET)(task.step)
    fitted = step._entry_of((task.state, task.batch), {}).fitted
    problem = fitted.coarse.problem
    plain_order = list(range(len(problem.nodes)))
    order = list(schedule_of_plan(fitted.coarse, fitted.chosen.plan))
    whole = sum(node.cost for node in problem.nodes)
    draw_timeline(axes, problem, plain_order, whole, GREY, "plain step, in the order of its jaxpr")
    ends, held = draw_timeline(
        axes, problem, order, whole, BLUE, f"under a budget of {BUDGET[:-3]} MiB"
    )
    shade_recomputation(axes, order, ends, held)
    budget = int(BUDGET.removesuffix("MiB"))
    axes.axhline(budget, color=RED, linewidth=1, linestyle="--")
    axes.text(0.3, budget + 8, f"budget {budget} MiB", color=RED)
    axes.set(xlim=(0, ends[-1]), ylim=(0, None))
    axes.set(xlabel="predicted time, % of the plain step", ylabel="MiB held, by memjax's count")
    axes.legend(loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw_timeline(
    axes: Any, problem: Any, order: list[int], whole: float, color: str, label: str
) -> tuple[list[float], list[float]]:
    """Draw one schedule; the end of each position in % of the plain step, and MiB held."""
    ends = [100 * t / whole for t in accumulate(problem.nodes[node].cost for node in order)]
    held = [count / MIB for count in memjax.simulate(problem, order).bytes_at]
    axes.plot(ends, held, color=color, linewidth=1.3, label=label)
    axes.fill_between(ends, held, color=color, alpha=0.12, linewidth=0)
    return ends, held


def shade_recomputation(axes: Any, order: list[int], ends: list[float], held: list[float]) -> None:
    """Mark the positions that run a node for the second time."""
    seen: set[int] = set()
    again = [node in seen or seen.add(node) is not None for node in order]
    axes.fill_between(
        ends, held, where=again, color=ORANGE, alpha=0.6, linewidth=0, label="recomputing"
    )


if __name__ == "__main__":
    main()
