"""What a step made for one signature of its arguments, and all that it made.

In: nothing. Out: `Entry`, which calls with such arguments run, and `Made`, which several threads
may ask for and add to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from memjax import _compat
from memjax.fitting.attempts import Fitted
from memjax.program.signature import Call


@dataclass(frozen=True)
class Entry:
    """What was made for one signature.

    Attributes:
        tree: structure of the dynamic arguments.
        static: the static ones.
        context: what of JAX's own state it was made under.
        weak: which leaves are of weak type, where a compiled program does not check that.
        committed: which leaves insist on their devices, where there are several; no compiled
            program checks that.
        run: the compiled program, of flat leaves.
        out_tree: structure of the result.
        donated: indices of the leaves that a call gives up.
        fitted: how it came about.
        budget_bytes: what it was made for.
    """

    tree: Any
    static: tuple[tuple[int | str, type, Hashable], ...]
    context: Hashable
    weak: tuple[bool, ...] | None
    committed: tuple[bool, ...] | None
    run: Callable[..., Any]
    out_tree: Any
    donated: tuple[int, ...]
    fitted: Fitted
    budget_bytes: int

    def given_up(self, leaves: Sequence[Any]) -> bool:
        """Whether an earlier call, or this one, took the first of the donated leaves.

        A call that fails takes all of them or none, so one tells which it was, and costs a
        call less than all would.
        """
        return bool(self.donated) and _compat.is_deleted(leaves[self.donated[0]])


@dataclass
class Made:
    """What a step made so far, by signature, and who is making more."""

    entries: dict[Hashable, Entry] = field(default_factory=dict)
    making: dict[Hashable, threading.RLock] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    newest: Entry | None = None


def key_of(call: Call, context: Hashable) -> Hashable:
    """What decides which entry a call needs."""
    return context, call.key()


def same_objects(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether two sequences hold the same objects."""
    return all(a is b for a, b in zip(some, others, strict=True))
