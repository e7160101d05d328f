"""Devices: those that are attached, and those of a topology, which a compiler knows alone.

In: a platform. Out: its devices, and whether they run anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import jax
from jax._src import xla_bridge
from jax.experimental import topologies

JAX_VERSION: tuple[int, ...] = tuple(jax.__version_info__)


def attached_devices(platform: str) -> list[Any]:
    """The devices of a platform that are there; none where JAX has no backend for it."""
    try:
        return list(jax.devices(platform))
    except (RuntimeError, AssertionError):  # the latter where no backend at all is to be had
        return []


def is_compile_only(device: Any) -> bool:
    """Whether a device comes from a topology, and runs nothing."""
    return type(getattr(device, "client", None)).__name__ == "CompileOnlyPyClient"


def compile_only_devices(platform: str, name: str, **options: Any) -> tuple[Any, ...]:
    """The devices of a topology.

    Raises:
        RuntimeError: there is no such topology, or no compiler for it.
    """
    topology = topologies.get_topology_desc(platform=platform, topology_name=name, **options)
    return tuple(topology.devices)


def register_plugins(platform: str, modules: Sequence[str]) -> None:
    """Let plugins register what they have for a platform, where they did not at the first time.

    JAX looks for its backends first, so that none of these becomes one of them.
    """
    jax.devices()
    for module in modules:
        if platform not in xla_bridge._topology_factories and find_spec(module) is not None:
            importlib.import_module(module).initialize()


def default_device() -> Any:
    """Where JAX puts what nobody places; `jax_default_device` may be a platform's name."""
    chosen = getattr(jax.config, "jax_default_device", None)
    if isinstance(chosen, str):
        return jax.devices(chosen)[0]
    return chosen or jax.devices()[0]
