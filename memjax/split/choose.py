"""Which regions to split, and into how many chunks.

In: a `Program`, how it is priced, a target for its peak. Out: `State`s, splits with the program
that they make, the most promising last.

1. The widest values that are held at the predicted peak are the seeds; all values of the same
   type from the same primitive, in every layer, are split alike. Each of their axes gives a narrow
   region, which ends where values get narrow, and one that grows as far as it can: with the batch
   as its axis that one is gradient accumulation.
2. The few that would take most off the peak are priced with the smallest chunks that are worth
   their loop. Of those that meet the target, with as few chunks as do, the one that takes
   least time is the answer.
3. Where none does, the one with the lowest peak is kept, and the search goes on at what is then
   the peak.

Nothing is computed again in all of this, except by regions of several phases. What else a target
asks for is up to the planners, which get each state as a program like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from memjax.pricing.coarsen import Coarse
from memjax.pricing.segments import emitted_timeline
from memjax.program.eqns import Program
from memjax.split.decisions import Split, carry_out_splits
from memjax.split.regions import Grower, Region

MAX_ROUNDS = 3
"""How many kinds of regions are split in one program: the head, the attention, the rest."""
MAX_KINDS = 4
"""So many types of values at the peak are seeds."""
MAX_GROUPS = 3
"""So many ways of splitting are priced in a round."""
WORTH = 0.03
"""A split is not worth it if it takes less than this part off the peak."""
SMALLEST_CHUNK_BYTES = 2**18
"""Smaller chunks of the widest value fit into caches, and loops over them cost more than they
save; a guess."""
KNEE = 1.01
"""Half as many chunks are as good where they hold up to this much more."""


@dataclass(frozen=True, eq=False)
class State:
    """A program with some of its regions split.

    Attributes:
        splits: which.
        coarse: its problem.
        peak_bytes: without recomputation.
        seconds: likewise.
    """

    splits: tuple[Split, ...]
    coarse: Coarse
    peak_bytes: int
    seconds: float


@dataclass(frozen=True)
class Group:
    """Regions of one kind.

    Attributes:
        seeds: one of each region.
        axis: of the seeds.
        everything: as in `Split`.
        most_chunks: that are worth it.
        saved_bytes: what is held of them at the peak, at the most.
    """

    seeds: tuple[int, ...]
    axis: int
    everything: bool
    most_chunks: int
    saved_bytes: int

    def splits(self, chunks: int) -> tuple[Split, ...]:
        """The group's regions in so many chunks."""
        return tuple(Split(seed, self.axis, chunks, self.everything) for seed in self.seeds)


@dataclass
class Splitter:
    """Splits one program.

    Attributes:
        plain: its problem as it is.
        price: the problem of a program that took its place.
    """

    plain: Coarse
    price: Callable[[Program, bool], Coarse]
    _states: dict[tuple[Split, ...], State] = field(default_factory=dict)
    _groups: dict[tuple[Split, ...], list[Group]] = field(default_factory=dict)

    def states(self, target_bytes: int) -> Iterator[State]:
        """States on the way to a target: the last one meets it, or is as low as it gets."""
        state = self.state(())
        for _ in range(MAX_ROUNDS):
            if state.peak_bytes <= target_bytes:
                return
            most = [self.with_group(state, g, g.most_chunks) for g in self.groups(state)]
            meet = [s.peak_bytes <= target_bytes for s in most]
            found = [
                self.finest(state, group, target_bytes)
                for group, finest, met in zip(self.groups(state), most, meet, strict=True)
                if met or (not any(meet) and finest is min(most, key=lambda s: s.peak_bytes))
            ]
            best = min(found, key=lambda s: _key(s, target_bytes), default=state)
            if best.peak_bytes > (1 - WORTH) * state.peak_bytes:
                return
            state = best
            yield state

    def state(self, splits: tuple[Split, ...]) -> State:
        """The program with some regions split."""
        if splits not in self._states:
            coarse = self.plain
            if splits:
                base = self.state(splits[:-1] if splits[:-1] in self._states else ())
                program = base.coarse.graph.program
                program = carry_out_splits(program, splits[len(base.splits) :])
                coarse = self.price(program, True)
            timeline = emitted_timeline(coarse, coarse.problem.identity)
            peak_bytes = max(timeline.peak_bytes, coarse.problem.base_bytes)
            self._states[splits] = State(splits, coarse, peak_bytes, timeline.cost)
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

    def groups(self, state: State) -> list[Group]:
        """The ways of splitting what a state holds at its peak that promise most."""
        if state.splits not in self._groups:
            least = WORTH * state.peak_bytes
            found = _groups(state.coarse, MAX_GROUPS)
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


