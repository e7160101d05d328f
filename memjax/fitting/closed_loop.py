"""One closed loop: what is planned and compiled on the way to a program within its budget.

In: a `Program`, how to compile it, a planner. Out: `Loop`, which plans for a target, compiles a
plan, and remembers each compilation as an `Attempt`; and `Fitted`, what comes out in the end.
`memjax.fitting.fit` decides what to plan and compile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax

from memjax import _compat
from memjax.emit.compile import (
    CompiledStep,
    OutOfMemory,
    Target,
    compile_step,
)
from memjax.emit.fingerprint import fingerprint
from memjax.emit.plan import Plan, check_program, plan_of_solution, schedule_of_plan
from memjax.emit.rewrite import rewrite
from memjax.fitting.attempts import AS_IT_IS, NOT_COMPILED, Attempt, Fitted
from memjax.fitting.stated import Footing, Stated
from memjax.loops.choose import Chooser
from memjax.loops.decisions import Decisions, carry_out
from memjax.planning.planners import Planner
from memjax.planning.problem import Solution
from memjax.planning.simulate import InvalidPlan
from memjax.pricing.coarsen import Coarse
from memjax.pricing.learnt import NOTHING, Learnt
from memjax.pricing.nests import look_inside
from memjax.pricing.price import Pricer, is_mostly_small_loops
from memjax.pricing.residents import Resident, resident_bytes, residents
from memjax.pricing.segments import emitted_timeline
from memjax.program.donation import Donation
from memjax.program.eqns import Program
from memjax.program.prepare import prepare
from memjax.split.choose import Splitter, State
from memjax.split.decisions import Split, carry_out_splits
from memjax.targets.figures import DeviceRates

NOT_WORTH_IT = "giving it up makes the compiled program larger"
NEAR_MISS = 4 / 3
"""More work is worth it for a plan that misses its target by up to this factor; a guess."""
MAX_TURNS = 3
WORTH_A_TURN = 0.97
"""Splits and the planner take so many turns at the most, and while each takes the peak down to
this part; guesses."""
HAS_BARRIERS = frozenset({"checkpoint", "remat2", "remat", "optimization_barrier"})
"""Primitives that are, or are lowered with, an `optimization_barrier`."""


def _decided(learnt: Learnt) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(sorted(learnt.stored)), tuple(sorted(learnt.free))


def _knowledge(plan: Plan) -> tuple[object, ...]:
    """What decides, beside the traced program, which problem a plan's eqns are of."""
    return plan.splits, plan.loops, plan.insides, plan.stored, plan.free


def _rank(found: tuple[Plan, bool]) -> tuple[bool, float, int]:
    """Plans that meet their target by overhead, others by bytes."""
    plan, met = found
    return (False, plan.overhead, plan.predicted_bytes) if met else (True, plan.predicted_bytes, 0)


