"""A step's arguments from a function that makes them, without making them.

In: a function, or arguments. Out: `(args, kwargs)` with `jax.ShapeDtypeStruct` for every array
that would have been made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from memjax import _compat

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def as_arguments(made: Any) -> Arguments:
    """Positional and keyword arguments: a tuple, a dict of keywords, or the one argument."""
    if type(made) is tuple:  # a named tuple is a state
        return made, {}
    if type(made) is dict and made and all(isinstance(key, str) for key in made):
        return (), made
    return (made,), {}


def shapes_of(make: Callable[..., Any], *args: Any) -> Any:
    """What a function returns, with a shape in the place of every array that it makes.

    The function is traced, so nothing is allocated or computed. Arrays that existed before,
    shapes, and what is no array come back as they are, with their shardings.

    Args:
        make: the function.
        args: of it; they are not traced.
    """
    flat: list[Any] = []

    def traced() -> list[Any]:
        flat[:] = jax.tree.flatten(make(*args))
        return [leaf for leaf in flat[0] if _is_made(leaf)]

    shapes = iter(jax.eval_shape(traced))
    leaves = [next(shapes) if _is_made(leaf) else leaf for leaf in flat[0]]
    return jax.tree.unflatten(flat[1], leaves)


def _is_made(leaf: Any) -> bool:
    """Whether a leaf is an array that the traced function makes."""
    return _compat.is_tracer(leaf) or isinstance(leaf, (np.ndarray, np.generic))
