"""What nobody reads is gone before a step is planned, in loops, branches and calls as well."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memjax
from memjax import _compat
from memjax.program.dead import without_dead_work
from memjax.program.trace import trace
from tests.programs import primitives_of, run_program, shape

W, X = jnp.eye(64) + 0.1, jnp.ones((256, 64))


def stacked(h, w, with_dead):
    """A scan that stacks what nobody reads, and a carry that feeds only that."""

    def body(carry, _):
        h, extra = carry
        return (jnp.tanh(h @ w), jnp.cos(extra)), (h, extra) if with_dead else None

    return jax.lax.scan(body, (h, h if with_dead else 0.0), None, length=6)[0][0]


def while_carry(h, w, with_dead):
    """A `while` whose last carry feeds itself alone."""

    def body(carry):
        i, h, extra = carry
        return i + 1, jnp.tanh(h @ w), jnp.sin(extra @ w) + h if with_dead else extra

    start = 0, h, h * 2 if with_dead else 0.0
    return jax.lax.while_loop(lambda c: c[0] < 6, body, start)[1]


def branch(h, w, with_dead):
    def one(h):
        return jnp.tanh(h @ w), jnp.outer(h.ravel()[:2048], h.ravel()[:1024]) if with_dead else 0.0

    def other(h):
        return h, jnp.zeros((2048, 1024)) if with_dead else 0.0

    return jax.lax.cond(h[0, 0] > 0, one, other, h)[0]


def called(h, w, with_dead):
    """A nested jit that stays a call, as it sets shardings."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def inner(h, w):
        extra = jnp.outer(h.ravel()[:2048], h.ravel()[:1024]) if with_dead else 0.0
        return jnp.tanh(h @ w), extra

    return jax.jit(inner, in_shardings=device, out_shardings=device)(h, w)[0]


def checkpointed(h, w, with_dead):
    @jax.checkpoint
    def block(h, w):
        extra = jnp.outer(h.ravel()[:2048], h.ravel()[:1024]) if with_dead else 0.0
        return jnp.tanh(h @ w), jnp.cos(extra)

    return block(h, w)[0]


def mapped(h, w, with_dead):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")

    def inner(h, w):
        extra = jax.lax.psum(jnp.outer(h.ravel()[:2048], h.ravel()[:1024]), "i")
        return jnp.tanh(h @ w), extra[None] if with_dead else jnp.zeros(1)

    whole = jax.sharding.PartitionSpec()
    return jax.shard_map(inner, mesh=mesh, in_specs=(spec, whole), out_specs=(spec, spec))(h, w)[0]


@jax.custom_vjp
def custom(h, w):
    return jnp.tanh(h @ w), jnp.outer(h.ravel()[:2048], h.ravel()[:1024])


custom.defvjp(lambda h, w: (custom(h, w), (h, w)), lambda saved, g: (g[0] @ saved[1].T, saved[1]))


def customized(h, w, with_dead):
    return custom(h, w)[0]


def nested(h, w, with_dead):
    """A scan of scans: the inner stack is handed on by the outer one, which nobody reads."""

    def body(h, _):
        def inner(h, _):
            return jnp.tanh(h @ w), h if with_dead else None

        return jax.lax.scan(inner, h, None, length=3)

    return jax.lax.scan(body, h, None, length=3)[0]


MAKERS = [stacked, while_carry, branch, called, checkpointed, mapped, customized, nested]


def step_of(make, with_dead):
    def step(w, x):
        return jnp.sum(make(jnp.tanh(x @ w), w, with_dead) ** 2)

    return step


def differentiated(make, with_dead):
    value = step_of(make, with_dead)
    return lambda w, x: w - 0.1 * jax.grad(value)(w, x)


def temp_and_prediction(step):
    report = memjax.memory_budget("1GiB")(step).report(W, X)
    return report.compiled.total_bytes, report.plan.predicted_bytes


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("build", [step_of, differentiated])
def test_dead_work_is_neither_planned_nor_held(make, build):
    if make is while_carry and build is differentiated:
        pytest.skip("a while cannot be differentiated")
    held, predicted = temp_and_prediction(build(make, True))
    held_without, predicted_without = temp_and_prediction(build(make, False))
    assert held <= held_without
    assert predicted <= predicted_without


@pytest.mark.parametrize("make", MAKERS)
def test_the_numbers_stay(make):
    step = step_of(make, True)
    program = trace(step, (W, X))
    (result,) = run_program(program, W, X)
    np.testing.assert_allclose(result, jax.jit(step)(W, X), rtol=1e-5)
    assert len(program.arguments) == 2


def operand_counts(step, *types):
    return [(e.primitive, len(e.inputs), len(e.outputs)) for e in trace(step, types).eqns]


S = shape(4)


def test_a_carry_that_only_feeds_a_dead_output_is_dead():
    def step(x, y, z):
        def body(carry, z):
            a, b = carry
            return (jnp.sin(a), b * z), b

        return jax.lax.scan(body, (x, y), z)[0][0]

    assert operand_counts(step, S, S, shape(3, 4)) == [("scan", 1, 1)]