def _groups(coarse: Coarse, most: int) -> list[Group]:
    """The kinds of regions round what is widest at the peak that promise most, each once."""
    program = coarse.graph.program
    grower = Grower(program)
    held = _held(coarse)
    wide = [v for v in held if program.value_bytes[v] >= 2 * SMALLEST_CHUNK_BYTES]
    kinds = _kinds(program, wide)
    found = [
        (_promise(region, held), seed, axis, everything)
        for region, seed, axis, everything in _examples(grower, wide)
    ]
    groups: list[Group] = []
    for _, seed, axis, everything in sorted(found, key=lambda f: (-f[0], f[3], f[1:])):
        seeds = [seed, *(v for v in kinds[_kind(program, seed)] if v != seed)]
        regions = _disjoint(grower, sorted(seeds), axis, everything)
        group = _group(regions, axis, everything, held)
        if group is not None:
            groups.append(group)
        if len(groups) == most:
            break
    return groups


def _examples(grower: Grower, wide: Sequence[int]) -> Iterator[tuple[Region, int, int, bool]]:
    """A region of each kind of value and axis, with its seed; each region once."""
    program = grower.program
    seeds = list({_kind(program, v): v for v in reversed(wide)}.values())[::-1]
    seen: list[Region] = []
    for seed in seeds[:MAX_KINDS]:
        for axis in range(program.avals[seed].ndim):
            for everything in (False, True):
                known = any(r.places.get(seed) == axis and r.everything == everything for r in seen)
                region = None if known else grower.region(seed, axis, everything=everything)
                if region is not None:
                    seen.append(region)
                    yield region, seed, axis, everything


def _promise(region: Region, held: Sequence[int]) -> float:
    """What a region takes off the peak, less where it runs several times over."""
    chunks = _most_chunks([region])
    return _saved_bytes(region, held) * (1 - 1 / chunks) / len(region.phases)


def _most_chunks(regions: Sequence[Region]) -> int:
    """How many chunks are worth their loop; 1 for none."""
    program = regions[0].program
    widest = max(program.value_bytes[r.seed] for r in regions)
    most = min(*(r.units for r in regions), max(widest // SMALLEST_CHUNK_BYTES, 1))
    return 1 << (most.bit_length() - 1)


def _saved_bytes(region: Region, held: Sequence[int]) -> int:
    """Bytes of what is held at the peak that regions of a kind would hold by chunk."""
    program = region.program
    written = {v for phase in region.phases for v in phase.written}
    inside = {v for v, place in region.places.items() if isinstance(place, int)} - written
    kinds = {_kind(program, v) for v in inside}
    outside = {_kind(program, v) for v in written}
    return sum(
        program.value_bytes[v]
        for v in held
        if v in inside or (_kind(program, v) in kinds - outside and not region.everything)
    )


def _held(coarse: Coarse) -> list[int]:
    """The program's values that are held at the peak, widest first."""
    timeline = emitted_timeline(coarse, coarse.problem.identity)
    if not timeline.bytes_at:
        return []
    held = [coarse.value_of[v] for v in timeline.holders(timeline.peak_position)]
    return sorted(held, key=lambda v: (-coarse.graph.program.value_bytes[v], v))


def _kinds(program: Program, held: Sequence[int]) -> dict[tuple[str, str], list[int]]:
    """The values of each type and primitive of which some are held."""
    kinds: dict[tuple[str, str], list[int]] = {_kind(program, v): [] for v in held}
    for value in range(len(program.avals)):
        if program.producer[value] >= 0 and _kind(program, value) in kinds:
            kinds[_kind(program, value)].append(value)
    return kinds


def _kind(program: Program, value: int) -> tuple[str, str]:
    producer = program.producer[value]
    primitive = program.eqns[producer].primitive if producer >= 0 else ""
    return program.avals[value].str_short(), primitive


def _disjoint(grower: Grower, seeds: Sequence[int], axis: int, everything: bool) -> list[Region]:
    """Regions of seeds that are in no other's."""
    found: list[Region] = []
    taken: set[int] = set()
    for seed in seeds:
        if grower.program.producer[seed] in taken:
            continue
        region = grower.region(seed, axis, everything=everything)
        if region is not None and taken.isdisjoint(region.ways):
            found.append(region)
            taken.update(region.ways)
    return found


def _group(
    regions: Sequence[Region], axis: int, everything: bool, held: Sequence[int]
) -> Group | None:
    """The group of some regions; None where not even two chunks are worth a loop."""
    program, most = regions[0].program, _most_chunks(regions)
    if most < 2:
        return None
    inside = {v for r in regions for v, place in r.places.items() if isinstance(place, int)}
    inside -= {v for r in regions for phase in r.phases for v in phase.written}
    return Group(
        seeds=tuple(r.seed for r in regions),
        axis=axis,
        everything=everything,
        most_chunks=most,
        saved_bytes=sum(program.value_bytes[v] for v in held if v in inside),
    )
