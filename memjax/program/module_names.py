"""Scopes for the modules of Flax nnx, so that their paths stand in name stacks.

Linen and Equinox run each module under `jax.named_scope`; nnx does not, and has no option for
it (flax 0.12). While a step is traced, each nnx module's `__call__` runs under a scope here.

Definitions

1. The outermost module that is called is named by its class: `GPT`.
2. A module that is called in another one's `__call__` is named by its path from that module,
   with underscores: `self.blocks[0]` is `blocks_0`. One that the other does not hold, as it was
   made in between (by `nnx.merge` in a loop's body), is named by its class.

Nothing but names changes. Methods other than `__call__` have no scope; `jax.named_scope` by
hand serves there.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

_LOCK = threading.Lock()
_RUNNING = threading.local()
"""Its `calls`: modules that are being called in this thread, outermost first."""


class _Patches:
    """The classes that have a scope for the time being, and how many traces need them."""

    def __init__(self) -> None:
        self.users = 0
        self.originals: list[tuple[type, Callable[..., Any]]] = []


_PATCHES = _Patches()


@contextmanager
def nnx_scopes() -> Iterator[None]:
    """Give nnx modules scopes while the block runs; does nothing where nnx is not imported."""
    nnx = sys.modules.get("flax.nnx")
    base = getattr(nnx, "Module", None)
    if base is None:
        yield
        return
    with _LOCK:
        _PATCHES.users += 1
        if _PATCHES.users == 1:
            _patch(base)
    try:
        yield
    finally:
        with _LOCK:
            _PATCHES.users -= 1
            if _PATCHES.users == 0:
                _restore()


def _patch(base: type) -> None:
    for cls in _classes(base):
        call = vars(cls).get("__call__")
        if callable(call) and hasattr(call, "__code__"):
            _PATCHES.originals.append((cls, call))
            setattr(cls, "__call__", _scoped(call))  # noqa: B010  mypy forbids the assignment


def _restore() -> None:
    while _PATCHES.originals:
        cls, call = _PATCHES.originals.pop()
        setattr(cls, "__call__", call)  # noqa: B010  mypy forbids the assignment


def _classes(base: type) -> Iterator[type]:
    """A class and all that are derived from it, each once."""
    seen: dict[type, None] = {base: None}
    found: list[type] = [base]
    for cls in found:
        derived: list[type] = type.__subclasses__(cls)
        fresh = [c for c in derived if c not in seen]
        seen.update(dict.fromkeys(fresh))
        found += fresh
    return iter(found)


def _scoped(call: Callable[..., Any]) -> Callable[..., Any]:
    """A `__call__` that runs under the module's scope."""

    @functools.wraps(call)
    def scoped(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls: list[Any] = _RUNNING.__dict__.setdefault("calls", [])
        if calls and calls[-1] is self:  # `super().__call__`
            return call(self, *args, **kwargs)
        name = _name_in(calls[-1], self) if calls else None
        calls.append(self)
        try:
            with jax.named_scope(name or type(self).__name__):
                return call(self, *args, **kwargs)
        finally:
            calls.pop()

    return scoped


def _name_in(parent: Any, module: Any) -> str | None:
    """A module's path from the one that calls it; None where that one does not hold it."""
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], Any]] = [((), parent)]
    while level:
        following = []
        for path, holder in level:
            for name, child in _children(holder):
                if child is module:
                    return "_".join((*path, name))
                if id(child) not in seen:
                    seen.add(id(child))
                    following.append(((*path, name), child))
        level = following
    return None


def _children(holder: Any) -> Iterator[tuple[str, Any]]:
    """What a module or a container holds that may hold modules, with its name."""
    if isinstance(holder, (list, tuple)):
        named: Any = enumerate(holder)
    elif isinstance(holder, dict):
        named = holder.items()
    else:
        named = vars(holder).items() if hasattr(holder, "__dict__") else ()
    for name, child in named:
        if isinstance(child, (list, tuple, dict)) or _is_module(child):
            yield str(name), child


def _is_module(child: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return isinstance(child, getattr(nnx, "Module", ()))