@dataclass
class Loop:
    """The state of one closed loop: what was compiled so far, and how."""

    program: Program
    target: Target
    donations: Sequence[Donation]
    planner: Planner
    rates: DeviceRates
    scale: float = 1.0
    stated: Stated = field(default_factory=Stated)
    donation_is_asked: bool = False
    device: str = ""
    may_split: bool = True

    def __post_init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.steps: list[CompiledStep | None] = []
        self.planning_seconds = 0.0
        self.pricer = Pricer(self.target.backend, self.rates, self.scale)
        self.quick, self.patient = self.planner.quick(), self.planner.patient()
        self.chooser = Chooser(self.pricer, self.quick)
        self.coarse_by_changes: dict[tuple[object, ...], Coarse] = {}
        self.answers: dict[tuple[int, int, Planner], tuple[Plan, bool]] = {}
        self.learnt = NOTHING

    @cached_property
    def prepared(self) -> Coarse:
        """The problem of the program as it is planned; an analysis does not need it."""
        return self.coarsen(self.prepared_program)

    @cached_property
    def prepared_program(self) -> Program:
        """The program as it is planned."""
        return look_inside(prepare(self.program))

    @cached_property
    def as_it_is(self) -> Coarse:
        """The problem of the program as the user wrote it, by the rules."""
        return self.coarsen(look_inside(self.program), learnt=NOTHING)

    @property
    def bound_bytes(self) -> int:
        """What no plan goes below, by prediction: what the largest eqn holds, or, where loops may
        be changed or made, arguments and results.
        """
        problem = self.prepared.problem
        changes = bool(self.prepared.bodies) or self.may_split
        return problem.base_bytes if changes else problem.single_node_floor_bytes

    @cached_property
    def splitter(self) -> Splitter:
        """What splits the program's regions."""
        return Splitter(self.prepared, self.coarsen)

    @cached_property
    def eqns(self) -> int:
        """How many eqns the program has, those of bodies included."""
        return sum(_compat.count_eqns(eqn.raw) for eqn in self.program.eqns)

    def coarsen(
        self, program: Program, keeps_order: bool = False, *, learnt: Learnt | None = None
    ) -> Coarse:
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
        return self.pricer.coarse(program, base_bytes, keeps_order=keeps_order, learnt=learnt)

    def coarse_of(self, plan: Plan) -> Coarse:
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
            if key not in self.coarse_by_changes:
                changed = carry_out_splits(program, plan.splits)
                changed = carry_out(changed, Decisions(plan.loops, plan.insides))
                learnt = self.learnt.deciding(plan.stored, plan.free)
                self.coarse_by_changes[key] = self.coarsen(
                    changed, plan.changes_program, learnt=learnt
                )
            return self.coarse_by_changes[key]
        except Exception as error:  # whatever is wrong with a plan from a file
            raise InvalidPlan(f"the plan's regions or loops cannot be made: {error}") from error

    def residents(self, program: Program) -> tuple[Resident, ...]:
        """What a program holds on this loop's device for the whole step."""
        return residents(program, self.target.arguments, self.donations)

    def plain_plan(self, coarse: Coarse, budget_bytes: int) -> Plan:
        """The plan that recomputes nothing."""
        return self.make_plan(coarse, Solution.identity(coarse.problem), budget_bytes)

    def make_plan(
        self,
        coarse: Coarse,
        solution: Solution,
        budget_bytes: int,
        decisions: Decisions | None = None,
        splits: tuple[Split, ...] = (),
    ) -> Plan:
        """A solution in terms of the program's eqns.

        Args:
            coarse: the problem that was solved.
            solution: its schedule.
            budget_bytes: what it was made for.
            decisions: about the loops of `prepared`, if `coarse` is what they made of it.
            splits: of its regions, made before these.
        """
        peak_bytes = emitted_timeline(coarse, solution.order).peak_bytes
        predicted_bytes = max(peak_bytes, coarse.problem.base_bytes)
        learnt = NOTHING if coarse is self.__dict__.get("as_it_is") else self.learnt
        changes = splits or (decisions and (decisions.loops or decisions.insides))
        return plan_of_solution(
            coarse,
            solution,
            budget_bytes,
            predicted_bytes,
            decisions,
            self.prepared if changes else None,
            learnt,
            splits,
        )

    def solve(
        self, budget_bytes: int, target_bytes: int, *, patient: bool = True
    ) -> tuple[Plan, bool]:
        """A plan for `target_bytes`, and whether it meets them by the planner's word.

        A schedule is carried out with its updates a little later than the planner put them
        (`memjax.pricing.segments`); where that holds more than the target, there is one more try.

        Args:
            budget_bytes: what the plan is for.
            target_bytes: what the planner is asked for.
            patient: whether more work is worth it where little has missed the target.
        """
        plan, met = self._asked(budget_bytes, target_bytes, self.quick)
        near = plan.predicted_bytes <= NEAR_MISS * target_bytes
        possible = near and target_bytes >= self.bound_bytes
        if not met and patient and possible and self.patient != self.quick:
            plan, met = self._asked(budget_bytes, target_bytes, self.patient)
        return plan, met

    def _asked(self, budget_bytes: int, target_bytes: int, planner: Planner) -> tuple[Plan, bool]:
        plan, met = self.ask_planner(budget_bytes, target_bytes, planner)
        over = plan.predicted_bytes - target_bytes
        if met and over > 0:
            tighter, tighter_met = self.ask_planner(budget_bytes, target_bytes - over, planner)
            if tighter_met:
                plan, met = tighter, tighter_met
        return plan, met

    def ask_planner(
        self, budget_bytes: int, target_bytes: int, planner: Planner
    ) -> tuple[Plan, bool]:
        """A planner's answer, timed; loops are planned as well, where there are any.

        It is remembered, as both of XLA's schedules may ask for the same plan.
        """
        key = budget_bytes, target_bytes, planner
        if key not in self.answers:
            self.answers[key] = self._answer(budget_bytes, target_bytes, planner)
        return self.answers[key]

    def _answer(self, budget_bytes: int, target_bytes: int, planner: Planner) -> tuple[Plan, bool]:
        start = time.perf_counter()
        if self.prepared.bodies:
            plan, met = self._with_loops(budget_bytes, target_bytes, planner)
        else:
            solution = planner.solve(self.prepared.problem, target_bytes)
            plan, met = self.make_plan(self.prepared, solution, budget_bytes), solution.met
        if self.may_split and (plan.changes_anything or not met):
            plan, met = self.with_splits(budget_bytes, target_bytes, (plan, met))
        self.planning_seconds += time.perf_counter() - start
        return plan, met

    def _with_loops(
        self, budget_bytes: int, target_bytes: int, planner: Planner
    ) -> tuple[Plan, bool]:
        chooser = replace(self.chooser, planner=planner)
        choice = chooser.choose(self.prepared.graph.program, target_bytes, self.coarsen)
        decisions = choice.decisions
        solution = replace(choice.solution, bound_cost=choice.bound_seconds)
        plan = self.make_plan(choice.coarse, solution, budget_bytes, decisions)
        return self.remembered(plan, choice.coarse), choice.met

    def with_splits(
        self, budget_bytes: int, target_bytes: int, found: tuple[Plan, bool]
    ) -> tuple[Plan, bool]:
        """A plan that splits regions, where one is better than what was found without.

        Args:
            budget_bytes: what the plan is for.
            target_bytes: what the planner is asked for.
            found: the plan without splits, and whether it meets the target.
        """
        best = found
        state = self.splitter.reached(target_bytes)
        if state.splits:
            best = min(best, self._with_state(budget_bytes, target_bytes, state), key=_rank)
        if not best[1] and self.narrow_states:
            low = (s for s, lowest_bytes in self.narrow_states if lowest_bytes <= target_bytes)
            state = next(low, self.narrow_states[-1][0])
            best = min(best, self._with_state(budget_bytes, target_bytes, state), key=_rank)
        return best

    @cached_property
    def narrow_states(self) -> list[tuple[State, int]]:
        """Ever more narrow regions split, each where the tightest plan for those before it holds
        most, with the bytes of its own tightest plan.
        """
        found: list[tuple[State, int]] = []
        state, lowest_bytes = self.splitter.state(()), 0
        for turn in range(MAX_TURNS + 1):
            choice = self.chooser.choose(state.coarse.graph.program, 0, self.coarsen)
            if turn and choice.peak_bytes > WORTH_A_TURN * lowest_bytes:
                break
            lowest_bytes = choice.peak_bytes
            if turn:
                found.append((state, lowest_bytes))
            narrower = self.splitter.beside(state, choice.coarse, choice.solution.order)
            if narrower is None or turn == MAX_TURNS:
                break
            state = narrower
        return found

    def _with_state(self, budget_bytes: int, target_bytes: int, state: State) -> tuple[Plan, bool]:
        """The best plan with given splits: without further decisions if these do."""
        coarse, decisions, met = state.coarse, Decisions(), True
        solution = replace(Solution.identity(coarse.problem), planner="splits")
        if state.peak_bytes > target_bytes:
            choice = self.chooser.choose(coarse.graph.program, target_bytes, self.coarsen)
            coarse, decisions, met = choice.coarse, choice.decisions, choice.met
            solution = replace(choice.solution, bound_cost=None)
        plan = self.make_plan(coarse, solution, budget_bytes, decisions, state.splits)
        return self.remembered(plan, coarse), met

    def remembered(self, plan: Plan, coarse: Coarse) -> Plan:
        """A plan whose program need not be made again."""
        if plan.changes_program:
            self.coarse_by_changes[_knowledge(plan)] = coarse
        return plan

    @cached_property
    def schedules(self) -> tuple[bool, ...]:
        """What to ask of XLA's scheduler, in this order: whether to go by memory.

        Where the step spends its time in loops of small eqns, XLA's own schedule is faster and
        is tried first.
        """
        has_choice = bool(self.target.backend.scheduler_options)
        return (False, True) if has_choice and is_mostly_small_loops(self.prepared) else (True,)

    def compile(self, plan: Plan, purpose: str, *, for_memory: bool = True) -> Attempt:
        """Compile a plan of the prepared program, scheduled for memory or by XLA's own rules."""
        coarse = self.coarse_of(plan)
        return self._attempt(
            rewrite(coarse, schedule_of_plan(coarse, plan), plan.fences),
            self.target,
            Attempt(purpose, plan, NOT_COMPILED, for_memory),
            has_barriers=plan.changes_anything or self.has_own_barriers,
        )

    def compile_given(self, plan: Plan, purpose: str, *, for_memory: bool) -> Attempt:
        """Compile a plan that was not made here; one that is to change nothing, as it is.

        Raises:
            InvalidPlan: it cannot be carried out.
        """
        as_traced = fingerprint(self.program)
        if plan.program == as_traced != fingerprint(self.prepared.graph.program):
            return self._known_as_it_is() or self.compile_as_it_is(plan.budget_bytes)
        try:
            return self.compile(plan, purpose, for_memory=for_memory)
        except (InvalidPlan, jax.errors.JaxRuntimeError):  # the latter is XLA's
            raise
        except Exception as error:  # whatever is wrong with a plan from a file
            raise InvalidPlan(f"the plan cannot be carried out: {error}") from error

    def _known_as_it_is(self) -> Attempt | None:
        return next((a for a in self.attempts if a.purpose == AS_IT_IS), None)

    def compile_as_it_is(
        self, budget_bytes: int, *, donates: bool = True, keeps_barriers: bool = True
    ) -> Attempt:
        """Compile the program as JAX traced it, with XLA's default schedule: what `jax.jit` does.

        Args:
            budget_bytes: what it is for.
            donates: whether anything is given up.
            keeps_barriers: whether XLA is held to the barriers of the user's `jax.checkpoint`.
        """
        plan = self.plain_plan(self.as_it_is, budget_bytes)
        target = self.target if donates else replace(self.target, donated=())
        return self._attempt(
            _compat.as_function(self.program.jaxpr, self.program.name),
            target,
            Attempt(AS_IT_IS, plan, NOT_COMPILED, False, donates),
            has_barriers=keeps_barriers and self.has_own_barriers,
        )

    def _attempt(
        self,
        function: Callable[..., Any],
        target: Target,
        asked: Attempt,
        *,
        has_barriers: bool,
    ) -> Attempt:
        """Compile a function for an attempt, and record it with what came of it."""
        try:
            step = compile_step(
                function, target, for_memory=asked.for_memory, has_barriers=has_barriers
            )
        except OutOfMemory as refused:
            return self.record(replace(asked, measured=refused.measured, runs=False), None)
        return self.record(replace(asked, measured=step.measured), step)

    def know(self, learnt: Learnt) -> None:
        """Plan with other knowledge from now on: problems and answers are other ones."""
        self.learnt = learnt
        self.__dict__.pop("prepared", None)
        self.coarse_by_changes.clear()
        self.answers.clear()

    @cached_property
    def has_own_barriers(self) -> bool:
        """Whether the user's step relies on barriers, as `jax.checkpoint` does."""
        return any(_compat.contains(eqn.raw, HAS_BARRIERS) for eqn in self.program.eqns)

    def record(self, attempt: Attempt, step: CompiledStep | None) -> Attempt:
        """Remember an attempt and its program; None for one that XLA refuses."""
        self.attempts.append(attempt)
        self.steps.append(step)
        if attempt.purpose != AS_IT_IS and attempt.runs:
            footing = Footing(attempt.total_bytes, attempt.plan, attempt.for_memory)
            self.stated.add(footing)
        return attempt

    def attempt_of(self, plan: Plan, *, for_memory: bool = True) -> Attempt | None:
        """The compilation of the same program, if there was one."""
        for attempt in self.attempts:
            same = attempt.plan.decides_like(plan) and attempt.for_memory == for_memory
            if same and attempt.purpose != AS_IT_IS:
                return attempt
        return None

    def compilations(self, *, for_memory: bool) -> int:
        """How many programs were compiled with a schedule; untouched ones count for memory."""
        return sum((a.for_memory or a.purpose == AS_IT_IS) == for_memory for a in self.attempts)

    def result(self, chosen: Attempt) -> Fitted:
        """What the loop hands on; programs of other attempts are let go."""
        step = self.steps[self.attempts.index(chosen)]
        assert step is not None, "what does not run is never chosen"
        untouched = chosen.purpose == AS_IT_IS
        donations = tuple(self.donations)
        if not chosen.donates:
            donations = tuple(replace(d, result=None, reason=NOT_WORTH_IT) for d in donations)
        coarse = self.as_it_is if untouched else self.coarse_of(chosen.plan)
        return Fitted(
            traced=self.program,
            coarse=coarse,
            plain=coarse if untouched else self.prepared,
            chosen=chosen,
            step=step,
            attempts=tuple(self.attempts),
            planning_seconds=self.planning_seconds,
            residents=residents(coarse.graph.program, self.target.arguments, donations),
            donations=donations,
            donated=self.target.donated if chosen.donates else (),
            device=self.device,
        )
