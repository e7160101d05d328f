"""A call's arguments apart: static values, flat dynamic leaves, and the key they make.

In: a function, its static arguments, a call. Out: `Call`.

Follows `jax.jit`: `static_argnums` and `static_argnames` name the same parameters where the
function's signature can be read; everything else is a pytree of arrays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from memjax.compile import leaf_sharding


@dataclass(frozen=True)
class Call:
    """One call, taken apart.

    Attributes:
        leaves: the flat dynamic arguments.
        tree: their structure, of `(args, kwargs)` without the static ones.
        static: the static values, positional ones by index and keywords by name.
    """

    leaves: tuple[Any, ...]
    tree: Any
    static: tuple[tuple[int | str, Hashable], ...]

    def key(self) -> Hashable:
        """What decides which compiled program a call needs."""
        return (self.tree, self.static, tuple(_leaf_key(leaf) for leaf in self.leaves))


def _leaf_key(leaf: Any) -> Hashable:
    aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    weak = bool(getattr(aval, "weak_type", False))
    return (aval.shape, aval.dtype, weak, leaf_sharding(leaf))


def weak_types(leaves: Sequence[Any]) -> tuple[bool, ...]:
    """Whether each leaf yields to the other operand's dtype, as Python's numbers do."""
    return tuple([_is_weak(leaf) for leaf in leaves])


def _is_weak(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array):
        return bool(getattr(leaf, "weak_type", False))  # keys have none
    return isinstance(leaf, (bool, int, float, complex)) and not hasattr(leaf, "dtype")


@dataclass(frozen=True)
class Statics:
    """Which parameters of a function are static.

    Attributes:
        argnums: positions, none negative.
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
        static: list[tuple[int | str, Hashable]] = []
        for index in self.argnums:
            if index < len(args):
                static.append((index, _hashable(args[index], f"argument {index}")))
        for name in self.argnames:
            if name in kwargs:
                static.append((name, _hashable(kwargs[name], f"argument {name!r}")))
        dynamic = tuple(a for i, a in enumerate(args) if i not in self.argnums)
        named = {k: v for k, v in kwargs.items() if k not in self.argnames}
        leaves, tree = jax.tree_util.tree_flatten((dynamic, named))
        return Call(tuple(leaves), tree, tuple(static))


def _hashable(value: Hashable, label: str) -> Hashable:
    try:
        hash(value)
    except TypeError as error:
        raise ValueError(
            f"static {label} is a {type(value).__name__}, which cannot be hashed; "
            "static values are part of the key under which a plan is kept"
        ) from error
    return value


def resolve_statics(
    function: Callable[..., Any],
    argnums: int | Sequence[int],
    argnames: str | Sequence[str],
) -> Statics:
    """Which positions and names are static, each found from the other where possible.

    Raises:
        ValueError: a position or a name that the function does not have.
    """
    nums = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    names = (argnames,) if isinstance(argnames, str) else tuple(argnames)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return Statics(nums, names)
    positional = [
        p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    takes_any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    nums = tuple(n + len(positional) if n < 0 else n for n in nums)
    for n in nums:
        if not takes_any and not 0 <= n < len(positional):
            raise ValueError(f"static_argnums has {n}, but there are {len(positional)} positions")
    known = {p.name for p in parameters}
    for name in names:
        if name not in known and not takes_any_name:
            raise ValueError(f"static_argnames has {name!r}, which is no parameter")
    from_names = [positional.index(name) for name in names if name in positional]
    from_nums = [positional[n] for n in nums if n < len(positional)]
    return Statics(
        tuple(sorted({*nums, *from_names})),
        tuple(dict.fromkeys((*names, *from_nums))),
    )
