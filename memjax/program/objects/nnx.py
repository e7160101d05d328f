"""Flax nnx objects as arguments: split together, and written back to, as under `nnx.jit`.

In: arguments among which are modules, optimizers, metrics, RNGs, variables. Out: those packed,
with one graph definition between them, so that what they share stays shared; and a result from
which the caller's own objects are updated.

What a step leaves as it is does not become a result of the program, which would be a copy of it;
the caller's object has it already. It does where arguments are given up whole, as by
`donate_argnums`: the object's own array is then gone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from memjax.program.objects.packed import Packed, pack

MODULE = "flax.nnx"
TAG = "memjax"
"""Of nnx's context, which knows an object outside of the trace and in it for the same."""


@dataclass(frozen=True)
class Part:
    """What is static about one argument.

    Attributes:
        places: of its leaves among those of all objects.
        graph: of all objects, and the structure of their state; None but for the first of them.
        returns_all: whether what the step leaves as it is becomes a result as well.
    """

    places: tuple[int, ...]
    graph: tuple[Any, Any] | None
    returns_all: bool

    @property
    def framework(self) -> Any:
        """The module that knows what to do with this."""
        return sys.modules[__name__]


@dataclass(frozen=True)
class Outcome:
    """What is static about a result.

    Attributes:
        graph: of the arguments' objects and the user's result.
        tree: the structure of their state.
        unchanged: by leaf of that state, which leaf of the arguments' it is; None for a new one.
    """

    graph: Any
    tree: Any
    unchanged: tuple[int | None, ...]


def is_object(kind: type) -> bool:
    """Whether values of a type are nodes of nnx's graphs, or variables of them."""
    nnx = sys.modules[MODULE]
    return issubclass(kind, (nnx.Object, nnx.Variable)) and not issubclass(kind, nnx.State)


@contextmanager
def taken_apart(given: Mapping[str, Any], returns_all: bool) -> Iterator[Any]:
    """See `memjax.program.objects.calls.taken_apart`."""
    nnx: Any = sys.modules[MODULE]
    objects = {name: value for name, value in given.items() if _holds_objects(value)}
    with nnx.update_context(TAG):
        with nnx.split_context(TAG) as context:
            graph, state = context.split(objects)
        paths, tree = jax.tree_util.tree_flatten_with_path(state)
        packed: dict[str, Packed] = {}
        for name in objects:
            places = tuple(n for n, (path, _) in enumerate(paths) if _first(path) == name)
            leaves = [(_short(paths[place][0][1:]), paths[place][1]) for place in places]
            packed[name] = pack(
                leaves, Part(places, None if packed else (graph, tree), returns_all)
            )
        before = [leaf for _, leaf in paths]

        def put_back(result: Packed) -> Any:
            with nnx.merge_context(TAG, False) as context:
                outcome = result.static
                assert isinstance(outcome, Outcome)
                changed = iter(result.leaves)
                leaves = [next(changed) if n is None else before[n] for n in outcome.unchanged]
                after = jax.tree_util.tree_unflatten(outcome.tree, leaves)
                _, of_the_user = context.merge(outcome.graph, after)
            return of_the_user

        yield packed, put_back


def run(call: Callable[[Mapping[str, Any]], Any], packed: Mapping[str, Packed]) -> Packed:
    """Call a step with what the arguments were packed from; its result and theirs, packed."""
    nnx: Any = sys.modules[MODULE]
    returns_all = any(part.static.returns_all for part in packed.values())  # type: ignore[attr-defined]
    placed: dict[int, Any] = {}
    for part in packed.values():
        placed.update(zip(part.static.places, part.leaves, strict=True))  # type: ignore[attr-defined]
    graph, tree = next(p.static.graph for p in packed.values() if p.static.graph)  # type: ignore[attr-defined]
    before = [placed[n] for n in range(len(placed))]
    with nnx.merge_context(TAG, True) as context:
        objects = context.merge(graph, jax.tree_util.tree_unflatten(tree, before))
    result = call(objects)
    with nnx.split_context(TAG) as context:
        graph, state = context.split((objects, result))
    paths, tree = jax.tree_util.tree_flatten_with_path(state)
    place_of = {} if returns_all else {id(leaf): place for place, leaf in enumerate(before)}
    unchanged = tuple(place_of.get(id(leaf)) for _, leaf in paths)
    new = [(_short(p), leaf) for (p, leaf), n in zip(paths, unchanged, strict=True) if n is None]
    return pack(new, Outcome(graph, tree, unchanged))


def _holds_objects(value: Any) -> bool:
    leaves = jax.tree_util.tree_leaves(value, is_leaf=lambda node: is_object(type(node)))
    return any(is_object(type(leaf)) for leaf in leaves)


def _first(path: Sequence[Any]) -> str:
    return str(getattr(path[0], "key", getattr(path[0], "idx", path[0])))


def _short(path: Sequence[Any]) -> tuple[Any, ...]:
    """A path in a state as a user writes it: `.first.kernel`, without the variable's value."""
    return tuple(_attribute(key) for key in path if str(key) != ".value")


def _attribute(key: Any) -> Any:
    name = getattr(key, "key", None)
    is_name = isinstance(name, str) and name.isidentifier()
    return jax.tree_util.GetAttrKey(name) if is_name else key
