"""Plans of one step: the planner's answers, with loops changed and regions split where it pays.

In: `Problems`, a planner, a target in bytes. Out: a `Plan`, and whether it meets the target by
prediction.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property

from memjax.emit.plan import Plan
from memjax.fitting.problems import Problems
from memjax.loops.choose import Chooser
from memjax.loops.decisions import Decisions
from memjax.planning.planners import AutoPlanner, Planner
from memjax.planning.problem import Solution
from memjax.pricing.learnt import Learnt
from memjax.split.choose import Splitter, State

NEAR_MISS = 4 / 3
"""More work is worth it for a plan that misses its target by up to this factor; a guess."""
MOST_OF_THE_WAY = 0.5
"""Where recomputation meets a target, splits that go this part of the way to it are planned
further; a guess. (Those of a Flax LSTM go 0.15 of it, and would take 20 times as long to plan.)"""
MAX_TURNS = 3
WORTH_A_TURN = 0.97
"""Splits and the planner take so many turns at the most, and while each takes the peak down to
this part; guesses."""

Found = tuple[Plan, bool]
"""A plan, and whether it meets its target by prediction."""


def _rank(found: Found) -> tuple[bool, float, int]:
    """Plans that meet their target by overhead, others by bytes."""
    plan, met = found
    return (False, plan.overhead, plan.predicted_bytes) if met else (True, plan.predicted_bytes, 0)


@dataclass
class Planning(Problems):
    """Plans of one step, each made once.

    Attributes:
        planner: whom to ask.
        may_split: whether regions may run in chunks.
    """

    planner: Planner = field(default_factory=AutoPlanner)
    may_split: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.planning_seconds = 0.0
        self.quick, self.patient = self.planner.quick(), self.planner.patient()
        self.chooser = Chooser(self.pricer, self.quick)
        self.answers: dict[tuple[int, int, Planner], Found] = {}

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

    def solve(self, budget_bytes: int, target_bytes: int, *, patient: bool = True) -> Found:
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

    def _asked(self, budget_bytes: int, target_bytes: int, planner: Planner) -> Found:
        plan, met = self.ask_planner(budget_bytes, target_bytes, planner)
        over = plan.predicted_bytes - target_bytes
        if met and over > 0:
            tighter, tighter_met = self.ask_planner(budget_bytes, target_bytes - over, planner)
            if tighter_met:
                plan, met = tighter, tighter_met
        return plan, met

    def ask_planner(self, budget_bytes: int, target_bytes: int, planner: Planner) -> Found:
        """A planner's answer, timed; loops are planned as well, where there are any.

        It is remembered, as both of XLA's schedules may ask for the same plan.
        """
        key = budget_bytes, target_bytes, planner
        if key not in self.answers:
            self.answers[key] = self._answer(budget_bytes, target_bytes, planner)
        return self.answers[key]

    def _answer(self, budget_bytes: int, target_bytes: int, planner: Planner) -> Found:
        start = time.perf_counter()
        if self.prepared.bodies:
            plan, met = self._with_loops(budget_bytes, target_bytes, planner)
        else:
            solution = planner.solve(self.prepared.problem, target_bytes)
            plan, met = self.make_plan(self.prepared, solution, budget_bytes), solution.met
        plan, met = self.or_split(budget_bytes, target_bytes, (plan, met))
        self.planning_seconds += time.perf_counter() - start
        return plan, met

    def _with_loops(self, budget_bytes: int, target_bytes: int, planner: Planner) -> Found:
        chooser = replace(self.chooser, planner=planner)
        choice = chooser.choose(self.prepared.graph.program, target_bytes, self.coarsen)
        decisions = choice.decisions
        solution = replace(choice.solution, bound_cost=choice.bound_seconds)
        plan = self.make_plan(choice.priced, solution, budget_bytes, decisions)
        return self.remembered(plan, choice.priced), choice.met

    def or_split(self, budget_bytes: int, target_bytes: int, found: Found) -> Found:
        """A plan that splits regions, where one is better than what was found without.

        What meets its target as it is stays as it is.

        Args:
            budget_bytes: what the plan is for.
            target_bytes: what the planner is asked for.
            found: the plan without splits, and whether it meets the target.
        """
        plan, met = best = found
        if not self.may_split or (met and not plan.changes_anything):
            return found
        state = self.splitter.reached(target_bytes)
        plain_bytes = self.splitter.state(()).peak_bytes
        far_bytes = (1 - MOST_OF_THE_WAY) * plain_bytes + MOST_OF_THE_WAY * target_bytes
        if state.splits and (not met or state.peak_bytes <= far_bytes):
            best = min(best, self._with_state(budget_bytes, target_bytes, state), key=_rank)
        if not best[1] and self.narrow_states:
            low = (s for s, lowest_bytes in self.narrow_states if lowest_bytes <= target_bytes)
            state = next(low, self.narrow_states[-1][0])
            narrow = self._with_state(budget_bytes, target_bytes, state)
            if narrow[1] or narrow[0].predicted_bytes <= WORTH_A_TURN * best[0].predicted_bytes:
                best = narrow
        return best

    @cached_property
    def narrow_states(self) -> list[tuple[State, int]]:
        """Ever more narrow regions split, each where the tightest plan for those before it holds
        most, with the bytes of its own tightest plan.
        """
        found: list[tuple[State, int]] = []
        state, lowest_bytes = self.splitter.state(()), 0
        for turn in range(MAX_TURNS + 1):
            choice = self.chooser.choose(state.priced.graph.program, 0, self.coarsen)
            if turn and choice.peak_bytes > WORTH_A_TURN * lowest_bytes:
                break
            lowest_bytes = choice.peak_bytes
            if turn:
                found.append((state, lowest_bytes))
            narrower = self.splitter.beside(state, choice.priced, choice.solution.order)
            if narrower is None or turn == MAX_TURNS:
                break
            state = narrower
        return found

    def _with_state(self, budget_bytes: int, target_bytes: int, state: State) -> Found:
        """The best plan with given splits: without further decisions if these do."""
        priced, decisions, met = state.priced, Decisions(), True
        solution = replace(Solution.identity(priced.problem), planner="splits", bound_cost=None)
        if state.peak_bytes > target_bytes:
            choice = self.chooser.choose(priced.graph.program, target_bytes, self.coarsen)
            priced, decisions, met = choice.priced, choice.decisions, choice.met
            solution = replace(choice.solution, bound_cost=None)
        plan = self.make_plan(priced, solution, budget_bytes, decisions, state.splits)
        return self.remembered(plan, priced), met

    def know(self, learnt: Learnt) -> None:
        """Plan with other knowledge from now on: answers are other ones."""
        super().know(learnt)
        self.answers.clear()
        for made in ("splitter", "narrow_states"):
            self.__dict__.pop(made, None)
