"""Calls whose arguments hold objects of a framework.

In: arguments. Out: whether they hold such objects; the same call with `Packed` arguments; the step
as a function of those.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import jax

from memjax.program.objects import equinox, nnx
from memjax.program.objects.packed import Packed

PutBack = Callable[[Any], Any]
Apart = tuple[tuple[Any, ...], dict[str, Any], PutBack]


class Framework(Protocol):
    """What a module of this folder has for its framework."""

    MODULE: str
    """What a user of it has imported."""

    def is_object(self, kind: type) -> bool:
        """Whether values of a type are objects of the framework."""

    def taken_apart(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], returns_all: bool
    ) -> AbstractContextManager[Apart]:
        """See `taken_apart`."""

    def run(self, step: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call a step with the objects of packed arguments; its result, packed."""


FRAMEWORKS: tuple[Framework, ...] = (nnx, equinox)


def among(tree: Any, leaves: Sequence[Any]) -> Framework | None:
    """The framework whose objects are among flattened arguments, if any.

    Args:
        tree: the structure of the arguments.
        leaves: theirs.
    """
    for framework in FRAMEWORKS:
        if framework.MODULE in sys.modules:
            kinds = {*_node_types(tree), *map(type, leaves)}
            if any(map(framework.is_object, kinds)):
                return framework
    return None


@functools.lru_cache(maxsize=64)
def _node_types(tree: Any) -> frozenset[type]:
    """The types of the nodes of a structure."""
    found: set[type] = set()
    todo = [tree]
    while todo:
        node = todo.pop()
        data = node.node_data()
        if data is not None:
            found.add(data[0])
            todo += node.children()
    return frozenset(found)


@contextmanager
def taken_apart(
    args: Sequence[Any], kwargs: dict[str, Any], *, returns_all: bool = False
) -> Iterator[Apart]:
    """A call's arguments as JAX is to see them; as they are where they hold no objects.

    What comes with them turns the result of the step as JAX sees it into the user's, and writes
    what the step has changed into the arguments' objects. To be used in this context.

    Args:
        args: by position.
        kwargs: by name.
        returns_all: whether what the step leaves as it is becomes a result as well, as it must
            where it may be given up.
    """
    leaves, tree = jax.tree_util.tree_flatten((tuple(args), kwargs))
    framework = among(tree, leaves)
    if framework is None:
        yield tuple(args), kwargs, lambda result: result
        return
    with framework.taken_apart(tuple(args), kwargs, returns_all) as apart:
        yield apart


def as_function(
    step: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> Callable[..., Any]:
    """A step as a function of such arguments; itself where none is packed."""
    for argument in (*args, *kwargs.values()):
        if isinstance(argument, Packed):
            return _of_packed(step, argument.static.framework)  # type: ignore[attr-defined]
    return step


def _of_packed(step: Callable[..., Any], framework: Framework) -> Callable[..., Any]:
    @functools.wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        return framework.run(step, args, kwargs)

    return run
