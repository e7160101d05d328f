"""Plans: their text, what they refuse, and the schedules they stand for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings

from memjax.emit.plan import (
    PLAN_VERSION,
    Fingerprint,
    Plan,
    Recomputation,
    decisions,
    fingerprint,
    plan_of_solution,
    schedule_of_plan,
)
from memjax.planning.problem import Solution
from memjax.planning.simulate import InvalidPlan
from memjax.pricing.liveness import Gap
from memjax.program.trace import trace
from tests.programs import priced_of, shape

SQUARE = shape(16, 16)


def three(x, a):
    """
    node: 0 ─ dot ── 1 ─ sin ── 2 ─ dot ── 3 ─ exp ── 4 ─ dot(3, 1) ── 5 ─ sum
    """
    y = jnp.sin(x @ a)
    return jnp.sum(jnp.exp(y @ a) @ y)


def three_priced():
    return priced_of(three, SQUARE, SQUARE)


def plan_for(priced, order, **changes):
    solution = Solution(tuple(order), "test", bound_cost=priced.problem.total_cost)
    plan = plan_of_solution(priced, solution, budget_bytes=10_000, predicted_bytes=9_000)
    return replace(plan, **changes)


ORDER = (0, 1, 2, 3, 0, 1, 4, 5)


# Schedules and back


def test_a_plan_names_eqns_and_turns_into_its_schedule_again():
    priced = three_priced()
    plan = plan_for(priced, ORDER)
    eqns = priced.eqn_of_node
    assert plan.recomputations == (Recomputation(before=eqns[4], eqns=(eqns[0], eqns[1])),)
    assert plan.program == fingerprint(priced.graph.program)
    assert (plan.budget_bytes, plan.predicted_bytes, plan.planner) == (10_000, 9_000, "test")
    costs = [n.cost for n in priced.problem.nodes]
    assert plan.overhead == pytest.approx((costs[0] + costs[1]) / sum(costs))
    assert plan.bound_overhead == 0.0
    assert schedule_of_plan(priced, plan) == ORDER


def test_an_empty_plan_is_the_identity():
    priced = three_priced()
    plan = plan_for(priced, priced.problem.identity)
    assert plan.recomputations == ()
    assert plan.overhead == 0.0
    assert schedule_of_plan(priced, plan) == priced.problem.identity


def test_a_plan_for_the_same_program_traced_again():
    plan = plan_for(three_priced(), ORDER)
    assert schedule_of_plan(three_priced(), Plan.from_json(plan.to_json())) == ORDER


def test_no_bound_is_no_number():
    priced = three_priced()
    for bound in (None, float("inf")):
        solution = Solution(ORDER, "test", bound_cost=bound)
        assert plan_of_solution(priced, solution, 1, 1).bound_overhead is None


def test_a_plan_prints_what_it_does():
    text = str(plan_for(three_priced(), ORDER))
    assert "'three'" in text
    assert "8.8 KiB predicted of 9.8 KiB" in text
    assert "2 eqns recomputed in 1 segments" in text
    assert "(test)" in text


def broken_plans():
    priced = three_priced()
    plan = plan_for(priced, ORDER)
    eqns = priced.eqn_of_node
    count = len(priced.graph.program.eqns)

    def at(before, *again):
        return replace(plan, recomputations=(Recomputation(before, again),))

    return priced, {
        "an eqn past the end": at(eqns[4], count + 5),
        "a negative eqn": at(eqns[4], -1),
        "before an eqn past the end": at(count + 5, eqns[0]),
        "before it can run": at(eqns[1], eqns[3]),
        "an eqn that must not be repeated": at(eqns[5], eqns[4], eqns[5]),
        "twice before the same eqn": replace(plan, recomputations=plan.recomputations * 2),
    }


@pytest.mark.parametrize("name", broken_plans()[1])
def test_plans_that_cannot_be_carried_out(name):
    priced, plans = broken_plans()
    with pytest.raises(InvalidPlan):
        schedule_of_plan(priced, plans[name])


def test_a_free_eqn_is_no_place():
    priced = priced_of(lambda x, a: jnp.sum((x @ a) * 2 + 1), SQUARE, SQUARE)
    free = next(i for i in range(4) if i not in priced.eqn_of_node)
    plan = plan_for(priced, priced.problem.identity)
    for wrong in (Recomputation(free, (0,)), Recomputation(priced.eqn_of_node[-1], (free,))):
        with pytest.raises(InvalidPlan, match=f"eqn {free}"):
            schedule_of_plan(priced, replace(plan, recomputations=(wrong,)))


def test_effects_keep_their_order():
    def step(x):
        jax.debug.callback(print, x, ordered=True)
        jax.debug.callback(print, 2 * x, ordered=True)
        return x

    priced = priced_of(step, SQUARE)
    order = list(priced.problem.identity)
    first, second = (i for i, n in enumerate(priced.problem.nodes) if "callback" in n.name)
    order.remove(first)
    order.append(first)
    assert order.index(second) < order.index(first)
    with pytest.raises(InvalidPlan, match="effects"):
        plan_of_solution(priced, Solution(tuple(order), "test"), 1, 1)


# JSON


numbers = st.integers(0, 10**15)
shares = st.floats(0, 100, allow_nan=False)
fingerprints = st.builds(
    Fingerprint,
    name=st.text(max_size=8),
    arguments=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    eqns=numbers,
    digest=st.text("0123456789abcdef", max_size=8),
    jax_version=st.text(max_size=8),
)
recomputations = st.builds(Recomputation, numbers, st.lists(numbers, max_size=4).map(tuple))
plans = st.builds(
    Plan,
    program=fingerprints,
    budget_bytes=numbers,
    predicted_bytes=numbers,
    recomputations=st.lists(recomputations, max_size=3).map(tuple),
    overhead=shares,
    bound_overhead=st.none() | shares,
    planner=st.text(max_size=8),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(plans)
def test_json_round_trip(plan):
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.program.jax_version == plan.program.jax_version
    assert hash(again) == hash(plan)


def example():
    return plan_for(three_priced(), ORDER)


def test_cut_off_anywhere():
    text = example().to_json()
    for end in range(0, len(text), 10):
        with pytest.raises(InvalidPlan, match="not a plan: the JSON breaks off or is damaged"):
            Plan.from_json(text[:end])


@pytest.mark.parametrize("text", ["hello", "{", "\x00", '{"memjax_plan": 1, }'])
def test_not_json(text):
    with pytest.raises(InvalidPlan, match="not a plan: the JSON breaks off or is damaged"):
        Plan.from_json(text)


@pytest.mark.parametrize("text", ["{}", "[]", "3", "null", '"memjax_plan"', '{"nodes": []}'])
def test_other_json(text):
    with pytest.raises(InvalidPlan, match="no field `memjax_plan`"):
        Plan.from_json(text)


@pytest.mark.parametrize("version", [0, PLAN_VERSION + 1, "1", "new"])
def test_other_versions(version):
    text = json.dumps({**json.loads(example().to_json()), "memjax_plan": version})
    with pytest.raises(InvalidPlan, match=rf"version {version}, this memjax reads {PLAN_VERSION}"):
        Plan.from_json(text)


@pytest.mark.parametrize("field", asdict(example()))
def test_missing_fields_are_named(field):
    content = json.loads(example().to_json())
    del content[field]
    with pytest.raises(InvalidPlan, match=f"fields are missing or unknown: {field}"):
        Plan.from_json(json.dumps(content))


def test_unknown_fields_are_named():
    content = {**json.loads(example().to_json()), "offload": []}
    with pytest.raises(InvalidPlan, match="missing or unknown: offload"):
        Plan.from_json(json.dumps(content))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("program", None),
        ("program", {"name": "f"}),
        ("program", 3),
        ("recomputations", 3),
        ("recomputations", [3]),
        ("recomputations", [{"before": "x", "eqns": []}]),
        ("recomputations", [{"before": 3}]),
        ("recomputations", [{"before": 3, "eqns": [None]}]),
        ("budget_bytes", "much"),
        ("predicted_bytes", None),
        ("overhead", []),
        ("bound_overhead", "none"),
    ],
)
def test_fields_of_another_type(field, value):
    content = {**json.loads(example().to_json()), field: value}
    with pytest.raises(InvalidPlan, match="not a plan: "):
        Plan.from_json(json.dumps(content))


# Other programs


def refusal(step, *types):
    """What is said when the plan of `three` is applied to another program."""
    with pytest.raises(InvalidPlan, match="made for another program") as caught:
        schedule_of_plan(priced_of(step, *types), example())
    return str(caught.value)


def test_another_argument_type_is_named():
    other = shape(32, 32)
    text = refusal(three, other, other)
    assert re.search(r"takes x: \S*16,16\S*, this one x: \S*32,32", text)
    text = refusal(three, shape(16, 16, dtype=jnp.bfloat16), SQUARE)
    assert "bf16" in text or "bfloat16" in text


def test_another_argument_name_is_named():
    def renamed(x, weight):
        return three(x, weight)

    renamed.__name__ = "three"
    assert "takes a: " in refusal(renamed, SQUARE, SQUARE)


def test_another_count_of_arguments_is_named():
    def more(x, a, b):
        return three(x, a) + jnp.sum(b)

    assert "takes 2 arrays, this one 3" in refusal(more, SQUARE, SQUARE, SQUARE)


def test_another_count_of_eqns_is_named():
    def longer(x, a):
        return three(x, a) + 1

    text = refusal(longer, SQUARE, SQUARE)
    mine = len(three_priced().graph.program.eqns)
    assert f"has {mine} eqns, this one {mine + 1}" in text


def test_other_eqns_are_noticed():
    def other(x, a):
        y = jnp.cos(x @ a)
        return jnp.sum(jnp.exp(y @ a) @ y)

    assert "this is 'other' with other eqns" in refusal(other, SQUARE, SQUARE)


def test_another_order_of_operands_is_noticed():
    def other(x, a):
        y = jnp.sin(x @ a)
        return jnp.sum(y @ jnp.exp(y @ a))

    assert "with other eqns" in refusal(other, SQUARE, SQUARE)


def test_another_jax_version_explains_the_difference():
    priced = three_priced()
    plan = example()
    older = replace(plan.program, digest="0", jax_version="0.1.2")
    with pytest.raises(InvalidPlan, match=r"traced by jax 0\.1\.2, this one by"):
        schedule_of_plan(priced, replace(plan, program=older))


def test_another_jax_version_alone_is_no_difference():
    priced = three_priced()
    plan = example()
    program = replace(plan.program, jax_version="0.1.2")
    assert schedule_of_plan(priced, replace(plan, program=program)) == ORDER


SCRIPT = """
import jax.numpy as jnp
from memjax.emit.fingerprint import fingerprint
from tests.programs import shape
from memjax.program.trace import trace

