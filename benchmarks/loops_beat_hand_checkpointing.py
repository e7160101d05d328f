"""Budgets on train steps with loops, against the best that hand-placed `jax.checkpoint` does.

Claims that these numbers could refute, in bytes of compiled programs on CPU:

1. a GPT that scans over 8 layers reaches each policy's footprint with no more recomputed FLOPs
   than the policy, and a floor below that of remat round the whole body;
2. a GPT of 64 thin layers takes no more temporaries than 126 MiB, with no more FLOPs than
   checkpointed scans over 8 × 8 layers;
3. an LSTM over 1,000 time steps with a loss on its last state takes at most 0.045 of the plain
   temporaries with under 1.1 extra forward passes; over 1,000 to 16,000 steps these grow like
   the square root of the length (exponent below 0.55), and flatter with two passes;
4. an LSTM with a loss on all states takes no more than checkpointed by hand;
5. inside of a scan over microbatches a GPT reaches what it reaches without, within 5 %;
6. a neural ODE with a fixed-step solver meets 40 % of the plain footprint;
7. losses over 20 steps equal the plain step's within float32 rounding; predicted and compiled
   footprint differ by less than 5 %; a step with at most one extra forward pass takes at most
   1.1 × the plain one's time, and its compilation 2.5 × the plain one's.

FLOPs are counted on the jaxpr that is compiled, in the same way for all variants. A forward
pass is the plain step's forward scan. Steps are timed interleaved: each round trains each
variant by one step; the ratio is the median of each round's ratio to plain.

    python -m benchmarks.loops_beat_hand_checkpointing [program …]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

import memjax
from benchmarks import loop_models as models
from benchmarks.record import in_new_process, write_csv
from memjax.demo import measure
from memjax.demo.gpt import Sizes, gpt_task
from memjax.demo.task import Task
from memjax.pricing.cost import eqn_flops, jaxpr_flops

MIB = 2**20
STEPS = 20
LSTM_LENGTHS = (1_000, 4_000, 16_000)


@dataclass(frozen=True)
class Program:
    """A train step with loops.

    Attributes:
        task: the step as a user writes it.
        by_hand: the same, checkpointed by hand.
        budgets: in bytes, or as a part of the plain footprint; the footprints of `by_hand` are
            budgets, too.
        trained: how many of the tightest budgets are trained beside the plain step.
        trains_by_hand: whether `by_hand` are trained, too.
    """

    task: Callable[[], Task]
    by_hand: dict[str, Callable[[], Task]]
    budgets: tuple[float, ...] = ()
    trained: int = 4
    trains_by_hand: bool = True


def _gpt(remat: Any = None, chunk: int | None = None, sizes: Sizes | None = None) -> Any:
    return lambda: models.scanned_gpt(sizes or Sizes(), remat, chunk)


PROGRAMS = {
    "gpt": Program(
        _gpt(), {name: _gpt(name) for name in ("dots", "nobatch", "full")}, (200.0 * MIB,)
    ),
    "thin_gpt": Program(
        _gpt(sizes=models.THIN),
        {
            "full": _gpt("full", sizes=models.THIN),
            "full, 8 x 8": _gpt("full", 8, models.THIN),
        },
        (110.0 * MIB,),
        trained=2,
        trains_by_hand=False,
    ),
    "lstm": Program(
        lambda: models.lstm(1_000),
        {f"chunks of {k}": lambda k=k: models.lstm(1_000, chunk=k) for k in (10, 20)},  # type: ignore[misc]
        (12.0 * MIB, 9.6 * MIB),
    ),
    "lstm_states": Program(
        lambda: models.lstm_states(1_000),
        {f"chunks of {k}": lambda k=k: models.lstm_states(1_000, chunk=k) for k in (10, 20)},  # type: ignore[misc]
        (45.0 * MIB,),
    ),
    "microbatches": Program(
        lambda: models.accumulating_gpt(8), {}, (300.0 * MIB, 200.0 * MIB), trained=1
    ),
    "one_microbatch": Program(lambda: gpt_task(layers=4), {}, (300.0 * MIB, 200.0 * MIB)),
    "neural_ode": Program(
        models.neural_ode,
        {f"chunks of {k}": lambda k=k: models.neural_ode(chunk=k) for k in (5, 10)},  # type: ignore[misc]
        (0.4, 0.1),
    ),
}


@dataclass
class Variant:
    """A compiled step, where its state comes from, and what is known of it."""

    run: Callable[..., Any]
    init: Callable[..., Any]
    row: dict[str, Any]


def compiled_by_hand(name: str, task: Task) -> Variant:
    """A step that XLA sees as the user wrote it, barriers kept."""
    start = time.perf_counter()
    compiled = measure.compile_plain(
        task.step, task.state, task.batch, keep_barriers=name != "plain"
    )
    seconds = time.perf_counter() - start
    jaxpr = jax.make_jaxpr(task.step)(task.state, task.batch)
    return Variant(compiled, task.init, {"variant": name, **_columns(compiled, jaxpr, seconds)})


def within_budget(task: Task, budget_bytes: int) -> Variant:
    """A step within a budget."""
    step = memjax.memory_budget(budget_bytes)(task.step)
    arguments = task.state, task.batch
    start = time.perf_counter()
    report = step.report(*arguments)
    seconds = time.perf_counter() - start
    row = {
        "variant": f"memjax, {budget_bytes / MIB:.1f} MiB",
        **_columns(step.compiled(*arguments), step.jaxpr(*arguments), seconds),
        "budget_bytes": budget_bytes,
        "predicted_bytes": report.predicted_bytes,
        "predicted_off": report.predicted_bytes / report.compiled.total_bytes - 1,
        "compilations": len(report.compilations),
        "planning_seconds": report.planning_seconds,
        "last_compile_seconds": report.compilations[-1].seconds,
        "bound_overhead": report.plan.bound_overhead,
        "overhead": report.plan.overhead,
        "chunks": " ".join(str(loop.chunks) for loop in report.plan.loops),
    }
    return Variant(step, task.init, row)


def _columns(compiled: Any, jaxpr: Any, seconds: float) -> dict[str, Any]:
    return {
        "compiled_bytes": measure.footprint_bytes(compiled),
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "flops": jaxpr_flops(jaxpr),
        "first_call_seconds": seconds,
    }


def forward_flops(task: Task) -> int:
    """FLOPs of the plain step's first scan; of a third of the step where it has none."""
    jaxpr = jax.make_jaxpr(task.step)(task.state, task.batch)
    scans = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    return eqn_flops(scans[0]) if len(scans) > 1 else jaxpr_flops(jaxpr) // 3


