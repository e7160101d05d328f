"""Planning and compiling against XLA's own compile time, over all models of this folder.

Claims that these numbers could refute, for a step that XLA compiles in `c` seconds (the plain
one, donated as memjax does):

1. `memory_budget` at a budget between the floor and the plain footprint takes at most 3 c + 2 s
   where c is below 5 s, else 2 c;
2. `floor` and a refusal take at most 8 c + 2 s, else 4 c;
3. a budget below the bytes of the arguments takes at most 8 c + 2 s, and plans nothing.

Plain compilations stand before and after the others in the same process, without JAX's caches;
c is their median. One run of each, so single ratios are noisy; the machine should be quiet.

    python -m benchmarks.planning_keeps_to_compile_time [NAME ...]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

import memjax
from benchmarks import loop_models, models
from benchmarks.record import write_csv
from memjax.demo.gpt import gpt_task
from memjax.demo.task import Task
from memjax.fitting import stated
from memjax.fitting.budgeted import loop_for
from memjax.fitting.fit import find_floor, fit

SLOW_SECONDS = 5.0  # of compiling, from which on the claims are those for slow compilations
SMALL, LARGE = {"fit": 3, "floor": 8, "refusal": 8, "hopeless": 8}, {"fit": 2, "floor": 4}
GRACE_SECONDS = 2.0  # for small steps


def tasks() -> Iterator[tuple[str, Callable[[], Task]]]:
    """All models, by name."""
    for name in ("mlp", "dropout", "equinox_mlp", "nnx_mlp", "lstm", "resnet"):
        yield name, getattr(models, name)
    for layers in (2, 4, 8):
        yield f"gpt_{layers}", lambda layers=layers: gpt_task(layers=layers)
    yield "gpt_scanned", lambda: gpt_task(lengths=(8,))
    yield "gpt_accumulating", lambda: loop_models.accumulating_gpt(4)
    yield "gpt_thin", lambda: loop_models.scanned_gpt(loop_models.THIN)
    yield "lstm_last", lambda: loop_models.lstm(1000)
    yield "lstm_states", lambda: loop_models.lstm_states(1000)
    yield "neural_ode", loop_models.neural_ode


def compile_seconds(task: Task) -> float:
    """Of the plain step, traced anew."""
    jax.clear_caches()
    start = time.perf_counter()
    jax.jit(task.step, donate_argnums=0).lower(task.state, task.batch).compile()
    return time.perf_counter() - start


def timed(task: Task, run: Callable[[Any], Any]) -> tuple[float, Any, Any]:
    """Seconds of a function of a fresh closed loop, tracing included; the loop; its result."""
    jax.clear_caches()
    stated.forget()
    start = time.perf_counter()
    loop, _ = loop_for(task.step, (task.state, task.batch), {})
    try:
        result = run(loop)
    except memjax.BudgetInfeasible as error:
        result = error.fitted
    return time.perf_counter() - start, loop, result


def measure(name: str, make: Callable[[], Task]) -> list[dict[str, Any]]:
    """A row for each of what is claimed."""
    task = make()
    plain = [compile_seconds(task)]
    found = {"floor": timed(task, find_floor)}
    floor_bytes = found["floor"][2].chosen.total_bytes
    loop = found["floor"][1]
    plain_bytes = loop.compile_as_it_is(0).total_bytes
    base_bytes = loop.prepared.problem.base_bytes
    plain.append(compile_seconds(task))
    budgets = {
        "fit": (floor_bytes + plain_bytes) // 2,
        "refusal": (base_bytes + floor_bytes) // 2,
        "hopeless": base_bytes // 2,
    }
    for kind, budget in budgets.items():
        found[kind] = timed(task, lambda loop, budget=budget: fit(loop, budget))
        plain.append(compile_seconds(task))
    compiling = statistics.median(plain)
    return [
        row(name, kind, compiling, seconds, loop, fitted)
        for kind, (seconds, loop, fitted) in found.items()
    ]


def row(
    name: str, kind: str, compiling: float, seconds: float, loop: Any, fitted: Any
) -> dict[str, Any]:
    """One measurement beside what is claimed."""
    slow = compiling >= SLOW_SECONDS
    times = LARGE.get(kind, LARGE["floor"]) if slow else SMALL[kind]
    allowed = times * compiling + (0.0 if slow else GRACE_SECONDS)
    return {
        "model": name,
        "what": kind,
        "eqns": loop.eqns,
        "compile_seconds": round(compiling, 3),
        "seconds": round(seconds, 3),
        "ratio": round(seconds / compiling, 2),
        "allowed_seconds": round(allowed, 3),
        "within": seconds <= allowed,
        "compilations": len(fitted.attempts),
        "planning_seconds": round(loop.planning_seconds, 3),
        "compiled_bytes": fitted.chosen.total_bytes,
    }


def main() -> None:
    """Measure the models that are named, or all, and write the rows if these are all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names
    rows = []
    for name, make in tasks():
        if names and name not in names:
            continue
        for found in measure(name, make):
            rows.append(found)
            print(*(f"{found[k]!s:>12}" for k in list(found)[:10]), flush=True)
    if not names:
        write_csv("planning_keeps_to_compile_time", rows)


if __name__ == "__main__":
    main()
