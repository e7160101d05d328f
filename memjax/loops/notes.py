"""Loops as a person thinks of them: what each stacks, how often, and what is done about it.

In: the problem of a step, and the plan and program that were made of it. Out: `LoopNote`s, by
the step's own eqns, bodies included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memjax.helpers.budget import format_bytes
from memjax.loops.decisions import Inside
from memjax.loops.pairs import Pair, find_pairs
from memjax.loops.transform import LoopPlan
from memjax.pricing.attribution import origins, output_origin
from memjax.pricing.coarsen import PricedProgram
from memjax.program.eqns import Eqn, Program


@dataclass(frozen=True)
class Stacked:
    """One stack of a loop: `bytes` in each iteration, all iterations held at once."""

    bytes: int
    what: str
    source: str | None


@dataclass(frozen=True)
class LoopNote:
    """One loop, branch or call with a body.

    Attributes:
        kind: as JAX names it.
        length: iterations; 1 where nobody knows.
        source: the user's line.
        depth: how many bodies it stands in.
        stacked: what the step as it is written stacks for its backward pass, largest first.
        peak_bytes: of one iteration, beyond operands and results.
        decision: what the plan does about it, or why it is left as it is.
    """

    kind: str
    length: int
    source: str | None
    depth: int
    stacked: tuple[Stacked, ...]
    peak_bytes: int
    decision: str

    @property
    def stacked_bytes(self) -> int:
        """Of one iteration."""
        return sum(stack.bytes for stack in self.stacked)

    def __str__(self) -> str:
        where = f" at {self.source}" if self.source else ""
        parts = [f"{self.kind} of {self.length}{where}" if self.length > 1 else self.kind + where]
        if self.stacked:
            parts.append(
                f"stacks {len(self.stacked)} residuals, {format_bytes(self.stacked_bytes)} an "
                f"iteration, {format_bytes(self.length * self.stacked_bytes)} in all"
            )
        parts.append(self.decision)
        return "; ".join(parts)


def loop_notes(
    plain: PricedProgram,
    changed: Program | None = None,
    loops: tuple[LoopPlan, ...] = (),
    insides: tuple[Inside, ...] = (),
) -> tuple[LoopNote, ...]:
    """Notes on the loops of a step.

    Args:
        plain: the problem of the step without any decision.
        changed: the program that the decisions made; None without any.
        loops: decisions about pairs of scans.
        insides: decisions about bodies.
    """
    plans = {plan.scan: plan for plan in loops}
    planned = {id(changed.eqns[i.eqn].raw) for i in insides} if changed is not None else set()
    return tuple(_notes(plain, plans, planned, 0))


def _notes(
    priced: PricedProgram, plans: dict[int, LoopPlan], planned: set[int], depth: int
) -> Iterator[LoopNote]:
    program = priced.graph.program
    pairs = {pair.forward.index: pair for pair in find_pairs(program)}
    backward = {scan.index for pair in pairs.values() for scan in pair.backward}
    for index, eqn in enumerate(program.eqns):
        if eqn.nest is None or index in backward:
            continue
        inside = id(eqn.raw) in planned
        yield LoopNote(
            kind=eqn.primitive,
            length=eqn.nest.length,
            source=eqn.source,
            depth=depth,
            stacked=_stacked(program, pairs[index]) if index in pairs else (),
            peak_bytes=priced.inner[index].peak_bytes,
            decision=_decision(program, eqn, pairs.get(index), plans.get(index), inside),
        )
        for body in priced.bodies[index]:
            yield from _notes(body.priced, {}, set(), depth + 1)


def _stacked(program: Program, pair: Pair) -> tuple[Stacked, ...]:
    forward = pair.forward
    outer = origins(program)[forward.index]
    found = []
    for number in pair.residuals:
        stack = forward.stacks[number]
        origin = output_origin(forward.eqn, forward.carries + number, outer)
        size = program.value_bytes[stack] // max(1, forward.length)
        found.append(Stacked(size, program.avals[stack].str_short(), origin.line))
    return tuple(sorted(found, key=lambda s: -s.bytes))


def _decision(
    program: Program, eqn: Eqn, pair: Pair | None, plan: LoopPlan | None, inside: bool
) -> str:
    if pair is not None and plan is not None:
        return _change(pair, plan) + (", bodies planned inside" if inside else "")
    if inside:
        return "planned inside"
    if pair is None and eqn.primitive == "scan":
        return _why_no_pair(program, eqn)
    return "as it is"


def _change(pair: Pair, plan: LoopPlan) -> str:
    body = pair.forward.body
    size = format_bytes(sum(body.value_bytes[v] for v in plan.kept))
    kept = f"{len(plan.kept)} values of {size} an iteration are stacked"
    if plan.chunks:
        sizes = ", of ".join(str(size) for size in plan.chunks)
        return f"in chunks of {sizes}; {kept} while a chunk is on"
    return f"{kept}, the rest is computed again in the backward body"


def _why_no_pair(program: Program, eqn: Eqn) -> str:
    assert eqn.nest is not None
    if eqn.has_effects:
        return "as it is: its effects must run once, in order"
    if eqn.runs_once:
        return "as it is: it calls the host, which must not be called again"
    for stack in eqn.outputs[eqn.nest.carries :]:
        for reader in program.consumers[stack]:
            other = program.eqns[reader]
            if not _is_scan_over(other, stack):
                where = f" at {other.source}" if other.source else ""
                return f"as it is: {other.primitive}{where} reads a stack of it whole"
    return "as it is: nothing is stacked for a backward pass"


def _is_scan_over(eqn: Eqn, stack: int) -> bool:
    if eqn.primitive != "scan" or eqn.nest is None or eqn.nest.kind != "scan":
        return False
    first = eqn.nest.constants + eqn.nest.carries
    return stack not in eqn.inputs[:first]