def train(task: Task, variants: list[Variant]) -> None:
    """Train every variant from the same start, in turns; adds losses and times to the rows."""
    batch = task.random_batch(0)
    states = [jax.jit(variant.init)(jax.random.key(0)) for variant in variants]
    losses: list[list[float]] = [[] for _ in variants]
    seconds: list[list[float]] = [[] for _ in variants]
    for _ in range(STEPS):
        for number, variant in enumerate(variants):
            (states[number], loss), took = measure.timed_call(variant.run, states[number], batch)
            losses[number].append(float(loss))
            seconds[number].append(took)
    for number, variant in enumerate(variants):
        pairs = zip(losses[number], losses[0], strict=True)
        ratios = (a / b for a, b in zip(seconds[number][1:], seconds[0][1:], strict=True))
        variant.row["loss_difference"] = max(abs(a - b) / abs(b) for a, b in pairs)
        variant.row["step_seconds"] = statistics.median(seconds[number][1:])
        variant.row["step_ratio"] = statistics.median(ratios)


def measured(name: str, *, only_bytes: bool) -> list[dict[str, Any]]:
    """All variants of a program."""
    program = PROGRAMS[name]
    task = program.task()
    plain = compiled_by_hand("plain", task)
    hands = [compiled_by_hand(hand, make()) for hand, make in program.by_hand.items()]
    budgets = [b * plain.row["compiled_bytes"] if b < 1 else b for b in program.budgets]
    budgets += [hand.row["compiled_bytes"] for hand in hands]
    mine = [within_budget(task, int(b)) for b in sorted(budgets, reverse=True)]
    if not only_bytes:
        train(task, [plain, *(hands if program.trains_by_hand else []), *mine[-program.trained :]])
    once = forward_flops(task)
    for hand in hands:  # another program to Flax, with other random parameters
        hand.row.pop("loss_difference", None)
    rows = [variant.row for variant in (plain, *hands, *mine)]
    for row in rows:
        again = row["flops"] - plain.row["flops"]
        row |= {"program": name, "recomputed_flops": again, "extra_passes": again / once}
        row["first_call_ratio"] = row["first_call_seconds"] / plain.row["first_call_seconds"]
        row["temp_ratio"] = row["temp_bytes"] / plain.row["temp_bytes"]
        if "last_compile_seconds" in row:
            row["compile_ratio"] = row["last_compile_seconds"] / plain.row["first_call_seconds"]
    return rows


