"""What compiled programs show, and that problems go by it."""

from __future__ import annotations

import random
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import _compat
from memjax.emit.compile import Footprint, Measured, OutOfMemory, refused_bytes
from memjax.emit.rewrite import rewrite
from memjax.fitting.attempts import AS_IT_IS, BudgetInfeasible
from memjax.fitting.fit import find_floor, fit
from memjax.fitting.learning import learn_from, unexplained_bytes
from memjax.planning.simulate import simulate
from memjax.pricing.backends import Backend
from memjax.pricing.learnt import NOTHING, Learnt
from memjax.pricing.liveness import liveness
from memjax.pricing.segments import segments
from memjax.program import primitives
from memjax.program.trace import trace
from memjax.xla.held import reading_of
from memjax.xla.learn import learn
from tests.programs import mlp, shape
from tests.test_fit import QUICK, loop_for

REFUSED = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries (27.97G) exceeds available HBM (15.75G). HLO module: jit_f."
)


def chain(x):
    """sort(x) = a ─ sin(b) ─ sort(c) ─ cos(d) ─ add ─ sum
    └─────────────────────────┘
    """
    b = jnp.sin(jax.lax.sort(x))
    return jnp.sum(jnp.cos(jax.lax.sort(b)) + b)


CHAIN = trace(chain, (shape(256, 256),))


def value(primitive, number=0):
    eqns = [e for e in CHAIN.eqns if e.primitive == primitive]
    return eqns[number].outputs[0]


def seen_of(program):
    types = [_compat.struct(program.avals[v]) for v in program.arguments]
    function = _compat.as_function(program.jaxpr, program.name)
    compiled = jax.jit(function).lower(*types).compile()
    reading = reading_of(compiled)
    return learn(reading, program, base_bytes=7), reading


def test_what_a_chain_stores():
    """Both sorted arrays and the sine, which a sort reads; the cosine is part of the sum."""
    found, reading = seen_of(CHAIN)
    stored = {value("sort"), value("sort", 1), value("sin")}
    assert found.bytes.keys() >= stored
    assert {found.bytes[v] for v in stored} == {256 * 256 * 4}
    assert value("sort", 1) in found.stored
    assert found.free & {value("cos"), value("add")}  # jax 0.10.2 stores the one, and not the other
    assert not found.free & stored
    assert found.base_bytes == 7
    assert reading.held.fragmentation_bytes < 2**16


def test_newer_facts_win():
    old = Learnt(frozenset({1, 2}), frozenset({3, 4}), bytes={1: 10, 2: 20}, base_bytes=5)
    new = Learnt(frozenset({3}), frozenset({2}), bytes={3: 30, 1: 11})
    both = old.updated(new)
    assert both.stored == {1, 3}
    assert both.free == {2, 4}
    assert both.bytes == {1: 11, 2: 20, 3: 30}
    assert both.base_bytes == 5
    # Value 1 is stored by the rules anyway, and 4 free.
    kept = both.against([False, False, False, True, True])
    assert (kept.stored, kept.free) == ({3}, {2})
    assert NOTHING.updated(new) == new


def test_rules_are_overruled_within_limits():
    rules = liveness(CHAIN).free
    sine, cosine, sort = value("sin"), value("cos"), value("sort")
    assert (rules[sine], rules[cosine], rules[sort]) == (False, True, False)
    free = liveness(CHAIN, Learnt(free=frozenset({sine, sort}))).free
    assert free[sine]
    assert not free[sort]  # two eqns read it in the end: it would run twice
    stored = liveness(CHAIN, Learnt(stored=frozenset({cosine}))).free
    assert not stored[cosine]
    alone = trace(lambda x, w: jnp.sum(jnp.cos(x @ w)), (shape(8, 8), shape(8, 8)))
    dot = alone.eqns[0].outputs[0]
    assert liveness(alone, Learnt(free=frozenset({dot}))).free[dot]


def test_structural_values_and_results_keep_their_rules():
    step = trace(lambda x: (jnp.sin(x).T, jnp.cos(x)), (shape(8, 4),))
    everything = frozenset(v for e in step.eqns for v in e.outputs)
    for learnt in (Learnt(free=everything), Learnt(stored=everything)):
        free = liveness(step, learnt).free
        assert not any(free[r] for r in step.result_values)
    transposed = trace(lambda x: jnp.sum(jnp.sin(x).T @ x), (shape(8, 4),))
    turned = next(e for e in transposed.eqns if e.primitive in primitives.STRUCTURAL)
    learnt = Learnt(stored=frozenset(turned.outputs))
    assert liveness(transposed, learnt).free[turned.outputs[0]]


