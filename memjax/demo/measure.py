"""How the demo and the benchmarks measure: bytes, seconds, and plain `jax.jit` to compare with.

*Compiled bytes* are XLA's own: argument + output − alias + temp of a compiled program.

*Resident bytes* are what the device or the operating system saw. On an accelerator, the
device's own peak counter. On CPU, the growth of the process's resident set while the step
runs, over a baseline taken after everything is compiled and before the state exists: so the
state, the batch and the temporaries count, while the interpreter, the libraries and the
compiler's leftovers do not. It is sampled every two milliseconds by a thread; pages that the
compiler freed but the process kept may be used again and are then not seen as growth.
One process a measurement: peaks cannot be reset.
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import jax
import psutil

_SAMPLE_SECONDS = 0.002


def footprint_bytes(compiled: jax.stages.Compiled) -> int:
    """Argument + output − alias + temp bytes of a compiled program."""
    stats: Any = compiled.memory_analysis()
    return int(
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes
    )


def flops(compiled: jax.stages.Compiled) -> float:
    """Floating point operations of a compiled program, as XLA counts them."""
    analysis: Any = compiled.cost_analysis()
    return float((analysis or {}).get("flops", 0.0))


def reference_options() -> dict[str, str | bool]:
    """Compile options under which `jax.checkpoint` has its effect on this backend.

    XLA:CPU of jaxlib before 0.11.1 removes the barriers of `jax.checkpoint` too early, and
    merges the recomputation with the original. With this option it does not, and the
    reference variants are what their authors mean.
    """
    version = tuple(int(part) for part in jax.__version__.split(".")[:2])
    if jax.default_backend() == "cpu" and version < (0, 12):
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return {}


def compile_plain(
    step: Callable[..., Any], *args: Any, keep_barriers: bool = False
) -> jax.stages.Compiled:
    """Compile a step by plain `jax.jit`, its first argument donated.

    Args:
        step: the step.
        args: its arguments, or their shapes.
        keep_barriers: compile under `reference_options`, for steps with `jax.checkpoint`.
    """
    lowered = jax.jit(step, donate_argnums=0).lower(*args)
    return lowered.compile(reference_options() if keep_barriers else None)


class ResidentPeak:
    """Resident bytes of a stretch of code, as the module docstring defines them.

    `with ResidentPeak() as peak: ...`, then `peak.bytes`.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._process = psutil.Process()
        self._device = jax.devices()[0]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._baseline = 0
        self._highest = 0

    def __enter__(self) -> ResidentPeak:
        gc.collect()
        self._baseline = self._highest = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        stats = self._device.memory_stats()
        on_device = (stats or {}).get("peak_bytes_in_use")
        self.bytes = int(on_device) if on_device else self._highest - self._baseline

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._highest = max(self._highest, self._process.memory_info().rss)


def timed_call(step: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """What a step returns, and the seconds until all of it is there."""
    start = time.perf_counter()
    result = jax.block_until_ready(step(*args))
    return result, time.perf_counter() - start


def median_seconds(seconds: Sequence[float]) -> float:
    """The median of times, the first left out (it pays for fresh pages) if there are others."""
    return statistics.median(seconds[1:] or seconds)