def growth() -> list[dict[str, Any]]:
    """Temporaries of the LSTM by its length, with about one and two extra forward passes."""
    rows = []
    for length in LSTM_LENGTHS:
        task = models.lstm(length)
        once = forward_flops(task)
        plain = compiled_by_hand("plain", task)
        for passes in (1, 2):
            row = tightest(task, plain.row, once, passes + 0.1)
            rows.append({**row, "program": f"lstm, {length} steps", "variant": f"{passes} passes"})
    for passes in (1, 2):
        mine = [row for row in rows if row["variant"] == f"{passes} passes"]
        exponent = fitted_exponent(LSTM_LENGTHS, [row["temp_bytes"] for row in mine])
        rows.append({"program": "lstm growth", "variant": f"{passes} passes", "exponent": exponent})
    return rows


def tightest(task: Task, plain: dict[str, Any], once: int, most: float) -> dict[str, Any]:
    """The fewest temporaries with at most so many extra passes: budgets fall until it is more."""
    budget_bytes = plain["compiled_bytes"] - int(0.9 * plain["temp_bytes"])
    best: dict[str, Any] = {}
    while True:
        try:
            row = within_budget(task, budget_bytes).row
        except memjax.BudgetInfeasible:
            return best
        passes = (row["flops"] - plain["flops"]) / once
        if passes > most:
            return best
        best = {**row, "extra_passes": passes}
        budget_bytes = row["compiled_bytes"] - max(1, row["temp_bytes"] // 50)


def fitted_exponent(lengths: tuple[int, ...], sizes: list[int]) -> float:
    """The slope of log size over log length."""
    return statistics.linear_regression(
        [math.log(length) for length in lengths], [math.log(size) for size in sizes]
    ).slope


def main() -> None:
    """Measure each program in a process of its own and write the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", default=[*PROGRAMS, "growth"])
    parser.add_argument(
        "--only-bytes", action="append", default=[], metavar="PROGRAM", help="do not train it"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        rows = growth() if arguments.child == "growth" else None
        only_bytes = arguments.child in arguments.only_bytes
        rows = rows or measured(arguments.child, only_bytes=only_bytes)
        print(json.dumps({"rows": rows}))
        return
    rows = []
    for name in arguments.programs:
        options = [f"--only-bytes={name}"] if name in arguments.only_bytes else []
        new = in_new_process("benchmarks.loops_beat_hand_checkpointing", *options, "--child", name)[
            "rows"
        ]
        rows += new
        for row in new:
            print(json.dumps(row), flush=True)
    write_csv("loops_beat_hand_checkpointing", rows)


if __name__ == "__main__":
    main()
