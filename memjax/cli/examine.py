"""Whether memjax can keep its promise on this machine.

In: nothing. Out: `Finding`s. What can be tried is tried: a barrier, a donation, a budget. The
meaning of the settings is read in the documentation of JAX and XLA.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import memjax
from memjax import _compat
from memjax.emit.compile import barriers_hold, footprint
from memjax.helpers.budget import format_bytes
from memjax.pricing.backends import KEEP_BARRIERS, backend_of

Verdict = Literal["ok", "note", "wrong"]

PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "flax", "optax", "equinox")
NEEDED = ("jax", "jaxlib", "numpy", "scipy")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of it.
        verdict: `"wrong"` where memjax cannot keep its promise, `"note"` where there is
            something to know.
        what: was found.
        meaning: of it, for the user.
    """

    name: str
    verdict: Verdict
    what: str
    meaning: str = ""


def examine() -> tuple[Finding, ...]:
    """Look at everything; nothing that fails ends the examination."""
    try:
        devices = jax.local_devices()
        platform_name = _compat.default_device().platform
    except Exception as error:  # noqa: BLE001  JAX raises an AssertionError where no backend is
        return (*versions(), _no_devices(error), *settings(os.environ, None))
    return (
        *versions(),
        *device_findings(devices),
        *(_checked(name, check) for name, check in CHECKS.items()),
        *settings(os.environ, platform_name),
    )


def _no_devices(error: Exception) -> Finding:
    asked = os.environ.get("JAX_PLATFORMS")
    text = (str(error) or "JAX finds no backend that it may use").splitlines()[0]
    meaning = (
        f"JAX_PLATFORMS={asked} asks for a backend that is not here; unset it, or install its "
        "package, such as jax[cuda]."
        if asked
        else "Install a backend of JAX."
    )
    return Finding("devices", "wrong", text, meaning)


