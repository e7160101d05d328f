"""Losses under a budget against plain `jax.jit`'s, over twenty steps.

Claim: they are equal within float32 rounding, for the GPT, a ResNet with batch norm, a model
with dropout and an LSTM. The GPT learns the text of the demo, the others random labels.

What rounding alone does is measured too: plain `jax.jit` from a state whose floats are all
one part in 2²³ larger, the smallest step of float32. Training amplifies both alike.

Each model gets a budget of a share of its plain footprint, or its floor where that is more.

    python -m benchmarks.losses_are_equal
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import memjax
from benchmarks import models
from benchmarks.record import write_csv
from memjax.demo import corpus, measure
from memjax.demo.gpt import gpt_task
from memjax.demo.task import Task

STEPS = 20
SHARE = 0.4
TASKS: dict[str, Callable[[], Task]] = {
    "gpt": lambda: gpt_task(vocab=corpus.VOCAB),
    "resnet": lambda: models.resnet(batch=32, size=32, channels=(16, 32, 64)),
    "dropout": lambda: models.dropout(batch=4096, features=64, width=128, layers=8),
    "lstm": lambda: models.lstm(batch=256, time=24, features=32, width=128),
}


def batches(name: str, task: Task) -> list[Any]:
    """The batches of all steps: excerpts of text for the GPT, else random."""
    if name != "gpt":
        return [task.random_batch(seed) for seed in range(STEPS)]
    rng, text = np.random.default_rng(0), corpus.standard_library_text()
    count, length = task.batch.shape
    return [jnp.asarray(corpus.random_excerpts(text, count, length, rng)) for _ in range(STEPS)]


def train(
    step: Callable[..., Any], task: Task, data: list[Any], *, nudge: bool = False
) -> list[float]:
    """The loss of every step, from the first state or from one a rounding away from it."""
    state, losses = jax.jit(task.init)(jax.random.key(0)), []
    if nudge:
        state = jax.tree.map(_nudged, state)
    for batch in data:
        state, loss = step(state, batch)
        losses.append(float(loss))
    return losses


def _nudged(leaf: jax.Array) -> jax.Array:
    is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
    return leaf * (1 + float(jnp.finfo(leaf.dtype).eps)) if is_float else leaf


def largest_difference(losses: list[float], expected: list[float]) -> float:
    """The largest relative difference of two runs."""
    return float(np.max(np.abs(np.array(losses) / np.array(expected) - 1)))


def budgeted(task: Task, plain_bytes: int) -> tuple[int, Any]:
    """A budget that can be met, and the step decorated with it."""
    budget = int(SHARE * plain_bytes)
    step = memjax.memory_budget(budget)(task.step)
    try:
        step.compiled(task.state, task.batch)
    except memjax.BudgetInfeasible:
        budget = memjax.floor(task.step, task.state, task.batch).bytes
        step = memjax.memory_budget(budget)(task.step)
    return budget, step


def compare(name: str) -> dict[str, Any]:
    """Train a model both ways."""
    task = TASKS[name]()
    data = batches(name, task)
    plain = measure.compile_plain(task.step, task.state, task.batch)
    plain_bytes = measure.footprint_bytes(plain)
    budget, step = budgeted(task, plain_bytes)
    expected = train(plain, task, data)
    nudged = train(plain, task, data, nudge=True)
    losses = train(step, task, data)
    return {
        "model": name,
        "steps": STEPS,
        "plain_bytes": plain_bytes,
        "budget_bytes": budget,
        "compiled_bytes": step.report(task.state, task.batch).compiled.total_bytes,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "plain_last_loss": expected[-1],
        "largest_relative_difference": largest_difference(losses, expected),
        "difference_of_one_rounding": largest_difference(nudged, expected),
    }


def main() -> None:
    """Compare all models and write the CSV file."""
    rows = []
    for name in TASKS:
        rows.append(compare(name))
        print(rows[-1], flush=True)
    write_csv("losses_are_equal", rows)


if __name__ == "__main__":
    main()
