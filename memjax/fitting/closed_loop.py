"""One closed loop: what is planned and compiled on the way to a program within its budget.

In: a `Program`, how to compile it, a planner. Out: `Loop`, which plans for a target
(`memjax.fitting.plans`), compiles a plan, and remembers each compilation as an `Attempt`; and
`Fitted`, what comes out in the end. `memjax.fitting.fit` decides what to plan and compile.
"""

from __future__ import annotations

from collections.abc import Callable
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
from memjax.emit.plan import Plan, schedule_of_plan
from memjax.emit.rewrite import rewrite
from memjax.fitting.attempts import AS_IT_IS, GIVEN, NOT_COMPILED, Attempt, Fitted
from memjax.fitting.plans import Planning
from memjax.fitting.stated import Footing, Stated
from memjax.planning.simulate import InvalidPlan
from memjax.pricing.price import is_mostly_small_loops
from memjax.pricing.residents import residents

NOT_WORTH_IT = "giving it up makes the compiled program larger"
HAS_BARRIERS = frozenset({"checkpoint", "remat2", "remat", "optimization_barrier"})
"""Primitives that are, or are lowered with, an `optimization_barrier`."""


@dataclass
class Loop(Planning):
    """The state of one closed loop: what was compiled so far, and how.

    Attributes:
        stated: footprints that were stated of this step before.
        donation_is_asked: whether the user chose what is given up.
        device: its name, for people.
    """

    stated: Stated = field(default_factory=Stated)
    donation_is_asked: bool = False
    device: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.attempts: list[Attempt] = []
        self.steps: list[CompiledStep | None] = []
        self.looked_at: list[Attempt] = []

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
        priced = self.priced_of(plan)
        return self._attempt(
            rewrite(priced, schedule_of_plan(priced, plan), plan.fences),
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
        """How many programs were compiled with a schedule; untouched ones count for memory, and
        plans that were given do not.
        """
        own = [a for a in self.attempts if a.purpose != GIVEN]
        return sum((a.for_memory or a.purpose == AS_IT_IS) == for_memory for a in own)

    def result(self, chosen: Attempt) -> Fitted:
        """What the loop hands on; programs of other attempts are let go."""
        step = self.steps[self.attempts.index(chosen)]
        assert step is not None, "what does not run is never chosen"
        untouched = chosen.purpose == AS_IT_IS
        donations = tuple(self.donations)
        if not chosen.donates:
            donations = tuple(replace(d, result=None, reason=NOT_WORTH_IT) for d in donations)
        priced = self.as_it_is if untouched else self.priced_of(chosen.plan)
        return Fitted(
            traced=self.program,
            priced=priced,
            plain=priced if untouched else self.prepared,
            chosen=chosen,
            step=step,
            attempts=tuple(self.attempts),
            planning_seconds=self.planning_seconds,
            residents=residents(priced.graph.program, self.target.arguments, donations),
            donations=donations,
            donated=self.target.donated if chosen.donates else (),
            device=self.device,
        )
