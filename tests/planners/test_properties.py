"""What every planner promises, judged by the simulator on random problems.

Problems are drawn by hypothesis through seeds: `random_problem` uses everything that a
`Problem` can say, the generators of the benchmark are the larger ones.
"""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, assume, example, given, settings, strategies as st
from oracle import cheapest, random_problem

from memjax.planning.planners import (
    AutoPlanner,
    ExactPlanner,
    ReorderPlanner,
    frontier,
    get_planner,
)
from memjax.planning.planners.incremental import Schedule
from memjax.planning.planners.lowering import Lowering
from memjax.planning.planners.relaxation import relax
from memjax.planning.planners.seeds import runs_of
from memjax.planning.problem import Node, Problem, Solution
from memjax.planning.simulate import simulate

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
graphs = pytest.importorskip("graphs")

QUICK = AutoPlanner(work=1_500, rounds=1, tries=0, turns=0)
QUICK_FREE = ReorderPlanner(moves=30, starts=1, turns=1)
MANY = settings(
    max_examples=700, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
SOME = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
SEEDS = st.integers(0, 10**9)
SHARES = st.sampled_from((0.97, 0.9, 0.8, 0.7, 0.6, 0.4))
BETWEEN = st.sampled_from((0.0, 0.3, 0.6, 0.9))


def peak_of(problem):
    return simulate(problem, Solution.identity(problem)).peak_bytes


def folded_problem(seed, nodes, share):
    """A problem that recomputation can make smaller, and a budget: between what its largest node
    needs (share 0) and its peak (share 1).
    """
    problem = random_problem(seed, nodes, plain=seed % 2 == 0, folded=True)
    floor, peak = problem.single_node_floor_bytes, peak_of(problem)
    return problem, int(floor + share * (peak - floor))


def check(problem, budget, solution):
    """Valid, met as it says, and above its own bound."""
    timeline = simulate(problem, solution)
    assert solution.met == (timeline.peak_bytes <= budget)
    assert timeline.overhead >= 0
    if solution.met:
        assert solution.bound_cost <= timeline.cost * (1 + 1e-9) + 1e-9
    first = list(dict.fromkeys(solution.order))
    assert solution.reordered or first == sorted(first)
    return timeline


@MANY
@given(seed=SEEDS, nodes=st.integers(0, 14), share=SHARES)
def test_default_plans_are_valid_and_as_claimed(seed, nodes, share):
    problem = random_problem(seed, nodes, plain=seed % 4 == 0)
    budget = int(share * peak_of(problem))
    check(problem, budget, QUICK.solve(problem, budget))


@SOME
@given(seed=SEEDS, nodes=st.integers(1, 10), share=SHARES)
@example(seed=1, nodes=9, share=0.9)
@example(seed=5, nodes=5, share=0.97)
def test_reordered_plans_are_valid(seed, nodes, share):
    problem = random_problem(seed, nodes, plain=seed % 2 == 0)
    budget = int(share * peak_of(problem))
    check(problem, budget, QUICK_FREE.solve(problem, budget))


@settings(SOME, max_examples=15)
@given(seed=SEEDS, nodes=st.integers(5, 8), share=BETWEEN)
def test_reordered_plans_are_no_dearer(seed, nodes, share):
    problem, budget = folded_problem(seed, nodes, share)
    fixed = AutoPlanner().solve(problem, budget)
    assume(fixed.met and len(fixed.order) > nodes)
    timeline = check(problem, budget, QUICK_FREE.solve(problem, budget))
    assert timeline.cost <= simulate(problem, fixed).cost + 1e-9


@settings(SOME, max_examples=100)
@given(seed=SEEDS, nodes=st.integers(5, 7), share=BETWEEN)
def test_exact_is_never_beaten(seed, nodes, share):
    problem, budget = folded_problem(seed, nodes, share)
    default = QUICK.solve(problem, budget)
    assume(default.met and len(default.order) > nodes)
    exact = ExactPlanner().solve(problem, budget)
    assert exact.met
    assert simulate(problem, exact).cost <= simulate(problem, default).cost + 1e-6


@settings(SOME, max_examples=100)
@given(seed=SEEDS, nodes=st.integers(5, 7), share=BETWEEN, data=st.data())
def test_bounds_and_relaxations_at_any_stages_are_bounds(seed, nodes, share, data):
    problem, budget = folded_problem(seed, nodes, share)
    least = cheapest(problem, budget, stage_form=False)
    assume(least is not None and least > problem.total_cost)
    assert QUICK.solve(problem, budget).bound_cost <= least + 1e-6
    stages = data.draw(st.sets(st.integers(0, nodes - 1), min_size=1))
    relaxed = relax(problem, budget, sorted(stages))
    assert problem.total_cost + relaxed.extra_cost <= least + 1e-6


@settings(SOME, max_examples=100)
@given(seed=SEEDS, nodes=st.integers(1, 7), share=SHARES)
def test_what_no_schedule_meets_no_planner_meets(seed, nodes, share):
    problem = random_problem(seed, nodes, plain=seed % 3 == 0)
    budget = int(share * peak_of(problem))
    assume(cheapest(problem, budget, stage_form=False) is None)
    assert not QUICK.solve(problem, budget).met
    assert not ExactPlanner().solve(problem, budget).met


@settings(SOME, max_examples=30)
@given(seed=SEEDS, nodes=st.integers(5, 12))
def test_frontier_is_monotone(seed, nodes):
    budgets = []
    for share in (0.1, 1.0, 0.8, 0.4, 0.6, 0.2):
        problem, budget = folded_problem(seed, nodes, share)
        budgets.append(budget)
    solutions = frontier(problem, budgets, QUICK)
    rows = sorted(zip(budgets, solutions, strict=True), key=lambda row: -row[0])
    costs = [check(problem, b, s).cost if s.met else math.inf for b, s in rows]
    assume(len({cost for cost in costs if cost < math.inf}) > 1)
    assert costs == sorted(costs)
    bounds = [s.bound_cost for _, s in rows]
    assert bounds == sorted(bounds)


def relabelled(problem, seed):
    """The same problem in the same order, with other value ids."""
    ids = list(range(len(problem.value_bytes)))
    Random(seed).shuffle(ids)
    value_bytes = [0] * len(ids)
    for old, new in enumerate(ids):
        value_bytes[new] = problem.value_bytes[old]

    def renamed(values):
        return tuple(ids[v] for v in values)

    nodes = tuple(
        replace(
            n,
            inputs=renamed(n.inputs),
            outputs=renamed(n.outputs),
            in_place=renamed(n.in_place),
            name=f"x{i}",
        )
        for i, n in enumerate(problem.nodes)
    )
    return Problem(nodes, tuple(value_bytes), renamed(problem.outputs), problem.base_bytes)


@settings(SOME, max_examples=150)
@given(seed=SEEDS, nodes=st.integers(1, 14), share=SHARES)
def test_labels_do_not_matter(seed, nodes, share):
    problem = random_problem(seed, nodes, plain=seed % 3 == 0)
    other = relabelled(problem, seed)
    budget = int(share * peak_of(problem))
    assert peak_of(other) == peak_of(problem)
    first, second = QUICK.solve(problem, budget), QUICK.solve(other, budget)
    assert simulate(problem, first).cost == simulate(other, second).cost
    assert first.order == second.order


@settings(SOME, max_examples=300)
@given(seed=SEEDS, nodes=st.integers(1, 14), changes=st.integers(0, 30))
def test_incremental_bytes_are_the_simulators(seed, nodes, changes):
    problem = random_problem(seed, nodes)
    random, schedule = Random(seed), Schedule(problem)
    for _ in range(changes):
        stage = random.randrange(nodes)
        free = [
            v
            for v in range(stage)
            if problem.nodes[v].recomputable and v not in schedule.stages[stage]
        ]
        present = schedule.extra_runs()
        if present and random.random() < 0.4:
            taken = random.choice(present)
            schedule.remove(taken[1], taken[0])
        elif free:
            schedule.add(random.choice(free), stage)
        timeline = simulate(problem, schedule.order())
        at = iter(timeline.bytes_at)
        assert list(schedule.peaks) == [max(next(at) for _ in row) for row in schedule.stages]
        assert schedule.cost == pytest.approx(timeline.cost)
    assert Schedule.runs_in(schedule.order()) == schedule.extra_runs()


SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:]
from oracle import random_problem
from memjax.planning.planners import AutoPlanner, ReorderPlanner
from memjax.planning.simulate import simulate
for seed in range(4):
    problem = random_problem(seed, 14, plain=True)
    budget = int(0.8 * simulate(problem, range(14)).peak_bytes)
    print(AutoPlanner(work=1500).solve(problem, budget))
    print(ReorderPlanner(moves=15, starts=2, turns=1).solve(problem, budget))