def test_bytes_workspace_and_place_are_those_that_were_seen():
    loop = loop_for(QUICK)
    before = loop.prepared
    node = next(n for n, x in enumerate(before.problem.nodes) if x.name == "dot_general")
    written = before.value_of[before.problem.nodes[node].outputs[0]]
    loop.know(Learnt(bytes={written: 123}, workspace={written: 45}, base_bytes=1000))
    after = loop.prepared.problem
    assert after.base_bytes == 1000
    assert after.value_bytes[after.nodes[node].outputs[0]] == 123
    assert after.nodes[node].workspace_bytes == 45
    same = [n.recomputable for n in before.problem.nodes]
    assert [n.recomputable for n in after.nodes] == same


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_learnt_a_program_computes_the_same(seed):
    dice = random.Random(seed)
    step, weights, x = mlp(layers=3, width=16, batch=8)
    arguments = jax.tree.map(
        lambda s: jnp.asarray(np.random.default_rng(seed).standard_normal(s.shape), s.dtype),
        (weights, x),
    )
    program = trace(step, arguments)
    values = [v for e in program.eqns for v in e.outputs]
    chosen = {v: dice.choice(("free", "stored", "rule")) for v in values}
    learnt = Learnt(
        frozenset(v for v in values if chosen[v] == "stored"),
        frozenset(v for v in values if chosen[v] == "free"),
    )
    loop = replace_program(loop_for(QUICK), program)
    priced = loop.coarsen(program, learnt=learnt)
    problem = priced.problem
    again = [n for n in problem.identity if problem.nodes[n].recomputable][:4]
    last = problem.identity[-1]
    order = (*problem.identity[:-1], *again, last)
    simulate(problem, order)
    assert any(part.barrier for part in segments(priced, order))
    expected = jax.tree.leaves(step(*arguments))
    flat = jax.tree.leaves(arguments)
    for got, want in zip(rewrite(priced, order)(*flat), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def replace_program(loop, program):
    types = tuple(_compat.struct(program.avals[v]) for v in program.arguments)
    target = replace(loop.target, arguments=types, donated=())
    return replace(loop, program=program, target=target, donations=())


def without_schedules(loop):
    """A loop for a backend whose own schedule is that of plans, as on GPU and TPU."""
    target = replace(loop.target, backend=Backend("other", may_drop_barriers=True))
    return replace(loop, target=target)


def test_a_wrong_prediction_is_corrected_by_the_program_as_it_is(monkeypatch):
    """Everything is believed to take ten times its bytes; one compilation tells."""
    loop = without_schedules(loop_for(QUICK))
    loop.pricer = replace(loop.pricer, scale=10.0)
    attempt = loop.compile_as_it_is(2**30)
    held = attempt.total_bytes
    assert attempt.plan.predicted_bytes > 2 * held
    assert learn_from(loop, attempt)
    assert abs(unexplained_bytes(loop, attempt)) < 0.25 * held
    assert not learn_from(loop, attempt)  # nothing is left to be learnt of it


def test_on_cpu_a_breadth_first_schedule_shows_nothing():
    loop = loop_for(QUICK)
    loop.pricer = replace(loop.pricer, scale=10.0)
    assert not learn_from(loop, loop.compile_as_it_is(2**30))
    assert loop.learnt == NOTHING


def test_a_plan_that_was_made_with_knowledge_is_carried_out_without():
    """In another process, which has compiled nothing."""
    loop = without_schedules(loop_for(QUICK))
    program = loop.prepared_program
    elementwise = [e.outputs[0] for e in program.eqns if e.primitive in primitives.COSTLY]
    loop.know(Learnt(free=frozenset(elementwise)).against(liveness(program).free))
    plan, _ = loop.solve(0, 0)
    assert plan.free
    assert plan.changes_anything
    other = without_schedules(loop_for(QUICK))
    again = other.compile(type(plan).from_json(plan.to_json()), "again")
    assert again.total_bytes == loop.compile(plan, "first").total_bytes


def test_bytes_of_a_refusal():
    assert refused_bytes(REFUSED) == int(27.97 * 2**30)
    assert refused_bytes(REFUSED.replace("27.97G", "900.5M")) == int(900.5 * 2**20)
    assert refused_bytes("INTERNAL: something else (27.97G)") is None


def refusing(above_bytes):
    """A compiler that refuses what takes more."""
    from memjax.fitting import closed_loop

    compile_step = closed_loop.compile_step

    def compiled(*args, **kwargs):
        step = compile_step(*args, **kwargs)
        held = step.measured.footprint
        if held.total_bytes <= above_bytes:
            return step
        refused = Footprint(held.argument_bytes, 0, 0, held.temp_bytes)
        raise OutOfMemory(REFUSED, Measured(refused, 0.0, 0.1, {}))

    return compiled


def test_what_xla_refuses_is_a_measurement(monkeypatch):
    plain = fit(loop_for(QUICK), 2**40).chosen.total_bytes
    monkeypatch.setattr("memjax.fitting.closed_loop.compile_step", refusing(plain - 1))
    loop = loop_for(QUICK)
    fitted = fit(loop, int(0.9 * plain))
    assert fitted.attempts[0].purpose == AS_IT_IS
    assert not fitted.attempts[0].runs
    assert fitted.chosen.runs
    assert fitted.chosen.total_bytes <= 0.9 * plain
    # A budget beyond the device does not make a program run that XLA refuses.
    assert fit(loop_for(QUICK), 2**40).chosen.total_bytes < plain


def test_where_xla_refuses_everything_the_error_says_so(monkeypatch):
    monkeypatch.setattr("memjax.fitting.closed_loop.compile_step", refusing(0))
    with pytest.raises(OutOfMemory, match="more than the device has"):
        find_floor(loop_for(QUICK))


def test_a_floor_of_what_is_not_refused(monkeypatch):
    floor = find_floor(loop_for(QUICK)).chosen.total_bytes
    monkeypatch.setattr("memjax.fitting.closed_loop.compile_step", refusing(floor))
    assert find_floor(loop_for(QUICK)).chosen.total_bytes == floor
    with pytest.raises(BudgetInfeasible) as caught:
        fit(loop_for(QUICK), floor // 2)
    assert caught.value.floor_bytes == floor


def test_silent_backends_teach_nothing(monkeypatch):
    loop = without_schedules(loop_for(QUICK))
    loop.pricer = replace(loop.pricer, scale=10.0)
    attempt = loop.compile_as_it_is(2**30)
    monkeypatch.setattr("memjax.fitting.learning.reading_of", lambda compiled: None)
    assert not learn_from(loop, attempt)
    assert loop.learnt == NOTHING
