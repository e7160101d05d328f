"""One row of the demo's table, measured in a process of its own.

In: a `Variant`, as JSON on the command line. Out: one JSON object a line: progress, then
either the `Measurement` or an error. `python -m memjax.demo.variant` is this process;
`run_variant` starts it and reads it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}
"""glibc keeps freed memory in one arena a thread, 60 MiB and more in all, which would count as
resident. One arena keeps little. Other allocators ignore the setting."""

STAGES_BEFORE_STEPS = 2
"""Progress reports besides one a step: the libraries are loaded; the step is compiled."""


@dataclass(frozen=True)
class Variant:
    """A way to compile the same train step.

    Attributes:
        name: for people.
        budget: what `memjax.memory_budget` is given; plain `jax.jit`, donated, where None.
        remat: `jax.checkpoint` round each block, with nothing else kept.
        steps: train steps to run.
        layers: layers of the model.
    """

    name: str
    budget: str | None = None
    remat: bool = False
    steps: int = 6
    layers: int = 4


@dataclass(frozen=True)
class Measurement:
    """What a variant took. Bytes as `memjax.demo.measure` defines them."""

    name: str
    budget: str | None
    compiled_bytes: int
    resident_bytes: int
    compile_seconds: float
    step_seconds: float
    first_loss: float
    last_loss: float


class VariantError(RuntimeError):
    """A variant's process failed.

    Attributes:
        kind: the class of the exception there.
        details: its traceback.
    """

    def __init__(self, kind: str, message: str, details: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.details = details


def run_variant(variant: Variant, on_progress: Callable[[str], None]) -> Measurement:
    """Measure a variant in a new process.

    Args:
        variant: what to measure.
        on_progress: called with what was reached, `STAGES_BEFORE_STEPS + steps` times.

    Raises:
        VariantError: if the process failed.
    """
    command = [sys.executable, "-m", __name__, json.dumps(asdict(variant))]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as stderr,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            env=os.environ | _ENVIRONMENT,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if "measurement" in event:
                return Measurement(**event["measurement"])
            if "error" in event:
                raise VariantError(**event["error"])
            on_progress(event["progress"])
        process.wait()
        stderr.seek(0)
        details = stderr.read()
    message = f"the process of {variant.name!r} ended without a result (exit {process.returncode})"
    raise VariantError("ProcessError", message, details)


def measure(variant: Variant, report: Callable[[str], None]) -> Measurement:
    """Compile and train a variant in this process. Call once a process."""
    import jax
    import numpy as np

    from memjax.demo import corpus, measure as m
    from memjax.demo.gpt import gpt_task

    task = gpt_task(
        layers=variant.layers, vocab=corpus.VOCAB, remat="full" if variant.remat else None
    )
    batch, length = task.batch.shape
    text = corpus.standard_library_text()
    report("loaded")

    key = jax.random.key(0)
    init = jax.jit(task.init).lower(key).compile()
    start = time.perf_counter()
    step, compiled = _compile(variant, task)
    compile_seconds = time.perf_counter() - start
    report("compiled")

    rng = np.random.default_rng(0)
    losses, seconds = [], []
    with m.ResidentPeak() as peak:
        state = init(key)
        for index in range(variant.steps):
            excerpts = corpus.random_excerpts(text, batch, length, rng)
            (state, loss), took = m.timed_call(step, state, jax.numpy.asarray(excerpts))
            losses.append(float(loss))
            seconds.append(took)
            report(f"step {index + 1}")
    return Measurement(
        name=variant.name,
        budget=variant.budget,
        compiled_bytes=m.footprint_bytes(compiled),
        resident_bytes=peak.bytes,
        compile_seconds=compile_seconds,
        step_seconds=m.median_seconds(seconds),
        first_loss=losses[0],
        last_loss=losses[-1],
    )


def _compile(variant: Variant, task: Any) -> tuple[Callable[..., Any], Any]:
    """What to call for a step, and the program that the call runs."""
    import memjax
    from memjax.demo.measure import compile_plain

    if variant.budget is None:
        compiled = compile_plain(task.step, task.state, task.batch, keep_barriers=variant.remat)
        return compiled, compiled
    step = memjax.memory_budget(variant.budget)(task.step)
    return step, step.compiled(task.state, task.batch)


def _emit(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def main() -> None:
    """Measure the variant on the command line and print what happens, one JSON a line."""
    variant = Variant(**json.loads(sys.argv[1]))
    try:
        result = measure(variant, lambda reached: _emit(progress=reached))
    except Exception as error:  # noqa: BLE001  the boundary of the process: the parent tells
        details = traceback.format_exc()
        _emit(error={"kind": type(error).__name__, "message": str(error), "details": details})
        sys.exit(1)
    _emit(measurement=asdict(result))


if __name__ == "__main__":
    main()
