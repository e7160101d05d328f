"""What comes of a closed loop: its compilations, and the program that fits, or that none does.

In: nothing. Out: `Attempt`, `Fitted`, `BudgetInfeasible`.
"""

from __future__ import annotations

from dataclasses import dataclass

from memjax.emit.compile import CompiledStep, Footprint, Measured
from memjax.emit.plan import Plan
from memjax.pricing.coarsen import PricedProgram
from memjax.pricing.residents import Resident
from memjax.program.donation import Donation
from memjax.program.eqns import Program

AS_IT_IS = "as it is"
"""The purpose of compiling the program that `jax.jit` would."""
GIVEN = "the given plan"
"""The purpose of compiling a plan that was made elsewhere."""
NOT_COMPILED = Measured(Footprint(0, 0, 0, 0), 0.0, 0.0, {})
"""What is known of an attempt before it is made."""


@dataclass(frozen=True)
class Attempt:
    """One compilation of the closed loop.

    Attributes:
        purpose: why it was made, for people.
        plan: what was compiled.
        measured: what came of it.
        for_memory: whether XLA was asked to schedule for memory.
        donates: whether the arguments that memjax would give up are given up.
        runs: whether XLA made a program of it, and did not refuse it for its bytes.
    """

    purpose: str
    plan: Plan
    measured: Measured
    for_memory: bool
    donates: bool = True
    runs: bool = True

    @property
    def total_bytes(self) -> int:
        """The compiled footprint."""
        return self.measured.footprint.total_bytes


@dataclass(frozen=True)
class Fitted:
    """A compiled program within its budget.

    Attributes:
        traced: the program as JAX traced it.
        priced: the problem of the chosen program.
        plain: the problem of the step without any decision.
        chosen: the compilation that calls use.
        step: its program. Those of the others are gone.
        attempts: every compilation, in order.
        planning_seconds: spent in the planner.
        residents: arguments and results, which are held for the whole step.
        donations: the verdict on each flat argument, as carried out.
        donated: indices of the flat arguments that a call gives up.
        device: what it was compiled for, in words.
    """

    traced: Program
    priced: PricedProgram
    plain: PricedProgram
    chosen: Attempt
    step: CompiledStep
    attempts: tuple[Attempt, ...]
    planning_seconds: float
    residents: tuple[Resident, ...]
    donations: tuple[Donation, ...]
    donated: tuple[int, ...]
    device: str = ""


class BudgetInfeasible(ValueError):
    """No plan that memjax knows fits the budget.

    Attributes:
        budget_bytes: what was asked for.
        floor_bytes: the smallest compiled footprint reached; as a budget it works.
        fitted: that floor's program and compilations.
    """

    def __init__(self, message: str, budget_bytes: int, floor_bytes: int, fitted: Fitted) -> None:
        super().__init__(message)
        self.budget_bytes = budget_bytes
        self.floor_bytes = floor_bytes
        self.fitted = fitted
