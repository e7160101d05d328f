"""JAX's own state: what is in force where a call is made, and what a program was compiled to.

In: nothing, or a compiled program. Out: keys, flags, devices, XLA's messages.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
from jax._src import config as jax_config, core as jax_core, mesh as jax_mesh

config: Any = jax.config
"""JAX's settings; the types of older versions do not know them."""


def compiled_messages(compiled: Any) -> tuple[bytes, bytes] | None:
    """XLA's buffer assignment and scheduled module of a compiled program, as serialized protobuf.

    The assignment is empty on all backends but CPU. None where the backend, or a version of JAX,
    does not even state the module.
    """
    try:
        assignment = getattr(compiled.memory_analysis(), "serialized_buffer_assignment_proto", b"")
        modules = compiled.runtime_executable().hlo_modules()
    except (AttributeError, NotImplementedError, RuntimeError):
        return None
    if len(modules) != 1:
        return None
    return bytes(assignment), bytes(modules[0].as_serialized_hlo_module_proto())


_DEVICES_OF_MESH: Any = vars(jax_mesh).get("device_context") or vars(jax_config)["device_context"]


_STATES: tuple[Any, ...] = (
    _DEVICES_OF_MESH,  # `jax.set_mesh`; the trace context has its axes
    *(
        getattr(jax_config, name)
        for name in (
            "bcoo_cusparse_lowering",
            "debug_infs",
            "debug_nans",
            "memory_fitting_level",
            "optimization_level",
        )
        if hasattr(jax_config, name)
    ),
)
"""What decides how a step is traced or compiled, and is not part of JAX's trace context."""


def call_context() -> tuple[Any, ...]:
    """What of JAX's own state decides which program a call runs: the key of `jax.jit`.

    The trace in force, the mesh, the default device, matmul precision, 64-bit types and the
    like. Two calls whose arguments have the same types share a program only if this is equal.
    """
    states = [state.value for state in _STATES]
    return (jax_core.trace_ctx.trace, jax_config.trace_context(), *states)


def runs_compiled() -> bool:
    """Whether JAX would run a call of a jitted function now, as one compiled program.

    It would not under a transformation, whatever the arguments are, nor while the user looks
    for mistakes with `jax_disable_jit`, `jax_debug_nans` or `jax_debug_infs`.
    """
    looks_for_mistakes = config.jax_disable_jit or config.jax_debug_nans or config.jax_debug_infs
    return bool(jax_core.trace_state_clean()) and not looks_for_mistakes


@cache
def calls_check_weak_types() -> bool:
    """Whether a compiled program refuses a strong type in the place of a weak one.

    jax 0.10.2 does not and would compute with the wrong promotion; 0.12 does.
    """
    compiled = jax.jit(lambda x: x).lower(0.0).compile()
    try:
        compiled(np.float32(0))
    except (TypeError, ValueError):
        return True
    return False


def jit_settings(function: Any) -> dict[str, Any] | None:
    """What `jax.jit` was told about the function that it made; None for any other function.

    Only what the user said: static and donated arguments, shardings, compiler options.
    """
    info = getattr(function, "_jit_info", None)
    if info is None or not hasattr(function, "__wrapped__"):
        return None
    names = ("static_argnums", "static_argnames", "donate_argnums", "donate_argnames")
    found = {name: value for name in names if (value := getattr(info, name, ()))}
    for name in ("in_shardings", "out_shardings"):
        leaves = getattr(info, f"{name}_leaves", ())
        if any(type(leaf).__name__ != "UnspecifiedValue" for leaf in leaves):
            found[name] = jax.tree_util.tree_unflatten(getattr(info, f"{name}_treedef"), leaves)
    options = getattr(info, "compiler_options_kvs", ())
    return {**found, "compiler_options": dict(options)} if options else found