def three(x, a):
    y = jnp.sin(x @ a)
    return jnp.sum(jnp.exp(y @ a) @ y)

print(fingerprint(trace(three, (shape(16, 16), shape(16, 16)))).digest)
"""


def test_fingerprints_are_the_same_in_every_process():
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert printed.stdout.split()[-1] == fingerprint(trace(three, (SQUARE, SQUARE))).digest


# Decisions


def test_decisions_by_gap():
    """`y`, written by eqn 1, is read by eqns 2 and 4; `exp` and the rest have no gap."""
    priced = three_priced()
    y = priced.graph.program.eqns[1].outputs[0]
    gap = Gap(y, 3, 4)
    assert decisions(priced, priced.problem.identity) == {gap: "keep"}
    assert decisions(priced, ORDER) == {gap: "recompute"}


def test_decisions_are_for_the_gap_in_which_it_is_recomputed():
    """
    0: y = x a ─ 1: y a ─ 2: · a ─ 3: · y ─ 4: · a ─ 5: · y ─ sum
    """

    def step(x, a):
        y = x @ a
        return jnp.sum(y @ a @ a @ y @ a @ y)

    priced = priced_of(step, SQUARE, SQUARE)
    y = priced.graph.program.eqns[0].outputs[0]
    first, second = Gap(y, 2, 3), Gap(y, 4, 5)
    assert decisions(priced, (0, 1, 2, 3, 4, 5, 6)) == {first: "keep", second: "keep"}
    assert decisions(priced, (0, 1, 2, 0, 3, 4, 5, 6)) == {first: "recompute", second: "keep"}
    assert decisions(priced, (0, 1, 2, 3, 4, 0, 5, 6)) == {first: "keep", second: "recompute"}


def test_results_and_arguments_have_no_decision():
    def step(x, a):
        y = x @ a
        return y, jnp.sum(a @ a @ a @ y)

    priced = priced_of(step, SQUARE, SQUARE)
    y = priced.graph.program.results[0]
    assert not any(gap.value == y for gap in decisions(priced, priced.problem.identity))
