"""Shardings over the user's devices, as shardings over named ones.

In: shardings, as of the mesh that a step is written for, and devices. Out: the same over these
devices: a mesh keeps its shape and the names of its axes. So a step that is spread over eight CPUs
of a test, or over an `AbstractMesh`, is planned as it is for eight GPUs.

Not handled: meshes that the step itself names inside, as `with_sharding_constraint` on a
`NamedSharding` of other devices; with `jax.set_mesh` and a `PartitionSpec` there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from memjax import _compat


def placed(shardings: Sequence[Any], devices: Sequence[Any], name: str) -> tuple[Any, ...]:
    """Shardings over other devices.

    Args:
        shardings: None leaves a value to XLA if there are several devices.
        devices: at least one.
        name: of the devices, for messages.

    Raises:
        ValueError: nothing says how values are spread over several devices, or a mesh has
            another number of them.
    """
    if len(devices) == 1:
        alone = SingleDeviceSharding(devices[0])
        return tuple(_over(s, devices, name, alone) for s in shardings)
    found = tuple(_over(s, devices, name, None) for s in shardings)
    if shardings and not any(found):
        raise ValueError(
            f"device={name!r} are {len(devices)} devices, and nothing says how the step is "
            "spread over them: give in_shardings, or arguments with a NamedSharding, over a mesh "
            f"of as many, such as one of memjax.target_devices({name!r})"
        )
    return found


def moved(leaf: Any, devices: Sequence[Any], name: str) -> Any:
    """An argument to trace a step with: a type over other devices in place of a spread array."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return leaf
    return _compat.struct_at(leaf, _on_mesh(sharding, devices, name))


def _over(sharding: Any, devices: Sequence[Any], name: str, otherwise: Any) -> Any:
    """A sharding over a mesh, moved to other devices; what any other is replaced by."""
    return _on_mesh(sharding, devices, name) if isinstance(sharding, NamedSharding) else otherwise


def _on_mesh(sharding: NamedSharding, devices: Sequence[Any], name: str) -> NamedSharding:
    mesh = sharding.mesh
    sizes = tuple(mesh.axis_sizes)
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"device={name!r} has {len(devices)} devices, and a mesh of the step's arguments "
            f"{math.prod(sizes)}: {dict(mesh.shape)}"
        )
    if isinstance(mesh, Mesh) and set(mesh.devices.flat) == set(devices):
        return sharding  # these devices already, in the user's order
    grid = np.empty(len(devices), dtype=object)
    grid[:] = devices
    moved = Mesh(grid.reshape(sizes), mesh.axis_names, axis_types=mesh.axis_types)
    return NamedSharding(moved, sharding.spec, memory_kind=sharding.memory_kind)
