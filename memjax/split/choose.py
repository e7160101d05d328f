"""Which regions to split, and into how many chunks.

In: a `Program`, how it is priced, a target for its peak. Out: a `State`, splits with the program
that they make.

1. Groups of regions round what is widest at the predicted peak (`memjax.split.groups`) are priced
   with the smallest chunks that are worth their loop. Of those that meet the target, with as few
   chunks as do, the one that takes least time is the answer.
2. Where none does, the one with the lowest peak is kept, and the search goes on at what is then
   the peak.
3. What recomputation leaves at its peak is another matter: there, narrow regions are split one by
   one (`Splitter.beside`), in turns with the planner.

Nothing is computed again by a split, except by regions of several phases. What else a target asks
for is up to the planners, which get each state as a program like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from memjax.pricing.coarsen import PricedProgram
from memjax.pricing.segments import emitted_timeline
from memjax.program.eqns import Program
from memjax.split.decisions import Split, carry_out_splits
from memjax.split.groups import Group, groups, held_at_peak
from memjax.split.regions import WIDE_PART

MAX_ROUNDS = 3
"""How many kinds of regions are split in one program: the head, the attention, the rest."""
MAX_GROUPS = 3
"""So many ways of splitting are priced in a round."""
WORTH = 0.03
"""A split is not worth it if it takes less than this part off the peak."""
REST = 0.02
"""Where recomputation goes on, a region is to leave this part of the peak; a guess."""
KNEE = 1.01
"""Half as many chunks are as good where they hold up to this much more."""


@dataclass(frozen=True, eq=False)
class State:
    """A program with some of its regions split.

    Attributes:
        splits: which.
        priced: its problem.
        peak_bytes: without recomputation.
        seconds: likewise.
    """

    splits: tuple[Split, ...]
    priced: PricedProgram
    peak_bytes: int
    seconds: float


@dataclass
class Splitter:
    """Splits one program.

    Attributes:
        plain: its problem as it is.
        price: the problem of a program that took its place.
    """

    plain: PricedProgram
    price: Callable[[Program, bool], PricedProgram]
    _states: dict[tuple[Split, ...], State] = field(default_factory=dict)
    _groups: dict[tuple[Split, ...], list[Group]] = field(default_factory=dict)

    def reached(self, target_bytes: int) -> State:
        """The state that meets a target, or the lowest on the way to it."""
        state = self.state(())
        for _ in range(MAX_ROUNDS):
            if state.peak_bytes <= target_bytes:
                break
            following = self.following(state, target_bytes)
            if following.peak_bytes > (1 - WORTH) * state.peak_bytes:
                break
            state = following
        return state

    def following(self, state: State, target_bytes: int) -> State:
        """The best state with one more group of regions split; the same where there is none."""
        most = [self.with_group(state, g, g.most_chunks) for g in self.groups(state)]
        lowest = min(most, key=lambda s: s.peak_bytes, default=state)
        chosen = [
            self.finest(state, group, target_bytes)
            for group, finest in zip(self.groups(state), most, strict=True)
            if finest.peak_bytes <= target_bytes or finest is lowest
        ]
        return min(chosen, key=lambda s: _key(s, target_bytes), default=state)

    def state(self, splits: tuple[Split, ...]) -> State:
        """The program with some regions split."""
        if splits not in self._states:
            priced = self.plain
            if splits:
                base = self.state(splits[:-1] if splits[:-1] in self._states else ())
                program = base.priced.graph.program
                program = carry_out_splits(program, splits[len(base.splits) :])
                priced = self.price(program, True)
            timeline = emitted_timeline(priced, priced.problem.identity)
            peak_bytes = max(timeline.peak_bytes, priced.problem.base_bytes)
            self._states[splits] = State(splits, priced, peak_bytes, timeline.cost)
        return self._states[splits]

    def with_group(self, state: State, group: Group, chunks: int) -> State:
        """A state with one more group of regions split."""
        return self.state((*state.splits, *group.splits(chunks)))

    def finest(self, state: State, group: Group, target_bytes: int) -> State:
        """With the smallest chunks; with larger ones where these are as good, or meet a target."""
        best = self.with_group(state, group, group.most_chunks)
        chunks = group.most_chunks
        if best.peak_bytes <= target_bytes:
            chunks = _guess(state.peak_bytes, best.peak_bytes, chunks, target_bytes)
            while chunks < group.most_chunks:
                found = self.with_group(state, group, chunks)
                if found.peak_bytes <= target_bytes:
                    return found
                chunks *= 2
            return best
        while chunks > 2:
            chunks //= 2
            half = self.with_group(state, group, chunks)
            if half.peak_bytes > KNEE * best.peak_bytes:
                return best
            best = half
        return best

    def beside(self, state: State, priced: PricedProgram, order: Sequence[int]) -> State | None:
        """A state with one more narrow region split, where a plan of it holds most.

        Args:
            state: what the plan is for.
            priced: its problem, with whatever the plan decides about loops.
            order: the plan's schedule.
        """
        program = state.priced.graph.program
        peak_bytes = emitted_timeline(priced, order).peak_bytes
        held = [v for v in held_at_peak(priced, order) if v < len(program.avals)]
        widest = max((program.value_bytes[v] for v in held), default=0)
        held = [v for v in held if WIDE_PART * program.value_bytes[v] >= widest]
        group = next(groups(program, held, (False,)), None)
        if group is None or group.saved_bytes < WORTH * peak_bytes:
            return None
        needed = math.ceil(math.log2(max(2.0, group.saved_bytes / (REST * peak_bytes))))
        return self.with_group(state, group, min(group.most_chunks, 1 << needed))

    def groups(self, state: State) -> list[Group]:
        """The ways of splitting what a state holds at its peak that promise most."""
        if state.splits not in self._groups:
            priced, least = state.priced, WORTH * state.peak_bytes
            held = held_at_peak(priced, priced.problem.identity)
            found = islice(groups(priced.graph.program, held, (False, True)), MAX_GROUPS)
            self._groups[state.splits] = [g for g in found if g.saved_bytes >= least]
        return self._groups[state.splits]


def _guess(whole_bytes: int, best_bytes: int, chunks: int, target_bytes: int) -> int:
    """The power of two that meets a target if what is split shrinks with the chunks' number."""
    split_bytes = (whole_bytes - best_bytes) / (1 - 1 / chunks)
    left_bytes = target_bytes - (whole_bytes - split_bytes)
    needed = split_bytes / left_bytes if left_bytes > 0 else chunks
    return max(2, min(chunks, 1 << math.ceil(math.log2(max(needed, 1)))))


def _key(state: State, target_bytes: int) -> tuple[bool, float, int]:
    if state.peak_bytes <= target_bytes:
        return False, state.seconds, state.peak_bytes
    return True, state.peak_bytes, 0
