"""How much of the peaks of the reference GPT carries a user line and a phase, with its layers
unrolled, scanned, and with gradients added up over microbatches; and how long an analysis of
10,000 eqns and the import of memjax take.

    python -m benchmarks.peaks_have_lines [--budgets 355MiB …]

Writes `seeing` (a row for each peak) and `peaks_have_lines_times`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import memjax
from benchmarks.record import write_csv
from memjax.demo.gpt import gpt_task
from memjax.pricing.holders import Holder, attributed_fraction
from memjax.program.trace import trace

BUDGETS = ("2GiB", "800MiB", "355MiB", "233MiB")
"""The largest lets the program be compiled as it is."""
MODELS: dict[str, dict[str, Any]] = {
    "unrolled": {},
    "scanned": {"lengths": (8,)},
    "accumulating": {"microbatches": 2},
}
"""Changes of the reference GPT."""
MANY_EQNS_LAYERS = 19
IMPORTS = 11
IMPORT_SCRIPT = """
import json, time
start = time.perf_counter()
import jax
middle = time.perf_counter()
import memjax
print(json.dumps([middle - start, time.perf_counter() - middle]))
"""


def row(model: str, name: str, peak: str, holders: Sequence[Holder]) -> dict[str, Any]:
    """What of one peak is attributed, with and without what the caller holds, and how much of it
    is a row for a whole loop.
    """
    own = [h for h in holders if h.phase not in ("argument", "result")]
    whole = sum(h.bytes for h in holders if h.what.startswith("workspace of "))
    return {
        "model": model,
        "program": name,
        "peak": peak,
        "peak_bytes": sum(h.bytes for h in holders),
        "attributed": attributed_fraction(holders),
        "attributed_of_temporaries": attributed_fraction(own),
        "whole_loops": whole / max(1, sum(h.bytes for h in holders)),
        "lines": len({h.source for h in holders if h.source}),
    }


def attributed(
    budgets: Sequence[str], model: str = "unrolled", **changes: Any
) -> list[dict[str, Any]]:
    """The predicted peak of the plain step, and both peaks under each budget."""
    task = gpt_task(**(MODELS[model] | changes))
    analysis = memjax.analyze(task.step, task.state, task.batch)
    rows = [row(model, "plain", "predicted", analysis.holders)]
    for budget in budgets:
        report = memjax.memory_budget(budget)(task.step).report(task.state, task.batch)
        rows.append(row(model, budget, "predicted", report.holders))
        if report.xla is not None:
            found = row(model, budget, "xla", report.xla.holders)
            off = report.xla.total_bytes / report.predicted_bytes - 1
            explained = sum(d.bytes for d in report.xla.differences)
            rows.append(found | {"off_predicted": off, "explained_bytes": explained})
    return rows


def analysis_times(layers: int) -> dict[str, Any]:
    """Seconds of an analysis, and of the tracing in it; after one analysis of another step."""
    small = gpt_task(layers=1, width=64, heads=2, tokens=32, batch=4, vocab=256)
    memjax.analyze(small.step, small.state, small.batch)
    task = gpt_task(layers=layers, width=64, heads=2, tokens=32, batch=4, vocab=256)
    start = time.perf_counter()
    program = trace(task.step, (task.state, task.batch))
    traced = time.perf_counter()
    task = gpt_task(layers=layers, width=64, heads=2, tokens=32, batch=4, vocab=256)
    start_analysis = time.perf_counter()
    memjax.analyze(task.step, task.state, task.batch)
    done = time.perf_counter()
    return {
        "eqns": len(program.eqns),
        "trace_seconds": traced - start,
        "analyze_seconds": done - start_analysis,
    }


def import_times() -> dict[str, Any]:
    """Median and least seconds of importing jax, and of memjax after it, in fresh processes.

    The least tell what others who used the machine meanwhile cost.

    Bytecode is there, as it is for installed packages: a first process writes it.
    """
    command = [sys.executable, "-c", IMPORT_SCRIPT]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        how: dict[str, Any] = {"env": env | {"PYTHONPYCACHEPREFIX": folder}, "text": True}
        runs = [
            json.loads(subprocess.run(command, capture_output=True, check=True, **how).stdout)
            for _ in range(IMPORTS + 1)
        ]
    jax_seconds, memjax_seconds = zip(*runs[1:], strict=True)
    return {
        "import_jax_seconds": statistics.median(jax_seconds),
        "import_memjax_seconds": statistics.median(memjax_seconds),
        "import_jax_least_seconds": min(jax_seconds),
        "import_memjax_least_seconds": min(memjax_seconds),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", nargs="*", default=BUDGETS, help="none: times alone")
    arguments = parser.parse_args()
    times = {**import_times(), **analysis_times(MANY_EQNS_LAYERS)}
    print(times)
    write_csv("peaks_have_lines_times", [times], module="peaks_have_lines")
    if not arguments.budgets:
        return
    rows = [found for model in MODELS for found in attributed(arguments.budgets, model)]
    for found in rows:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()})
    write_csv("peaks_have_lines", rows)


if __name__ == "__main__":
    main()
