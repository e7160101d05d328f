"""What a program takes on a device, the bodies of its loops and branches included.

In: a `Program`. Out: its `PricedProgram`. A body is priced like a program: its peak is what
one iteration holds beyond the eqn's operands and results, its cost counts for every
iteration.

Definitions

1. Operands and results of an eqn with bodies are counted where the eqn stands. A slice that
   a `scan` hands to its body is a buffer of the iteration.
2. A new carry needs a buffer of its own while the old one may still be read, unless it is
   written over it in place: by an update of a slice, or by an elementwise sum with it.
3. Of a `while` nobody knows how often it runs; it is priced as running once. Of a `cond` the
   dearest branch counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from memjax.planning.simulate import simulate
from memjax.pricing import cost
from memjax.pricing.backends import Backend
from memjax.pricing.coarsen import PlannedBody, PricedProgram, coarsen
from memjax.pricing.learnt import NOTHING, Learnt
from memjax.pricing.liveness import liveness
from memjax.pricing.segments import emitted_order, segments
from memjax.program import primitives
from memjax.program.eqns import Body, Eqn, Nest, Operand, Program
from memjax.targets.figures import DeviceRates

SMALL_BODY_BYTES = 2 * 2**20
SMALL_EQN_FLOPS = 4_000_000
"""A body that writes no more in an iteration, in eqns that take no more each, is left to XLA's
order. XLA:CPU runs small eqns side by side, which took a third off the step of a Flax LSTM
(matmuls of 2 million FLOPs); matmuls of 8 million, which it runs on several threads, are faster
one after the other. `benchmarks/loops_beat_hand_checkpointing.py` has both."""


@dataclass
class Pricer:
    """Prices programs for one device.

    Attributes:
        backend: its quirks.
        rates: its speed.
        scale: bytes on one device for each byte of the program.
    """

    backend: Backend
    rates: DeviceRates
    scale: float = 1.0
    _known: dict[int, tuple[Program, PricedProgram]] = field(default_factory=dict, repr=False)

    def priced(
        self,
        program: Program,
        base_bytes: int = 0,
        *,
        keeps_order: bool = False,
        learnt: Learnt = NOTHING,
    ) -> PricedProgram:
        """The problem of a step, with what is held throughout, and what was seen of its own
        values; bodies go by the rules.
        """
        return self._priced(program, base_bytes, frozenset(), keeps_order, learnt)

    def body(self, nest: Nest, program: Program, *, keeps_order: bool) -> PricedProgram:
        """The problem of a program that is, or takes the place of, a body of an eqn."""
        pricer = replace(self, scale=1.0) if nest.kind == "shard_map" else self
        base_bytes = 0
        if nest.kind == "scan":
            slices = program.arguments[nest.constants + nest.carries :]
            base_bytes = int(self.scale * sum(program.value_bytes[v] for v in slices))
        priced = pricer._priced(program, base_bytes, _own_results(nest, program), keeps_order)
        left_to_xla = is_small(priced) and not nest.in_chunks
        return replace(priced, keeps_order=keeps_order and not left_to_xla)

    def planned(self, nest: Nest) -> tuple[PlannedBody, ...]:
        """The bodies of an eqn, as problems with schedules."""
        return tuple(self._body(nest, body) for body in nest.bodies)

    def inner(self, nest: Nest, bodies: tuple[PlannedBody, ...]) -> cost.Inner:
        """What an eqn's bodies take."""
        flops, seconds, peaks = zip(*(self._totals(b) for b in bodies), strict=True)
        most = max if nest.kind == "cond" else sum
        return cost.Inner(
            flops=nest.length * most(flops),
            seconds=nest.length * most(seconds),
            peak_bytes=max(peaks),
        )

    def _totals(self, body: PlannedBody) -> tuple[int, float, int]:
        priced = body.priced
        flops = sum(priced.flops[priced.eqn_of_node[node]] for node in body.order)
        emitted = emitted_order(segments(priced, body.order))
        timeline = simulate(priced.problem, emitted)
        return flops, body_seconds(body), max(timeline.peak_bytes, priced.problem.base_bytes)

    def _body(self, nest: Nest, body: Body) -> PlannedBody:
        key = id(body.program)
        if key not in self._known:
            priced = self.body(nest, body.program, keeps_order=body.keeps_order)
            self._known[key] = body.program, priced
        priced = self._known[key][1]
        order = priced.problem.identity if body.order is None else body.order
        return PlannedBody(priced, order)

    def _priced(
        self,
        program: Program,
        base_bytes: int,
        own_results: frozenset[int],
        keeps_order: bool,
        learnt: Learnt = NOTHING,
    ) -> PricedProgram:
        graph = liveness(program, learnt)
        nests = {i: eqn.nest for i, eqn in enumerate(program.eqns) if eqn.nest is not None}
        bodies = {i: self.planned(nest) for i, nest in nests.items()}
        inner: Mapping[int, cost.Inner] = {
            i: self.inner(nest, bodies[i]) for i, nest in nests.items()
        }
        return coarsen(
            graph,
            cost.node_seconds(graph, self.rates, inner),
            self.backend,
            base_bytes,
            self.scale,
            inner=inner,
            bodies=bodies,
            own_results=own_results,
            keeps_order=keeps_order,
            learnt=learnt,
        )


