"""What a call of a decorated step costs more than a call of `jax.jit`, once compiled.

Claim: less than 20 µs on a trivial step. Measured by turns, in blocks of calls whose results
feed the next call; the median over the blocks.

    python -m benchmarks.calls_add_microseconds
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import memjax
from benchmarks.record import write_csv

CALLS = 500
BLOCKS = 41
LEAVES = (1, 10, 100)
"""Arrays in the state. The trivial step has one; a GPT's state has hundreds."""


def trivial_step(state: Any, batch: jax.Array) -> tuple[Any, jax.Array]:
    """As little as a train step can do."""
    return jax.tree.map(lambda leaf: leaf + jnp.mean(batch), state), jnp.mean(batch)


def seconds_a_call(step: Callable[..., Any], state: Any, batch: jax.Array) -> tuple[float, Any]:
    """Mean seconds of a call in a block of calls, and the last state."""
    start = time.perf_counter()
    for _ in range(CALLS):
        state, _ = step(state, batch)
    jax.block_until_ready(state)
    return (time.perf_counter() - start) / CALLS, state


def measure(leaves: int) -> dict[str, float | int]:
    """Medians for a state of so many arrays."""
    batch = jnp.ones((8,))
    steps = {
        "jit_seconds": jax.jit(trivial_step, donate_argnums=0),
        "memjax_seconds": memjax.memory_budget("1GB")(trivial_step),
    }
    states = {name: [jnp.full((4,), float(i)) for i in range(leaves)] for name in steps}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(BLOCKS):
        for name, step in steps.items():
            took, states[name] = seconds_a_call(step, states[name], batch)
            seconds[name].append(took)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    overhead = medians["memjax_seconds"] - medians["jit_seconds"]
    return {"leaves": leaves, **medians, "overhead_seconds": overhead}


def main() -> None:
    """Measure and write the CSV file."""
    rows = [measure(leaves) for leaves in LEAVES]
    for row in rows:
        print(row)
    write_csv("calls_add_microseconds", rows)


if __name__ == "__main__":
    main()
