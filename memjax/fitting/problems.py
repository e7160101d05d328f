"""The problems of one step: what it holds and costs on its device, by all that is known so far.

In: a `Program`, how to compile it, the rates of its device. Out: `Problems`: the step as it is, as
it is prepared for planning, and as the decisions of a plan change it; each with its `Plan`s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from memjax import _compat
from memjax.emit.compile import Target
from memjax.emit.plan import Plan, check_program, plan_of_solution
from memjax.loops.decisions import Decisions, carry_out
from memjax.planning.problem import Solution
from memjax.planning.simulate import InvalidPlan
from memjax.pricing.coarsen import PricedProgram
from memjax.pricing.learnt import NOTHING, Learnt
from memjax.pricing.nests import with_bodies
from memjax.pricing.price import Pricer
from memjax.pricing.residents import Resident, resident_bytes, residents
from memjax.pricing.segments import emitted_timeline, fences_of
from memjax.program.donation import Donation
from memjax.program.eqns import Program
from memjax.program.prepare import prepare
from memjax.split.decisions import Split, carry_out_splits
from memjax.targets.figures import DeviceRates


def _decided(learnt: Learnt) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(sorted(learnt.stored)), tuple(sorted(learnt.free))


def _knowledge(plan: Plan) -> tuple[object, ...]:
    """What decides, beside the traced program, which problem a plan's eqns are of."""
    return plan.splits, plan.loops, plan.insides, plan.stored, plan.free


@dataclass
class Problems:
    """The problems of one step.

    Attributes:
        program: the step.
        target: how it is compiled.
        donations: what is given up.
        rates: of the device.
        scale: bytes on one device over bytes of the program.
    """

    program: Program
    target: Target
    donations: Sequence[Donation]
    rates: DeviceRates
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.pricer = Pricer(self.target.backend, self.rates, self.scale)
        self.priced_by_changes: dict[tuple[object, ...], PricedProgram] = {}
        self.learnt = NOTHING

    @cached_property
    def prepared(self) -> PricedProgram:
        """The problem of the program as it is planned; an analysis does not need it."""
        return self.coarsen(self.prepared_program)

    @cached_property
    def prepared_program(self) -> Program:
        """The program as it is planned."""
        return with_bodies(prepare(self.program))

    @cached_property
    def as_it_is(self) -> PricedProgram:
        """The problem of the program as the user wrote it, by the rules."""
        return self.coarsen(with_bodies(self.program), learnt=NOTHING)

    @cached_property
    def eqns(self) -> int:
        """How many eqns the program has, those of bodies included."""
        return sum(_compat.count_eqns(eqn.raw) for eqn in self.program.eqns)

    def coarsen(
        self, program: Program, keeps_order: bool = False, *, learnt: Learnt | None = None
    ) -> PricedProgram:
        """The problem of a program, with the bytes and seconds of this loop's device.

        Args:
            program: of the step.
            keeps_order: whether XLA is held to the order where nothing runs again, too.
            learnt: what it goes by beside the rules; None for all that was learnt.
        """
        learnt = self.learnt if learnt is None else learnt
        base_bytes = learnt.base_bytes
        if base_bytes is None:
            base_bytes = resident_bytes(program, self.target.arguments, self.donations)
        return self.pricer.priced(program, base_bytes, keeps_order=keeps_order, learnt=learnt)

    def priced_of(self, plan: Plan) -> PricedProgram:
        """The problem of the program that a plan's decisions about regions and loops make.

        Raises:
            InvalidPlan: the plan is for another program, or cannot be carried out.
        """
        program = self.prepared_program
        check_program(plan, program)
        key = _knowledge(plan)
        if key == ((), (), (), *_decided(self.learnt)):
            return self.prepared
        try:
            if key not in self.priced_by_changes:
                changed = carry_out_splits(program, plan.splits)
                changed = carry_out(changed, Decisions(plan.loops, plan.insides))
                learnt = self.learnt.deciding(plan.stored, plan.free)
                self.priced_by_changes[key] = self.coarsen(
                    changed, plan.changes_program, learnt=learnt
                )
            return self.priced_by_changes[key]
        except Exception as error:  # whatever is wrong with a plan from a file
            raise InvalidPlan(f"the plan's regions or loops cannot be made: {error}") from error

    def residents(self, program: Program) -> tuple[Resident, ...]:
        """What a program holds on this loop's device for the whole step."""
        return residents(program, self.target.arguments, self.donations)

    def plain_plan(self, priced: PricedProgram, budget_bytes: int) -> Plan:
        """The plan that recomputes nothing."""
        return self.make_plan(priced, Solution.identity(priced.problem), budget_bytes)

    def make_plan(
        self,
        priced: PricedProgram,
        solution: Solution,
        budget_bytes: int,
        decisions: Decisions | None = None,
        splits: tuple[Split, ...] = (),
    ) -> Plan:
        """A solution in terms of the program's eqns.

        Args:
            priced: the problem that was solved.
            solution: its schedule.
            budget_bytes: what it was made for.
            decisions: about the loops of `prepared`, if `priced` is what they made of it.
            splits: of its regions, made before these.
        """
        fences = fences_of(priced, solution.order)
        peak_bytes = emitted_timeline(priced, solution.order, fences).peak_bytes
        predicted_bytes = max(peak_bytes, priced.problem.base_bytes)
        learnt = NOTHING if priced is self.__dict__.get("as_it_is") else self.learnt
        changes = splits or (decisions and (decisions.loops or decisions.insides))
        return plan_of_solution(
            priced,
            solution,
            budget_bytes,
            predicted_bytes,
            decisions,
            self.prepared if changes else None,
            learnt,
            splits,
            fences,
        )

    def remembered(self, plan: Plan, priced: PricedProgram) -> Plan:
        """A plan whose program need not be made again."""
        if plan.changes_program:
            self.priced_by_changes[_knowledge(plan)] = priced
        return plan

    def know(self, learnt: Learnt) -> None:
        """Go by other knowledge from now on."""
        self.learnt = learnt
        self.__dict__.pop("prepared", None)
        self.priced_by_changes.clear()
