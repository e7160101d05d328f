"""Equinox modules as arguments: what is no array is static, as under `equinox.filter_jit`.

In: arguments among which there is a module. Out: each of them packed, with its leaves that are no
arrays as statics; of results likewise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from memjax.program.objects.packed import Packed, pack

MODULE = "equinox"
ARRAYS = (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic)


@dataclass(frozen=True)
class Rest:
    """What an argument or a result is beside its arrays.

    Attributes:
        tree: its structure.
        values: its other leaves, by place among all, with their types: 1, 1.0 and True are equal.
    """

    tree: Any
    values: tuple[tuple[int, type, Hashable], ...]

    @property
    def framework(self) -> Any:
        """The module that knows what to do with this."""
        return sys.modules[__name__]


def is_object(kind: type) -> bool:
    """Whether values of a type are Equinox modules."""
    return issubclass(kind, sys.modules[MODULE].Module)


@contextmanager
def taken_apart(given: Mapping[str, Any], returns_all: bool) -> Iterator[Any]:
    """See `memjax.program.objects.calls.taken_apart`; all results are the step's own."""
    del returns_all
    yield {name: _packed(value, _called(name)) for name, value in given.items()}, _whole


def run(call: Callable[[Mapping[str, Any]], Any], packed: Mapping[str, Packed]) -> Packed:
    """Call a step with what the arguments were packed from; its result, packed."""
    return _packed(call({name: _whole(value) for name, value in packed.items()}), "the result")


def _called(name: str) -> str:
    return f"argument {name}" if name.isdigit() else f"argument {name!r}"


def _packed(value: Any, what: str) -> Packed:
    """A value's arrays, with the rest of it as static.

    Raises:
        ValueError: what is no array cannot be hashed, so that no plan can be kept under it.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(value)
    rest: list[tuple[int, type, Hashable]] = []
    for place, (path, leaf) in enumerate(paths):
        if not isinstance(leaf, ARRAYS):
            _check_hashable(leaf, what + jax.tree_util.keystr(path))
            rest.append((place, type(leaf), leaf))
    arrays = [(path, leaf) for path, leaf in paths if isinstance(leaf, ARRAYS)]
    return pack(arrays, Rest(tree, tuple(rest)))


def _check_hashable(leaf: Any, where: str) -> None:
    try:
        hash(leaf)
    except TypeError as error:
        raise ValueError(
            f"{where} is a {type(leaf).__name__}: neither an array nor a value that can be hashed, "
            "so that it can be static. Make it an array, or a field with eqx.field(static=True) "
            "of a type with a hash"
        ) from error


def _whole(packed: Packed) -> Any:
    """What was packed."""
    rest = packed.static
    assert isinstance(rest, Rest)
    others = {place: value for place, _, value in rest.values}
    arrays = iter(packed.leaves)
    count = len(packed.leaves) + len(others)
    leaves = [others[n] if n in others else next(arrays) for n in range(count)]
    return jax.tree_util.tree_unflatten(rest.tree, leaves)
