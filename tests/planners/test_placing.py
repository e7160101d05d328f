"""Runs put into schedules of any form, and annealed schedules, judged by the simulator."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from oracle import random_problem

from memjax.planning.planners.copies import Operations, Runs, excess_of
from memjax.planning.planners.orders import annealed, expanded
from memjax.planning.planners.placing import Settling, inserted
from memjax.planning.simulate import simulate


def drawn(seed, in_place=True):
    """A problem, a schedule with few recomputations, a position, and runs to make again."""
    random = Random(seed)
    problem = random_problem(seed, 4 + seed % 14, folded=seed % 2 == 0)
    if not in_place:
        problem = replace(problem, nodes=tuple(replace(n, in_place=()) for n in problem.nodes))
    order = []
    for node in range(len(problem.nodes)):
        again = [i for i, n in enumerate(problem.nodes[:node]) if n.recomputable and n.outputs]
        order += random.choices(again, k=random.choice((0, 0, 0, 1, 2))) if again else []
        order.append(node)
    at = random.randrange(len(order) // 2, len(order))
    may = [p for p in range(at + 1) if problem.nodes[order[p]].recomputable]
    again = sorted(random.sample(may, random.randint(0, min(4, len(may)))))
    return problem, order, at, again, random


def is_part(part, whole):
    """Whether all of `part` is in `whole`, in the same order."""
    rest = iter(whole)
    return all(node in rest for node in part)


def excess(problem, order, budget):
    return excess_of(simulate(problem, order).bytes_at, budget)


@pytest.mark.parametrize("seed", range(100))
def test_new_runs_go_as_late_as_their_readers_let_them(seed):
    problem, old, at, again, _ = drawn(seed)
    order, places = inserted(Runs(Operations.of(problem), old), at, again)
    simulate(problem, order)  # raises where it is not valid
    new = set(places)
    assert places == sorted(new)
    assert [node for p, node in enumerate(order) if p not in new] == old
    assert order[: at + 1] == old[: at + 1]
    assert sorted(order[p] for p in places) == sorted(old[run] for run in again)
    assert list(dict.fromkeys(order)) == list(range(len(problem.nodes)))
    for place in places:
        behind = place + 1
        while behind in new:
            behind += 1
        read = {v for node in order[place + 1 : behind + 1] for v in problem.nodes[node].inputs}
        assert behind == len(order) or read.intersection(problem.nodes[order[place]].outputs)


def settled(seed, in_place):
    """A problem, a budget, a schedule with new runs before and after they are settled."""
    problem, old, at, again, random = drawn(seed, in_place)
    runs = Runs(Operations.of(problem), old)
    order, places = inserted(runs, at, again)
    floor, peak = problem.single_node_floor_bytes, simulate(problem, order).peak_bytes
    budget = int(floor + random.random() * (peak - floor))
    settling = Settling(Runs(runs.operations, order), places, at, budget)
    settling.settle()
    return problem, budget, order, places, at, settling.order()


@pytest.mark.parametrize("seed", range(100))
def test_runs_that_settle_stay_behind_and_the_others_where_they_are(seed):
    problem, _, order, places, at, found = settled(seed, in_place=True)
    simulate(problem, found)
    assert Counter(found) == Counter(order)
    assert found[: at + 1] == order[: at + 1]
    assert is_part([node for p, node in enumerate(order) if p not in places], found)


def test_settling_makes_the_excess_less():
    less = more = total = 0
    for seed in range(400):
        problem, budget, order, places, _, found = settled(seed, in_place=False)
        before, after = excess(problem, order, budget), excess(problem, found, budget)
        if not places or not before:
            continue
        total += 1
        less += after < before
        more += after > before
    assert total > 200
    assert less > 0.1 * total
    assert more < 0.03 * total  # samples of what is held are not exact


@pytest.mark.parametrize("fixed", [True, False])
def test_annealed_runs_have_no_more_excess(fixed):
    less = 0
    for seed in range(60):
        problem, order, _, _, random = drawn(seed, in_place=False)
        target = int(random.uniform(0.5, 1.0) * simulate(problem, order).peak_bytes)
        found = annealed(problem, order, target, seed, fixed, heat=1.0)
        assert Counter(found) == Counter(order)
        first = list(dict.fromkeys(found))
        assert not fixed or first == list(range(len(problem.nodes)))
        change = excess(problem, found, target) - excess(problem, order, target)
        assert change <= 0
        less += change < 0
    assert less > 30


@pytest.mark.parametrize("seed", range(60))
def test_an_expanded_schedule_holds_the_same_at_each_position(seed):
    problem, order, *_ = drawn(seed, in_place=False)
    runs, edges = expanded(problem, order)
    assert simulate(runs, runs.identity).bytes_at == simulate(problem, order).bytes_at
    assert all(first < second for first, second in edges)
