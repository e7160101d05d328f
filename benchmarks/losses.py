"""Losses under a budget against plain `jax.jit`'s, over twenty steps.

Claim: they are equal within float32 rounding, for the GPT, a ResNet with batch norm, a model
with dropout and an LSTM. The GPT learns the text of the demo, the others random labels.

Each model gets a budget of a share of its plain footprint, or its floor where that is more.

    python -m benchmarks.losses
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


def train(step: Callable[..., Any], task: Task, data: list[Any]) -> tuple[Any, list[float]]:
    """The last state and the loss of every step."""
    state, losses = jax.jit(task.init)(jax.random.key(0)), []
    for batch in data:
        state, loss = step(state, batch)
        losses.append(float(loss))
    return state, losses


def budgeted(task: Task, plain_bytes: int) -> tuple[int, Any]:
    """A budget that can be met, and the step decorated with it."""
    budget = int(SHARE * plain_bytes)
    step = memjax.memory_budget(budget)(task.step)
    try:
        step.compiled(task.state, task.batch)
    except memjax.BudgetInfeasible as error:
        budget = error.floor_bytes
        step = memjax.memory_budget(budget)(task.step)
    return budget, step


def compare(name: str) -> dict[str, Any]:
    """Train a model both ways."""
    task = TASKS[name]()
    data = batches(name, task)
    plain = measure.compile_plain(task.step, task.state, task.batch)
    plain_bytes = measure.footprint_bytes(plain)
    budget, step = budgeted(task, plain_bytes)
    _, expected = train(plain, task, data)
    _, losses = train(step, task, data)
    return {
        "model": name,
        "steps": STEPS,
        "plain_bytes": plain_bytes,
        "budget_bytes": budget,
        "compiled_bytes": step.report(task.state, task.batch).compiled.total_bytes,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "plain_last_loss": expected[-1],
        "largest_relative_difference": float(
            np.max(np.abs(np.array(losses) / np.array(expected) - 1))
        ),
    }


def main() -> None:
    """Compare all models and write the CSV file."""
    rows = []
    for name in TASKS:
        rows.append(compare(name))
        print(rows[-1], flush=True)
    write_csv("losses", rows)


if __name__ == "__main__":
    main()
