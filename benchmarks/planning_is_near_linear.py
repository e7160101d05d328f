"""Planning time against the size of the step: unrolled GPTs from 2 to 96 layers.

Claims that these numbers could refute:

1. planning time (coarsening and planner) grows no faster than n log n: the exponent fitted to
   seconds against eqns is below 1.2;
2. planning never takes longer than XLA takes to compile the same step, in the same process;
3. the planner's memory grows linearly.

The models are thin (width 64, 32 tokens), so that compiling them takes seconds: planning time
does not depend on the widths. The budget is half of the predicted plain footprint.

    python -m benchmarks.planning_is_near_linear
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from typing import Any

import jax
import numpy as np

from benchmarks.record import write_csv
from memjax.demo.gpt import gpt_task
from memjax.planning.planners import get_planner
from memjax.planning.simulate import simulate
from memjax.pricing.backends import backend_of
from memjax.pricing.coarsen import PricedProgram, coarsen
from memjax.pricing.cost import node_seconds
from memjax.pricing.liveness import liveness
from memjax.program.eqns import Program
from memjax.program.prepare import prepare
from memjax.program.trace import trace
from memjax.targets.figures import rates_of

LAYERS = (2, 4, 8, 16, 32, 64, 96)


def priced_of(program: Program) -> PricedProgram:
    """The problem of a traced step on this machine's CPU."""
    graph = liveness(prepare(program))
    return coarsen(graph, node_seconds(graph, rates_of("cpu")), backend_of("cpu"))


def measure(layers: int) -> dict[str, Any]:
    """Seconds of tracing, planning and compiling one GPT, and the planner's bytes."""
    task = gpt_task(layers=layers, width=64, heads=2, tokens=32, batch=4, vocab=256)
    start = time.perf_counter()
    program = trace(task.step, (task.state, task.batch))
    traced = time.perf_counter()
    priced = priced_of(program)
    coarsened = time.perf_counter()
    problem = priced.problem
    plain = simulate(problem, problem.identity)
    budget_bytes = plain.peak_bytes // 2
    start_planning = time.perf_counter()
    solution = get_planner("auto").solve(problem, budget_bytes)
    planned = time.perf_counter()
    found = simulate(problem, solution)
    tracemalloc.start()
    get_planner("auto").solve(problem, budget_bytes)
    planner_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    start_compiling = time.perf_counter()
    jax.jit(task.step, donate_argnums=0).lower(task.state, task.batch).compile()
    compiled = time.perf_counter()
    return {
        "layers": layers,
        "eqns": len(program.eqns),
        "nodes": len(problem.nodes),
        "met": found.peak_bytes <= budget_bytes,
        "overhead_percent": 100 * found.overhead,
        "bound_percent": 100 * ((solution.bound_cost or 0) / problem.total_cost - 1),
        "trace_seconds": traced - start,
        "coarsen_seconds": coarsened - traced,
        "planner_seconds": planned - start_planning,
        "planning_seconds": coarsened - traced + planned - start_planning,
        "compile_seconds": compiled - start_compiling,
        "planner_bytes": planner_bytes,
    }


def exponent(rows: list[dict[str, Any]], column: str) -> float:
    """The exponent of a power law fitted to a column against eqns."""
    logs = np.log([[row["eqns"], row[column]] for row in rows])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def main() -> None:
    """Measure every size in this process, from small to large."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    rows = []
    measure(1)  # imports, caches
    for layers in parser.parse_args().layers:
        rows.append(measure(layers))
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()})
    fitted = {
        "seconds_exponent": exponent(rows, "planning_seconds"),
        "bytes_exponent": exponent(rows, "planner_bytes"),
    }
    print(fitted)
    write_csv("planning_is_near_linear", [{**row, **fitted} for row in rows])


if __name__ == "__main__":
    main()