def body_seconds(body: PlannedBody) -> float:
    """Predicted seconds of one iteration."""
    return sum(body.priced.problem.nodes[node].cost for node in body.order)


def is_small(priced: PricedProgram) -> bool:
    """Whether a body's eqns run faster side by side, and what they hold does not matter."""
    written = sum(priced.problem.value_bytes)
    workspace = sum(node.workspace_bytes for node in priced.problem.nodes)
    most_flops = max((priced.flops[eqn] for eqn in priced.eqn_of_node), default=0)
    return written + workspace <= SMALL_BODY_BYTES and most_flops <= SMALL_EQN_FLOPS


def seconds_in_small_loops(priced: PricedProgram) -> float:
    """Predicted seconds of a program that are spent in small bodies of loops."""
    total = 0.0
    for index, bodies in priced.bodies.items():
        nest = priced.graph.program.eqns[index].nest
        if nest is None or not nest.repeats:
            continue
        for body in bodies:
            small = is_small(body.priced)
            seconds = body_seconds(body) if small else seconds_in_small_loops(body.priced)
            total += nest.length * seconds
    return total


def is_mostly_small_loops(priced: PricedProgram) -> bool:
    """Whether small bodies of loops take most of a program's predicted seconds."""
    return 2 * seconds_in_small_loops(priced) > priced.problem.total_cost


def _own_results(nest: Nest, program: Program) -> frozenset[int]:
    """New carries, and what is stacked, that are not written in place: see definition 2."""
    if not nest.repeats:
        return frozenset()
    arguments = frozenset(program.arguments)
    return frozenset(
        v for v in program.result_values if v not in arguments and not _in_place(program, v)
    )


def _in_place(program: Program, value: int) -> bool:
    """Whether a result is written over an argument that nobody else reads."""
    index = program.producer[value]
    return any(
        isinstance(v, int)
        and program.producer[v] < 0
        and program.consumers[v] == (index,)
        and program.avals[v].shape == program.avals[value].shape
        for v in _overwritten(program.eqns[index], value)
    )


def _overwritten(eqn: Eqn, value: int) -> Sequence[Operand]:
    """The operands that an eqn may write a result over."""
    if eqn.primitive in ("add", "add_any"):
        return eqn.inputs
    if eqn.primitive.startswith(primitives.UPDATES_IN_PLACE):
        return eqn.inputs[:1]
    if eqn.nest is not None and eqn.nest.kind in ("loop", "scan"):
        number = eqn.outputs.index(value)
        return [eqn.inputs[place] for place in eqn.nest.carry_places[number : number + 1]]
    return ()
