"""Ruin and recreate: take a few recomputations away, put back what the budget asks for.

In: a `Schedule`, a budget, a seed. Out: the same schedule, changed.

The *excess* of a schedule is the sum over stages of the bytes above the budget. One round
of the search (Schrimpf et al., *Record breaking optimization results using the ruin and
recreate principle*, 2000):

1. ruin: remove one to four recomputations, close to each other in time or at random; where
   the budget is not met, often most of those close to the highest stage;
2. recreate: while a stage is above the budget, take the highest one, rank the idle gaps
   that span it by cost over excess saved (with noise), look closer at the best few, and add
   the best. A recomputation's inputs are recomputed too where that saves more than holding
   them (`planners.chains`), so that chains appear at once and not link by link. A
   stage that cannot be helped rests for a while;
3. prune: remove recomputations that the budget does not need;
4. accept the outcome as annealing would (Li et al., *FastSA*, 2023, anneal over single
   additions and removals).

All randomness is drawn from the seed, and work is counted in changes of the schedule.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from memjax.planning.planners.chains import Chain
from memjax.planning.planners.gaps import Gaps
from memjax.planning.planners.incremental import Schedule

Run = tuple[int, int]
"""(stage, node) of a recomputation."""

TRIES = 16  # gaps looked at closer before one is chosen; 4 and 8 are about as good
MOST = 64  # the same where none of the first helps
LEAST = 0.3  # of what a gap saves by itself is believed, whatever its inputs add; 0.1 is worse
REST = 30  # additions for which a stage that could not be helped is left alone; 10 is slower
APART = 3  # stages on either side of it that rest, too, or are ruined with it
EARLIER = 4  # of these, so many are tried in an earlier stage too; with 8 others are crowded out
NOISE = 0.5  # spread of the random factor on a gap's rank; 0.25 and 1 are about as good
AT_WORST = 0.5  # chance to ruin at the highest stage where the budget is not met; 0 is worse
SIZES = (1, 1, 2, 2, 3, 4)  # of a ruin; up to 8 or 16 at once is worse
HEAT = 0.3  # of annealing, in mean costs of a recomputation; 0.05 to 1 are about as good
SAMPLE = 40  # recomputations whose inputs are looked at for further gaps


class Search:
    """A schedule on its way to a budget.

    Attributes:
        extra: keys of the recomputations, ascending.
        work: changes made to the schedule so far.
    """

    def __init__(self, schedule: Schedule, budget_bytes: int, seed: int = 0) -> None:
        self.schedule = schedule
        self.budget = budget_bytes
        self.random = Random(seed)
        self.noise = np.random.RandomState(seed)  # its stream is frozen across versions
        self.extra = [t * schedule.step + v for t, v in schedule.extra_runs()]
        self.work = 0
        self.plain = schedule.problem.total_cost
        self.weight = 2 * self.plain / max(1, budget_bytes)
        self._may_run = [node.recomputable for node in schedule.problem.nodes]
        self.gaps = Gaps.of(schedule)

    def excess(self) -> float:
        """Bytes above the budget, summed over stages."""
        return float(np.maximum(self.schedule.peaks - self.budget, 0).sum())

    def score(self) -> float:
        """What the search makes small: the cost of recomputation, and the excess, weighed."""
        return self.schedule.cost - self.plain + self.weight * self.excess()

    def runs(self) -> list[Run]:
        """The recomputations as (stage, node)."""
        return [divmod(key, self.schedule.step) for key in self.extra]

    def add(self, run: Run) -> None:
        """Recompute `node` in `stage`."""
        stage, node = run
        self.schedule.add(node, stage)
        insort(self.extra, stage * self.schedule.step + node)
        self.work += 1

    def remove(self, run: Run) -> None:
        """Undo `add(run)`."""
        stage, node = run
        self.schedule.remove(node, stage)
        del self.extra[bisect_left(self.extra, stage * self.schedule.step + node)]
        self.work += 1

    def go_to(self, runs: Iterable[Run]) -> None:
        """Change the schedule so that it has these recomputations and no others."""
        step = self.schedule.step
        target = {t * step + v for t, v in runs}
        present = set(self.extra)
        for key in [k for k in self.extra if k not in target]:
            self.remove(divmod(key, step))
        for key in sorted(target - present):
            self.add(divmod(key, step))

    def recreate(self, noise: float, work: int = 2_000) -> bool:
        """Add recomputations until the budget is met.

        Args:
            noise: spread of the random factor on a gap's rank; 0 for none.
            work: changes after which to give up.

        Returns:
            Whether the budget is met; False where no single chain brings it closer.
        """
        limit = self.work + work
        resting = np.zeros(self.schedule.count, np.int64)  # additions to wait, by stage
        helped = True
        while self.work < limit:
            over = np.maximum(self.schedule.peaks - self.budget, 0)
            if not over.any():
                return True
            stage = int(np.where(resting > 0, 0, over).argmax())
            if over[stage] == 0 or resting[stage] > 0:
                if not helped:
                    return False
                resting[:], helped = 0, False
            elif self._relieve(stage, over, noise):
                resting -= 1
                helped = True
            else:
                resting[max(0, stage - APART) : stage + APART + 1] = REST
        return False

    def _relieve(self, stage: int, over: NDArray[np.int64], noise: float) -> bool:
        """Add the chain of runs that saves excess at the least cost for each byte."""
        before = float(over.sum())
        level = self.schedule.peaks - self.budget
        ranked = self._candidates(stage, over, noise)
        for first in range(0, len(ranked), TRIES):
            chains: list[tuple[float, list[Run]]] = []
            for run in ranked[first : first + TRIES]:
                chain, after = self._chain(run, level)
                after += float(over[run[0] :].sum())
                if after < before:
                    cost = sum(self.schedule.costs[node] for _, node in chain) + 1e-9 * self.plain
                    factor = math.exp(noise * self.random.gauss(0, 1)) if noise else 1.0
                    chains.append((cost * factor / (before - after), chain))
            chains.sort()
            for _, chain in chains:
                for one in chain:
                    self.add(one)
                if self.excess() < before:
                    return True
                for one in reversed(chain):
                    self.remove(one)
        return False

    def _chain(self, run: Run, level: NDArray[np.int64]) -> tuple[list[Run], float]:
        """A recomputation with those of its inputs, and the excess before its stage."""
        chain = Chain(self.schedule, run, level)
        after = chain.grow()
        self.work += chain.work
        return [(run[0], node) for node in chain.nodes], after

    def _candidates(self, stage: int, over: NDArray[np.int64], noise: float) -> list[Run]:
        """The idle gaps that span a stage and promise most for their cost."""
        sums = np.concatenate(([0], np.cumsum(over)))
        counts = np.concatenate(([0], np.cumsum(over > 0)))
        ranked = self._gaps_across(stage, sums, counts, noise)
        ranked += self._gaps_of_extra(stage, sums, counts, noise)
        ranked.sort()
        late = list(dict.fromkeys(run for _, run in ranked))[:MOST]
        few = [
            run for run in map(self._earlier, late[: EARLIER if noise else 0]) if run is not None
        ]
        more = [run for run in map(self._earlier, late) if run is not None]
        first = TRIES - len(few)
        return list(dict.fromkeys([*late[:first], *few, *late[first:], *more]))

    def _earlier(self, run: Run) -> Run | None:
        """The same node in the last stage before that reads one of its inputs anyway."""
        stage, node = run
        key = stage * self.schedule.step + node
        reads = [
            self.schedule.read_before(value, producer, key) // self.schedule.step
            for value, _, producer in self.schedule.ins[node]
        ]
        latest = max(reads, default=0)
        if not node < latest < stage or node in self.schedule.stages[latest]:
            return None
        return latest, node

    def _gaps_across(
        self, stage: int, sums: NDArray[np.int64], counts: NDArray[np.int64], noise: float
    ) -> list[tuple[float, Run]]:
        """The best few idle gaps of the plain schedule, with cost over excess saved."""
        gaps, within = self.gaps, len(self.schedule.stages[stage]) > 1
        spans = (gaps.since < stage) & (gaps.until >= stage if within else gaps.until > stage)
        index = np.flatnonzero(spans)
        low, high = gaps.since[index] + 1, gaps.until[index]
        spanned = np.maximum(counts[high] - counts[low], 1)
        most = np.maximum(sums[high] - sums[low], sums[stage + 1] - sums[stage])
        saved = np.minimum(gaps.bytes[index] * spanned, most)
        longer = counts[high][:, None] - counts[gaps.read_since[index] + 1]
        held = (np.maximum(longer, 0) * gaps.read_bytes[index]).sum(axis=1)
        saved = np.maximum(saved - held, LEAST * saved)
        ranks = gaps.cost[index] / np.maximum(saved, 1e-9)
        if noise:
            ranks = ranks * np.exp(noise * self.noise.standard_normal(len(index)))
        ranked: list[tuple[float, Run]] = []
        for place in np.argsort(ranks, kind="stable")[: 2 * MOST].tolist():
            gap = index[place]
            run = int(gaps.until[gap]), int(gaps.node[gap])
            if run[1] not in self.schedule.stages[run[0]]:
                ranked.append((float(ranks[place]), run))
        return ranked

    def _gaps_of_extra(
        self, stage: int, sums: NDArray[np.int64], counts: NDArray[np.int64], noise: float
    ) -> list[tuple[float, Run]]:
        """The same for gaps that are there because a recomputation reads a value late."""
        schedule = self.schedule
        later = self.extra[bisect_right(self.extra, (stage + 1) * schedule.step) :]
        if len(later) > SAMPLE:
            later = [later[i] for i in sorted(self.random.sample(range(len(later)), SAMPLE))]
        ranked: list[tuple[float, Run]] = []
        for key in later:
            target, node = divmod(key, schedule.step)
            for value, size, producer in schedule.ins[node]:
                if not self._may_run[producer] or producer in schedule.stages[target]:
                    continue
                since = self.schedule.read_before(value, producer, key) // schedule.step
                if since >= stage:
                    continue
                spanned = int(counts[target] - counts[since + 1])
                saved = min(size * spanned, int(sums[target] - sums[since + 1]))
                factor = math.exp(noise * self.random.gauss(0, 1)) if noise else 1.0
                cost = schedule.costs[producer] + 1e-9 * self.plain
                ranked.append((factor * cost / max(saved, 1e-9), (target, producer)))
        return ranked

    def prune(self, runs: Sequence[Run]) -> None:
        """Remove, in this order, each run without which the excess is not higher."""
        before = self.excess()
        for run in runs:
            self.remove(run)
            after = self.excess()
            if after > before:
                self.add(run)
            else:
                before = after

    def dearest(self, runs: Iterable[Run], per_byte: bool = False) -> list[Run]:
        """Runs by falling cost, or by falling cost for each byte that they write."""
        costs, written = self.schedule.costs, self.schedule.written
        if per_byte:
            return sorted(runs, key=lambda r: (-costs[r[1]] / max(1, written[r[1]]), r))
        return sorted(runs, key=lambda r: (-costs[r[1]], r))

    def improve(self, work: int) -> None:
        """Rounds of ruin and recreate until `work` changes are made; ends at the best seen.

        Stops at half of that where the search has stood still for as long. A budget that is met
        stays so, whatever a few bytes more would save.
        """
        start, limit = self.work, self.work + work
        current, score = self.runs(), self.score()
        best, best_score, best_work = current, score, start
        met = self.excess() == 0
        while self.work < limit and self.work - best_work < work // 2 and current:
            before = self.work
            for run in self._ruined(current):
                self.remove(run)
            if self.recreate(NOISE):
                self.prune(self._to_prune(current))
            outcome = self.score()
            mean = sum(self.schedule.costs[node] for _, node in current) / len(current)
            left = (limit - self.work) / work
            if self._accepts(outcome - score, HEAT * mean * left * left):
                current, score = self.runs(), outcome
            else:
                self.go_to(current)
            better = score < best_score - 1e-12 * self.plain
            if better and (not met or self.excess() == 0):
                best, best_score, best_work = current, score, self.work
            self.work += before == self.work
        self.go_to(best)

    def _accepts(self, worse: float, heat: float) -> bool:
        if worse <= 0:
            return True
        return heat > 0 and self.random.random() < math.exp(-worse / heat)

    def _ruined(self, current: Sequence[Run]) -> list[Run]:
        """One to four runs, close in time or at random; more where the budget is not met."""
        over = self.schedule.peaks - self.budget
        worst = int(over.argmax())
        if over[worst] > 0 and self.random.random() < AT_WORST:
            near = [run for run in current if abs(run[0] - worst) <= APART]
            if near:
                return self.random.sample(
                    near, self.random.randint((len(near) + 1) // 2, len(near))
                )
        size = min(len(current), self.random.choice(SIZES))
        if self.random.random() < 0.5:
            return self.random.sample(current, size)
        centre = self.random.randrange(len(current))
        low = max(0, min(centre - size, len(current) - 2 * size))
        return self.random.sample(current[low : low + 2 * size], size)

    def _to_prune(self, before: Sequence[Run]) -> list[Run]:
        """The new runs, and some of the old ones, dearest first."""
        runs = self.runs()
        if len(runs) <= SAMPLE:
            return self.dearest(runs)
        old = set(before)
        new = [run for run in runs if run not in old]
        return self.dearest({*new, *self.random.sample(runs, SAMPLE // 2)})
