"""What could happen to a pair of scans, and what each way would hold and cost.

In: a `Program` and one of its `Pair`s. Out: `Variant`s: the pair as it is, then by rising cost,
each holding fewer bytes than the one before.

A variant is a cut of the residuals and sizes of chunks. Its bytes are an estimate made
of few numbers (the body peaks of each cut, the bytes of the carry), good enough to rank
variants; whoever chooses one prices the transformed program.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

from memjax.loops.pairs import Pair
from memjax.loops.residuals import Cut, cuts, joint_body, near_cuts
from memjax.loops.transform import LoopPlan, transform
from memjax.pricing import cost
from memjax.pricing.liveness import liveness
from memjax.pricing.price import Pricer
from memjax.program.eqns import Program

MOST_SPLITS = 4
"""Levels of chunks that are tried; with four, 16,000 iterations hold some 7 + 7 + 7 + 7 + 7."""
EVEN_WITHIN = 1.15
"""Chunks that divide the length are taken where they hold at most this much more than the
best, as a shorter chunk has to be compiled, too."""


@dataclass(frozen=True)
class Variant:
    """One way to run a pair.

    Attributes:
        plan: how; None for as it is.
        bytes: estimated, held at the backward scans: stacks and the body's peak.
        least_bytes: the same, if the bodies were planned as tight as any schedule could be.
        seconds: of running eqns again, at least; below 0 where more is spared.
    """

    plan: LoopPlan | None
    bytes: int
    least_bytes: int
    seconds: float


@dataclass(frozen=True)
class _Bodies:
    """What the bodies of a pair's scans take.

    Attributes:
        peak_bytes: of the one that holds most.
        floor_bytes: of the one whose largest eqn holds most.
        seconds: of all iterations.
    """

    peak_bytes: int
    floor_bytes: int
    seconds: float


def variants(program: Program, pair: Pair, pricer: Pricer) -> list[Variant]:
    """The variants of a pair that no other one beats in both bytes and seconds."""
    joint = joint_body(pair)
    priced = pricer.priced(joint.program)
    seconds = cost.node_seconds(joint.graph, pricer.rates, priced.inner)
    corners = cuts(joint, seconds)
    plain = _bodies(program, pair, None, pricer)
    spared = _spared_seconds(program, pair, corners[0], pricer)
    plain = replace(plain, seconds=plain.seconds + spared)
    bodies = [
        (cut, _bodies(program, pair, LoopPlan(pair.forward.index, cut.kept), pricer))
        for cut in corners
    ]
    stacked = sum(program.value_bytes[pair.forward.stacks[n]] for n in pair.residuals)
    found = [_variant(None, int(pricer.scale * stacked), plain, 0.0)]
    found += _whole(pair, bodies, plain, pricer)
    found += _near(pair, near_cuts(joint, seconds, corners), bodies, plain, pricer)
    found += _split(program, pair, bodies, plain, pricer)
    return _best(found)


def _variant(plan: LoopPlan | None, stacks: int, bodies: _Bodies, seconds: float) -> Variant:
    return Variant(plan, stacks + bodies.peak_bytes, stacks + bodies.floor_bytes, seconds)


def _bodies(program: Program, pair: Pair, plan: LoopPlan | None, pricer: Pricer) -> _Bodies:
    changed = transform(program, [plan]) if plan else program
    others = {id(eqn.raw) for i, eqn in enumerate(program.eqns) if i not in _indices(pair)}
    peak_bytes, floor_bytes, seconds = 0, 0, 0.0
    for eqn in changed.eqns:
        if eqn.nest is None or id(eqn.raw) in others:
            continue
        planned = pricer.planned(eqn.nest)
        inner = pricer.inner(eqn.nest, planned)
        floors = (body.priced.problem.single_node_floor_bytes for body in planned)
        peak_bytes = max(peak_bytes, inner.peak_bytes)
        floor_bytes = max(floor_bytes, *floors)
        seconds += inner.seconds
    return _Bodies(peak_bytes, floor_bytes, seconds)


def _spared_seconds(program: Program, pair: Pair, cut: Cut, pricer: Pricer) -> float:
    """Seconds of the transpositions that nothing needs once a pair is rewritten."""
    if not pair.forward.views:
        return 0.0
    changed = transform(program, [LoopPlan(pair.forward.index, cut.kept)])
    left = {id(eqn.raw) for eqn in changed.eqns}
    seconds = cost.node_seconds(liveness(program), pricer.rates)
    return sum(seconds[i] for i, eqn in enumerate(program.eqns) if id(eqn.raw) not in left)


def _indices(pair: Pair) -> set[int]:
    return {pair.forward.index, *(scan.index for scan in pair.backward)}


def _whole(
    pair: Pair, bodies: Iterable[tuple[Cut, _Bodies]], plain: _Bodies, pricer: Pricer
) -> Iterator[Variant]:
    """Every residual of a cut stacked over the whole length."""
    for cut, body in bodies:
        plan = LoopPlan(pair.forward.index, cut.kept)
        stacks = int(pricer.scale * pair.forward.length * cut.bytes)
        yield _variant(plan, stacks, body, body.seconds - plain.seconds)


def _carry_seconds(program: Program, pair: Pair, pricer: Pricer) -> float:
    """Seconds of the forward scan when it stacks nothing but what the program reads."""
    forward = pair.forward
    plan = LoopPlan(forward.index, (), (forward.length // 2,))
    changed = transform(program, [plan], backward=False)
    return sum(
        pricer.inner(eqn.nest, pricer.planned(eqn.nest)).seconds
        for eqn in changed.eqns
        if eqn.nest is not None and eqn.raw is forward.eqn.raw
    )


def _pinned_seconds(program: Program, pair: Pair, pricer: Pricer) -> float:
    """Seconds of writing the stacks that the program reads whole, which is done once."""
    stacks = (s for n, s in enumerate(pair.forward.stacks) if n not in pair.residuals)
    return sum(2 * program.value_bytes[s] for s in stacks) / pricer.rates.bytes_per_second


def _near(
    pair: Pair,
    near: Iterable[Cut],
    bodies: Sequence[tuple[Cut, _Bodies]],
    plain: _Bodies,
    pricer: Pricer,
) -> Iterator[Variant]:
    """Cuts between the measured ones, with the bodies of the nearest that stacks less."""
    length = pair.forward.length
    for cut in near:
        corner, body = next((c, b) for c, b in bodies if c.bytes < cut.bytes)
        seconds = body.seconds - plain.seconds + length * (cut.seconds - corner.seconds)
        stacks = int(pricer.scale * length * cut.bytes)
        yield _variant(LoopPlan(pair.forward.index, cut.kept), stacks, body, seconds)


def _split(
    program: Program,
    pair: Pair,
    bodies: Iterable[tuple[Cut, _Bodies]],
    plain: _Bodies,
    pricer: Pricer,
) -> Iterator[Variant]:
    """The best chunks for each cut and number of splits."""
    forward = pair.forward
    carry_bytes = sum(forward.body.value_bytes[v] for v in forward.carry_arguments)
    if forward.length < 3:  # nothing to split
        return
    once = _carry_seconds(program, pair, pricer)
    pinned = _pinned_seconds(program, pair, pricer)
    for cut, body in bodies:
        again = body.seconds - plain.seconds
        for splits in range(1, MOST_SPLITS + 1):
            sizes = best_chunks(forward.length, splits, carry_bytes, cut.bytes)
            if len(sizes) < splits:
                break
            held = pricer.scale * stacks_bytes(forward.length, sizes, carry_bytes, cut.bytes)
            plan = LoopPlan(forward.index, cut.kept, sizes)
            reruns = len(pair.backward) * (runs_of_carries(sizes) - 1)
            seconds = once + reruns * max(0.0, once - pinned)
            yield _variant(plan, int(held), body, again + seconds)


def runs_of_carries(sizes: Sequence[int]) -> float:
    """How often the forward scan runs over its length with carries alone, in parts of once.

    Over a stretch that is split further it runs up to its last chunk only; through an innermost
    chunk it runs with its residuals, which is not counted here.
    """
    return 1.0 + sum(1 - inner / outer for outer, inner in pairwise(sizes))


def stacks_bytes(length: int, sizes: Iterable[int], carry_bytes: int, residual_bytes: int) -> int:
    """What chunks hold at once: a stack of carries at each level, residuals in the innermost."""
    held = 0
    for size in sizes:
        held += math.ceil(length / size) * carry_bytes
        length = size
    return held + length * residual_bytes


def best_chunks(length: int, splits: int, carry_bytes: int, residual_bytes: int) -> tuple[int, ...]:
    """Sizes of chunks, falling, for which `stacks_bytes` is least; none if it is too short.

    Inner chunks divide those round them; only the outermost may leave a shorter one.
    """

    @cache
    def inner(length: int, splits: int) -> tuple[float, tuple[int, ...]]:
        if not splits:
            return length * residual_bytes, ()
        choices = (
            (length // size * carry_bytes + inner(size, splits - 1)[0], size)
            for size in _divisors(length)
        )
        held, size = min(choices, default=(math.inf, 0))
        return held, (size, *inner(size, splits - 1)[1]) if held < math.inf else ()

    best: tuple[float, tuple[int, ...]] = (math.inf, ())
    for size in range(2, length):
        held, sizes = inner(size, splits - 1)
        held += math.ceil(length / size) * carry_bytes
        best = min(best, (held * (EVEN_WITHIN if length % size else 1.0), (size, *sizes)))
    return best[1] if best[0] < math.inf else ()


@cache
def _divisors(number: int) -> tuple[int, ...]:
    """What divides a number, but for 1 and itself."""
    small = [d for d in range(2, math.isqrt(number) + 1) if number % d == 0]
    return tuple(sorted({*small, *(number // d for d in small)}))


def _best(found: Iterable[Variant]) -> list[Variant]:
    """The pair as it is, and those that no other one beats, by rising seconds."""
    kept: list[Variant] = []
    for variant in sorted(found, key=lambda v: (v.plan is not None, v.seconds, v.bytes)):
        fewer = all(variant.bytes < other.bytes for other in kept)
        if fewer or all(variant.least_bytes < other.least_bytes for other in kept):
            kept.append(variant)
    return kept
