"""Budgets on the reference GPT, against `jax.checkpoint` round each block.

Claims that these numbers could refute, for 8 layers, width 256, 256 tokens, batch 8,
vocabulary 4096, AdamW, float32 on CPU:

1. the compiled program of every budget is within it;
2. a step takes at most 1.05 × the plain step, and recomputes no more FLOPs than the
   `jax.checkpoint` policy with that footprint;
3. the floor is below 225 MiB;
4. predicted and compiled footprint differ by less than 5 %;
5. the first call takes at most 4 × plain `jax.jit`'s.

Bytes, FLOPs and first calls are measured in one process each. Step times are measured
interleaved in one process: every round runs each variant once; medians over the rounds, and
the ratio is the median of each round's ratio to plain.

    python -m benchmarks.budgets_are_met
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

import memjax
from benchmarks.record import in_new_process, write_csv
from memjax.demo import measure
from memjax.demo.gpt import gpt_task
from memjax.demo.task import Task

BUDGETS = ("800MiB", "500MiB", "355MiB", "233MiB")
POLICIES = {
    "plain": None,
    "checkpoint dots": "dots",
    "checkpoint nobatch": "nobatch",
    "checkpoint full": "full",
}
VARIANTS = (*POLICIES, *BUDGETS)


def task_of(variant: str, layers: int) -> Task:
    """The reference GPT, with the checkpoint policy of a variant."""
    return gpt_task(layers=layers, remat=POLICIES.get(variant))


def state_and_batch(task: Task) -> tuple[Any, Any]:
    """A first state and a batch, on the device."""
    state = jax.jit(task.init)(jax.random.key(0))
    return jax.block_until_ready((state, task.random_batch(0)))


def callable_of(variant: str, task: Task, state: Any, batch: Any) -> Callable[..., Any]:
    """What a user would call. Checkpoint variants are compiled so that they have an effect."""
    if variant in POLICIES:
        return measure.compile_plain(task.step, state, batch, keep_barriers=variant != "plain")
    return memjax.memory_budget(variant)(task.step)


def first_call(variant: str, layers: int) -> dict[str, Any]:
    """Bytes, FLOPs and the seconds of the first call of a variant, in this fresh process."""
    task = task_of(variant, layers)
    state, batch = state_and_batch(task)
    shapes = jax.eval_shape(lambda *args: args, state, batch)
    start = time.perf_counter()
    step = callable_of(variant, task, state, batch)
    with measure.ResidentPeak() as peak:
        state, _ = jax.block_until_ready(step(state, batch))
    row = {"variant": variant, "first_call_seconds": time.perf_counter() - start}
    if jax.default_backend() != "cpu":
        row["device_peak_bytes"] = peak.bytes
    if variant in POLICIES:
        return {**row, **compiled_columns(step)}
    report = step.report(*shapes)
    return {
        **row,
        **compiled_columns(step.compiled(*shapes)),
        "budget_bytes": report.budget_bytes,
        "predicted_bytes": report.predicted_bytes,
        "plain_predicted_bytes": report.plain_predicted_bytes,
        "recomputed_flops_memjax": report.recomputed_flops,
        "compilations": len(report.compilations),
        "compile_seconds": sum(record.seconds for record in report.compilations),
        "planning_seconds": report.planning_seconds,
    }


def compiled_columns(compiled: Any) -> dict[str, Any]:
    """Bytes and FLOPs as XLA states them."""
    stats = compiled.memory_analysis()
    return {
        "compiled_bytes": measure.footprint_bytes(compiled),
        "argument_bytes": stats.argument_size_in_bytes,
        "output_bytes": stats.output_size_in_bytes,
        "alias_bytes": stats.alias_size_in_bytes,
        "temp_bytes": stats.temp_size_in_bytes,
        "flops": measure.flops(compiled),
    }


def step_times(rounds: int, layers: int) -> dict[str, Any]:
    """Seconds of each variant in each round, and the ratio to plain, interleaved."""
    steps, states, batch = {}, {}, None
    for variant in VARIANTS:
        task = task_of(variant, layers)
        state, batch = state_and_batch(task)
        steps[variant] = callable_of(variant, task, state, batch)
        states[variant], _ = jax.block_until_ready(steps[variant](state, batch))
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            (states[variant], _), took = measure.timed_call(steps[variant], states[variant], batch)
            seconds[variant].append(took)
    return {
        variant: {
            "step_seconds": statistics.median(times),
            "step_ratio": statistics.median(
                mine / plain for mine, plain in zip(times, seconds["plain"], strict=True)
            ),
        }
        for variant, times in seconds.items()
    }


def find_floor(layers: int) -> dict[str, Any]:
    """The smallest footprint that memjax reaches."""
    task = task_of("plain", layers)
    start = time.perf_counter()
    found = memjax.floor(task.step, task.state, task.batch)
    return {
        "variant": "floor",
        "compiled_bytes": found.bytes,
        "first_call_seconds": time.perf_counter() - start,
    }


def with_comparisons(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add what follows from the plain row: recomputed FLOPs, ratios of first calls, misses."""
    plain = next(row for row in rows if row["variant"] == "plain")
    for row in rows:
        if "flops" in row:
            row["recomputed_flops_xla"] = row["flops"] - plain["flops"]
            row["first_call_ratio"] = row["first_call_seconds"] / plain["first_call_seconds"]
        if "predicted_bytes" in row:
            row["predicted_off"] = row["predicted_bytes"] / row["compiled_bytes"] - 1
            row["within_budget"] = row["compiled_bytes"] <= row["budget_bytes"]
    return rows


def child(arguments: argparse.Namespace) -> dict[str, Any]:
    """One measurement in this process."""
    if arguments.child == "times":
        return step_times(arguments.rounds, arguments.layers)
    if arguments.child == "floor":
        return find_floor(arguments.layers)
    return first_call(arguments.child, arguments.layers)


def main() -> None:
    """Measure everything, one process each, and write the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments)))
        return
    options = (f"--layers={arguments.layers}", f"--rounds={arguments.rounds}")
    rows = []
    for name in (*VARIANTS, "floor"):
        rows.append(in_new_process("benchmarks.budgets_are_met", *options, "--child", name))
        print(rows[-1], flush=True)
    times = in_new_process("benchmarks.budgets_are_met", *options, "--child", "times")
    rows = [{**row, **times.get(row["variant"], {})} for row in with_comparisons(rows)]
    name = "budgets_are_met" if arguments.layers == 8 else f"budgets_are_met_gpt{arguments.layers}"
    write_csv(name, rows, module="budgets_are_met")


if __name__ == "__main__":
    main()
