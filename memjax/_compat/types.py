"""Types of values: their bytes, how they are spread and vary, and tracing with them.

In: avals. Out: structs to trace for, jaxprs of functions of them, values that keep their types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax._src import config as jax_config, core as jax_core
from jax._src.lax import lax as jax_lax


def shard_map_like(eqn: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` mapped over devices as a `shard_map` eqn maps its body."""
    params = eqn.params
    mapped: Callable[..., Any] = jax.shard_map(
        function,
        mesh=params["mesh"],
        in_specs=tuple(params["in_specs"]),
        out_specs=tuple(params["out_specs"]),
        axis_names=set(params["newly_manual_axes"]),
        check_vma=params["check_vma"],
    )
    return mapped


def barrier(values: Sequence[Any]) -> list[Any]:
    """`optimization_barrier` over values, which keep their types.

    Inside of a `shard_map`, jax 0.10.2 makes everything that goes through one barrier vary
    over devices as one of its operands does. So there is one barrier for each kind.
    """
    kinds: dict[frozenset[Any], list[int]] = {}
    for number, value in enumerate(values):
        kinds.setdefault(_varying(jax.typeof(value)), []).append(number)
    fenced: dict[int, Any] = {}
    for numbers in kinds.values():
        outputs = jax.lax.optimization_barrier(tuple(values[n] for n in numbers))
        fenced.update(zip(numbers, outputs, strict=True))
    return [fenced[number] for number in range(len(values))]


def _varying(aval: Any) -> frozenset[Any]:
    """The mesh axes over which values of a type differ from device to device."""
    given = getattr(aval, "mat", None) or getattr(aval, "manual_axis_type", None)
    varying = getattr(given, "varying", None)
    return frozenset(getattr(aval, "vma", ()) if varying is None else varying)


def is_spread(aval: Any) -> bool:
    """Whether a type says by itself how a value is spread, as on a mesh with explicit axes."""
    sharding = getattr(aval, "sharding", None)
    spec = getattr(sharding, "spec", ())
    return any(axes is not None for axes in spec)


def is_spread_along(aval: Any, dim: int) -> bool:
    """Whether a type says by itself that one of its dimensions is spread."""
    spec = getattr(getattr(aval, "sharding", None), "spec", ())
    return dim < len(spec) and spec[dim] is not None


def struct(aval: Any) -> jax.ShapeDtypeStruct:
    """A type to trace for: with its sharding and the axes over which it varies."""
    more: dict[str, Any] = {"weak_type": bool(getattr(aval, "weak_type", False))}
    if not aval.sharding.mesh.empty:
        more["sharding"] = aval.sharding
    if _varying(aval):
        more["manual_axis_type"] = aval.mat
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, **more)


def struct_at(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    """The type of an array, or a type, placed elsewhere; None leaves that open."""
    weak = bool(getattr(leaf, "weak_type", False))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=weak, sharding=sharding)


def stacked(aval: Any, length: int) -> jax.ShapeDtypeStruct:
    """The type of a stack of so many values of a type."""
    more: dict[str, Any] = {}
    one = struct(aval)
    if one.sharding is not None:
        spec = jax.sharding.PartitionSpec(None, *one.sharding.spec)
        more["sharding"] = one.sharding.update(spec=spec)
    if _varying(aval):
        more["manual_axis_type"] = aval.mat
    return jax.ShapeDtypeStruct((length, *aval.shape), aval.dtype, **more)


def as_type(array: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    """An array, spread and varying as a type says."""
    aval = jax.typeof(array)
    if like.sharding is not None and aval.sharding != like.sharding:
        array = jax.sharding.reshard(array, like.sharding)
    missing = _varying(like) - _varying(aval)
    return jax.lax.pcast(array, tuple(sorted(missing)), to="varying") if missing else array


def with_weak_type(array: jax.Array, dtype: Any, weak_type: bool) -> jax.Array:
    """An array in a dtype, of weak type or not."""
    converted: jax.Array = jax_lax._convert_element_type(array, dtype, weak_type=weak_type)
    return converted


def make_jaxpr(function: Callable[..., Any], types: Sequence[Any], mesh: Any, *likes: Any) -> Any:
    """The jaxpr of a function, as under a mesh.

    Args:
        function: of arrays.
        types: theirs.
        mesh: what `mesh_of` gives.
        likes: types that are made in the function. If one of them or of `types` varies over the
            devices, JAX keeps account of that, as in a `shard_map`.
    """
    axes = sorted(frozenset().union(*map(_varying, (*types, *likes))))
    sizes = [(axis, mesh.shape[axis]) for axis in axes]
    with (
        jax.sharding.use_abstract_mesh(mesh),
        jax_core.extend_axis_env_nd(sizes),
        jax_config._check_vma(bool(axes)),
    ):
        return jax.make_jaxpr(function)(*types)


def is_key(aval: Any) -> bool:
    """Whether a type is that of random keys, not of numbers."""
    return bool(jax.numpy.issubdtype(aval.dtype, jax.dtypes.prng_key))


def aval_bytes(aval: Any) -> int:
    """Bytes of an aval; 0 for tokens and other things that take none."""
    shape = getattr(aval, "shape", None)
    dtype = getattr(aval, "dtype", None)
    if shape is None or dtype is None:
        return 0
    size = 1
    for dimension in shape:
        size *= int(dimension)
    return size * int(dtype.itemsize)
