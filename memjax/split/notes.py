"""Splits as a person thinks of them: what runs in chunks of what, and what that makes smaller.

In: a step's program, and the splits of its plan. Out: `SplitNote`s, a note for all regions of a
kind; and why a value cannot be held by chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from memjax.helpers.budget import format_bytes
from memjax.pricing.attribution import origins
from memjax.pricing.cost import eqn_flops
from memjax.program.eqns import Eqn, Program
from memjax.split.decisions import Split, region_of
from memjax.split.regions import Grower, Region
from memjax.split.transform import split_region


@dataclass(frozen=True)
class SplitNote:
    """One region that runs in chunks, or several of a kind.

    Attributes:
        module: where the region's widest value is written; empty outside of modules.
        source: the user's line.
        value: type of that value.
        axis: its dimension.
        length: of that dimension.
        chunks: how many.
        whole_bytes: of the value as a whole.
        chunk_bytes: of a chunk of it.
        again_flops: what is computed again.
        regions: how many of the kind there are.
    """

    module: str
    source: str | None
    value: str
    axis: int
    length: int
    chunks: int
    whole_bytes: int
    chunk_bytes: int
    again_flops: int
    regions: int = 1

    def __str__(self) -> str:
        place = f" at {self.source}" if self.source else ""
        where = f"{self.module or 'the step'}{place}"
        again = f"{self.again_flops / 1e9:.2f} GFLOP" if self.again_flops else "nothing"
        text = (
            f"{where}: {self.chunks} chunks of axis {self.axis} ({self.length} long) of "
            f"{self.value}, {format_bytes(self.whole_bytes)} → {format_bytes(self.chunk_bytes)}, "
            f"recomputes {again}"
        )
        return text if self.regions == 1 else f"{text}; {self.regions} of the kind"


def split_notes(program: Program, splits: Sequence[Split]) -> tuple[SplitNote, ...]:
    """Notes on the splits of a program.

    Args:
        program: as it is without splits.
        splits: made one after the other.
    """
    counts: Counter[SplitNote] = Counter()
    first: dict[tuple[object, ...], SplitNote] = {}
    for note in _notes(program, splits):
        key = (note.value, note.axis, note.chunks, note.again_flops)
        counts[first.setdefault(key, note)] += 1
    return tuple(replace(note, regions=count) for note, count in counts.items())


def narrowing(program: Program, value: int, prefer: int = 0) -> tuple[int | None, tuple[str, ...]]:
    """The axis along which a value can be held by chunk, or why there is none.

    Args:
        program: whose value it is.
        value: not an argument.
        prefer: axes of this length come first, then the longest.

    Returns:
        The axis, or None with a reason for each axis that something mixes.
    """
    grower, shape = Grower(program), program.avals[value].shape
    mixing: list[str] = []
    for axis in sorted(range(len(shape)), key=lambda a: (shape[a] != prefer, -shape[a])):
        region = grower.region(value, axis, everything=False) if shape[axis] > 1 else None
        if region is None or region.places.get(value) != axis:
            eqns = [program.eqns[program.producer[value]]]
        elif any(value in phase.written for phase in region.phases):
            eqns = [program.eqns[b.eqn] for b in region.blocked if b.value == value]
        else:
            return axis, ()
        if shape[axis] > 1:
            mixing += [f"{_named(eqn)} mixes its axis {axis}" for eqn in eqns]
    return None, tuple(dict.fromkeys(mixing))


def _named(eqn: Eqn) -> str:
    return f"{eqn.primitive} at {eqn.source}" if eqn.source else eqn.primitive


def _notes(program: Program, splits: Sequence[Split]) -> Iterator[SplitNote]:
    for split in splits:
        region = region_of(program, split)
        yield _note(program, region, split.chunks)
        program = split_region(region, split.chunks)


def _note(program: Program, region: Region, chunks: int) -> SplitNote:
    written = {v for phase in region.phases for v in phase.written}
    sizes = program.value_bytes
    along = {v: p for v, p in region.places.items() if isinstance(p, int)}
    inside = {v: p for v, p in along.items() if v not in written and v not in region.made}
    widest, axis = max((inside or along).items(), key=lambda vp: (sizes[vp[0]], -vp[0]))
    origin = origins(program)[program.producer[widest]]
    runs = Counter(index for phase in region.phases for index in phase.eqns)
    units = -(-region.units // chunks)
    return SplitNote(
        module=origin.module,
        source=origin.line,
        value=program.avals[widest].str_short(),
        axis=axis,
        length=int(program.avals[widest].shape[axis]),
        chunks=-(-region.units // units),
        whole_bytes=sizes[widest],
        chunk_bytes=sizes[widest] // region.units * units,
        again_flops=sum((n - 1) * eqn_flops(program.eqns[i].raw) for i, n in runs.items()),
    )
