"""Moves of single nodes against the simulator."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from oracle import random_problem

from memjax.planning.planners.orders import Orders
from memjax.planning.simulate import simulate


def without_in_place(problem):
    return replace(problem, nodes=tuple(replace(n, in_place=()) for n in problem.nodes))


def excess(problem, order, target):
    return sum(max(0, b - target) for b in simulate(problem, order).bytes_at)


@pytest.mark.parametrize("seed", range(60))
def test_bytes_after_moves_are_the_simulators(seed):
    problem = without_in_place(random_problem(seed, 1 + seed % 15))
    orders, random = Orders(problem), Random(seed)
    target = random.randint(0, simulate(problem, orders.order).peak_bytes)
    for _ in range(25):
        node = random.randrange(orders.count)
        source, (low, high) = orders.place[node], orders._window(node)
        adds = orders._adds[np.array(orders.order)]
        changes = orders._changes(source, low, high, adds, target, orders._ends_of(node))
        goal, before = random.randint(low, high), excess(problem, orders.order, target)
        if goal != source:
            window, held = orders._moved(source, goal, orders._ends_of(node))
            orders.held[window] = held
            orders._shift(source, goal)
        at = orders.held[:-1] + orders._adds[orders.order]
        assert tuple(at) == simulate(problem, orders.order).bytes_at
        assert changes[goal - low] == excess(problem, orders.order, target) - before
        assert [orders.order[p] for p in orders.place] == list(range(orders.count))


def test_finds_the_order_of_two_branches():
    # Two branches make 9 bytes each and shrink them to 1. In the given order both are large at
    # once (9 + 9 + 1); one after the other it is 9 + 1 + 1.
    from memjax.planning.problem import Node, Problem

    nodes = (
        Node(1.0, (), (0,)),
        Node(1.0, (), (1,)),
        Node(1.0, (0,), (2,)),
        Node(1.0, (1,), (3,)),
        Node(1.0, (2, 3), (4,)),
    )
    problem = Problem(nodes, (9, 9, 1, 1, 1))
    order = Orders(problem).anneal(11, 500, 1.0, 0)
    assert simulate(problem, range(5)).peak_bytes == 19
    assert simulate(problem, order).peak_bytes == 11
