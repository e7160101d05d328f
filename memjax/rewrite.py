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
from memjax.simulate import Timeline, simulate
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
    """Cut a schedule into segments and find what goes through the barrier of each.

    Updates of donated arguments move behind the next barrier, see `_settle`; all else keeps
    its place.
    """
    if len(order) == len(coarse.problem.nodes):
        return (Segment(tuple(order), recomputed=False),)
    return _with_barriers(coarse, _settle(coarse, _parts(coarse, order)))


def emitted_order(parts: Sequence[Segment]) -> tuple[int, ...]:
    """The schedule that segments carry out."""
    return tuple(node for part in parts for node in part.nodes)


def emitted_timeline(coarse: Coarse, order: Sequence[int]) -> Timeline:
    """What a schedule holds as it is carried out."""
    return simulate(coarse.problem, emitted_order(segments(coarse, order)))


@dataclass
class _Part:
    nodes: list[int]
    recomputed: bool
    fenced: bool


def _parts(coarse: Coarse, order: Sequence[int]) -> list[_Part]:
    """Recomputations have a barrier always, first runs at fences."""
    fences = _fences(coarse, order)
    seen: set[int] = set()
    parts: list[_Part] = []
    for position, node in enumerate(order):
        recomputed = node in seen
        seen.add(node)
        starts = not parts or recomputed != parts[-1].recomputed
        if starts or position in fences:
            parts.append(_Part([], recomputed, recomputed or position in fences))
        parts[-1].nodes.append(node)
    return parts


def _settle(coarse: Coarse, parts: Sequence[_Part]) -> list[_Part]:
    """Move the updates of donated arguments behind the next barrier.

    An update may take its argument's buffer only if XLA can prove that everybody else has
    read the argument before; otherwise it copies. Behind the barrier that the other readers'
    results go through, it can. Updates that something else reads stay where they are.
    """
    updates = coarse.updates
    settled = []
    waiting: list[int] = []
    for part in parts:
        if part.fenced:
            part.nodes[:0] = waiting
            late = [n for n in part.nodes[len(waiting) :] if n in updates]
            waiting = []
        else:
            late = [n for n in part.nodes if n in updates]
        moved = set(late)
        settled.append(
            _Part([n for n in part.nodes if n not in moved], part.recomputed, part.fenced)
        )
        waiting += late
    if waiting:
        settled.append(_Part(waiting, recomputed=False, fenced=True))
    return settled


def _with_barriers(coarse: Coarse, parts: Sequence[_Part]) -> tuple[Segment, ...]:
    last_read = _last_reads(coarse, [n for part in parts for n in part.nodes])
    newest: dict[int, int] = {}
    fresh: list[int] = []
    result = []
    position = 0
    for number, part in enumerate(parts):
        barrier: tuple[int, ...] = ()
        if part.fenced:
            later = parts[number + 1 :]
            end = next((i for i, p in enumerate(later) if p.fenced), len(later))
            behind = [n for p in (part, *later[:end]) for n in p.nodes]
            triggers = (v for v in fresh if last_read.get((v, newest[v]), -1) >= position)
            barrier = tuple(dict.fromkeys((*triggers, *_external_reads(coarse, behind))))
            fresh = []
        for node in part.nodes:
            for value in coarse.problem.nodes[node].outputs:
                fresh.append(coarse.value_of[value])
                newest[coarse.value_of[value]] = position
            position += 1
        result.append(Segment(tuple(part.nodes), part.recomputed, barrier))
    return tuple(result)


def _fences(coarse: Coarse, order: Sequence[int]) -> frozenset[int]:
    """Positions where order matters that no recomputation enforces.

    1. Near the peak, where something large is written after something large died: without a
       barrier XLA may put off a reader of what should have died (the loss, say, which
       nothing needs before the end), and hold both.
    2. Where updates of many bytes wait for a barrier to settle behind.
    """
    problem = coarse.problem
    timeline = simulate(problem, order)
    dynamic_peak = timeline.peak_bytes - problem.base_bytes
    dies = [0] * (len(order) + 1)
    for copy in timeline.held:
        dies[copy.stop] += problem.value_bytes[copy.value]
    died = waiting = 0
    fences = []
    for position, node in enumerate(order):
        died += dies[position]
        if node in coarse.updates:
            waiting += coarse.updates[node]
        written = sum(problem.value_bytes[v] for v in problem.nodes[node].outputs)
        near_peak = timeline.bytes_at[position] - problem.base_bytes >= FENCE_FROM * dynamic_peak
        step = FENCE_STEP * dynamic_peak
        if (near_peak and min(died, written) >= step) or waiting >= 4 * step:
            fences.append(position)
            died = waiting = 0
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
