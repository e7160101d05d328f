"""A plan: what is recomputed where, in terms of a program's own eqns.

In: a `Solution` and the `PricedProgram` that it solves. Out: a `Plan`, which compares, is saved
as JSON, and turns into a schedule again for the same program.

A plan belongs to one program. It carries that program's `Fingerprint`, and refuses any
other, naming the first thing that differs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import msgspec

from memjax.emit.fingerprint import Fingerprint, fingerprint
from memjax.helpers import looks
from memjax.helpers.budget import format_bytes
from memjax.helpers.checked import Index
from memjax.loops.decisions import Decisions, Inside
from memjax.loops.transform import LoopPlan
from memjax.planning.problem import Solution
from memjax.planning.simulate import InvalidPlan, simulate
from memjax.pricing.coarsen import PricedProgram
from memjax.pricing.learnt import NOTHING, Learnt
from memjax.pricing.liveness import Gap
from memjax.pricing.segments import fences_of
from memjax.program.eqns import Program
from memjax.split.decisions import Split

if TYPE_CHECKING:
    import pandas

PLAN_VERSION = 5
"""Raised whenever a saved plan would be read differently."""

MOST_CHARACTERS = 2**26
"""Longer texts are refused unread: a thousand times the plan of a model of 50 layers."""


@dataclass(frozen=True)
class Recomputation:
    """Eqns that run again, in this order, before the first run of eqn `before`."""

    before: Index
    eqns: tuple[Index, ...]


@dataclass(frozen=True)
class Plan:
    """The decisions for one program and budget.

    Attributes:
        program: the fingerprint of the program it was made for.
        budget_bytes: what it was made for.
        predicted_bytes: the footprint by memjax's own count.
        recomputations: in the order in which they run. What none of them names is kept.
        overhead: predicted seconds of recomputation over those of the plain step.
        bound_overhead: no plan at this order has less, by the planner's proof; None if
            it proved nothing.
        planner: who made it.
        first_runs: eqns in the order of their first runs; empty for the program's own order.
        loops: what happens to pairs of scans. Eqns above are those of the program that this
            makes.
        insides: decisions for the bodies of that program's eqns.
        stored: values, by id in the program, that XLA was seen to store before the plan was
            made. Its eqns are those that store something; which do is part of the plan.
        free: values that it was seen not to store.
        fences: positions of its schedule, recomputations included, where XLA is held to the
            order though nothing runs again.
        splits: regions that run in chunks, in the step's own program; what loops and insides
            name is there after these.
    """

    program: Fingerprint
    budget_bytes: Index
    predicted_bytes: Index
    recomputations: tuple[Recomputation, ...] = ()
    first_runs: tuple[Index, ...] = ()
    overhead: float = 0.0
    bound_overhead: float | None = None
    planner: str = "identity"
    loops: tuple[LoopPlan, ...] = ()
    insides: tuple[Inside, ...] = ()
    stored: tuple[Index, ...] = ()
    free: tuple[Index, ...] = ()
    fences: tuple[Index, ...] = ()
    splits: tuple[Split, ...] = ()

    @property
    def changes_program(self) -> bool:
        """Whether the schedule is that of another program than the step's own."""
        return bool(self.splits or self.loops or self.insides)

    @property
    def changes_anything(self) -> bool:
        """Whether the program is run in another way than it was written."""
        return bool(self.recomputations or self.first_runs or self.changes_program)

    def decides_like(self, other: Plan) -> bool:
        """Whether two plans make the same program."""
        return self._decisions == other._decisions

    @property
    def _decisions(self) -> tuple[object, ...]:
        changes = self.splits, self.loops, self.insides, self.recomputations, self.first_runs
        if not self.changes_anything:
            return changes
        return *changes, self.fences, self.stored, self.free

    def __repr__(self) -> str:
        return (
            f"<Plan for {self.program.name!r}: {len(self.recomputations)} segments, "
            f"{format_bytes(self.predicted_bytes)} of {format_bytes(self.budget_bytes)}>"
        )

    def __str__(self) -> str:
        return self.text()

    def text(self, most: int | None = 10) -> str:
        """As `str`, with at most so many segments; None for all."""
        return looks.text(self, most)

    def _repr_html_(self) -> str:
        return looks.html(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each eqn that runs again, in order: its segment, and before which eqn."""
        return looks.to_pandas(self)

    def summary(self) -> str:
        """The plan in one line."""
        return looks.summary(self)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values that JSON can write; what `to_json` writes."""
        return {"memjax_plan": PLAN_VERSION, **asdict(self)}

    def to_json(self) -> str:
        """The plan as JSON text, for `from_json`."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read a plan that `to_json` wrote.

        Raises:
            InvalidPlan: the text is cut off, is not a plan, or is of another version. Whether
                a plan can be carried out only its program can tell.
        """
        if len(text) > MOST_CHARACTERS:
            raise InvalidPlan(f"not a plan: {len(text)} characters, which no plan has")
        try:
            content = json.loads(
                text, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_number
            )
        except (ValueError, RecursionError) as error:
            raise InvalidPlan(f"not a plan: the JSON breaks off or is damaged ({error})") from error
        version = content.pop("memjax_plan", None) if isinstance(content, dict) else None
        if version is None:
            raise InvalidPlan("not a plan: the JSON has no field `memjax_plan`")
        if type(version) is not int or version != PLAN_VERSION:
            raise InvalidPlan(
                f"the plan has format version {version}, this memjax reads {PLAN_VERSION}; "
                "plan again with this version"
            )
        return _plan_of(content)


def check_program(plan: Plan, program: Program) -> None:
    """Refuse a plan that was made for another program.

    Raises:
        InvalidPlan: with the first thing that differs.
    """
    difference = plan.program.difference(fingerprint(program))
    if difference:
        raise InvalidPlan(f"the plan was made for another program: {difference}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a field is there twice")
    return content


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON's")


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _plan_of(content: dict[str, Any]) -> Plan:
    expected = {f.name for f in fields(Plan)}
    if set(content) != expected:
        odd = sorted(expected ^ set(content))
        raise InvalidPlan(f"not a plan: fields are missing or unknown: {', '.join(odd)}")
    try:
        plan = msgspec.convert(content, Plan)
        same = json.loads(json.dumps(asdict(plan))) == content
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidPlan(f"not a plan: {error}") from error
    if not same:  # of the objects in it, msgspec passes over what it does not know
        raise InvalidPlan("not a plan: an object in it has missing or unknown fields")
    return plan


def plan_of_solution(
    priced: PricedProgram,
    solution: Solution,
    budget_bytes: int,
    predicted_bytes: int,
    decisions: Decisions | None = None,
    plain: PricedProgram | None = None,
    learnt: Learnt = NOTHING,
    splits: tuple[Split, ...] = (),
    fences: tuple[int, ...] | None = None,
) -> Plan:
    """Name a solution's decisions by the program's eqns.

    Args:
        priced: the problem that was solved.
        solution: what the planner says.
        budget_bytes: what it was made for.
        predicted_bytes: the peak of the schedule as it is emitted.
        decisions: about loops, which made the problem.
        plain: the problem of the program before that; None for the same.
        learnt: what the problem goes by beside the rules.
        splits: made before the decisions about loops.
        fences: of the schedule, where they are known; None for `fences_of` it.

    Raises:
        InvalidPlan: the solution is no valid schedule, or changes the order of effects.
    """
    timeline = simulate(priced.problem, solution)
    plain = plain or priced
    plain_seconds = plain.problem.total_cost
    overhead = timeline.cost / plain_seconds - 1 if plain_seconds else 0.0
    bound = None
    if solution.bound_cost is not None and plain_seconds and math.isfinite(solution.bound_cost):
        bound = solution.bound_cost / plain_seconds - 1
        if overhead >= 0:  # else changed loops spare more than they add
            bound = max(0.0, bound)
    decisions = decisions or Decisions()
    return Plan(
        program=fingerprint(plain.graph.program),
        budget_bytes=budget_bytes,
        predicted_bytes=predicted_bytes,
        recomputations=_recomputations(priced, solution.order),
        first_runs=_first_runs(priced, solution.order),
        fences=fences_of(priced, solution.order) if fences is None else fences,
        overhead=overhead,
        bound_overhead=bound,
        planner=solution.planner,
        loops=decisions.loops,
        insides=decisions.insides,
        stored=tuple(sorted(learnt.stored)),
        free=tuple(sorted(learnt.free)),
        splits=splits,
    )


def _first_runs(priced: PricedProgram, order: Sequence[int]) -> tuple[int, ...]:
    """Eqns in the order of their first runs; empty where that is the program's."""
    eqns = tuple(priced.eqn_of_node[node] for node in dict.fromkeys(order))
    program = priced.graph.program
    effects = [e for e in eqns if program.eqns[e].has_effects]
    if effects != sorted(effects):
        raise InvalidPlan(f"eqn {effects[0]} has effects, which must keep their order")
    return () if eqns == priced.eqn_of_node else eqns


def _recomputations(priced: PricedProgram, order: Sequence[int]) -> tuple[Recomputation, ...]:
    result = []
    pending: list[int] = []
    seen: set[int] = set()
    for node in order:
        eqn = priced.eqn_of_node[node]
        if node in seen:
            pending.append(eqn)
        elif pending:
            result.append(Recomputation(eqn, tuple(pending)))
            pending = []
        seen.add(node)
    return tuple(result)


def schedule_of_plan(priced: PricedProgram, plan: Plan) -> tuple[int, ...]:
    """The schedule of a plan, as node indices.

    Args:
        priced: the problem of the program that the plan's decisions about loops make.
        plan: for the same program.

    Raises:
        InvalidPlan: the plan is for another program, or names eqns that cannot run there.
    """
    if not plan.changes_program:
        check_program(plan, priced.graph.program)
    before = {r.before: r.eqns for r in plan.recomputations}
    first_runs = plan.first_runs or priced.eqn_of_node
    lost = sorted(before.keys() - set(first_runs))
    if lost or len(before) < len(plan.recomputations):
        which = f"before eqn {lost[0]}, which stores nothing" if lost else "twice before one eqn"
        raise InvalidPlan(f"the plan recomputes {which}")
    eqns: list[int] = []
    for eqn in first_runs:
        eqns += [*before.get(eqn, ()), eqn]
    for eqn in eqns:
        if eqn not in priced.node_of_eqn:
            raise InvalidPlan(f"the plan runs eqn {eqn}, which stores nothing")
    order = tuple(priced.node_of_eqn[eqn] for eqn in eqns)
    if any(position >= len(order) for position in plan.fences):
        raise InvalidPlan(f"the plan has a fence at {max(plan.fences)} of {len(order)} runs")
    simulate(priced.problem, order)
    return order


def decisions(priced: PricedProgram, order: Sequence[int]) -> dict[Gap, str]:
    """What a schedule does in each idle gap: `"keep"` or `"recompute"`.

    Gaps of values that take no bytes of the problem (arguments, results) are left out.
    """
    place: dict[int, int] = {}
    again: dict[int, list[int]] = {}
    for position, node in enumerate(order):
        if node in place:
            again.setdefault(node, []).append(position)
        place.setdefault(node, position)
    result = {}
    end = len(order)
    for value, program_value in enumerate(priced.value_of):
        if not priced.problem.value_bytes[value]:
            continue
        runs = again.get(priced.problem.producer[value], [])
        for gap in priced.graph.gaps(program_value):
            start = place[priced.node_of_eqn[gap.start - 1]]
            stop_node = priced.node_of_eqn.get(gap.stop)
            stop = end if stop_node is None else place[stop_node]
            rerun = any(start < position < stop for position in runs)
            result[gap] = "recompute" if rerun else "keep"
    return result
