"""Write the program that a schedule asks for, by re-tracing it under a fresh `jax.jit`.

In: a `Coarse` problem and a schedule. Out: a function of the flat arguments that binds eqn
after eqn, with names and source lines of the original.

A *segment* is a run of recomputations in the schedule without a first run between them.
Before each segment stands one `optimization_barrier` over its *triggers*, which are the
live values that were computed since the barrier before, and over everything that is read
from outside up to the next barrier: by the segment and by the first runs behind it,
arguments included. Whoever reads these later reads what comes out of the barrier. So XLA

1. cannot merge a recomputation with the original as a common subexpression,
2. cannot start it early, nor anything else that belongs behind the barrier (the
   broadcast of a scale, say, which a breadth-first scheduler makes at the very beginning),
3. has finished before the barrier what the schedule has finished there (weight gradients,
   which a depth-first scheduler puts off to the end, and with them what they read).

Free values never go through a barrier, which would store them: they are computed again from
their stored values, so that XLA can fuse them into each reader.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.lax import optimization_barrier

from memjax import _compat
from memjax.coarsen import Coarse
from memjax.simulate import simulate
from memjax.trace import Constant, Eqn


FENCE_FROM = 0.8
"""Fences stand where at least this part of the peak is held. A guess."""
FENCE_STEP = 1 / 64
"""A fence is worth it where this part of the peak dies before and is written behind it."""


@dataclass(frozen=True)
class Segment:
    """Nodes in a row, and the barrier before them.

    Attributes:
        nodes: in the order they run.
        recomputed: whether they have all run before.
        barrier: ids of the program's values that go through the barrier, triggers first;
            empty where there is none.
    """

    nodes: tuple[int, ...]
    recomputed: bool
    barrier: tuple[int, ...] = ()


def segments(coarse: Coarse, order: Sequence[int]) -> tuple[Segment, ...]:
    """Cut a schedule into segments and find what goes through the barrier of each."""
    cuts = _cuts(coarse, order)
    last_read = _last_reads(coarse, order)
    newest: dict[int, int] = {}
    fresh: list[int] = []
    result = []
    for number, (start, recomputed, fenced) in enumerate(cuts):
        nodes = tuple(order[start : _next_start(cuts, number, len(order), fenced=False)])
        barrier: tuple[int, ...] = ()
        if fenced:
            behind = order[start : _next_start(cuts, number, len(order), fenced=True)]
            triggers = (v for v in fresh if last_read.get((v, newest[v]), -1) >= start)
            barrier = tuple(dict.fromkeys((*triggers, *_external_reads(coarse, behind))))
            fresh = []
        for position, node in enumerate(nodes, start):
            for value in coarse.problem.nodes[node].outputs:
                fresh.append(coarse.value_of[value])
                newest[coarse.value_of[value]] = position
        result.append(Segment(nodes, recomputed, barrier))
    return tuple(result)


Cut = tuple[int, bool, bool]  # start, recomputed, fenced


def _cuts(coarse: Coarse, order: Sequence[int]) -> list[Cut]:
    """Where segments start. Recomputations have a barrier always, first runs at fences."""
    if len(order) == len(coarse.problem.nodes):
        return [(0, False, False)]
    fences = _fences(coarse, order)
    seen: set[int] = set()
    cuts: list[Cut] = []
    for position, node in enumerate(order):
        recomputed = node in seen
        seen.add(node)
        starts = not cuts or recomputed != cuts[-1][1]
        if starts or position in fences:
            cuts.append((position, recomputed, recomputed or position in fences))
    return cuts


def _next_start(cuts: Sequence[Cut], number: int, end: int, *, fenced: bool) -> int:
    later = (start for start, _, has_barrier in cuts[number + 1 :] if has_barrier or not fenced)
    return next(later, end)


def _fences(coarse: Coarse, order: Sequence[int]) -> frozenset[int]:
    """Positions near the peak where something large is written after something large died.

    Without a barrier there XLA may put off a reader of what should have died (the loss, say,
    which nothing needs before the end), and hold both.
    """
    problem = coarse.problem
    timeline = simulate(problem, order)
    dynamic_peak = timeline.peak_bytes - problem.base_bytes
    dies = [0] * (len(order) + 1)
    for copy in timeline.held:
        dies[copy.stop] += problem.value_bytes[copy.value]
    died = 0
    fences = []
    for position, node in enumerate(order):
        died += dies[position]
        written = sum(problem.value_bytes[v] for v in problem.nodes[node].outputs)
        near_peak = timeline.bytes_at[position] - problem.base_bytes >= FENCE_FROM * dynamic_peak
        if near_peak and min(died, written) >= FENCE_STEP * dynamic_peak:
            fences.append(position)
            died = 0
    return frozenset(fences)


def _last_reads(coarse: Coarse, order: Sequence[int]) -> dict[tuple[int, int], int]:
    """Last position that reads each copy, by (program value, position that wrote it)."""
    last: dict[tuple[int, int], int] = {}
    newest: dict[int, int] = {}
    for position, index in enumerate(order):
        node = coarse.problem.nodes[index]
        for value in node.inputs:
            last[coarse.value_of[value], newest[coarse.value_of[value]]] = position
        for value in node.outputs:
            newest[coarse.value_of[value]] = position
    for value in coarse.problem.outputs:
        last[coarse.value_of[value], newest[coarse.value_of[value]]] = len(order)
    return last


def _external_reads(coarse: Coarse, nodes: Sequence[int]) -> tuple[int, ...]:
    """The stored values, arguments included, that nodes read and do not write themselves."""
    graph = coarse.graph
    written: set[int] = set()
    external: dict[int, None] = {}
    for node in nodes:
        eqn = coarse.eqn_of_node[node]
        external.update(dict.fromkeys(v for v in graph.stored_reads[eqn] if v not in written))
        written.update(graph.program.eqns[eqn].outputs)
    return tuple(external)


def rewrite(coarse: Coarse, order: Sequence[int]) -> Callable[..., list[Any]]:
    """The function of the flat arguments that runs a schedule; it returns the flat results."""
    parts = segments(coarse, order)

    def planned(*arguments: Any) -> list[Any]:
        return _Interpreter(coarse).run(parts, arguments)

    planned.__name__ = planned.__qualname__ = coarse.graph.program.name
    return planned


@dataclass
class _Interpreter:
    """Binds eqns under JAX's trace. `stored` and `free` are the newest copies by value id."""

    coarse: Coarse
    stored: dict[int, Any] = field(default_factory=dict)
    free: dict[int, Any] = field(default_factory=dict)

    def run(self, parts: Sequence[Segment], arguments: Sequence[Any]) -> list[Any]:
        program = self.coarse.graph.program
        self.stored.update(zip(program.arguments, arguments, strict=True))
        self.stored.update(program.constants)
        for part in parts:
            if part.barrier:
                self.pass_barrier(part.barrier)
            for node in part.nodes:
                self.run_node(node)
        return [self.read(result) for result in program.results]

    def pass_barrier(self, values: Sequence[int]) -> None:
        fenced = optimization_barrier(tuple(self.stored[v] for v in values))
        self.stored.update(zip(values, fenced, strict=True))
        self.free.clear()

    def run_node(self, node: int) -> None:
        eqn = self.coarse.graph.program.eqns[self.coarse.eqn_of_node[node]]
        self.stored.update(zip(eqn.outputs, self.bind(eqn), strict=True))

    def bind(self, eqn: Eqn) -> list[Any]:
        return _compat.bind(eqn.raw, eqn.name_stack, [self.read(v) for v in eqn.inputs])

    def read(self, operand: int | Constant) -> Any:
        if isinstance(operand, Constant):
            return operand.value
        if not self.coarse.graph.free[operand]:
            return self.stored[operand]
        if operand not in self.free:
            program = self.coarse.graph.program
            eqn = program.eqns[program.producer[operand]]
            self.free.update(zip(eqn.outputs, self.bind(eqn), strict=True))
        return self.free[operand]
