"""What the chunks of a split are made of: functions of arrays that its loops call."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memjax import _compat
from memjax.split.axes import Reduced

COMBINE = {
    Reduced.SUM: lax.add,
    Reduced.MAX: lax.max,
    Reduced.MIN: lax.min,
    Reduced.AND: lax.bitwise_and,
    Reduced.OR: lax.bitwise_or,
}


def summed_in(dtype: Any) -> Any:
    """In which type parts of a sum are added."""
    small = jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
    return jnp.dtype(jnp.float32) if small else dtype


def empty(like: jax.ShapeDtypeStruct) -> jax.Array:
    return filled(like, Reduced.SUM)


def filled(like: jax.ShapeDtypeStruct, how: Reduced) -> jax.Array:
    array = lax.full(like.shape, nothing(like.dtype, how), like.dtype, sharding=like.sharding)
    return _compat.as_type(array, like)


def nothing(dtype: Any, how: Reduced) -> Any:
    """What combines with any number to that number."""
    if how in (Reduced.SUM, Reduced.OR):
        return np.zeros((), dtype)[()]
    if how is Reduced.AND:
        return ~np.zeros((), dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf if how is Reduced.MAX else np.inf
    if jnp.issubdtype(dtype, jnp.bool_):
        return how is Reduced.MIN
    limits = np.iinfo(dtype)
    return limits.min if how is Reduced.MAX else limits.max


def sliced(whole: jax.Array, start: jax.Array, dim: int, size: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(whole, start, size, dim)


def written(whole: jax.Array, part: jax.Array, start: jax.Array, dim: int) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(whole, part, start, dim)


def counted_from(counts: jax.Array, start: jax.Array) -> jax.Array:
    return counts + lax.convert_element_type(start, counts.dtype)


def typed(array: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    return _compat.with_weak_type(array, like.dtype, bool(like.weak_type))
