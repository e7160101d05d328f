"""The exact planner: an integer program, for small problems and as a yardstick.

In: a `Problem` and a budget. Out: the cheapest schedule in stage form (definition 2 of
`planners.incremental`): first runs in the problem's order, and within a stage every
node at most once and in ascending order. Where the solver is stopped early, the schedule is
the best it has, and `bound_cost` what it proved.

The program is that of Jain et al., *Checkmate* (2020), with the row `FREE ≤ R` that its
published form lacks, and with what `planning.problem` adds to it. Stage `t` ends with the first
run of node `t`. Whole variables in {0, 1}, all for `t`, `i ≤ t` where `i` writes `v`:

- `R[t, i]`: node `i` runs in stage `t`; `R[t, t] = 1`;
- `S[t, v]`: value `v`, written before stage `t`, is held into it;
- `F[t, v, k]`: `v` is given up after the run of `k` in stage `t`, where `k` reads or writes `v`.

A read finds its value:          R[t, j] ≤ R[t, i] + S[t, v]
so does holding on:              S[t+1, v] ≤ R[t, i] + S[t, v]
no copy is made over another:    R[t, i] + S[t, v] ≤ 1
giving up is the last read:      F[t, v, k] ≤ R[t, k],   F + S[t+1, v] ≤ 1,
                                 F[t, v, k] + R[t, j] ≤ 1 for readers j > k
The bytes before the run of `k` in stage `t` are U[t, k], continuous:
    U[t, 0] = base + Σ bytes(v) S[t, v]
    U[t, k+1] = U[t, k] + written(k) R[t, k] - Σ_v bytes(v) F[t, v, k]
and the budget bounds, where `k` runs,
    U[t, k] + workspace(k)   and   U[t, k] + workspace(k) + written(k) - Σ_(in place) bytes(v) F.

Rows grow as stages times edges: some hundred nodes take minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memjax.planning.planners.base import Planner
from memjax.planning.planners.incremental import Schedule
from memjax.planning.problem import Problem, Solution, schedule_cost

Key = tuple[str, int, int, int]
Terms = list[tuple[int, float]]


@dataclass(frozen=True)
class ExactPlanner(Planner):
    """See the module.

    Attributes:
        branches: nodes of the branch-and-bound tree after which to stop; 0 for no limit.
        seconds: for experiments only: a clock makes answers differ from run to run.
        gap: relative gap at which a schedule counts as optimal.
    """

    name: ClassVar[str] = "exact"
    branches: int = 100_000
    seconds: float | None = None
    gap: float = 1e-6

    def solve(self, problem: Problem, budget_bytes: int) -> Solution:
        """See `Planner.solve`. Without a solution: the plain schedule, `met=False`."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        if not problem.nodes:
            return Solution.identity(problem, self.name)
        program = _Program(problem, budget_bytes)
        program.build()
        options = {
            "mip_rel_gap": self.gap,
            "node_limit": self.branches or None,
            "time_limit": self.seconds,
        }
        result = milp(
            np.array(program.costs),
            integrality=np.array(program.whole),
            bounds=Bounds(np.array(program.lower), np.array(program.upper)),
            constraints=LinearConstraint(program.matrix(), ub=np.array(program.limits)),
            options={k: v for k, v in options.items() if v is not None},
        )
        bound = _bound(problem, program, result.mip_dual_bound, result.status)
        if result.x is None:
            order = problem.identity
            return Solution(order, self.name, met=False, bound_cost=bound)
        order = program.order(result.x)
        bound = min(bound, schedule_cost(problem, order))
        branches = int(result.mip_node_count or 0)
        return Solution(order, self.name, bound_cost=bound, iterations=branches)


def _bound(problem: Problem, program: _Program, dual: float | None, status: int) -> float:
    """What is proven about the cost of all runs."""
    if status == 2:
        return float("inf")
    return max(problem.total_cost, (dual or 0.0) * program.unit)


