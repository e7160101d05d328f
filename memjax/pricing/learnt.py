"""What a compiled program showed of the values of the program that it was made from.

In: nothing; `memjax.xla.learn` reads it. Out: `Learnt`, by which `memjax.pricing.liveness` and
`memjax.pricing.coarsen` overrule their rules, value by value. The rules are the prior: they
hold for whatever was not seen.

Values are those of the program as it was traced. `memjax.program.prepare` and `memjax.loops` keep
their ids, so that what one program showed is known of all that are made from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Learnt:
    """Facts by value id; a value that is in none of them was not seen.

    Attributes:
        stored: values that XLA stores, in whatever memory.
        free: values that it does not.
        bytes: what a stored value takes in the device's memory, padding included: at XLA's peak
            if it is held there, else on an average of its life. 0 where it lives in another
            memory.
        workspace: bytes of what else the eqn that writes a value holds while it runs, by the
            first value that it writes.
        over: the values whose bytes a value takes over, since they die where it is written.
        base_bytes: of arguments and results as laid out; None where nothing was compiled.
    """

    stored: frozenset[int] = frozenset()
    free: frozenset[int] = frozenset()
    bytes: Mapping[int, int] = field(default_factory=dict)
    workspace: Mapping[int, int] = field(default_factory=dict)
    over: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    base_bytes: int | None = None

    def updated(self, newer: Learnt) -> Learnt:
        """Both, of which the newer is right where they differ."""
        return Learnt(
            stored=(self.stored - newer.free) | newer.stored,
            free=(self.free - newer.stored) | newer.free,
            bytes={**self.bytes, **newer.bytes},
            workspace={**self.workspace, **newer.workspace},
            over={**self.over, **newer.over},
            base_bytes=self.base_bytes if newer.base_bytes is None else newer.base_bytes,
        )

    def deciding(self, stored: Collection[int], free: Collection[int]) -> Learnt:
        """The same bytes, for a plan that was made when other values were known to be stored."""
        return replace(self, stored=frozenset(stored), free=frozenset(free))

    def against(self, free: Sequence[bool]) -> Learnt:
        """The same facts about values of a program, of stored and free ones only those that the
        rules have otherwise. What loops and chunks were made of has ids beyond those, which
        mean other values in another plan.

        Args:
            free: whether each value of the program is free by the rules, by value id.
        """
        known = range(len(free))
        return replace(
            self,
            bytes={v: count for v, count in self.bytes.items() if v in known},
            workspace={v: count for v, count in self.workspace.items() if v in known},
            over={v: by for v, by in self.over.items() if all(u in known for u in (v, *by))},
            stored=frozenset(v for v in self.stored if v in known and free[v]),
            free=frozenset(v for v in self.free if v in known and not free[v]),
        )


NOTHING = Learnt()
