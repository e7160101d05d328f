"""Regions of a kind, in all layers, that would take most off what is held at a peak.

In: a `Program` and the values that it holds at its peak. Out: `Group`s.

The widest of these values are the seeds. Each of their axes gives a narrow region, which ends where
values get narrow, and one that grows as far as it can. What they promise is an estimate: the bytes
at the peak that would be held by chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memjax.pricing.coarsen import PricedProgram
from memjax.pricing.segments import emitted_timeline
from memjax.program.eqns import Program
from memjax.split.decisions import Split
from memjax.split.regions import WIDE_PART, Grower, Region

MAX_KINDS = 4
"""So many types of values at the peak are seeds."""
SMALLEST_CHUNK_BYTES = 2**18
SMALLEST_VALUE_BYTES = 2**14
"""A chunk holds at least so many bytes at the peak, and so many of its widest value: what is less
fits into caches, and a loop over it costs more than it saves; guesses."""


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


def groups(program: Program, held: Sequence[int], sizes: Sequence[bool]) -> Iterator[Group]:
    """The kinds of regions round what is widest of some values, most promising first, each once.

    Args:
        program: whose values they are.
        held: at its peak, widest first.
        sizes: whether regions may grow through values of any width: False, True or both.
    """
    grower = Grower(program)
    wide = [v for v in held if program.value_bytes[v] >= 2 * SMALLEST_VALUE_BYTES]
    kinds = _kinds(program, wide)
    found = [
        (_promise(region, held), seed, axis, everything)
        for region, seed, axis, everything in _examples(grower, wide, sizes)
    ]
    for _, seed, axis, everything in sorted(found, key=lambda f: (-f[0], f[3], f[1:])):
        seeds = [seed, *(v for v in kinds[_kind(program, seed)] if v != seed)]
        regions = _disjoint(grower, sorted(seeds), axis, everything)
        group = _group(regions, axis, everything, held)
        if group is not None:
            yield group


def _examples(
    grower: Grower, wide: Sequence[int], sizes: Sequence[bool]
) -> Iterator[tuple[Region, int, int, bool]]:
    """A region of each kind of value and axis, with its seed; each region once."""
    program = grower.program
    seeds = list({_kind(program, v): v for v in reversed(wide)}.values())[::-1]
    seen: list[Region] = []
    for seed in seeds[:MAX_KINDS]:
        for axis in range(program.avals[seed].ndim):
            for everything in sizes:
                known = any(r.places.get(seed) == axis and r.everything == everything for r in seen)
                region = None if known else grower.region(seed, axis, everything=everything)
                if region is not None:
                    seen.append(region)
                    yield region, seed, axis, everything


def _promise(region: Region, held: Sequence[int]) -> float:
    """What a region takes off the peak; less where it leaves wide values behind whole, or runs
    several times over.
    """
    saved_bytes, sizes = _saved_bytes(region, held), region.program.value_bytes
    chunks = _most_chunks([region], saved_bytes)
    left = {v for phase in region.phases for v in phase.written}
    whole_bytes = sum(sizes[v] for v in left if WIDE_PART * sizes[v] >= sizes[region.seed])
    promised_bytes = saved_bytes * (1 - 1 / chunks) / len(region.phases)
    return promised_bytes - (0 if region.everything else whole_bytes)


def _most_chunks(regions: Sequence[Region], saved_bytes: int) -> int:
    """How many chunks are worth their loop, a power of two; 1 for none."""
    program = regions[0].program
    widest = max(program.value_bytes[r.seed] for r in regions)
    enough = min(saved_bytes // SMALLEST_CHUNK_BYTES, widest // SMALLEST_VALUE_BYTES)
    most = min(*(r.units for r in regions), max(enough, 1))
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


def held_at_peak(priced: PricedProgram, order: Sequence[int]) -> list[int]:
    """The program's values that a schedule holds at its peak, widest first."""
    timeline = emitted_timeline(priced, order)
    if not timeline.bytes_at:
        return []
    held = [priced.value_of[v] for v in timeline.holders(timeline.peak_position)]
    return sorted(held, key=lambda v: (-priced.graph.program.value_bytes[v], v))


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
    program = regions[0].program
    inside = {v for r in regions for v, place in r.places.items() if isinstance(place, int)}
    inside -= {v for r in regions for phase in r.phases for v in phase.written}
    saved_bytes = sum(program.value_bytes[v] for v in held if v in inside)
    most = _most_chunks(regions, saved_bytes)
    if most < 2:
        return None
    return Group(
        seeds=tuple(r.seed for r in regions),
        axis=axis,
        everything=everything,
        most_chunks=most,
        saved_bytes=saved_bytes,
    )