def test_carries_of_a_while_that_feed_one_another_are_dead():
    """
    0 ─▶ a ─▶ a   read after the loop
    1 ─▶ b ─▶ c   dead: b and c feed each other
    2 ─▶ c ─▶ b
    """

    def step(a, b, c):
        def body(carry):
            i, a, b, c = carry
            return i + 1, jnp.sin(a), c * 2, b * 3

        return jax.lax.while_loop(lambda s: s[0] < 3, body, (0, a, jnp.cos(b), jnp.tan(c)))[1]

    assert operand_counts(step, S, S, S) == [("while", 2, 2)]


def test_a_carry_that_the_condition_or_another_carry_reads_stays():
    def step(a, b, c):
        def body(carry):
            a, b, c = carry
            return a + b, b * 2, c - 1

        return jax.lax.while_loop(lambda s: s[2][0] > 0, body, (a, b, c))[0]

    assert operand_counts(step, S, S, S) == [("while", 3, 3)]


def test_constants_of_what_is_dead_in_a_while_go_with_it():
    def step(a, b, c):
        def body(carry):
            i, a, b = carry
            return i + 1, jnp.sin(a), b * c

        return jax.lax.while_loop(lambda s: s[0] < 3, body, (0, a, b))[1]

    assert operand_counts(step, S, S, S) == [("while", 2, 2)]


def test_a_while_within_a_while():
    def step(a, b):
        def inner(carry):
            i, a, b = carry
            return i + 1, jnp.sin(a), jnp.cos(b)

        def outer(carry):
            i, a, b = carry
            return i + 1, *jax.lax.while_loop(lambda s: s[0] < 3, inner, (0, a, b))[1:]

        return jax.lax.while_loop(lambda s: s[0] < 3, outer, (0, a, b))[1]

    assert operand_counts(step, S, S) == [("while", 2, 2)]


def test_arguments_and_results_stay():
    def step(a, b, c):
        return a, 1.0, jnp.sin(a), a

    program = trace(step, (S, S, S))
    assert program.argument_names == ("a", "b", "c")
    assert program.arguments == (0, 1, 2)
    assert len(program.results) == 4


def test_a_program_without_dead_work_is_as_it_was():
    def step(x):
        def body(c, _):
            return jnp.sin(c), c

        return jax.lax.scan(body, x, None, length=3)

    closed = jax.make_jaxpr(step)(S)
    jaxpr, _ = _compat.jaxpr_parts(closed)
    alive, _ = without_dead_work(closed)
    assert [e.primitive for e in alive.eqns] == [e.primitive for e in jaxpr.eqns]
    for new, old in zip(alive.eqns, jaxpr.eqns, strict=True):
        assert (new.invars, new.outvars) == (old.invars, old.outvars)
        assert new.source_info is old.source_info


def test_what_stays_keeps_its_line_and_its_name():
    def step(x):
        with jax.named_scope("block"):
            return jax.lax.scan(lambda c, _: (jnp.sin(c), c), x, None, length=3)[0]

    (eqn,) = trace(step, (S,)).eqns
    line = step.__code__.co_firstlineno + 2
    assert eqn.source.rsplit("/")[-1] == f"test_dead.py:{line} (step)"
    assert str(eqn.name_stack).startswith("block")


# Effects


def prints_in_a_scan(x, say):
    def body(c, _):
        say(c[0])
        return jnp.sin(c), jnp.cos(c)

    jax.lax.scan(body, x, None, length=3)
    return x + 1


def prints_in_a_while(x, say):
    def body(carry):
        say(carry[1][0])
        return carry[0] + 1, jnp.sin(carry[1]), jnp.cos(carry[2])

    jax.lax.while_loop(lambda c: c[0] < 3, body, (0, x, x))
    return x + 1


def prints_in_a_branch(x, say):
    jax.lax.cond(x[0] > 0, lambda x: (say(x[0]), jnp.sin(x))[1], jnp.cos, x)
    return x + 1


def prints_in_a_checkpoint(x, say):
    @jax.checkpoint
    def block(x):
        say(x[0])
        return jnp.sin(x)

    block(x)
    return x + 1


def prints_in_a_checkpoint_alone(x, say):
    """jax 0.10.2 drops it, under `jax.jit` as well."""
    jax.checkpoint(lambda: say(1.0))()
    return x + 1


PRINTS = [
    (prints_in_a_scan, 3),
    (prints_in_a_while, 3),
    (prints_in_a_branch, 1),
    (prints_in_a_checkpoint, 1),
    (prints_in_a_checkpoint_alone, None),
]


def said_under(transform, step, ordered):
    """What a step says to a callback."""
    said = []

    def say(value):
        jax.debug.callback(lambda v: said.append(float(v)), value, ordered=ordered)

    jax.block_until_ready(transform(lambda x: step(x, say))(jnp.ones(4)))
    jax.effects_barrier()
    return said


@pytest.mark.parametrize(("step", "count"), PRINTS)
@pytest.mark.parametrize("ordered", [False, True])
def test_effects_of_what_is_dead_run(step, count, ordered):
    if ordered and "checkpoint" in step.__name__:
        pytest.skip("JAX refuses ordered effects in a checkpoint")
    said = said_under(memjax.memory_budget("1GiB"), step, ordered)
    assert said == said_under(jax.jit, step, ordered)
    assert count is None or len(said) == count


def test_of_a_dead_loop_that_prints_only_what_it_prints_is_left():
    say = partial(jax.debug.print, "{}")
    program = trace(lambda x: prints_in_a_while(x, say), (S,))
    assert primitives_of(program) == ["while", "add"]
    assert len(program.eqns[0].outputs) == 2
