"""A lower bound by linear programming, and what it would keep.

In: a `Problem`, a budget, a few stages. Out: a bound that holds for every schedule that runs
first runs in the problem's order (however often and in whatever order it recomputes).

The budget is imposed at the first runs of the given stages `t_1 < … < t_K` alone; block `k`
is what runs after `t_k` up to and with `t_{k+1}` (the last: to the end). Variables in [0, 1]:

- `H[k, v]`: value `v` is held while node `t_k` runs;
- `R[k, i]`: node `i`, first run before `t_k`, runs again in block `k`;
- `N[k, i]`: it runs again in block `k` or later.

What a first run of block `k` reads is held or made again:   H[k, v] + R[k, i] ≥ 1
what a second run reads, too:                                H[k, v] + R[k, i] ≥ R[k, j]
what is held at the next stage, too:                         H[k, v] + R[k, i] ≥ H[k+1, v]
the same over all later blocks together, with                N[k, i] ≤ Σ_{l ≥ k} R[l, i]
and at each stage                                            Σ bytes(v) H[k, v] ≤ budget - own

(`i` writes `v` and `j` reads it). The cost is Σ cost(i) R[k, i]. Without the rows for `N`,
more stages could lower the bound: half a recomputation in each of two blocks would need only
half of the inputs. With one stage and no budget row the program is a minimum cut, so that
its vertices are whole but for one price: rounding its `H` is a very good checkpoint rule.
The frontier-advancing form is that of Jain et al., *Checkmate* (2020), with its stages
merged; merging is what makes it small.

The bound is worked out from the dual values by weak duality, not taken from the solver, so
that it does not depend on the solver's tolerances.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memjax.planning.problem import Problem

HALF = 0.5 - 1e-9

NEGATED = (-1.0, -1.0)
IMPLIED = (1.0, -1.0, -1.0)  # factors of a row that says: the first only with one of the others

Group = tuple[str, int]
"""Variables: their letter, and the index of their stage."""


@dataclass(frozen=True)
class Relaxation:
    """A solved relaxation.

    Attributes:
        extra_cost: no schedule within the budget recomputes for less; infinite where the
            relaxation has no solution.
        gone: for each stage the values that it would give up and make again, rounded.
        size: variables of the program.
        iterations: of the simplex method.
    """

    extra_cost: float
    gone: tuple[frozenset[int], ...]
    size: int
    iterations: int = 0


def relax(
    problem: Problem, budget_bytes: int, stages: Sequence[int], iterations: int = 0
) -> Relaxation:
    """Solve the relaxation with the budget imposed at `stages`, which ascend.

    Args:
        problem: to relax.
        budget_bytes: for the peak.
        stages: see above.
        iterations: of the simplex method, after which to give up; 0 for no limit.
    """
    program = _Program(problem, tuple(stages))
    for block in reversed(range(len(stages))):
        program.add_block(block, "R")
        if block < len(stages) - 1:
            program.add_block(block, "N")
        program.add_budget(block, budget_bytes)
    return program.solve(iterations)


def highest_stages(heights: NDArray[np.int64], count: int, apart: int) -> list[int]:
    """So many stages above 0 at most, the highest first, more than `apart` from each other."""
    left = heights.copy()
    stages: list[int] = []
    while left.any() and len(stages) < count:
        stage = int(left.argmax())
        stages.append(stage)
        left[max(0, stage - apart) : stage + apart + 1] = 0
    return stages


@dataclass
class _Program:
    """The rows and columns of a relaxation, as they are written down; rows are `≤`.

    Attributes:
        columns: for each letter and index of a stage, the column of each value or node.
        cells: of the matrix: row, column and factor, one after the other.
    """

    problem: Problem
    stages: tuple[int, ...]
    columns: dict[Group, dict[int, int]] = field(default_factory=dict)
    costs: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    cells: tuple[list[int], list[int], list[float]] = field(default_factory=lambda: ([], [], []))
    limits: list[float] = field(default_factory=list)

    def column(self, group: Group, index: int) -> int:
        """The variable's column; made at its first mention."""
        columns = self.columns.setdefault(group, {})
        if index not in columns:
            columns[index] = len(self.costs)
            self.costs.append(self.problem.nodes[index].cost if group[0] == "R" else 0.0)
            self.lower.append(0.0)
        return columns[index]

    def row(self, columns: Sequence[int], factors: Sequence[float], limit: float) -> None:
        """Σ factor · column ≤ limit."""
        rows, at, values = self.cells
        rows += [len(self.limits)] * len(columns)
        at += columns
        values += factors
        self.limits.append(limit)

    def available(self, group: Group, value: int) -> tuple[int, ...]:
        """The columns of H and R, or of H and N, of a value."""
        node = self.problem.producer[value]
        held = self.column(("H", group[1]), value)
        if not self.problem.nodes[node].recomputable:
            return (held,)
        return held, self.column(group, node)

    def add_block(self, block: int, letter: str) -> None:
        """The rows of one block (`R`), or of it and all later ones together (`N`)."""
        producer, first, group = self.problem.producer, self.stages[block], (letter, block)
        stack: list[int] = []
        for value in self._read_in(block, letter):
            found = self.available(group, value)
            self.row(found, NEGATED[: len(found)], -1.0)
            stack.append(producer[value])
        for value in self._held_next(block) if letter == "R" else []:
            found = (self.column(("H", block + 1), value), *self.available(group, value))
            self.row(found, IMPLIED[: len(found)], 0.0)
            stack.append(producer[value])
        seen: dict[int, None] = {}
        while stack:
            node = stack.pop()
            if node in seen or not self.problem.nodes[node].recomputable:
                continue
            seen[node] = None
            again = self.column(group, node)
            for value in self.problem.nodes[node].inputs:
                if 0 <= producer[value] < first and self.problem.value_bytes[value]:
                    found = (again, *self.available(group, value))
                    self.row(found, IMPLIED[: len(found)], 0.0)
                    stack.append(producer[value])
        if letter == "N":
            self._tie(block, seen)

    def _tie(self, block: int, nodes: Iterable[int]) -> None:
        later = [self.columns.get(("R", k), {}) for k in range(block, len(self.stages))]
        for node in nodes:
            runs = [columns[node] for columns in later if node in columns]
            again = self.column(("N", block), node)
            self.row([again, *runs], [1.0] + [-1.0] * len(runs), 0.0)

    def add_budget(self, block: int, budget_bytes: int) -> None:
        """What is held while the stage's first run runs, and what that run adds."""
        size, stage = self.problem.value_bytes, self.stages[block]
        node = self.problem.nodes[stage]
        for value in node.inputs:
            if self.problem.producer[value] >= 0 and size[value]:
                self.lower[self.column(("H", block), value)] = 1.0
        grown = sum(size[v] for v in node.outputs) - sum(size[v] for v in node.in_place)
        room = budget_bytes - self.problem.base_bytes - node.workspace_bytes - max(0, grown)
        scale = 1.0 / max(1, budget_bytes)
        held = self.columns.get(("H", block), {})
        self.row(list(held.values()), [scale * size[value] for value in held], scale * room)

    def _read_in(self, block: int, letter: str) -> list[int]:
        """Values made before the block's stage that first runs read after it, in order."""
        problem, first = self.problem, self.stages[block]
        to_the_end = letter == "N" or block == len(self.stages) - 1
        stop = len(problem.nodes) if to_the_end else self.stages[block + 1] + 1
        read: dict[int, None] = {}
        for node in problem.nodes[first + 1 : stop]:
            read.update(dict.fromkeys(node.inputs))
        if to_the_end:
            read.update(dict.fromkeys(problem.outputs))
        return [v for v in read if 0 <= problem.producer[v] < first and problem.value_bytes[v]]

    def _held_next(self, block: int) -> list[int]:
        first = self.stages[block]
        held = self.columns.get(("H", block + 1), {})
        return [value for value in held if self.problem.producer[value] < first]

    def solve(self, iterations: int = 0) -> Relaxation:
        """Hand the program to HiGHS."""
        from scipy.optimize import linprog  # here: half a second that small plans need not wait
        from scipy.sparse import coo_array

        if not self.costs:
            feasible = all(limit >= 0 for limit in self.limits)
            return Relaxation(0.0 if feasible else math.inf, (frozenset(),) * len(self.stages), 0)
        unit = max(self.problem.total_cost / len(self.problem.nodes), 1e-300)
        costs, lower = np.array(self.costs) / unit, np.array(self.lower)
        rows, at, factors = self.cells
        places = np.array(rows, np.int32), np.array(at, np.int32)
        shape = len(self.limits), len(costs)
        matrix = coo_array((np.array(factors), places), shape=shape).tocsr()
        limits = np.array(self.limits)
        bounds = np.column_stack((lower, np.ones(len(costs))))
        options = {"maxiter": iterations} if iterations else {}
        result = linprog(
            costs, A_ub=matrix, b_ub=limits, bounds=bounds, method="highs-ds", options=options
        )
        if result.status == 2:
            return Relaxation(math.inf, (), len(costs))
        if result.status != 0:
            return Relaxation(0.0, (), len(costs))
        prices = np.minimum(result.ineqlin.marginals, 0.0)
        bound = _dual_bound(costs, lower, prices, limits, matrix.T @ prices)
        return Relaxation(max(0.0, bound) * unit, self._gone(result.x), len(costs), int(result.nit))

    def _gone(self, point: NDArray[np.float64]) -> tuple[frozenset[int], ...]:
        """A value is given up where half of it is: not held, and made again there or later.

        Where neither is so, the program reads a fraction of the value; it is kept then, as
        making it again might ask for all that it is made from.
        """
        runs = np.zeros((len(self.stages) + 1, len(self.problem.nodes)))
        for block in range(len(self.stages)):
            for node, column in self.columns.get(("R", block), {}).items():
                runs[block, node] = point[column]
        later = runs[::-1].cumsum(axis=0)[::-1]
        producer = self.problem.producer
        return tuple(
            frozenset(
                value
                for value, column in self.columns.get(("H", block), {}).items()
                if producer[value] >= 0
                and point[column] <= 1 - HALF
                and later[block, producer[value]] >= HALF
            )
            for block in range(len(self.stages))
        )


def _dual_bound(
    costs: NDArray[np.float64],
    lower: NDArray[np.float64],
    prices: NDArray[np.float64],
    limits: NDArray[np.float64],
    priced: NDArray[np.float64],
) -> float:
    """The least, over lower ≤ x ≤ 1, of costs·x - prices·(A x - limits)."""
    reduced = costs - priced
    least = np.where(reduced > 0, reduced * lower, reduced)
    return float(prices @ limits + least.sum())