def _checked(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # noqa: BLE001  a backend may fail in any way, and that is the finding
        text = (str(error) or "no message").splitlines()[0]
        return Finding(name, "wrong", f"{type(error).__name__}: {text}")


def versions() -> list[Finding]:
    """Python and the packages that matter."""
    found = [
        Finding("Python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        Finding("memjax", "ok", memjax.__version__),
    ]
    for name in PACKAGES:
        try:
            found.append(Finding(name, "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            verdict: Verdict = "wrong" if name in NEEDED else "note"
            found.append(Finding(name, verdict, "not installed"))
    return found


def device_findings(devices: Sequence[Any]) -> list[Finding]:
    """Devices and their limits; those that are alike share a finding."""
    alike: dict[Finding, list[int]] = {}
    for device in devices:
        alike.setdefault(replace(device_finding(device), name="device"), []).append(device.id)
    return [
        replace(finding, name=f"device {ids[0]}")
        if len(ids) == 1
        else replace(finding, name=f"devices {', '.join(map(str, ids))}")
        for finding, ids in alike.items()
    ]


def device_finding(device: Any) -> Finding:
    """A device and its limit."""
    name = f"device {device.id}"
    kind = f"{device.platform}, {device.device_kind}"
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if device.platform not in ("cpu", "gpu", "tpu", "cuda", "rocm"):
        return Finding(name, "note", kind, "memjax knows nothing of this platform's compiler.")
    if limit:
        return Finding(name, "ok", f"{kind}, limit {format_bytes(limit)}")
    return Finding(
        name, "note", f"{kind}, states no limit",
        'A budget has to be given in bytes ("8GB"), not in "%".',
    )  # fmt: skip


def statistics() -> Finding:
    """Whether XLA says how many bytes a program takes."""
    shape = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    compiled = jax.jit(lambda x: jnp.sin(x) @ x).lower(shape).compile()
    found = footprint(compiled)
    if found.argument_bytes < 4 * 256**2:
        what = f"{found.argument_bytes} bytes for an argument of {4 * 256**2}"
        return Finding("memory statistics", "wrong", what, "Budgets cannot be checked here.")
    return Finding("memory statistics", "ok", "XLA states the bytes of a compiled program")


def barriers() -> Finding:
    """Whether recomputation stays behind a barrier, with XLA's defaults or with an option."""
    name = "barriers"
    if barriers_hold():
        return Finding(name, "ok", "hold: XLA keeps what is to be computed again")
    device = _compat.default_device()
    if backend_of(device.platform).may_drop_barriers and barriers_hold(
        tuple(KEEP_BARRIERS.items())
    ):
        option = "=".join(*KEEP_BARRIERS.items())
        return Finding(
            name, "note", f"hold with the compiler option {option}",
            "memjax sets it; jax.checkpoint alone saves nothing on unrolled layers here.",
        )  # fmt: skip
    return Finding(
        name, "wrong", "are removed: XLA undoes recomputation",
        "Budgets below the plain step's bytes will be refused.",
    )  # fmt: skip


def donation() -> Finding:
    """Whether a donated buffer is really given up, in the program and in the process."""
    update = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros((256, 256), jnp.float32)
    alias_bytes = footprint(update.lower(x).compile()).alias_bytes
    jax.block_until_ready(update(x))
    if alias_bytes >= 4 * 256**2 and x.is_deleted():
        return Finding("donation", "ok", "works: a result takes its argument's place")
    what = f"does not work: {alias_bytes} of {4 * 256**2} bytes aliased"
    return Finding("donation", "wrong", what, "State in and state out both take room here.")


SHARE = 0.7
"""Of the bytes of the small step: its floor is near a half."""


def budget() -> Finding:
    """The whole way through: a small step under a budget, with the right numbers."""
    step, args = _small_step()
    limit = int(SHARE * memjax.analyze(step, *args).peak_bytes)
    budgeted = memjax.memory_budget(limit, donate=None)(step)
    expected, found = step(*args), budgeted(*args)
    right = bool(np.allclose(expected, found, rtol=1e-4))
    compiled_bytes = budgeted.report(*args).compiled.total_bytes
    verdict: Verdict = "ok" if right and compiled_bytes <= limit else "wrong"
    what = (
        f"{format_bytes(compiled_bytes)} compiled of {format_bytes(limit)}, "
        f"{'the same' if right else 'other'} numbers"
    )
    return Finding("a small budget", verdict, what)


def _small_step() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        def loss(w: jax.Array) -> jax.Array:
            h = x
            for _ in range(16):
                h = jnp.tanh(h @ w)
            return jnp.mean(h**2)

        gradient: jax.Array = jax.grad(loss)(w)
        return gradient

    w = jnp.eye(32) + 0.01 * jnp.arange(32.0)
    return step, (w, jnp.linspace(-1, 1, 512 * 32).reshape(512, 32))


CHECKS: Mapping[str, Callable[[], Finding]] = {
    "memory statistics": statistics,
    "barriers": barriers,
    "donation": donation,
    "a small budget": budget,
}

_ALLOCATOR = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": (
        "Whether JAX takes its share of the device at the start (default true)."
    ),
    "XLA_PYTHON_CLIENT_MEM_FRACTION": (
        "Which share of the device JAX may take (default 0.75); a limit of 80 % of it is less "
        "than 80 % of the device."
    ),
    "XLA_CLIENT_MEM_FRACTION": "The newer name of XLA_PYTHON_CLIENT_MEM_FRACTION.",
    "XLA_PYTHON_CLIENT_ALLOCATOR": (
        "platform: allocate and free each buffer on its own; slow, for debugging. "
        "default, bfc: one pool. cuda_async: CUDA's own pool. vmm: CUDA's virtual memory."
    ),
    "TF_GPU_ALLOCATOR": "cuda_malloc_async: CUDA's own pool, with less fragmentation.",
}
_ANYWHERE = {
    "JAX_PLATFORMS": "Which backends JAX may use.",
    "CUDA_VISIBLE_DEVICES": "Which GPUs JAX sees.",
    "JAX_COMPILATION_CACHE_DIR": "Compiled programs are kept there.",
}
_ON_CPU = {
    "MALLOC_ARENA_MAX": (
        "How many pools glibc keeps. With one, it gives back more of what it holds."
    ),
    "LD_PRELOAD": "Another allocator may be loaded, which changes what is resident.",
}
_FLAGS = {
    "xla_disable_hlo_passes": (
        "Passes of XLA that do not run; memjax's own option is added per compilation."
    ),
    "xla_cpu_scheduler_type": "memjax sets it per compilation on CPU; that wins over the flag.",
    "xla_force_host_platform_device_count": "The CPU counts as several devices.",
}


def settings(environment: Mapping[str, str], on: str | None) -> list[Finding]:
    """Settings of allocators and of XLA that are in force, and what they mean.

    Args:
        environment: of the process.
        on: the platform of the default device; None where there is none.
    """
    found = [
        Finding(name, "note", environment[name], meaning)
        for name, meaning in {**_ANYWHERE, **(_ON_CPU if on == "cpu" else {})}.items()
        if environment.get(name)
    ]
    for name, meaning in _ALLOCATOR.items():
        value = environment.get(name)
        if value and on in _GPU:
            refusal = _refusal(name, value, environment)
            verdict: Verdict = "wrong" if refusal else "note"
            found.append(Finding(name, verdict, value, refusal or meaning))
        elif value:
            where = {"cpu": "CPU", "tpu": "TPU"}.get(on or "", "anything but a GPU")
            found.append(Finding(name, "note", value, f"Has no effect on {where}."))
    for flag in environment.get("XLA_FLAGS", "").split():
        name, _, value = flag.lstrip("-").partition("=")
        meaning = _FLAGS.get(name, "A flag of XLA; memjax's own options win over it.")
        found.append(Finding(f"XLA_FLAGS {name}", "note", value or "set", meaning))
    if not found:
        found.append(Finding("settings", "ok", "defaults of JAX and XLA"))
    return found


_GPU = ("gpu", "cuda", "rocm")
_ALLOCATORS = ("default", "platform", "bfc", "cuda_async", "vmm")
"""As `jaxlib.xla_client.generate_pjrt_gpu_plugin_options` has them."""


def _refusal(name: str, value: str, environment: Mapping[str, str]) -> str:
    """Why a setting is not what its user wants; empty where nothing is wrong with it."""
    if name == "XLA_PYTHON_CLIENT_ALLOCATOR" and value.lower() not in _ALLOCATORS:
        return f"JAX refuses it; it takes {', '.join(_ALLOCATORS)}."
    if name == "XLA_PYTHON_CLIENT_PREALLOCATE" and value.lower() not in ("true", "false", "0", "1"):
        return "JAX takes it for true; only false and 0 mean no."
    if name.endswith("MEM_FRACTION"):
        try:
            share = float(value)
        except ValueError:
            return "JAX refuses it; write a number, as in 0.9."
        if not 0 < share <= 1:
            return "A share is more than 0, and above 1 only with unified memory."
        if all(environment.get(n) for n in _ALLOCATOR if n.endswith("MEM_FRACTION")):
            return "JAX refuses both of its names together; unset XLA_PYTHON_CLIENT_MEM_FRACTION."
    return ""
