"""What could happen to a pair of scans, and what each way would hold and cost.

In: a `Program` and one of its `Pair`s. Out: `Variant`s, by rising cost, each holding fewer
bytes than the one before.

A variant is a cut of the residuals and sizes of chunks. Its bytes are an estimate made
of few numbers (the body peaks of each cut, the bytes of the carry), good enough to rank
variants; whoever chooses one prices the transformed program.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil

from memjax import cost
from memjax.loops.pairs import Pair
from memjax.loops.residuals import Cut, cuts, joint_body
from memjax.loops.transform import LoopPlan, transform
from memjax.price import Pricer
from memjax.trace import Program

MOST_SPLITS = 4
"""Levels of chunks that are tried; with four, 16,000 iterations hold some 7 + 7 + 7 + 7 + 7."""
EVEN_WITHIN = 1.15
"""Chunks that divide the length are taken where they hold at most this much more than the
best, at each level, as a shorter chunk has to be compiled, too."""


@dataclass(frozen=True)
class Variant:
    """One way to run a pair.

    Attributes:
        plan: how; None for as it is.
        bytes: estimated, held at the backward scans: stacks and the body's peak.
        seconds: estimated, of running eqns again.
    """

    plan: LoopPlan | None
    bytes: int
    seconds: float


@dataclass(frozen=True)
class _Body:
    """A cut with what bodies of the new scans take."""

    cut: Cut
    peak_bytes: int
    again_seconds: float


def variants(program: Program, pair: Pair, pricer: Pricer) -> list[Variant]:
    """The variants of a pair that no other one beats in both bytes and seconds."""
    joint = joint_body(pair)
    coarse = pricer.coarse(joint.program)
    seconds = cost.node_seconds(joint.graph, pricer.rates, coarse.inner)
    corners = cuts(joint, seconds, carries_are_free=False)
    plain = _measured(program, pair, None, pricer)
    bodies = []
    for cut in corners:
        peak_bytes, total = _measured(program, pair, LoopPlan(pair.forward.index, cut.kept), pricer)
        bodies.append(_Body(cut, peak_bytes, max(0.0, total - plain[1])))
    stacked = sum(program.value_bytes[pair.forward.stacks[n]] for n in pair.residuals)
    found = [Variant(None, int(pricer.scale * stacked) + plain[0], 0.0)]
    found += _whole(pair, bodies, pricer)
    found += _split(program, pair, bodies, pricer)
    return _best(found)


def _measured(
    program: Program, pair: Pair, plan: LoopPlan | None, pricer: Pricer
) -> tuple[int, float]:
    """The higher body peak of the scans of a pair, and their seconds in all."""
    changed = transform(program, [plan]) if plan else program
    before = {i for i, eqn in enumerate(program.eqns) if i not in _indices(pair)}
    kept = {id(program.eqns[i].raw) for i in before}
    peak_bytes, total = 0, 0.0
    for eqn in changed.eqns:
        if eqn.nest is not None and id(eqn.raw) not in kept:
            inner = pricer.inner(eqn.nest, pricer.planned(eqn.nest))
            peak_bytes, total = max(peak_bytes, inner.peak_bytes), total + inner.seconds
    return peak_bytes, total


def _indices(pair: Pair) -> set[int]:
    return {pair.forward.index, *(scan.index for scan in pair.backward)}


def _whole(pair: Pair, bodies: Iterable[_Body], pricer: Pricer) -> Iterator[Variant]:
    """Every residual of a cut stacked over the whole length."""
    length = pair.forward.length
    for body in bodies:
        held = int(pricer.scale * length * body.cut.bytes)
        plan = LoopPlan(pair.forward.index, body.cut.kept)
        yield Variant(plan, held + body.peak_bytes, body.again_seconds)


def _split(
    program: Program, pair: Pair, bodies: Iterable[_Body], pricer: Pricer
) -> Iterator[Variant]:
    """The best chunks for each cut and number of splits."""
    forward = pair.forward
    carry_bytes = sum(forward.body.value_bytes[v] for v in forward.carry_arguments)
    nest = forward.eqn.nest
    assert nest is not None
    once = pricer.inner(nest, pricer.planned(nest)).seconds
    again = once * len(pair.backward)
    for body in bodies:
        for splits in range(1, MOST_SPLITS + 1):
            sizes = best_chunks(forward.length, splits, carry_bytes, body.cut.bytes)
            if len(sizes) < splits:
                break
            held = pricer.scale * stacks_bytes(forward.length, sizes, carry_bytes, body.cut.bytes)
            yield Variant(
                LoopPlan(forward.index, body.cut.kept, sizes),
                int(held) + body.peak_bytes,
                body.again_seconds + splits * again,
            )


def stacks_bytes(length: int, sizes: Iterable[int], carry_bytes: int, residual_bytes: int) -> int:
    """What chunks hold at once: a stack of carries at each level, residuals in the innermost."""
    held = 0
    for size in sizes:
        held += ceil(length / size) * carry_bytes
        length = size
    return held + length * residual_bytes


def best_chunks(length: int, splits: int, carry_bytes: int, residual_bytes: int) -> tuple[int, ...]:
    """Sizes of chunks, falling, for which `stacks_bytes` is least; fewer if it is too short.

    Found by improving one size after the other, from sizes in equal ratios.
    """
    sizes = [max(2, round(length ** (1 - (i + 1) / (splits + 1)))) for i in range(splits)]

    def held(sizes: list[int]) -> float:
        outer = [length, *sizes[:-1]]
        if any(not 1 < size < before for size, before in zip(sizes, outer, strict=True)):
            return float("inf")
        uneven = sum(before % size > 0 for size, before in zip(sizes, outer, strict=True))
        return stacks_bytes(length, sizes, carry_bytes, residual_bytes) * EVEN_WITHIN**uneven

    best = held(sizes)
    improved = True
    while improved:
        improved = False
        for level in range(splits):
            upper = length if level == 0 else sizes[level - 1]
            lower = sizes[level + 1] if level + 1 < splits else 1
            for size in range(lower + 1, upper):
                trial = [*sizes[:level], size, *sizes[level + 1 :]]
                if held(trial) < best:
                    best, sizes, improved = held(trial), trial, True
    return tuple(sizes) if best < float("inf") else ()


def _best(found: Iterable[Variant]) -> list[Variant]:
    """Those that no other one beats, by rising seconds."""
    kept: list[Variant] = []
    for variant in sorted(found, key=lambda v: (v.seconds, v.bytes)):
        if not kept or variant.bytes < kept[-1].bytes:
            kept.append(variant)
    return kept
