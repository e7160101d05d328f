"""Cut a schedule into segments, and find what holds XLA to it.

In: a `PricedProgram` and a schedule. Out: `Segment`s, each with what goes through the
`optimization_barrier` before it; and the *fences*, positions of the schedule that have a barrier
though nothing runs again there. Where fences stand depends on bytes, so a plan says it: what it
makes is the same when less, or more, is known of the bytes.

A *segment* is a run of recomputations in the schedule without a first run between them.
Through the barrier before it go its *triggers*, which are the live values that were computed
since the barrier before, and everything that is read from outside up to the next barrier:
by the segment and by the first runs behind it, arguments included. Whoever reads these
later reads what comes out of the barrier. So XLA

1. cannot merge a recomputation with the original as a common subexpression,
2. cannot start it early, nor anything else that belongs behind the barrier (the
   broadcast of a scale, say, which a breadth-first scheduler makes at the very beginning),
3. has finished before the barrier what the schedule has finished there (weight gradients,
   which a depth-first scheduler puts off to the end, and with them what they read).

Free values never go through a barrier, which would store them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from memjax.planning.simulate import Timeline, simulate
from memjax.pricing.coarsen import PricedProgram

FENCE_FROM = 0.8
"""Fences stand where at least this part of the peak is held. A guess."""
FENCE_STEP = 1 / 64
"""A fence is worth it where this part of the peak dies before and is written behind it."""


@dataclass(frozen=True)
class Segment:
    """Nodes in a row, and the barrier before them.

    Attributes:
        nodes: in the order they run.
        recomputed: whether they have run before, but for updates that settle at the start.
        barrier: ids of the program's values that go through the barrier, triggers first;
            empty where there is none.
    """

    nodes: tuple[int, ...]
    recomputed: bool
    barrier: tuple[int, ...] = ()


def segments(
    priced: PricedProgram, order: Sequence[int], fences: Collection[int] | None = None
) -> tuple[Segment, ...]:
    """Cut a schedule into segments and find what goes through the barrier of each.

    Updates of donated arguments move behind the next barrier (`_behind_barriers`); all else
    keeps its place.

    Args:
        priced: the problem.
        order: nodes in the order they run.
        fences: positions in it; None for those of `fences_of`.
    """
    if _is_untouched(priced, order):
        return (Segment(tuple(order), recomputed=False),)
    fences = fences_of(priced, order) if fences is None else fences
    return _with_barriers(priced, _behind_barriers(priced, _parts(priced, order, fences)))


def _is_untouched(priced: PricedProgram, order: Sequence[int]) -> bool:
    return not priced.keeps_order and tuple(order) == priced.problem.identity


def emitted_order(parts: Sequence[Segment]) -> tuple[int, ...]:
    """The schedule that segments carry out."""
    return tuple(node for part in parts for node in part.nodes)


def emitted_timeline(
    priced: PricedProgram, order: Sequence[int], fences: Collection[int] | None = None
) -> Timeline:
    """What a schedule holds as it is carried out."""
    return simulate(priced.problem, emitted_order(segments(priced, order, fences)))


@dataclass
class _Part:
    nodes: list[int]
    recomputed: bool
    fenced: bool


def _parts(priced: PricedProgram, order: Sequence[int], fences: Collection[int]) -> list[_Part]:
    """Recomputations have a barrier always, first runs at fences."""
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


def _behind_barriers(priced: PricedProgram, parts: Sequence[_Part]) -> list[_Part]:
    """Move the updates of donated arguments behind the next barrier.

    An update may take its argument's buffer only if XLA can prove that everybody else has
    read the argument before; otherwise it copies. Behind the barrier that the other readers'
    results go through, it can. Updates that something else reads stay where they are. Before
    a loop they get a barrier of their own, or XLA would put them off until it is done.
    """
    settled = []
    waiting: list[int] = []
    for part in parts:
        arrived = waiting if part.fenced else []
        staying = [n for n in part.nodes if n not in priced.updates]
        leaving = [n for n in part.nodes if n in priced.updates]
        waiting = leaving if part.fenced else waiting + leaving
        if arrived and staying and _is_loop(priced, staying[0]):
            settled.append(_Part(arrived, recomputed=False, fenced=True))
            arrived = []
        settled.append(_Part(arrived + staying, part.recomputed, part.fenced))
    if waiting:
        settled.append(_Part(waiting, recomputed=False, fenced=True))
    return settled


def _with_barriers(priced: PricedProgram, parts: Sequence[_Part]) -> tuple[Segment, ...]:
    last_read = _last_reads(priced, [n for part in parts for n in part.nodes])
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
            barrier = tuple(dict.fromkeys((*triggers, *_external_reads(priced, behind))))
            fresh = []
        for node in part.nodes:
            for value in priced.problem.nodes[node].outputs:
                fresh.append(priced.value_of[value])
                newest[priced.value_of[value]] = position
            position += 1
        result.append(Segment(tuple(part.nodes), part.recomputed, barrier))
    return tuple(result)


def fences_of(priced: PricedProgram, order: Sequence[int]) -> tuple[int, ...]:
    """Positions where order matters that no recomputation enforces, in order.

    1. Near the peak, where something large is written after something large died: without a
       barrier XLA may put off a reader of what should have died (the loss, say, which
       nothing needs before the end), and hold both.
    2. Where updates of many bytes wait for a barrier to settle behind, or any wait before a loop.
    """
    if _is_untouched(priced, order):
        return ()
    problem = priced.problem
    timeline = simulate(problem, order)
    dynamic_peak = timeline.peak_bytes - problem.base_bytes
    dies = [0] * (len(order) + 1)
    for copy in timeline.held:
        dies[copy.stop] += problem.value_bytes[copy.value]
    died = waiting = 0
    fences = []
    for position, node in enumerate(order):
        died += dies[position]
        if node in priced.updates:
            waiting += priced.updates[node]
        written = sum(problem.value_bytes[v] for v in problem.nodes[node].outputs)
        near_peak = timeline.bytes_at[position] - problem.base_bytes >= FENCE_FROM * dynamic_peak
        step = FENCE_STEP * dynamic_peak
        before_loop = waiting > 0 and _is_loop(priced, node)
        if (near_peak and min(died, written) >= step) or waiting >= 4 * step or before_loop:
            fences.append(position)
            died = waiting = 0
        if not _is_loop(priced, node):
            died += problem.nodes[node].workspace_bytes
    return tuple(fences)


def _is_loop(priced: PricedProgram, node: int) -> bool:
    nest = priced.graph.program.eqns[priced.eqn_of_node[node]].nest
    return nest is not None and nest.repeats


def _last_reads(priced: PricedProgram, order: Sequence[int]) -> dict[tuple[int, int], int]:
    """Last position that reads each copy, by (program value, position that wrote it)."""
    last: dict[tuple[int, int], int] = {}
    newest: dict[int, int] = {}
    for position, index in enumerate(order):
        node = priced.problem.nodes[index]
        for value in node.inputs:
            last[priced.value_of[value], newest[priced.value_of[value]]] = position
        for value in node.outputs:
            newest[priced.value_of[value]] = position
    for value in priced.problem.outputs:
        last[priced.value_of[value], newest[priced.value_of[value]]] = len(order)
    return last


def _external_reads(priced: PricedProgram, nodes: Sequence[int]) -> tuple[int, ...]:
    """The stored values, arguments included, that nodes read and do not write themselves."""
    graph = priced.graph
    written: set[int] = set()
    external: dict[int, None] = {}
    for node in nodes:
        eqn = priced.eqn_of_node[node]
        external.update(dict.fromkeys(v for v in graph.stored_reads[eqn] if v not in written))
        written.update(graph.program.eqns[eqn].outputs)
    return tuple(external)
