"""What a planner is.

A planner is one file in this folder with one frozen dataclass derived from `Planner`. Its
fields are the search's settings, each a count of work, never a clock, so that the same
problem has the same answer on every machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from memjax.planning.problem import Problem, Solution


class Planner(ABC):
    """An algorithm that finds a schedule whose peak is within a budget.

    Attributes:
        name: as users write it in `planner="…"`.
    """

    name: ClassVar[str]

    @abstractmethod
    def solve(self, problem: Problem, budget_bytes: int) -> Solution:
        """The cheapest schedule found whose simulated peak is at most `budget_bytes`.

        Where none is found, the schedule with the lowest peak that was seen, with
        `met=False`. Never raises for a budget that is too small.
        """

    def quick(self) -> Planner:
        """The same algorithm with little work: what compiled programs are planned with."""
        return self

    def patient(self) -> Planner:
        """The same algorithm with enough work for a budget that `quick` has missed."""
        return self
