"""What takes the bytes: every value with its origin, and what is held at a peak.

In: a `PricedProgram`, a schedule, and what is held throughout. Out: `Holder`s, and their bytes
added up by line, by module path, or by phase.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from memjax.helpers.budget import format_bytes
from memjax.planning.simulate import Timeline, simulate
from memjax.pricing.attribution import (
    Origin,
    Phase,
    argument_origins,
    body_origins,
    origins,
    output_origin,
)
from memjax.pricing.coarsen import PlannedBody, PricedProgram
from memjax.pricing.residents import Resident
from memjax.pricing.segments import emitted_order, segments
from memjax.program.eqns import Eqn
from memjax.program.tags import plain_name


@dataclass(frozen=True)
class Holder:
    """Something that takes bytes.

    Attributes:
        bytes: on one device.
        what: primitive and type, or the name of an argument.
        source: the user's own line, where there is one.
        name_stack: module path and transforms.
        module: module path.
        phase: forward, backward, optimizer, argument or result.
    """

    bytes: int
    what: str
    source: str | None
    name_stack: str
    module: str = ""
    phase: str = ""


@dataclass(frozen=True)
class Share:
    """Bytes of one group of holders."""

    label: str
    bytes: int
    count: int


@dataclass(frozen=True)
class Ledger:
    """Every value of a problem with its origin.

    Attributes:
        priced: the problem.
        residents: arguments and results.
        runs: what runs the program, with its origin, where it is the body of an eqn.
    """

    priced: PricedProgram
    residents: tuple[Resident, ...]
    runs: tuple[Eqn, Origin] | None = None

    @cached_property
    def origins(self) -> tuple[Origin, ...]:
        """Of each eqn of the program."""
        program = self.priced.graph.program
        return origins(program) if self.runs is None else body_origins(program, *self.runs)

    @cached_property
    def values(self) -> tuple[Holder, ...]:
        """The holder of each value of the problem, by value id."""
        priced, program = self.priced, self.priced.graph.program
        result = []
        for value, count in enumerate(priced.problem.value_bytes):
            index = priced.eqn_of_node[priced.problem.producer[value]]
            eqn, written = program.eqns[index], priced.value_of[value]
            what = f"{eqn.primitive} {_type_of(program, written)}"
            origin = output_origin(eqn, eqn.outputs.index(written), self.origins[index])
            result.append(self._of_eqn(index, count, what, origin))
        return tuple(result)

    @cached_property
    def throughout(self) -> tuple[Holder, ...]:
        """What is held for the whole step: arguments, and results of their own."""
        program = self.priced.graph.program
        arguments = argument_origins(program, self.origins)
        of_argument = dict(zip(program.arguments, arguments, strict=True))
        result = []
        for held in self.residents:
            what = f"{'argument' if held.is_argument else 'result'} {_root(held.name)}".rstrip()
            origin = of_argument.get(held.value)
            if origin is None:
                index = program.producer[held.value]
                origin = self.origins[index] if index >= 0 else Origin(None, "", "result")
            phase: Phase = "argument" if held.is_argument else "result"
            if self.runs is not None:  # a slice: the iteration's own buffer, not the caller's
                outer = self.runs[1]
                what = f"slice {_type_of(program, held.value)}"
                origin, phase = (origin if origin.line else outer), outer.phase
            result.append(Holder(held.bytes, what, origin.line, held.name, origin.module, phase))
        return tuple(result)

    def _of_eqn(self, index: int, count: int, what: str, origin: Origin) -> Holder:
        name_stack = plain_name(str(self.priced.graph.program.eqns[index].name_stack))
        return Holder(count, what, origin.line, name_stack, origin.module, origin.phase)

    def at_peak(self, timeline: Timeline, order: Sequence[int]) -> tuple[Holder, ...]:
        """What is held at a timeline's peak, largest first."""
        held = list(self.throughout)
        if timeline.bytes_at:
            held += self._at(timeline, order, timeline.peak_position)
        return tuple(sorted((h for h in held if h.bytes), key=lambda h: -h.bytes))

    def _at(self, timeline: Timeline, order: Sequence[int], position: int) -> list[Holder]:
        """The values held at a position, and the workspace of the node that runs there; of an
        eqn with bodies, what the dearest of them holds at its own peak.
        """
        problem = self.priced.problem
        node = problem.nodes[order[position]]
        values = timeline.holders(position)
        taken = _overwritten(timeline, node.in_place, position)
        held = sum(problem.value_bytes[v] for v in values) + node.workspace_bytes
        if held + problem.base_bytes <= timeline.bytes_at[position]:
            taken = frozenset()
        result = [self.values[v] for v in values if v not in taken]
        if node.workspace_bytes:
            index = self.priced.eqn_of_node[order[position]]
            inside = self._inside(index)
            rest_bytes = node.workspace_bytes - sum(h.bytes for h in inside)
            what = f"workspace of {node.name}"
            rest = self._of_eqn(index, rest_bytes, what, self.origins[index])
            result += [*inside, rest]
        return result

    def _inside(self, index: int) -> tuple[Holder, ...]:
        """What the bodies of an eqn hold at their peak, beyond its operands and results."""
        eqn = self.priced.graph.program.eqns[index]
        found: tuple[Holder, ...] = ()
        for body in self.priced.bodies.get(index, ()):
            ledger = Ledger(body.priced, _slices(eqn, body), (eqn, self.origins[index]))
            order = emitted_order(segments(body.priced, body.order))
            held = ledger.at_peak(simulate(body.priced.problem, order), order)
            found = max(found, held, key=lambda holders: sum(h.bytes for h in holders))
        return found

    def timeline(self, order: Sequence[int]) -> Timeline:
        """What a schedule holds, with the phase of each position."""
        return replace(simulate(self.priced.problem, order), phases=self.phases(order))

    def phases(self, order: Sequence[int]) -> tuple[str, ...]:
        """The phase of each position of a schedule; `"recompute"` for what runs again."""
        seen: set[int] = set()
        result = []
        for node in order:
            phase = self.origins[self.priced.eqn_of_node[node]].phase
            result.append("recompute" if node in seen else phase)
            seen.add(node)
        return tuple(result)


