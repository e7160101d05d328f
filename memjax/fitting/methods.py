"""Steps that are methods.

In: a function whose first argument is an instance, and the settings of a step. Out: the function
and the settings of what is bound to one instance.

The function holds its instance weakly, so that plans can be kept under it without keeping the
instance alive; whoever calls it holds the instance.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from memjax.fitting.settings import Settings
from memjax.program.signature import as_tuple


def method_of(function: Callable[..., Any], instance: Any) -> Callable[..., Any]:
    """A function as the method of an instance, which it does not keep alive."""
    reference = weakref.ref(instance)

    @functools.wraps(function)
    def method(*args: Any, **kwargs: Any) -> Any:
        return function(reference(), *args, **kwargs)

    bound = types.MethodType(function, instance)
    method.__signature__ = inspect.signature(bound)  # type: ignore[attr-defined]
    return method


def settings_of_method(settings: Settings, function: Callable[..., Any]) -> Settings:
    """The settings of a function, whose positions count the instance, for a method of one.

    Args:
        settings: resolved ones.
        function: takes the instance first.
    """
    first = next(iter(inspect.signature(function).parameters), None)

    def without_first(chosen: Iterable[Any]) -> tuple[Any, ...]:
        others = (c for c in chosen if c not in (0, first))
        return tuple(c - 1 if isinstance(c, int) and c > 0 else c for c in others)

    donate = settings.donate
    if donate is not None and not isinstance(donate, (bool, str)):
        donate = without_first(as_tuple(donate))
    given_up = settings.donate_argnums, settings.donate_argnames
    nums, names = (None if c is None else without_first(as_tuple(c)) for c in given_up)
    return replace(
        settings,
        donate=donate,
        static_argnums=without_first(as_tuple(settings.static_argnums)),
        static_argnames=without_first(as_tuple(settings.static_argnames)),
        donate_argnums=nums,
        donate_argnames=names,
    )
