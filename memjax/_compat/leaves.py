"""What a caller's arguments are: arrays, tracers, where they lie, what they are called.

In: leaves of pytrees and their paths. Out: plain answers.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import jax
from jax._src.array import ArrayImpl
from jax._src.interpreters import pxla

from memjax._compat.types import is_key


def is_tracer(leaf: Any) -> bool:
    """Whether a leaf stands for a value under an outer transformation."""
    return isinstance(leaf, jax.core.Tracer)


def is_deleted(leaf: Any) -> bool:
    """Whether a leaf is an array whose memory was given up. Quick for the usual kind of array."""
    if type(leaf) is ArrayImpl:
        return bool(leaf.is_deleted())
    return isinstance(leaf, jax.Array) and not is_tracer(leaf) and leaf.is_deleted()


def is_pytree(value: Any) -> bool:
    """Whether JAX takes an object apart, and not for a leaf."""
    return not jax.tree_util.all_leaves([value])


def placement(leaf: Any) -> Any:
    """The sharding of an array or of a struct; its format where the layout is not the default."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or is_key(leaf) or getattr(leaf, "is_deleted", bool)():
        return sharding
    given, struct = leaf.format, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return sharding if pxla.is_default_layout(given.layout, sharding, struct) else given


def buffers(leaf: Any) -> tuple[Any, ...]:
    """What stands for the memory of an array, by device; empty for what holds none.

    Two arrays may share memory and be different objects: `jax.device_put(x, x.sharding)`.
    """
    if not isinstance(leaf, jax.Array) or is_tracer(leaf) or not leaf.size:
        return ()
    array = jax.random.key_data(leaf) if is_key(leaf) else leaf
    try:
        shards = array.addressable_shards
        return tuple((s.device.id, s.data.unsafe_buffer_pointer()) for s in shards)
    except (AttributeError, NotImplementedError, RuntimeError):  # a backend without pointers
        return (id(leaf),)


def parameter_names(function: Any, static_argnums: Sequence[int]) -> tuple[str, ...]:
    """Names of the positional parameters that are not static; empty where nobody knows."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return tuple(name for i, name in enumerate(names) if i not in static_argnums)


def argument_name(path: Sequence[Any], names: Sequence[str]) -> str:
    """A leaf of `(args, kwargs)` as the user would write it: `state.params['w']`."""
    head, *rest = path
    if head.idx == 0:
        index = rest[0].idx
        root = names[index] if index < len(names) else f"args[{index}]"
    else:
        root = str(rest[0].key)
    return root + jax.tree_util.keystr(tuple(rest[1:]))


def broadcast_prefix(prefix: Any, tree: Any) -> list[Any]:
    """A leaf of `prefix` for each leaf of `tree`; None is a leaf of `prefix`."""
    result: list[Any] = []

    def extend(leaf: Any, subtree: Any) -> None:
        result.extend([leaf] * len(jax.tree_util.tree_leaves(subtree)))

    is_leaf = lambda x: x is None or isinstance(x, jax.sharding.Sharding)  # noqa: E731
    jax.tree_util.tree_map(extend, prefix, tree, is_leaf=is_leaf)
    return result
