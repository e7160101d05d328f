"""A call's arguments apart: static values, flat dynamic leaves, and the key they make.

In: a function, its static arguments, a call. Out: `Call`, and the types to compile for.

Follows `jax.jit`: `static_argnums` and `static_argnames` name the same parameters where the
function's signature can be read; everything else is a pytree of arrays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from memjax import _compat


@dataclass(frozen=True)
class Call:
    """One call, taken apart.

    Attributes:
        leaves: the flat dynamic arguments.
        tree: their structure, of `(args, kwargs)` without the static ones.
        static: the static values as (index or name, type, value). The type is there since
            1, 1.0 and True are equal, and a step may tell them apart.
    """

    leaves: tuple[Any, ...]
    tree: Any
    static: tuple[tuple[int | str, type, Hashable], ...]

    def key(self) -> Hashable:
        """What decides which compiled program a call needs, besides JAX's own state."""
        return (self.tree, self.static, tuple(_leaf_key(leaf) for leaf in self.leaves))

    @property
    def count(self) -> int:
        """How many arguments were passed by position."""
        dynamic = jax.tree_util.treedef_children(jax.tree_util.treedef_children(self.tree)[0])
        return len(dynamic) + sum(isinstance(where, int) for where, _, _ in self.static)

    def roots(self) -> tuple[int | str, ...]:
        """The argument that each leaf belongs to: its position, or its keyword."""
        static = {where for where, _, _ in self.static}
        positions = [n for n in range(self.count) if n not in static]
        whole = jax.tree_util.tree_unflatten(self.tree, self.leaves)
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(whole)[0]]
        return tuple(positions[p[1].idx] if p[0].idx == 0 else p[1].key for p in paths)


def _leaf_key(leaf: Any) -> Hashable:
    aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    weak = bool(getattr(aval, "weak_type", False))
    return (aval.shape, aval.dtype, weak, leaf_placement(leaf))


def weak_types(leaves: Sequence[Any]) -> tuple[bool, ...]:
    """Whether each leaf yields to the other operand's dtype, as Python's numbers do."""
    return tuple([_is_weak(leaf) for leaf in leaves])


def committed(leaves: Sequence[Any]) -> tuple[bool, ...]:
    """Whether each leaf insists on its devices."""
    return tuple([getattr(leaf, "committed", False) for leaf in leaves])


def _is_weak(leaf: Any) -> bool:
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return bool(getattr(leaf, "weak_type", False))  # keys have none
    return isinstance(leaf, (bool, int, float, complex)) and not hasattr(leaf, "dtype")


@dataclass(frozen=True)
class Statics:
    """Which parameters of a function are static.

    Attributes:
        argnums: positions; negative ones only where a function takes any number, and then
            they count from the end of a call's own.
        argnames: names, among them those of the positions where they are known.
    """

    argnums: tuple[int, ...]
    argnames: tuple[str, ...]

    def split(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Call:
        """Take a call apart.

        Raises:
            ValueError: a static value cannot be hashed.
        """
        if not self.argnums and not self.argnames:
            leaves, tree = jax.tree_util.tree_flatten((tuple(args), kwargs))
            return Call(tuple(leaves), tree, ())
        static: list[tuple[int | str, type, Hashable]] = []
        indices = in_call(self.argnums, len(args))
        for index in indices:
            static.append((index, *_hashable(args[index], f"argument {index}")))
        for name in self.argnames:
            if name in kwargs:
                static.append((name, *_hashable(kwargs[name], f"argument {name!r}")))
        dynamic = tuple(a for i, a in enumerate(args) if i not in indices)
        named = {k: v for k, v in kwargs.items() if k not in self.argnames}
        leaves, tree = jax.tree_util.tree_flatten((dynamic, named))
        return Call(tuple(leaves), tree, tuple(static))


def in_call(argnums: Sequence[int], count: int) -> list[int]:
    """Those of some positions that a call with `count` of them has, none negative."""
    return [n % count for n in argnums if -count <= n < count]


def _hashable(value: Hashable, label: str) -> tuple[type, Hashable]:
    try:
        hash(value)
    except TypeError as error:
        raise ValueError(
            f"static {label} is a {type(value).__name__}, which cannot be hashed; "
            "static values are part of the key under which a plan is kept"
        ) from error
    return type(value), value


def as_tuple(chosen: Any) -> tuple[Any, ...]:
    """One position or name, several or None, as a tuple."""
    if chosen is None:
        return ()
    return (chosen,) if isinstance(chosen, (int, str)) else tuple(chosen)


def resolve(
    function: Callable[..., Any],
    nums: tuple[int, ...],
    names: tuple[str, ...],
    setting: str,
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Positions and names of some arguments, each found from the other where possible.

    Args:
        function: whose.
        nums: positions, negative ones from the end.
        names: of parameters.
        setting: whose `…_argnums` and `…_argnames` these are, for messages.

    Raises:
        ValueError: a position or a name that the function does not have.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return nums, names
    positional = [
        p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    takes_any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not takes_any:
        nums = tuple(n + len(positional) if n < 0 else n for n in nums)
    for n in nums:
        if not takes_any and not 0 <= n < len(positional):
            raise ValueError(
                f"{setting}_argnums has {n}, but there are {len(positional)} positions"
            )
    known = {p.name for p in parameters}
    for name in names:
        if name not in known and not takes_any_name:
            raise ValueError(f"{setting}_argnames has {name!r}, which is no parameter")
    from_names = [positional.index(name) for name in names if name in positional]
    from_nums = [positional[n] for n in nums if 0 <= n < len(positional)]
    return tuple(sorted({*nums, *from_names})), tuple(dict.fromkeys((*names, *from_nums)))


def flat_arguments(avals: Sequence[Any], leaves: Sequence[Any]) -> tuple[Any, ...]:
    """Types to compile for: shape, dtype and weak type of the trace, placement of the leaves."""

    def struct(aval: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            aval.shape, aval.dtype, weak_type=aval.weak_type, sharding=leaf_placement(leaf)
        )

    return tuple(struct(a, leaf) for a, leaf in zip(avals, leaves, strict=True))


def leaf_placement(leaf: Any) -> Any:
    """Where and how a leaf insists on being held: the sharding of a committed array or of a typed
    struct, with the layout where it is not the device's own choice; None where anything will do.
    """
    if isinstance(leaf, jax.Array):
        return _compat.placement(leaf) if leaf.committed else None
    return _compat.placement(leaf)