def _slices(eqn: Eqn, body: PlannedBody) -> tuple[Resident, ...]:
    """What a scan hands to its body for each iteration, held for all of it."""
    nest, program = eqn.nest, body.priced.graph.program
    total_bytes = body.priced.problem.base_bytes
    if nest is None or not total_bytes:
        return ()
    values = program.arguments[nest.constants + nest.carries :]
    unscaled_bytes = sum(program.value_bytes[v] for v in values)
    return tuple(
        Resident(v, "", total_bytes * program.value_bytes[v] // unscaled_bytes, is_argument=True)
        for v in values
    )


def _overwritten(timeline: Timeline, in_place: Sequence[int], position: int) -> frozenset[int]:
    """The in-place inputs that a position reads for the last time."""
    return frozenset(
        h.value
        for h in timeline.held
        if h.stop == position + 1 and h.start < position and h.value in in_place
    )


def _type_of(program: Any, value: int) -> str:
    return str(program.avals[value].str_short())


def _root(name: str) -> str:
    """What a leaf belongs to: `state.params` of `state.params['w']`."""
    return re.split(r"\[(?=['\"])", name, maxsplit=1)[0]


def by_line(holders: Iterable[Holder]) -> tuple[Share, ...]:
    """Bytes by the user's line, largest first."""
    return shares(holders, lambda h: h.source or "no line")


def by_module(holders: Iterable[Holder], depth: int | None = None) -> tuple[Share, ...]:
    """Bytes by module path, largest first; paths are cut to `depth` names."""

    def label(holder: Holder) -> str:
        names = holder.module.split("/")
        return "/".join(names[:depth]) or "outside of modules"

    return shares(holders, label)


def by_phase(holders: Iterable[Holder]) -> tuple[Share, ...]:
    """Bytes by phase, largest first."""
    return shares(holders, lambda h: h.phase or "no phase")


def shares(holders: Iterable[Holder], label: Callable[[Holder], str]) -> tuple[Share, ...]:
    """Bytes added up by a label, largest first; ties in the order of their first holders."""
    groups: dict[str, list[int]] = {}
    for holder in holders:
        groups.setdefault(label(holder), []).append(holder.bytes)
    found = [Share(name, sum(sizes), len(sizes)) for name, sizes in groups.items()]
    return tuple(sorted(found, key=lambda s: -s.bytes))


def attributed_fraction(holders: Sequence[Holder]) -> float:
    """The part of the bytes that carries a user line and a phase; 1 where there are none."""
    total = sum(h.bytes for h in holders)
    known = sum(h.bytes for h in holders if h.source and h.phase)
    return known / total if total else 1.0


def holder_lines(holders: Sequence[Holder], most: int | None = 8) -> list[str]:
    """The largest holders, one a line; those of one line and type are added up."""
    groups: dict[tuple[str, str | None], list[int]] = {}
    for holder in holders:
        groups.setdefault((holder.what, holder.source), []).append(holder.bytes)
    ranked = sorted(groups.items(), key=lambda item: -sum(item[1]))
    shown = ranked[:most]
    width = max((len(what) for (what, _), _ in shown), default=0)
    lines = [
        f"    {format_bytes(sum(sizes)):>12}  {len(sizes):>3} × {what:<{width}}  "
        f"{source or ''}".rstrip()
        for (what, source), sizes in shown
    ]
    rest = sum(sum(sizes) for _, sizes in ranked[len(shown) :])
    if len(ranked) > len(shown):
        lines.append(f"    {format_bytes(rest):>12}  in {len(ranked) - len(shown)} more places")
    return lines
