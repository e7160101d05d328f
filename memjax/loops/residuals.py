"""Which residuals of a scan to stack, and which to compute again in the backward body.

In: a `Pair` and the cost of the forward body's eqns. Out: `Cut`s, from "stack whatever saves
work" to "stack as few bytes as possible".

Definitions

1. The *joint body* is one iteration of the forward scan followed by the same iteration of
   the backward scans, as one program. What crosses from the first part to the second is
   stacked, or computed again from what is stacked, from slices and from constants.
2. For a price per stacked byte, the cheapest choice is a minimum cut: a value that the second
   part needs is stacked at its price, or its eqn runs again at its cost, and then the eqn's
   inputs are needed, too. (Cutting residuals this way is due to He and Yu, *Transcending
   runtime-memory tradeoffs in checkpointing by being fusion aware*, 2023, for straight
   programs.)
3. Each price gives a corner of the lower convex hull of recomputed seconds over stacked bytes;
   two corners are joined by asking at the price of the line between them, until nothing
   below it is found.
4. A carry of the forward scan cannot be computed again in the backward body: it is stacked,
   or made again by running the forward scan over a stretch of indices
   (`memjax.loops.transform`).
5. Between two corners lie those that stack one value less, or one more (`near_cuts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from memjax.loops.pairs import Pair, Scan
from memjax.pricing.liveness import LivenessGraph, liveness
from memjax.program.eqns import Eqn, Operand, Program

MOST_CUTS = 32
"""Corners of the hull that are looked for; a guess: neighbours differ little beyond that."""


@dataclass(frozen=True)
class Cut:
    """One choice of what to stack.

    Attributes:
        kept: values of the forward body that are stacked, ascending.
        bytes: of these, in one iteration.
        seconds: of what is computed again, in one iteration.
    """

    kept: tuple[int, ...]
    bytes: int
    seconds: float


@dataclass(frozen=True, eq=False)
class JointBody:
    """One iteration forward and backward.

    Attributes:
        pair: whose.
        program: the forward body's values have its own ids here.
        split: eqns of the forward body.
        backward_results: of each backward body.
    """

    pair: Pair
    program: Program
    split: int
    backward_results: tuple[tuple[Operand, ...], ...]

    @cached_property
    def graph(self) -> LivenessGraph:
        """Liveness of the joint body."""
        return liveness(self.program)

    @cached_property
    def needed(self) -> tuple[int, ...]:
        """Stored values of the forward body that the backward bodies read, ascending."""
        forward = len(self.pair.forward.body.avals)
        found: set[int] = set()
        for index in range(self.split, len(self.program.eqns)):
            found.update(v for v in self.graph.stored_reads[index] if v < forward)
        for scan_results in self.backward_results:
            found.update(r for r in scan_results if isinstance(r, int) and r < forward)
        return tuple(sorted(found - set(self.forward_results)))

    @property
    def forward_results(self) -> tuple[int, ...]:
        """Values of the forward body that are stacked in any case: they are read elsewhere."""
        forward = self.pair.forward
        return tuple(
            value
            for number, value in enumerate(forward.stacked_results)
            if isinstance(value, int) and number not in self.pair.residuals
        )


def joint_body(pair: Pair) -> JointBody:
    """Put the bodies of a pair one behind the other."""
    forward = pair.forward
    avals = list(forward.body.avals)
    eqns: list[Eqn] = list(forward.body.eqns)
    arguments = list(forward.body.arguments)
    constants = list(forward.body.constants)
    results: list[Operand] = [
        *forward.carry_results,
        *(r for n, r in enumerate(forward.stacked_results) if n not in pair.residuals),
    ]
    backward_results = []
    for scan in pair.backward:
        env: dict[int, Operand] = {}
        links = pair.links(scan)
        for argument in scan.body.arguments:
            if argument in links:
                env[argument] = forward.stacked_results[links[argument]]
            else:
                env[argument] = _append(avals, scan.body.avals[argument])
                arguments.append(_as_id(env[argument]))
        for value, array in scan.body.constants:
            env[value] = _append(avals, scan.body.avals[value])
            constants.append((_as_id(env[value]), array))
        for eqn in scan.body.eqns:
            eqns.append(_renamed(eqn, env, avals, scan))
        backward_results.append(
            tuple(env[r] if isinstance(r, int) else r for r in scan.body.results)
        )
        results += backward_results[-1]
    program = Program(tuple(eqns), tuple(avals), tuple(arguments), tuple(constants), tuple(results))
    return JointBody(pair, program, len(forward.body.eqns), tuple(backward_results))


def _append(avals: list[object], aval: object) -> int:
    avals.append(aval)
    return len(avals) - 1


def _as_id(operand: Operand) -> int:
    assert isinstance(operand, int)
    return operand


def _renamed(eqn: Eqn, env: dict[int, Operand], avals: list[object], scan: Scan) -> Eqn:
    inputs = tuple(env[v] if isinstance(v, int) else v for v in eqn.inputs)
    outputs = tuple(_append(avals, scan.body.avals[v]) for v in eqn.outputs)
    env.update(zip(eqn.outputs, outputs, strict=True))
    return Eqn(eqn.raw, inputs, outputs, eqn.name_stack, eqn.call, eqn.nest)


def cuts(joint: JointBody, seconds: Sequence[float]) -> list[Cut]:
    """The corners of the hull, by falling bytes.

    Args:
        joint: of the pair.
        seconds: of each eqn of the joint body.
    """
    network = _Network(joint, seconds)
    most, least = network.cut(0.0), network.cut(float("inf"))
    found = {most.kept: most, least.kept: least}
    open_pairs = [(most, least)]
    while open_pairs and len(found) < MOST_CUTS:
        left, right = open_pairs.pop(0)
        if left.bytes <= right.bytes or left.seconds >= right.seconds:
            continue
        price = (right.seconds - left.seconds) / (left.bytes - right.bytes)
        middle = network.cut(price)
        line = left.seconds + price * left.bytes
        if middle.kept in found or middle.seconds + price * middle.bytes > line * (1 - 1e-9):
            continue
        found[middle.kept] = middle
        open_pairs += [(left, middle), (middle, right)]
    return sorted(found.values(), key=lambda c: (-c.bytes, c.seconds, c.kept))


def near_cuts(joint: JointBody, seconds: Sequence[float], corners: Sequence[Cut]) -> list[Cut]:
    """Cuts above the hull: each corner without one of its values, or with one of the corner's
    before it. None is worse than a corner in both bytes and seconds.

    Args:
        joint: of the pair.
        seconds: of each eqn of the joint body.
        corners: by falling bytes.
    """
    found: dict[tuple[int, ...], Cut] = {}
    for before, after in pairwise(corners):
        more, fewer = set(before.kept), set(after.kept)
        trials = [more - {v} for v in sorted(more)]
        trials += [fewer | {v} for v in sorted(more - fewer)]
        for kept in trials:
            cut = _cut_of(joint, seconds, kept)
            if cut is not None and after.bytes < cut.bytes < before.bytes:
                found[cut.kept] = cut
    best: list[Cut] = []
    for cut in sorted([*corners, *found.values()], key=lambda c: (c.seconds, c.bytes, c.kept)):
        if not best or cut.bytes < best[-1].bytes:
            best.append(cut)
    return [cut for cut in best if cut.kept in found]


def _cut_of(joint: JointBody, seconds: Sequence[float], kept: set[int]) -> Cut | None:
    """The cut that stacks these values; None where a carry is missing."""
    program = joint.program
    there = _given(joint.pair.forward) | set(joint.forward_results) | kept
    again: set[int] = set()
    stack = [v for v in joint.needed if v not in there]
    while stack:
        producer = program.producer[stack.pop()]
        if producer < 0:
            return None
        if producer not in again:
            again.add(producer)
            stack += [v for v in joint.graph.stored_reads[producer] if v not in there]
    return Cut(
        tuple(sorted(kept)),
        sum(program.value_bytes[v] for v in kept),
        sum(seconds[e] for e in sorted(again)),
    )


def _given(scan: Scan) -> set[int]:
    """What an iteration has without a stack of its own: constants and slices."""
    arrays = {v for v, _ in scan.body.constants}
    return {*scan.constant_arguments, *scan.slice_arguments, *arrays}


class _Network:
    """The flow network of a joint body: source side is what the backward bodies have."""

    def __init__(self, joint: JointBody, seconds: Sequence[float]) -> None:
        self.joint = joint
        self.seconds = seconds
        scan = joint.pair.forward
        self.free = _given(scan) | set(joint.forward_results)
        self.bytes = joint.program.value_bytes
        self.total = sum(seconds[: joint.split]) or 1.0
        self.values = self._reachable()

    def _reachable(self) -> tuple[int, ...]:
        """Values that may be stacked: what is needed, and what it is computed from."""
        program = self.joint.program
        found: set[int] = set()
        stack = [v for v in self.joint.needed if v not in self.free]
        while stack:
            value = stack.pop()
            if value in found:
                continue
            found.add(value)
            producer = program.producer[value]
            if producer >= 0:
                reads = self.joint.graph.stored_reads[producer]
                stack += [v for v in reads if v not in self.free]
        return tuple(sorted(found))

    def cut(self, price: float) -> Cut:
        """The cheapest choice at a price in seconds per byte; infinite: bytes before seconds."""
        import networkx  # takes as long to import as the rest of memjax

        program, graph = self.joint.program, self.joint.graph
        weigh_bytes, weigh_seconds = (1.0, 1e-9) if price == float("inf") else (price, 1.0)
        if price == 0.0:  # among equals in seconds the one with the fewest bytes
            weigh_bytes = 1e-9 * self.total / (1 + sum(self.bytes[v] for v in self.values))
        elif price == float("inf"):
            weigh_seconds = 1e-9 / self.total
        network = networkx.DiGraph()
        network.add_nodes_from(("source", "sink"))
        for value in self.joint.needed:
            if value not in self.free:
                network.add_edge("source", ("value", value))
        for value in self.values:
            producer = program.producer[value]
            to = "sink" if producer < 0 else ("eqn", producer)
            network.add_edge(("value", value), to, capacity=weigh_bytes * self.bytes[value])
            if producer >= 0:
                network.add_edge(to, "sink", capacity=weigh_seconds * self.seconds[producer])
                for read in graph.stored_reads[producer]:
                    if read not in self.free:
                        network.add_edge(to, ("value", read))
        _, (source_side, _) = networkx.minimum_cut(network, "source", "sink")
        return self._cut_of(source_side)

    def _cut_of(self, side: set[object]) -> Cut:
        program = self.joint.program
        again = {program.producer[v] for v in self.values if ("eqn", program.producer[v]) in side}
        kept = tuple(
            v
            for v in self.values
            if ("value", v) in side and ("eqn", program.producer[v]) not in side
        )
        return Cut(
            kept, sum(self.bytes[v] for v in kept), sum(self.seconds[e] for e in sorted(again))
        )