@dataclass
class _Program:
    """Rows (`≤`) and columns of the integer program."""

    problem: Problem
    budget: int
    columns: dict[Key, int] = field(default_factory=dict)
    costs: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    entries: list[tuple[int, int, float]] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        problem = self.problem
        self.scale = 1.0 / max(1, self.budget)
        self.unit = max(problem.total_cost / len(problem.nodes), 1e-300)
        kept = set(problem.outputs)
        self.over = [
            [v for v in node.in_place if problem.producer[v] >= 0 and v not in kept]
            for node in problem.nodes
        ]

    def column(self, key: Key, upper: float = 1.0, whole: bool = True) -> int:
        """The variable's column; made at its first mention."""
        if key not in self.columns:
            self.columns[key] = len(self.costs)
            self.costs.append(self.problem.nodes[key[2]].cost / self.unit if key[0] == "R" else 0.0)
            self.lower.append(0.0)
            self.upper.append(upper)
            self.whole.append(int(whole))
        return self.columns[key]

    def row(self, terms: Iterable[tuple[int, float]], limit: float) -> None:
        """Σ factor · column ≤ limit."""
        index = len(self.limits)
        self.entries += [(index, column, factor) for column, factor in terms]
        self.limits.append(limit)

    def runs(self, stage: int, node: int) -> int:
        """`R[stage, node]`."""
        return self.column(("R", stage, node, 0))

    def held(self, stage: int, value: int) -> int:
        """`S[stage, value]`."""
        return self.column(("S", stage, value, 0))

    def freed(self, stage: int, value: int, node: int) -> int:
        """`F[stage, value, node]`."""
        return self.column(("F", stage, value, node))

    def build(self) -> None:
        """All rows."""
        problem = self.problem
        for stage in range(len(problem.nodes)):
            self.lower[self.runs(stage, stage)] = 1.0
            for other in range(stage):
                if not problem.nodes[other].recomputable:
                    self.upper[self.runs(stage, other)] = 0.0
            for index in range(stage + 1):
                self._reads(stage, index)
                for value in problem.nodes[index].outputs:
                    self._value(stage, index, value)
            self._bytes(stage)

    def _available(self, stage: int, node: int, value: int) -> Terms:
        terms = [(self.runs(stage, node), -1.0)]
        return terms if node == stage else [*terms, (self.held(stage, value), -1.0)]

    def _reads(self, stage: int, index: int) -> None:
        for value in self.problem.nodes[index].inputs:
            producer = self.problem.producer[value]
            if producer >= 0:
                terms = self._available(stage, producer, value)
                self.row([(self.runs(stage, index), 1.0), *terms], 0.0)

    def _value(self, stage: int, node: int, value: int) -> None:
        """Holding and giving up of one value in one stage."""
        last = stage == len(self.problem.nodes) - 1
        available = self._available(stage, node, value)
        if node < stage:
            self.row([(column, 1.0) for column, _ in available], 1.0)
        if not last:
            self.row([(self.held(stage + 1, value), 1.0), *available], 0.0)
        elif value in self.problem.outputs:
            self.row(available, -1.0)
        readers = [k for k in self.problem.consumers[value] if k <= stage]
        for place, reader in enumerate([node, *readers]):
            freed = (self.freed(stage, value, reader), 1.0)
            self.row([freed, (self.runs(stage, reader), -1.0)], 0.0)
            for later in readers[place:]:
                self.row([freed, (self.runs(stage, later), 1.0)], 1.0)
            if not last:
                self.row([freed, (self.held(stage + 1, value), 1.0)], 1.0)
            elif value in self.problem.outputs:
                self.row([freed], 0.0)

    def _bytes(self, stage: int) -> None:
        """The bytes along a stage, as sums of what came before: no variable is needed."""
        problem, size = self.problem, self.problem.value_bytes
        before: Terms = [
            (self.held(stage, v), self.scale * size[v])
            for node in problem.nodes[:stage]
            for v in node.outputs
            if size[v]
        ]
        level: Terms = before
        limit = self.scale * (self.budget - problem.base_bytes)
        for index in range(stage + 1):
            node = problem.nodes[index]
            running = self.runs(stage, index)
            workspace = (running, self.scale * node.workspace_bytes)
            written = self.scale * sum(size[v] for v in node.outputs)
            given = [
                (self.freed(stage, v, index), -self.scale * size[v])
                for v in (*node.inputs, *node.outputs)
                if problem.producer[v] >= 0 and size[v]
            ]
            over = [
                (self.freed(stage, v, index), -self.scale * size[v])
                for v in self.over[index]
                if size[v]
            ]
            if over:
                self.row([*level, workspace], limit)
            self.row([*level, workspace, (running, written), *over], limit)
            level = self._carry(stage, index, [*level, (running, written), *given])

    def _carry(self, stage: int, index: int, terms: Terms) -> Terms:
        """A variable that stands for a level, at least as high: rows stay short."""
        column = self.column(("U", stage, index, 0), upper=np.inf, whole=False)
        self.row([*terms, (column, -1.0)], 0.0)
        return [(column, 1.0)]

    def matrix(self) -> object:
        """The rows as a sparse matrix; entries of one cell add up."""
        from scipy.sparse import coo_array

        table = np.array(self.entries)
        places = table[:, 0].astype(int), table[:, 1].astype(int)
        shape = (len(self.limits), len(self.costs))
        return coo_array((table[:, 2], places), shape=shape).tocsc()

    def order(self, point: NDArray[np.float64]) -> tuple[int, ...]:
        """The schedule of a solution, without runs that nobody reads."""
        schedule = Schedule(self.problem)
        for (letter, stage, node, _), column in self.columns.items():
            if letter == "R" and node < stage and point[column] > 0.5:
                schedule.add(node, stage)
        return schedule.order()
