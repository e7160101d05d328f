"""Rewrite a pair of scans so that fewer bytes wait between them.

In: a `Program`, and a `LoopPlan` for each pair that is to change. Out: a `Program` with the
same results.

What is stacked is chosen by value (`memjax.loops.residuals`); what is not is computed again
in the backward body, right before its first reader there. With `chunks` the length is split:
the forward scan leaves the carry at the start of each chunk, and the backward scan runs the
forward scan over a chunk again, from its carry, before it goes through that chunk itself. A
chunk may be split in the same way, to any depth: with one split the stacks of n iterations
shrink to order √n at one more forward pass, with m splits to order n^(1/(m+1)) at m (Griewank,
*Achieving logarithmic growth of temporal and spatial complexity in reverse automatic
differentiation*, 1992; for a given number of passes a binomial schedule needs somewhat fewer
bytes: Griewank and Walther, *Algorithm 799: revolve*, 2000).

A length that its chunk does not divide leaves a shorter chunk with the highest indices, which
runs outside of the loop over chunks.

Not handled: full stacks of some residuals and chunks for the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import lax

from memjax.helpers.checked import Count, Index
from memjax.loops.builder import ZERO, Level, Ref, Source, type_of
from memjax.loops.iteration import Iteration
from memjax.loops.pairs import Pair, Scan, find_pairs
from memjax.program.eqns import Constant, Eqn, Operand, Program
from memjax.program.trace import without_dead


@dataclass(frozen=True)
class LoopPlan:
    """What happens to one pair of scans.

    Attributes:
        scan: index of the forward scan's eqn.
        kept: values of its body that are stacked, ascending; with chunks, those stacked while
            an innermost chunk is on.
        chunks: iterations in a chunk, in a chunk of a chunk, and so on; empty for no split.
    """

    scan: Index
    kept: tuple[Index, ...]
    chunks: tuple[Count, ...] = ()


def transform(program: Program, plans: Sequence[LoopPlan], *, backward: bool = True) -> Program:
    """Carry out plans for some of a program's pairs.

    Args:
        program: the step, or a body in it.
        plans: one for each pair that changes.
        backward: False leaves the backward scans out, and a program that prices the forward
            ones but cannot run.

    Raises:
        ValueError: a plan names an eqn that is not the forward scan of a pair, or one twice.
    """
    if not plans:
        return program
    pairs = {pair.forward.index: pair for pair in find_pairs(program)}
    lost = [plan.scan for plan in plans if plan.scan not in pairs]
    if lost:
        raise ValueError(f"eqn {lost[0]} is no scan whose residuals only other scans read")
    if len({plan.scan for plan in plans}) < len(plans):
        raise ValueError("a scan is changed twice")
    avals = list(program.avals)
    replaced: dict[int, list[Eqn]] = {}
    for plan in plans:
        pair = pairs[plan.scan]
        pinned = [n for n in range(len(pair.forward.stacks)) if n not in pair.residuals]
        level = Level(pair.forward.eqn, avals)
        replaced.update(_Change(pair, plan, level, pinned).run(backward))
    eqns = [new for i, eqn in enumerate(program.eqns) for new in replaced.get(i, [eqn])]
    needed = without_dead(eqns, program.results)
    return replace(program, eqns=needed, avals=tuple(avals))


@dataclass(frozen=True)
class _Chunk:
    """A stretch of indices that the backward pass is to go through, and where it starts from.

    Attributes:
        start: its first index.
        length: iterations.
        carry: of the forward scan, where it enters the chunk.
    """

    start: Source
    length: int
    carry: list[Source]


@dataclass(frozen=True)
class _Chunks:
    """A stretch that was run forward in chunks.

    Attributes:
        size: iterations in each.
        count: how many there are.
        carries: stacks of the carries where the forward scan enters them.
        rest: the shorter chunk with the highest indices, if there is one.
    """

    size: int
    count: int
    carries: Sequence[Source]
    rest: _Chunk | None


@dataclass
class _Change:
    """One pair on its way.

    Attributes:
        pair: what is rewritten.
        plan: how.
        level: the program; its eqns are taken away scan by scan.
        pinned: numbers of the forward scan's stacks that are needed whole.
    """

    pair: Pair
    plan: LoopPlan
    level: Level
    pinned: list[int]

    def run(self, backward: bool) -> dict[int, list[Eqn]]:
        """The eqns that take the place of each scan of the pair."""
        forward, sizes, level = self.pair.forward, self.plan.chunks, self.level
        whole = _Chunk(ZERO, forward.length, self.outside(forward.carry_operands))
        stacks = self.first_stacks(forward, self.pinned)
        chunks = stacked = None
        if sizes:
            chunks, carry, stacks = self.run_chunks(level, whole, sizes[0], stacks)
        else:
            stacked, carry, stacks = self.run_forward(level, whole, self.plan.kept, stacks)
        wanted = [*forward.eqn.outputs[: forward.carries]]
        wanted += [forward.stacks[n] for n in self.pinned]
        replaced = {forward.index: self.named([*carry, *stacks], wanted)}
        for scan in self.pair.backward if backward else ():
            level.like = scan.eqn
            outputs = range(len(scan.stacks))
            state = [*self.outside(scan.carry_operands), *self.first_stacks(scan, outputs)]
            if chunks is not None:
                state = self.through_chunks(level, scan, ZERO, chunks, sizes[1:], state)
            else:
                assert stacked is not None
                state = self.run_backward(level, scan, whole, stacked, state)
            replaced[scan.index] = self.named(state, scan.eqn.outputs)
        return replaced

    def outside(self, operands: Sequence[Operand]) -> list[Source]:
        """Operands of the program."""
        return [Ref(self.level, v) if isinstance(v, int) else v for v in operands]

    def first_stacks(self, scan: Scan, numbers: Iterable[int]) -> list[Source]:
        """Stacks to be filled, for those of a scan that the program goes on to read."""
        results = [scan.stacked_results[n] for n in numbers]
        return [self.level.stack(_type_in(scan, r), scan.length) for r in results]

    def named(self, outputs: Sequence[Source], wanted: Sequence[int]) -> list[Eqn]:
        """The eqns so far, their last results under the ids that the program knows them by."""
        name: dict[int, int] = {}
        for source, value in zip(outputs, wanted, strict=True):
            assert isinstance(source, Ref)
            name[source.value] = value
        eqns, self.level.eqns = self.level.eqns, []
        return [
            replace(
                eqn,
                inputs=tuple(name.get(v, v) if isinstance(v, int) else v for v in eqn.inputs),
                outputs=tuple(name.get(v, v) for v in eqn.outputs),
            )
            for eqn in eqns
        ]

    def run_forward(
        self, level: Level, chunk: _Chunk, kept: Sequence[int], pinned: Sequence[Source]
    ) -> tuple[dict[int, Ref], list[Source], list[Source]]:
        """Run the forward scan over a chunk.

        Args:
            level: where.
            chunk: its length may be the scan's.
            kept: values of the body to stack.
            pinned: the stacks that the program reads; empty where they are there already.

        Returns:
            The new stacks by value, the last carry, the filled stacks of `pinned`.
        """
        scan = self.pair.forward
        new = [level.stack(scan.body.avals[v], chunk.length) for v in kept]

        def step(body: Level, index: Ref, state: list[Ref]) -> list[Source]:
            carry, stacks = state[: scan.carries], state[scan.carries :]
            where = [_offset(body, index, chunk.start)] * len(kept) + [index] * len(pinned)
            values: list[Operand] = [*kept]
            values += [scan.stacked_results[n] for n in self.pinned] if pinned else []
            known: dict[int, Source] = dict(zip(scan.carry_arguments, carry, strict=True))
            copy = Iteration(self.level, body, scan, index, known)
            filled = copy.stacked(values, stacks, where)
            return [*(copy.source(r) for r in scan.carry_results), *filled]

        state = level.loop(
            step, chunk.length, scan.reverse, chunk.start, [*chunk.carry, *new, *pinned]
        )
        stacks = state[scan.carries :]
        by_value = dict(zip(kept, stacks, strict=False))
        return by_value, list(state[: scan.carries]), list(stacks[len(kept) :])

    def run_chunks(
        self, level: Level, chunk: _Chunk, size: int, pinned: Sequence[Source] | None
    ) -> tuple[_Chunks, list[Source], list[Source]]:
        """Run the forward scan over a stretch and leave the carry at the start of each chunk.

        Args:
            level: where.
            chunk: the stretch.
            size: of the chunks in it.
            pinned: the stacks that the program reads; None where these and the last carry
                are there already, so that the last chunk need not run.
        """
        scan = self.pair.forward
        count, left = divmod(chunk.length, size)
        carry, stacks = chunk.carry, list(pinned or ())
        rest_start = _plus(level, chunk.start, count * size)
        rest = None
        if left and scan.reverse:
            rest = _Chunk(rest_start, left, carry)
            _, carry, stacks = self.run_forward(level, rest, (), stacks)
        carries: list[Source] = [level.stack(type_of(c), count) for c in carry]

        def step(body: Level, index: Ref, state: list[Ref]) -> list[Source]:
            carry, carries = state[: scan.carries], state[scan.carries : 2 * scan.carries]
            left_behind = [body.put(s, index, c) for s, c in zip(carries, carry, strict=True)]
            inner = _Chunk(body.affine(index, size, chunk.start), size, list(carry))
            _, after, stacks = self.run_forward(body, inner, (), state[2 * scan.carries :])
            return [*after, *left_behind, *stacks]

        stop_early = pinned is None and (not left or scan.reverse)
        runs = count - 1 if stop_early else count
        first = Constant(np.int32(1)) if stop_early and scan.reverse else ZERO
        if runs:
            state = level.loop(step, runs, scan.reverse, first, [*carry, *carries, *stacks])
            carry, carries, stacks = (
                list(state[: scan.carries]),
                list(state[scan.carries : 2 * scan.carries]),
                list(state[2 * scan.carries :]),
            )
        if stop_early:
            last = ZERO if scan.reverse else Constant(np.int32(count - 1))
            carries = [level.put(s, last, c) for s, c in zip(carries, carry, strict=True)]
        if left and not scan.reverse:
            rest = _Chunk(rest_start, left, carry)
            if not stop_early and pinned is not None:
                _, carry, stacks = self.run_forward(level, rest, (), stacks)
        return _Chunks(size, count, carries, rest), carry, stacks

    def through_chunks(
        self,
        level: Level,
        scan: Scan,
        start: Source,
        chunks: _Chunks,
        sizes: Sequence[int],
        state: list[Source],
    ) -> list[Source]:
        """Run a backward scan over a stretch that was run forward in chunks."""

        def step(body: Level, index: Ref, state: list[Ref]) -> list[Source]:
            carry: list[Source] = [body.take(s, index) for s in chunks.carries]
            chunk = _Chunk(body.affine(index, chunks.size, start), chunks.size, carry)
            return self.through_chunk(body, scan, chunk, sizes, list(state))

        if chunks.rest and scan.reverse:
            state = self.through_chunk(level, scan, chunks.rest, sizes, state)
        state = list(level.loop(step, chunks.count, scan.reverse, ZERO, state))
        if chunks.rest and not scan.reverse:
            state = self.through_chunk(level, scan, chunks.rest, sizes, state)
        return state

    def through_chunk(
        self, level: Level, scan: Scan, chunk: _Chunk, sizes: Sequence[int], state: list[Source]
    ) -> list[Source]:
        """Run the forward scan over a chunk again, and then a backward scan."""
        smaller = [size for size in sizes if size < chunk.length]
        if smaller:
            chunks, _, _ = self.run_chunks(level, chunk, smaller[0], None)
            return self.through_chunks(level, scan, chunk.start, chunks, smaller[1:], state)
        stacked, _, _ = self.run_forward(level, chunk, self.plan.kept, ())
        return self.run_backward(level, scan, chunk, stacked, state)

    def run_backward(
        self,
        level: Level,
        scan: Scan,
        chunk: _Chunk,
        stacked: dict[int, Ref],
        state: list[Source],
    ) -> list[Source]:
        """Run a backward scan over a chunk whose residuals are stacked."""
        forward = self.pair.forward
        links = self.pair.links(scan)
        whole = {
            forward.stacked_results[n]: Ref(self.level, forward.stacks[n]) for n in self.pinned
        }

        def step(body: Level, index: Ref, state: list[Ref]) -> list[Source]:
            local = _offset(body, index, chunk.start)
            again = Iteration(self.level, body, forward, index, {})
            again.stacks = {v: (stack, index) for v, stack in whole.items() if isinstance(v, int)}
            again.stacks |= {v: (stack, local) for v, stack in stacked.items()}
            own = Iteration(
                self.level, body, scan, index, dict(zip(scan.carry_arguments, state, strict=False))
            )
            own.residuals = {a: forward.stacked_results[n] for a, n in links.items()}
            own.forward = again
            values = scan.stacked_results
            filled = own.stacked(values, state[scan.carries :], [index] * len(values))
            return [*(own.source(r) for r in scan.carry_results), *filled]

        return list(level.loop(step, chunk.length, scan.reverse, chunk.start, state))


def _type_in(scan: Scan, operand: Operand) -> Any:
    if isinstance(operand, int):
        return scan.body.avals[operand]
    return jax.typeof(operand.value)


def _offset(level: Level, index: Ref, start: Source) -> Source:
    """`index - start`."""
    return index if start is ZERO else level.call(lax.sub, index, start)


def _plus(level: Level, start: Source, offset: int) -> Source:
    """`start + offset`."""
    if isinstance(start, Constant):
        return Constant(np.int32(start.value + offset))
    return level.call(lax.add, start, Constant(np.int32(offset)))
