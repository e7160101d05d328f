"""A pytree of some arrays, with all that is static beside them.

In: leaves, how each is called, what is static. Out: `Packed`, which JAX flattens to the leaves;
two have the same structure if and only if names and statics are equal.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Name:
    """Where a leaf is in an object, as a key of a path: `.first.kernel`."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Packed:
    """Arrays of an object, and what is static about it.

    Attributes:
        leaves: the arrays.
        names: where each is in the object.
        static: the rest, for the framework that made this; compared, so it must be hashable.
    """

    leaves: tuple[Any, ...]
    names: tuple[Name, ...]
    static: Hashable


def pack(paths: Sequence[tuple[Sequence[Any], Any]], static: Hashable) -> Packed:
    """Leaves with their paths, and what is static beside them."""
    names = tuple(Name(jax.tree_util.keystr(tuple(path))) for path, _ in paths)
    return Packed(tuple(leaf for _, leaf in paths), names, static)


def _flatten_with_keys(packed: Packed) -> tuple[list[tuple[Name, Any]], Hashable]:
    return list(zip(packed.names, packed.leaves, strict=True)), (packed.names, packed.static)


def _flatten(packed: Packed) -> tuple[tuple[Any, ...], Hashable]:
    return packed.leaves, (packed.names, packed.static)


def _unflatten(aux: Any, leaves: Iterable[Any]) -> Packed:
    return Packed(tuple(leaves), *aux)


jax.tree_util.register_pytree_with_keys(Packed, _flatten_with_keys, _unflatten, _flatten)
