"""Recomputations taken away from schedules of any form, judged by the simulator."""

from dataclasses import replace
from random import Random

import pytest
from oracle import random_problem

from memjax.planning.planners.copies import Operations, Runs, excess_of, pruned
from memjax.planning.problem import Node, Problem, schedule_cost
from memjax.planning.simulate import simulate


def problem_of(seed, nodes):
    """A random problem without in-place runs, whose bytes are counted exactly here."""
    problem = random_problem(seed, nodes)
    return replace(problem, nodes=tuple(replace(n, in_place=()) for n in problem.nodes))


def any_schedule(problem, random):
    """First runs in order, and before each some recomputations in any order and number."""
    order = []
    for node in range(len(problem.nodes)):
        again = [i for i in range(node) if problem.nodes[i].recomputable]
        order += random.choices(again, k=random.randint(0, 3)) if again else []
        order.append(node)
    return order


@pytest.mark.parametrize("seed", range(80))
def test_what_is_judged_is_what_the_simulator_says(seed):
    random = Random(seed)
    problem = problem_of(seed, 2 + seed % 12)
    order = any_schedule(problem, random)
    timeline = simulate(problem, order)
    budget, weight = int(random.uniform(0.5, 1.0) * timeline.peak_bytes), random.choice((0.1, 1, 9))
    runs = Runs(Operations.of(problem), order)
    gone = set()
    assert tuple(runs.bytes) == timeline.bytes_at
    for at in random.sample(runs.again(), len(runs.again())):
        left = [node for place, node in enumerate(order) if place not in gone]
        without = [n for place, n in enumerate(order) if place not in gone and place != at]
        scores = [
            schedule_cost(problem, o) + weight * excess_of(simulate(problem, o).bytes_at, budget)
            for o in (left, without)
        ]
        taken = runs.take_away(at, budget, weight)
        assert taken == (scores[0] - scores[1] > 1e-9)
        gone |= {at} if taken else set()
        left = [place for place in range(len(order)) if place not in gone]
        held = simulate(problem, [order[place] for place in left]).bytes_at
        assert [int(runs.bytes[place]) for place in left] == list(held)


def test_a_recomputation_that_saves_nothing_goes():
    # b runs again before c, which could as well read the first copy: nothing large is held
    # in between. The second run of a makes room while the 8 bytes of b are there.
    nodes = (
        Node(1.0, (), (0,), name="a"),
        Node(1.0, (), (1,), name="b"),
        Node(1.0, (1,), (2,), name="shrink"),
        Node(1.0, (0, 2), (3,), name="c"),
    )
    problem = Problem(nodes, (4, 8, 1, 1))
    order = (0, 1, 1, 2, 0, 3)
    assert simulate(problem, (0, 1, 2, 3)).peak_bytes == 13
    assert pruned(problem, order, 9, weight=1.0) == (0, 1, 2, 0, 3)
    assert pruned(problem, order, 13, weight=1.0) == (0, 1, 2, 3)


@pytest.mark.parametrize("seed", range(80))
def test_a_schedule_as_it_comes_holds_what_the_simulator_says_in_place_too(seed):
    problem = random_problem(seed, 2 + seed % 12)
    order = any_schedule(problem, Random(seed))
    assert tuple(Runs(Operations.of(problem), order).bytes) == simulate(problem, order).bytes_at
