"""Footprints that memjax has stated for a program, with the plans that reach them.

In: each plan that was compiled, with XLA's bytes. Out: the plan of a footprint that is asked for
as a budget, and the plan with the fewest bytes, which is tried before a budget is refused.

So whatever was stated once works as a budget: at once, and in later processes through a file for
each program and target. Nothing of it is trusted: a plan that is taken from here is compiled,
and its bytes are read, like any other.

Files are in the folder of `MEMJAX_CACHE_DIR` ("" for none), or in the user's cache folder.
Where several processes run one program they are neither read nor written, so that all of them
plan alike.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from memjax.emit.plan import Plan
from memjax.emit.plan_cache import write_atomically
from memjax.planning.simulate import InvalidPlan

MOST = 8
"""Footprints kept for a program on disk: the least, and the newest others."""
_KNOWN: dict[str, Stated] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Footing:
    """A compiled footprint and what reaches it.

    Attributes:
        bytes: as compiled.
        plan: what was compiled.
        for_memory: whether XLA was asked to schedule for memory.
    """

    bytes: int
    plan: Plan
    for_memory: bool


class Stated:
    """What was stated for one program and target, in order."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.footings: list[Footing] = []
        self._lock = threading.Lock()

    def exactly(self, count: int) -> Footing | None:
        """What reaches a footprint of just so many bytes."""
        return next((f for f in self.footings if f.bytes == count), None)

    @property
    def least(self) -> Footing | None:
        """What reaches the smallest footprint."""
        return min(self.footings, key=lambda f: f.bytes, default=None)

    def add(self, footing: Footing) -> None:
        """Remember a footprint, unless it is known."""
        with self._lock:
            if self.exactly(footing.bytes) is not None:
                return
            self.footings.append(footing)
            self._write()

    def read(self) -> None:
        """Take up what earlier processes stated; a file that is damaged is written anew."""
        if self.path is None:
            return
        try:
            content = json.loads(self.path.read_text())
            read = [_footing(item) for item in content]
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            warnings.warn(f"ignoring {self.path}: {error}", stacklevel=2)
            return
        self.footings = [f for f in read if f is not None]

    def _write(self) -> None:
        if self.path is None:
            return
        least = min(self.footings, key=lambda f: f.bytes)
        kept = [f for f in self.footings[-MOST:] if f is not least]
        content = [_item(f) for f in (least, *kept[1 - MOST :])]
        try:
            write_atomically(self.path, json.dumps(content, separators=(",", ":")))
        except OSError:
            self.path = None  # a home without room or rights: this process remembers by itself


def _item(footing: Footing) -> dict[str, Any]:
    plan = footing.plan.to_dict()
    return {"bytes": footing.bytes, "for_memory": footing.for_memory, "plan": plan}


def _footing(item: Any) -> Footing | None:
    """A footing from JSON; None for a plan of another format."""
    try:
        plan = Plan.from_json(json.dumps(item["plan"]))
    except InvalidPlan:
        return None
    return Footing(int(item["bytes"]), plan, bool(item["for_memory"]))


def stated_of(key: str) -> Stated:
    """What was stated for a program and target, in this process and before.

    Args:
        key: tells programs and targets apart, as part of a file's name.
    """
    with _LOCK:
        if key not in _KNOWN:
            folder = _folder()
            _KNOWN[key] = Stated(folder / f"{key}.stated.json" if folder else None)
            _KNOWN[key].read()
        return _KNOWN[key]


def forget() -> None:
    """Forget what this process has stated; files stay."""
    with _LOCK:
        _KNOWN.clear()


def _folder() -> Path | None:
    if jax.process_count() > 1:
        return None
    chosen = os.environ.get("MEMJAX_CACHE_DIR")
    if chosen is not None:
        return Path(chosen).expanduser() if chosen else None
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(caches).expanduser() / "memjax"
    except RuntimeError:  # no home
        return None
