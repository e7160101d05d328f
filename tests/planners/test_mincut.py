"""Cuts against all sets of runs, and the search by cuts against the simulator."""

from dataclasses import replace
from itertools import combinations
from random import Random

import numpy as np
import pytest
from oracle import random_problem

from memjax.planning.planners.copies import Operations, Runs
from memjax.planning.planners.mincut import CutSearch, cut
from memjax.planning.problem import Node, Problem, schedule_cost
from memjax.planning.simulate import simulate


def any_schedule(problem, random):
    """First runs in order, and before each some recomputations in any order and number."""
    order = []
    for node in range(len(problem.nodes)):
        again = [i for i in range(node) if problem.nodes[i].recomputable]
        order += random.choices(again, k=random.choice((0, 0, 1, 2))) if again else []
        order.append(node)
    return order


def copies_of(problem, order):
    """For each copy its value, its writer and its readers, past the end where it is kept."""
    copies, newest = [], {}
    for position, node in enumerate(order):
        for value in problem.nodes[node].inputs:
            if value in newest:
                copies[newest[value]][2].append(position)
        for value in problem.nodes[node].outputs:
            newest[value] = len(copies)
            copies.append((value, position, []))
    for value in problem.outputs:
        if value in newest:
            copies[newest[value]][2].append(len(order))
    return copies


def paid(problem, copies, at, price, costs, again):
    """What runs made again after `at` cost, with what is held there for them and for others."""
    total = sum(costs[run] for run in again)
    for value, writer, readers in copies:
        needed = any(reader > at or reader in again for reader in readers)
        if writer < at and needed and writer not in again and at not in readers:
            total += price * problem.value_bytes[value]
    return total


@pytest.mark.parametrize("seed", range(120))
def test_a_cut_is_the_cheapest_of_all_sets_of_runs(seed):
    random = Random(seed)
    problem = random_problem(seed, 3 + seed % 6, folded=seed % 2 == 0)
    order = any_schedule(problem, random)
    at = min(random.randrange(len(order) // 2, len(order)), 11)  # all sets can be looked at
    price = 10 ** random.uniform(-1.5, 1.5)
    costs = [problem.nodes[n].cost if problem.nodes[n].recomputable else np.inf for n in order[:at]]
    copies = copies_of(problem, order)
    may = [run for run in range(at) if costs[run] < np.inf]
    least = min(
        paid(problem, copies, at, price, costs, set(again))
        for count in range(len(may) + 1)
        for again in combinations(may, count)
    )
    again, freed = cut(Runs(Operations.of(problem), order), at, price, np.array(costs))
    assert set(again) <= set(may)
    assert paid(problem, copies, at, price, costs, set(again)) == pytest.approx(least, abs=1e-4)
    given_up = [
        problem.value_bytes[value]
        for value, writer, readers in copies
        if writer in again and at not in readers and readers and readers[-1] > at
    ]
    assert freed == sum(given_up)


def test_cuts_of_small_problems_have_several_runs():
    found = []
    for seed in range(120):
        problem = random_problem(seed, 3 + seed % 6, folded=True)
        at = len(problem.nodes) // 2 + 1
        costs = np.array([problem.nodes[n].cost for n in range(at)])
        found.append(len(cut(Runs(Operations.of(problem), problem.identity), at, 9.0, costs)[0]))
    assert sum(n > 0 for n in found) > 50
    assert sum(n > 1 for n in found) > 15


def folded(seed, in_place):
    """A problem that recomputation can make smaller, and a budget below its peak."""
    problem = random_problem(seed, 10 + seed % 16, plain=seed % 2 == 0, folded=True)
    if not in_place:
        problem = replace(problem, nodes=tuple(replace(n, in_place=()) for n in problem.nodes))
    floor = problem.single_node_floor_bytes
    peak = simulate(problem, problem.identity).peak_bytes
    return problem, int(floor + Random(seed).uniform(0.3, 0.9) * (peak - floor))


def judged(problem, search):
    """The timeline of a schedule; raises where it is not valid or repeats what must run once."""
    order = search.runs.left()
    assert order == search.runs.order.tolist()
    assert list(dict.fromkeys(order)) == list(range(len(problem.nodes)))
    assert search.runs.cost == pytest.approx(schedule_cost(problem, order))
    return simulate(problem, order)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_search_by_cuts_keeps_what_it_promises(in_place):
    met = missed = cheaper = 0
    for seed in range(60):
        problem, budget = folded(seed, in_place)
        search = CutSearch(problem, problem.identity, budget, seed)
        if search.met():
            continue
        missed += 1
        score = search.score(search.runs)
        for tries in (1, 5, 40):
            assert search.lower(tries) == search.met()
            timeline = judged(problem, search)
            assert in_place or search.met() == (timeline.peak_bytes <= budget)
            assert search.score(search.runs) <= score
            score = search.score(search.runs)
        if not search.met():
            continue
        met += 1
        cost = timeline.cost
        search.cheapen(20)
        timeline = judged(problem, search)
        assert search.met()
        assert timeline.cost <= cost
        assert in_place or timeline.peak_bytes <= budget
        cheaper += timeline.cost < cost
    assert missed > 50
    assert met > 0.8 * missed
    assert cheaper > 0.2 * met


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_gives_the_same_schedule(seed):
    problem, budget = folded(seed, in_place=True)
    orders = []
    for _ in range(2):
        search = CutSearch(problem, problem.identity, budget, seed)
        search.lower(30)
        search.cheapen(10)
        orders.append(search.runs.left())
    assert orders[0] == orders[1]


@pytest.mark.parametrize("cost", [1.0, 0.0])
@pytest.mark.parametrize("length", [12, 30, 50])
def test_a_chain_is_brought_to_a_small_budget(length, cost):
    nodes = [Node(cost, (i - 1,) if i else (), (i,)) for i in range(length)]
    for k in range(length):
        nodes.append(Node(cost, (length - 1 - k, *([length + k - 1] if k else [])), (length + k,)))
    problem = Problem(tuple(nodes), (10,) * len(nodes))
    peak = simulate(problem, problem.identity).peak_bytes
    budget = int(0.4 * peak)
    search = CutSearch(problem, problem.identity, budget)
    assert search.lower(100)
    assert judged(problem, search).peak_bytes <= budget < peak


def test_recomputations_that_cost_nothing_end_a_search_too():
    nodes = (Node(0.0, (), (0,)), Node(1.0, (), (1,)), Node(1.0, (0, 1), (2,)))
    problem = Problem(nodes, (1, 1, 1))
    search = CutSearch(problem, (0, 1, 0, 2), 9)
    search.cheapen(5)
    assert search.tries == 5
    assert search.runs.left() == [0, 1, 0, 2]
