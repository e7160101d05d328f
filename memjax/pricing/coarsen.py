"""Fold a `LivenessGraph` and its costs into the `Problem` that planners solve.

In: graph, seconds by eqn, what is held for the whole step. Out: a `PricedProgram`: the problem, and
which eqn and which value each of its nodes and values stands for.

Nodes are the eqns that store something; free eqns are folded into their readers, which
costs no plan anything, since a free value has no bytes. Arguments and captured constants are
no values of the problem: XLA holds them for the whole step (`base_bytes`). So it does
results, wherever they are written; they have no bytes here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from memjax import _compat
from memjax.planning.problem import Node, Problem
from memjax.pricing import cost
from memjax.pricing.backends import Backend
from memjax.pricing.learnt import NOTHING, Learnt
from memjax.pricing.liveness import LivenessGraph
from memjax.program import primitives
from memjax.program.eqns import Eqn

SMALL_FRACTION = 1 / 4096
"""Nodes that write less than this part of the largest value are never run again."""


@dataclass(frozen=True)
class PricedProgram:
    """A problem and what it stands for.

    Attributes:
        problem: for the planners.
        eqn_of_node: eqn index by node.
        value_of: program value id by problem value id.
        graph: where it came from.
        inner: what the bodies of eqns take, by eqn index.
        bodies: the problems of these bodies, with their schedules, by eqn index.
        keeps_order: whether XLA is held to the order where nothing runs again, too.
    """

    problem: Problem
    eqn_of_node: tuple[int, ...]
    value_of: tuple[int, ...]
    graph: LivenessGraph
    inner: Mapping[int, cost.Inner] = field(default_factory=dict)
    bodies: Mapping[int, tuple[PlannedBody, ...]] = field(default_factory=dict)
    keeps_order: bool = False

    @cached_property
    def flops(self) -> tuple[int, ...]:
        """FLOPs by eqn index, fused eqns and all iterations included."""
        return cost.node_flops(self.graph, self.inner)

    @cached_property
    def updates(self) -> dict[int, int]:
        """Nodes that only write results, which only such nodes read, with the bytes written."""
        program = self.graph.program
        updates: dict[int, int] = {}
        for node in range(len(self.eqn_of_node) - 1, -1, -1):
            eqn = self.eqn_of_node[node]
            outputs = program.eqns[eqn].outputs
            readers = {self.node_of_eqn[r] for v in outputs for r in self.graph.readers[v]}
            only_results = all(v in program.result_values for v in outputs)
            if only_results and outputs and readers <= updates.keys():
                updates[node] = sum(program.value_bytes[v] for v in outputs)
        return updates

    @cached_property
    def node_of_eqn(self) -> dict[int, int]:
        """Node by eqn index."""
        return {eqn: node for node, eqn in enumerate(self.eqn_of_node)}


@dataclass(frozen=True)
class PlannedBody:
    """The problem of a body, and the schedule that is carried out."""

    priced: PricedProgram
    order: tuple[int, ...]


def coarsen(
    graph: LivenessGraph,
    seconds: Sequence[float],
    backend: Backend,
    base_bytes: int = 0,
    scale: float = 1.0,
    *,
    inner: Mapping[int, cost.Inner] = cost.NO_INNER,
    bodies: Mapping[int, tuple[PlannedBody, ...]] | None = None,
    own_results: frozenset[int] = frozenset(),
    keeps_order: bool = False,
    learnt: Learnt = NOTHING,
) -> PricedProgram:
    """Build the problem of a program.

    Args:
        graph: liveness of the program.
        seconds: cost of each eqn, by eqn index.
        backend: whose matmuls copy what.
        base_bytes: bytes held for the whole step: arguments, and results without an alias.
        scale: bytes on one device for each byte of the program.
        inner: what the bodies of eqns take, by eqn index.
        bodies: their problems.
        own_results: results that need a buffer of their own: the new carry of a loop, which is
            written while the old one is still read.
        keeps_order: whether XLA is held to the order where nothing runs again, too.
        learnt: bytes and workspace that were seen in place of those of the rules.
    """
    program = graph.program
    elsewhere = program.result_values - own_results
    eqns = [i for i, eqn in enumerate(program.eqns) if graph.is_node(eqn)]
    values = [v for i in eqns for v in program.eqns[i].outputs if not graph.free[v]]
    new_id = {value: index for index, value in enumerate(values)}
    by_rule = tuple(0 if v in elsewhere else int(scale * program.value_bytes[v]) for v in values)
    small = max(by_rule, default=0) * SMALL_FRACTION  # the same for a plan, whatever was learnt
    seen = {v: count for v, count in learnt.bytes.items() if v not in elsewhere}

    def node(index: int) -> Node:
        eqn = program.eqns[index]
        inputs = tuple(new_id[v] for v in graph.stored_reads[index] if v in new_id)
        outputs = tuple(new_id[v] for v in eqn.outputs if v in new_id)
        if index in inner:
            workspace_bytes = inner[index].peak_bytes
        else:
            by_rules = int(scale * _workspace_bytes(graph, index, backend))
            workspace_bytes = learnt.workspace.get(next(iter(eqn.outputs), -1), by_rules)
        return Node(
            cost=seconds[index],
            inputs=inputs,
            outputs=outputs,
            workspace_bytes=workspace_bytes,
            recomputable=not eqn.runs_once and sum(by_rule[v] for v in outputs) > small,
            in_place=_overwritable(graph, index, new_id, learnt),
            name=eqn.primitive,
        )

    problem = Problem(
        nodes=tuple(node(i) for i in eqns),
        value_bytes=tuple(map(seen.get, values, by_rule)),
        outputs=tuple(new_id[v] for v in values if v in program.result_values),
        base_bytes=base_bytes,
        name=program.name,
    )
    stands_for = tuple(eqns), tuple(values)
    return PricedProgram(problem, *stands_for, graph, inner, bodies or {}, keeps_order)


def _workspace_bytes(graph: LivenessGraph, index: int, backend: Backend) -> int:
    """What an eqn holds while it runs, by the rules."""
    count = cost.workspace_bytes(graph.program.eqns[index].raw, backend)
    if backend.stores_reduced_transposes:
        count += cost.reduced_transpose_bytes(graph, index)
    return count


def _carries(eqn: Eqn) -> tuple[int, ...]:
    """The operands of a loop that its iterations write over."""
    if eqn.nest is not None:
        chosen = tuple(eqn.inputs[place] for place in eqn.nest.carry_places)
    else:
        parts = _compat.scan_parts(eqn.raw)
        chosen = eqn.inputs[parts.constants : parts.constants + parts.carries]
    return tuple(v for v in chosen if isinstance(v, int))


def _overwritable(
    graph: LivenessGraph, index: int, new_id: dict[int, int], learnt: Learnt
) -> tuple[int, ...]:
    """The operands that XLA writes over where they die: what is updated in place, and elementwise
    those that it was seen to.
    """
    eqn = graph.program.eqns[index]
    seen = [v for written in eqn.outputs for v in learnt.over.get(written, ())]
    if seen:
        reads = graph.stored_reads[index]
        return tuple(new_id[v] for v in dict.fromkeys(seen) if v in reads and v in new_id)
    if eqn.primitive == "scan":
        carries = _carries(eqn)
        return tuple(dict.fromkeys(new_id[v] for v in carries if v in new_id))
    target = eqn.inputs[0] if eqn.inputs else None
    if not eqn.primitive.startswith(primitives.UPDATES_IN_PLACE) or target not in new_id:
        return ()
    return (new_id[target],) if isinstance(target, int) else ()
