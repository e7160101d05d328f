"""Calls whose arguments hold objects of a framework.

In: arguments. Out: whether they hold such objects; the same call with `Packed` arguments; the step
as a function of those.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from memjax.program.objects import equinox, nnx
from memjax.program.objects.packed import Packed

PutBack = Callable[[Any], Any]
Apart = tuple[tuple[Any, ...], dict[str, Any], PutBack]


class Framework(Protocol):
    """What a module of this folder has for its framework.

    Arguments come to it by their names; those by position are named `"0"`, `"1"`, ….
    """

    MODULE: str
    """What a user of it has imported."""

    def is_object(self, kind: type) -> bool:
        """Whether values of a type are objects of the framework."""

    def taken_apart(
        self, given: Mapping[str, Any], returns_all: bool
    ) -> AbstractContextManager[tuple[dict[str, Packed], PutBack]]:
        """The arguments that JAX is to see packed; see `taken_apart`."""

    def run(self, call: Callable[[Mapping[str, Any]], Any], packed: Mapping[str, Packed]) -> Packed:
        """The packed result of a step that is called with what some arguments were packed from."""


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
    framework: Framework | None,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    *,
    static: Collection[int | str] = (),
    returns_all: bool = False,
) -> Iterator[Apart]:
    """A call's arguments as JAX is to see them; as they are where they hold no objects.

    What comes with them turns the result of the step as JAX sees it into the user's, and writes
    what the step has changed into the arguments' objects. To be used in this context.

    Args:
        framework: whose objects are among them.
        args: by position.
        kwargs: by name.
        static: positions and names of arguments that JAX does not see.
        returns_all: whether what the step leaves as it is becomes a result as well, as it must
            where it may be given up.
    """
    if framework is None:
        yield tuple(args), kwargs, lambda result: result
        return
    given = {**_by_place(args), **kwargs}
    hidden = set(map(str, static))
    dynamic = {name: value for name, value in given.items() if name not in hidden}
    with framework.taken_apart(dynamic, returns_all) as (packed, put_back):
        yield *_called(args, kwargs, {**given, **packed}), put_back


def _by_place(args: Sequence[Any]) -> dict[str, Any]:
    """Arguments by their positions, as texts that no keyword can be."""
    return {str(place): value for place, value in enumerate(args)}


def _called(
    args: Sequence[Any], kwargs: Mapping[str, Any], named: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Named values in the places of a call's arguments."""
    return tuple(named[place] for place in _by_place(args)), {name: named[name] for name in kwargs}


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
        given = {**_by_place(args), **kwargs}

        def call(whole: Mapping[str, Any]) -> Any:
            values, named = _called(args, kwargs, {**given, **whole})
            return step(*values, **named)

        packed = {name: value for name, value in given.items() if isinstance(value, Packed)}
        return framework.run(call, packed)

    return run