"""


def test_same_answer_in_every_process_and_under_every_hash_seed():
    import memjax

    paths = [str(Path(__file__).parent), str(Path(memjax.__file__).parents[1])]

    def answer(hash_seed):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", SCRIPT, *paths]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    first = answer("0")
    assert first
    assert first == answer("4242")


def test_an_empty_problem_and_an_ample_budget_are_the_identity():
    assert AutoPlanner().solve(Problem((), ()), 0).order == ()
    assert ReorderPlanner().solve(Problem((), ()), 0).order == ()
    problem = random_problem(1, 9)
    solution = AutoPlanner().solve(problem, peak_of(problem))
    assert solution.order == tuple(range(9))
    assert solution.bound_cost == problem.total_cost


@pytest.mark.parametrize("planner", [AutoPlanner(), ReorderPlanner()])
def test_below_the_floor_no_schedule_exists_in_any_order(planner):
    problem = random_problem(3, 12, plain=True)
    solution = planner.solve(problem, problem.single_node_floor_bytes - 1)
    assert not solution.met
    assert solution.bound_cost == math.inf


def test_nothing_is_searched_where_no_schedule_is_lower():
    chain = [Node(1.0, (i - 1,) if i else (), (i,)) for i in range(8)]
    problem = Problem(tuple(chain), (1,) * 8, (7,))
    assert peak_of(problem) == problem.single_node_floor_bytes
    solution = AutoPlanner().solve(problem, 0)
    assert (solution.order, solution.met, solution.iterations) == (problem.identity, False, 0)


@settings(SOME, max_examples=60)
@given(seed=SEEDS, nodes=st.integers(6, 11))
def test_near_the_floor_a_budget_is_met_where_it_can_be(seed, nodes):
    problem = random_problem(seed, nodes, plain=True)
    budget = int(1.15 * problem.single_node_floor_bytes)
    exact, default = ExactPlanner().solve(problem, budget), AutoPlanner().solve(problem, budget)
    assert default.met == exact.met
    check(problem, budget, default)


def random_schedule(problem, random):
    """Values given up at a random stage, made again where they are needed."""
    stage = random.randrange(len(problem.nodes) // 4, len(problem.nodes) * 3 // 4)
    made = [v for v, p in enumerate(problem.producer) if 0 <= p < stage]
    gone = frozenset(v for v in made if random.random() < 0.4)
    schedule = Schedule(problem)
    for at, node in runs_of(problem, [stage], [gone]):
        schedule.add(node, at)
    return schedule.order()


@pytest.mark.parametrize("seed", range(6))
def test_a_budget_that_a_random_schedule_meets_is_met(seed):
    problem, random = graphs.train_step(60, seed), Random(seed)
    schedules = [random_schedule(problem, random) for _ in range(40)]
    timelines = [simulate(problem, order) for order in schedules]
    best = min(timelines, key=lambda t: t.peak_bytes)
    assert best.peak_bytes < peak_of(problem)
    timeline = check(problem, best.peak_bytes, AutoPlanner().solve(problem, best.peak_bytes))
    assert timeline.peak_bytes <= best.peak_bytes
    assert timeline.cost <= best.cost


def chain(length, seed):
    """A forward chain and its backward: each gradient reads the one before and a forward value."""
    random = Random(seed)
    nodes = [Node(1.0 + i % 5, (i - 1,) if i else (), (i,)) for i in range(length)]
    for k in range(length):
        saved = (length - 2 - k,) if k < length - 1 else ()
        nodes.append(Node(2.0, (length + k - 1, *saved), (length + k,)))
    return Problem(tuple(nodes), tuple(random.randint(50, 100) for _ in nodes))


@pytest.mark.parametrize("length", [6, 12, 33])
@pytest.mark.parametrize("factor", [1.0, 1.15])
def test_a_chain_fits_wherever_making_all_values_again_does(length, factor):
    # Before each gradient the forward chain runs again from its start: a plan that holds
    # hardly more than the node that needs most, and costs the square of the length.
    problem = chain(length, length)
    known = list(range(length))
    for gradient in range(length):
        known += [*range(max(0, length - 1 - gradient)), length + gradient]
    least = simulate(problem, known)
    budget = int(max(least.peak_bytes, factor * problem.single_node_floor_bytes))
    assert least.peak_bytes < 1.15 * problem.single_node_floor_bytes
    timeline = check(problem, budget, AutoPlanner(work=20_000).solve(problem, budget))
    assert timeline.peak_bytes <= budget
    assert timeline.cost <= least.cost


@pytest.mark.parametrize("seed", range(3))
def test_a_budget_that_the_planner_reaches_for_none_is_met(seed):
    problem = graphs.random_layered(30, seed)
    lowest = simulate(problem, AutoPlanner().solve(problem, 0)).peak_bytes
    assert lowest < peak_of(problem)
    for share in (0.0, 0.3, 0.6):
        budget = int(lowest + share * (peak_of(problem) - lowest))
        assert check(problem, budget, AutoPlanner().solve(problem, budget)).peak_bytes <= budget


def test_two_recomputations_that_share_an_input_are_taken_together():
    problem = graphs.random_layered(40, 0)
    budget = int(0.81 * peak_of(problem))
    assert check(problem, budget, AutoPlanner().solve(problem, budget)).peak_bytes <= budget


@pytest.mark.parametrize("fixed", [True, False])
def test_a_lowering_keeps_what_is_computed(fixed):
    problem = graphs.random_layered(60, 1)
    budget = int(0.75 * peak_of(problem))
    peaks = []
    for order in Lowering(problem, budget, fixed).turns(range(60), peak_of(problem), 8):
        peaks.append(simulate(problem, order).peak_bytes)  # raises where a read finds nothing
        first = list(dict.fromkeys(order))
        assert sorted(first) == list(range(60))
        assert not fixed or first == list(range(60))
    assert min(peaks) < 0.85 * peak_of(problem)


def test_planners_by_name():
    assert get_planner("auto") == AutoPlanner()
    assert get_planner(QUICK) is QUICK
    with pytest.raises(ValueError, match="'auto', 'exact', 'reorder'"):
        get_planner("best")


def test_a_chain_is_recomputed_from_its_start():
    # a ▶ b ▶ c ▶ d ▶ e, then c, b and a are read again. While d (8 bytes) is there, 12 bytes
    # leave room for c alone, and while e is, too, not even for that.
    nodes = (
        Node(1.0, (), (0,), name="a"),
        Node(1.0, (0,), (1,), name="b"),
        Node(1.0, (1,), (2,), name="c"),
        Node(9.0, (2,), (3,), name="d"),
        Node(9.0, (3,), (4,), name="e"),
        Node(1.0, (2, 4), (5,), name="read c"),
        Node(1.0, (1, 5), (6,), name="read b"),
        Node(1.0, (0, 6), (7,), name="read a"),
    )
    problem = Problem(nodes, (1, 4, 4, 8, 1, 1, 1, 1))
    solution = AutoPlanner().solve(problem, 12)
    assert solution.order == (0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7)
    assert solution.met
