"""Compile a function of flat arguments, and read the bytes that XLA assigned.

In: a function, the types of its arguments, what is donated, a backend.
Out: `CompiledStep` with its `Footprint`.

Bytes are XLA's own: `argument + output - alias + temp` of `Compiled.memory_analysis()`, for
one device. `peak_memory_in_bytes` is not used: on CPU it leaves the temporaries out.

XLA:TPU refuses to compile what does not fit the device, and says how much its temporaries take:
`OutOfMemory`. Other backends compile it, and fail when it is run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from memjax import _compat
from memjax.pricing.backends import KEEP_BARRIERS, Backend

Options = dict[str, Any]
_REFUSED = re.compile(r"CompileTimeHbmOom.*?\((\d+(?:\.\d+)?)([KMG])\)", re.DOTALL)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


class OutOfMemory(RuntimeError):
    """XLA does not compile a program, as it takes more than the device has.

    Attributes:
        measured: what is known of it: the bytes of the arguments and of the temporaries.
    """

    def __init__(self, message: str, measured: Measured) -> None:
        super().__init__(message)
        self.measured = measured


@dataclass(frozen=True)
class Footprint:
    """Bytes of a compiled executable on one device, as XLA counts them."""

    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temp_bytes: int

    @property
    def total_bytes(self) -> int:
        """What the budget covers."""
        return self.argument_bytes + self.output_bytes - self.alias_bytes + self.temp_bytes


def footprint(compiled: jax.stages.Compiled) -> Footprint:
    """Read the footprint of any compiled JAX program.

    Raises:
        RuntimeError: the backend keeps no memory statistics.
    """
    stats = compiled.memory_analysis()
    if stats is None:
        raise RuntimeError(
            "this backend states no memory statistics for compiled programs, "
            "so no budget can be checked on it"
        )
    return Footprint(
        argument_bytes=int(stats.argument_size_in_bytes),
        output_bytes=int(stats.output_size_in_bytes),
        alias_bytes=int(stats.alias_size_in_bytes),
        temp_bytes=int(stats.temp_size_in_bytes),
    )


@dataclass(frozen=True)
class Target:
    """Everything about a compilation but the program.

    Attributes:
        backend: whose options to use.
        arguments: type, and sharding where it matters, of each flat argument.
        donated: indices of the flat arguments that are given up.
        in_shardings: by flat argument; None leaves them to the arguments.
        out_shardings: by flat result; None leaves them to XLA.
        user_options: the caller's compiler options; they win over memjax's.
    """

    backend: Backend
    arguments: tuple[jax.ShapeDtypeStruct, ...]
    donated: tuple[int, ...] = ()
    in_shardings: tuple[Any, ...] | None = None
    out_shardings: list[Any] | None = None
    user_options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Measured:
    """What is known of a compilation once its program is thrown away.

    Attributes:
        footprint: its bytes.
        flops: XLA's own count; 0 where it does not say.
        seconds: spent on tracing, lowering and compiling.
        options: the compiler options used.
    """

    footprint: Footprint
    flops: float
    seconds: float
    options: Options


@dataclass(frozen=True)
class CompiledStep:
    """A compiled function of flat arguments.

    Attributes:
        compiled: takes the flat arguments, returns the list of flat results.
        lowered: what it was compiled from.
        jaxpr: what that was lowered from.
        measured: bytes, FLOPs, time.
    """

    compiled: jax.stages.Compiled
    lowered: jax.stages.Lowered
    jaxpr: Any
    measured: Measured


def compile_step(
    function: Callable[..., Any], target: Target, *, for_memory: bool, has_barriers: bool
) -> CompiledStep:
    """Compile a function of flat arguments.

    Args:
        function: takes the flat arguments, returns the list of flat results.
        target: how to compile.
        for_memory: ask the backend's scheduler to go by memory.
        has_barriers: whether the function relies on `optimization_barrier`.

    Raises:
        OutOfMemory: the device is too small for it, by XLA's word.
    """
    start = time.perf_counter()
    options = compiler_options(target, for_memory=for_memory, has_barriers=has_barriers)
    shardings: dict[str, Any] = {}
    if target.in_shardings is not None:
        shardings["in_shardings"] = target.in_shardings
    if target.out_shardings is not None:
        shardings["out_shardings"] = target.out_shardings
    jitted = jax.jit(function, donate_argnums=target.donated, **shardings)
    traced = jitted.trace(*target.arguments)
    lowered = traced.lower()
    try:
        compiled = lowered.compile(compiler_options=options or None)
    except jax.errors.JaxRuntimeError as error:
        temp_bytes = refused_bytes(str(error))
        if temp_bytes is None:
            raise
        arguments = sum(_compat.aval_bytes(a) for a in target.arguments)
        seconds = time.perf_counter() - start
        held = Footprint(arguments, 0, 0, temp_bytes)
        raise OutOfMemory(str(error), Measured(held, 0.0, seconds, options)) from error
    seconds = time.perf_counter() - start
    measured = Measured(footprint(compiled), _flops(compiled), seconds, options)
    return CompiledStep(compiled, lowered, traced.jaxpr, measured)


def refused_bytes(message: str) -> int | None:
    """Bytes of the temporaries of a program that XLA refuses for them; None for other errors."""
    found = _REFUSED.search(message)
    return int(float(found[1]) * _UNITS[found[2]]) if found else None


def _flops(compiled: jax.stages.Compiled) -> float:
    try:
        analysis = compiled.cost_analysis()
    except NotImplementedError:
        return 0.0
    return float(analysis.get("flops", 0.0)) if isinstance(analysis, dict) else 0.0


def compiler_options(target: Target, *, for_memory: bool, has_barriers: bool) -> Options:
    """Options of a backend for a target, merged with the user's, which win.

    Lists of disabled passes are joined, since XLA replaces the whole list.
    """
    options: Options = dict(target.backend.scheduler_options) if for_memory else {}
    if has_barriers and target.backend.may_drop_barriers and not barriers_hold():
        options.update(KEEP_BARRIERS)
    for name, value in (target.user_options or {}).items():
        if name == "xla_disable_hlo_passes" and name in options:
            value = ",".join(dict.fromkeys(f"{options[name]},{value}".strip(",").split(",")))
        options[name] = value
    return options


def keeps_barriers(options: Options) -> bool:
    """Whether a program was compiled with barriers that XLA would have dropped."""
    disabled = str(options.get("xla_disable_hlo_passes", "")).split(",")
    return KEEP_BARRIERS["xla_disable_hlo_passes"] in disabled


@cache
def barriers_hold(options: tuple[tuple[str, str], ...] = ()) -> bool:
    """Whether the default backend keeps a recomputation behind a barrier; compiled once.

    Two equal matmuls stand on either side of a barrier. Where it is dropped before XLA
    looks for common subexpressions, one of them is left.

    Args:
        options: compiler options, as pairs; XLA's defaults where there are none.
    """
    size = 64

    def probe(x: jax.Array, w: jax.Array) -> jax.Array:
        first = x @ w
        again, _ = jax.lax.optimization_barrier((x, jnp.sum(first)))
        return jnp.sum(first * jnp.tanh(again @ w))

    square = jax.ShapeDtypeStruct((size, size), jnp.float32)
    compiled = jax.jit(probe).lower(square, square).compile(dict(options) or None)
    return _flops(compiled) >= 1.5 * 2 * size**3
