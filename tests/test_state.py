"""Which arguments are state: a table of small steps, and real optimizers against `jax.jit`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

import memjax
from memjax.program.donation import match_donations
from memjax.program.trace import trace
from tests.programs import mlp, shape

S = shape(8, 8)
XS = shape(3, 8, 8)


def loss(w, x):
    return jnp.mean(jnp.tanh(x @ w) ** 2)


def grad(w, x):
    return jax.grad(loss)(w, x)


def sgd(w, x):
    return w - 0.1 * grad(w, x)


def momentum(w, m, x):
    m = 0.9 * m + grad(w, x)
    return w - 0.1 * m, m


def device():
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def one_mesh():
    return jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))


P = jax.sharding.PartitionSpec


def by_scan(w, m, xs):
    return lax.scan(lambda c, x: (momentum(*c, x), loss(c[0], x)), (w, m), xs)


def by_fori(w, m, xs):
    return lax.fori_loop(0, 3, lambda i, c: (sgd(c[0], xs[i]), 0.9 * c[1]), (w, m))


def by_while(w, m, xs):
    def body(c):
        i, w, m = c
        return i + 1, *momentum(w, m, xs[i])

    return lax.while_loop(lambda c: (c[0] < 3) & jnp.isfinite(c[1]).all(), body, (0, w, m))[1:]


def by_cond(w, m, xs):
    new = momentum(w, m, xs[0])
    return lax.cond(jnp.isfinite(new[0]).all(), lambda: new, lambda: (w, m))


def by_switch(w, m, xs):
    rates = [lambda w, m: (w - 0.1 * m, m), lambda w, m: (w, m), lambda w, m: (w - m, 0.5 * m)]
    return lax.switch(jnp.argmax(xs[0, 0]) % 3, rates, *momentum(w, m, xs[0]))


def by_matmul(w, m, xs):
    return w @ m - 0.1 * grad(w, xs[0]), 0.9 * m


def by_call(w, m, xs):
    """A nested jit that stays a call."""
    new = jax.jit(momentum, in_shardings=device(), out_shardings=device())
    return new(w, m, xs[0])


def by_checkpoint(w, m, xs):
    return jax.checkpoint(momentum)(w, m, xs[0])


@jax.custom_jvp
def custom(w, g):
    return w - 0.1 * g


custom.defjvp(lambda primals, tangents: (custom(*primals), tangents[0]))


def by_custom_jvp(w, m, xs):
    return custom(w, grad(w, xs[0])), custom(m, grad(w, xs[1]))


@jax.custom_vjp
def custom_backward(w, g):
    return w - 0.1 * g


custom_backward.defvjp(lambda w, g: (custom_backward(w, g), None), lambda _, g: (g, g))


def by_custom_vjp(w, m, xs):
    return custom_backward(w, grad(w, xs[0])), custom_backward(m, grad(w, xs[1]))


def by_shard_map(w, m, xs):
    def inner(w, m, x):
        g = lax.pmean(grad(w, x), "i")
        m = 0.9 * m + g
        return lax.pmean(w - 0.1 * m, "i"), m

    specs = (P(), P(), P("i"))
    mapped = jax.shard_map(inner, mesh=one_mesh(), in_specs=specs, out_specs=(P(), P()))
    return mapped(w, m, xs[0])


def by_epochs(w, m, xs):
    """Loops in loops, with a check that may reject an epoch."""

    def epoch(c, _):
        new = by_scan(*c, xs)[0]
        return lax.cond(jnp.isfinite(new[0]).all(), lambda: new, lambda: c), None

    return lax.scan(epoch, (w, m), None, length=2)[0]


def by_ravelling(w, m, xs):
    flat, unravel = ravel_pytree((w, m))
    gradient, _ = ravel_pytree((grad(w, xs[0]), jnp.sin(m)))
    return unravel(flat - 0.1 * gradient)


def by_constraint(w, m, xs):
    return tuple(lax.with_sharding_constraint(new, device()) for new in momentum(w, m, xs[0]))


def by_barrier(w, m, xs):
    return lax.optimization_barrier(momentum(w, m, xs[0]))


def layer_by_layer(ws, ms, xs):
    """The optimizer as a scan over stacked layers."""
    gradients = jax.vmap(grad, in_axes=(0, None))(ws, xs[0])

    def update(_, layer):
        w, m, g = layer
        m = 0.9 * m + g
        return None, (w - 0.1 * m, m)

    return lax.scan(update, None, (ws, ms, gradients))[1]


STATE = [
    by_scan,
    by_fori,
    by_while,
    by_cond,
    by_switch,
    by_matmul,
    by_call,
    by_checkpoint,
    by_custom_jvp,
    by_custom_vjp,
    by_shard_map,
    by_epochs,
    by_ravelling,
    by_constraint,
    by_barrier,
]


def given_up(step, *args):
    program = trace(step, args)
    donations = match_donations(program)
    assert all(bool(d.reason) != d.donated for d in donations)
    return {d.name for d in donations if d.donated}


def reasons(step, *args):
    return {d.name: d.reason for d in match_donations(trace(step, args)) if not d.donated}


@pytest.mark.parametrize("step", STATE)
def test_state_is_recognised_through_every_primitive(step):
    """Weights and momentum are given up, the batches are not."""
    assert given_up(step, S, S, XS) == {"w", "m"}


def test_state_is_recognised_through_slices_of_a_scan():
    assert given_up(layer_by_layer, XS, XS, XS) == {"ws", "ms"}


KEPT = {
    "a matmul": lambda w, x: x @ w,
    "a layer": lambda w, x: jnp.tanh(x @ w),
    "layers by a scan": lambda ws, x: lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, ws)[0],
    "layers by a loop": lambda w, x: lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ w), x),
    "a checkpointed layer": lambda w, x: jax.checkpoint(lambda x: jnp.tanh(x @ w))(x),
    "a gradient": grad,
    "a loss and a gradient": jax.value_and_grad(loss),
    "a gradient with a penalty": jax.grad(lambda w, x: loss(w, x) + 0.1 * jnp.sum(w**2)),
    "a gradient of a product": jax.grad(lambda w, x: jnp.sum(w * x)),
    "a gradient that is clipped": lambda w, x: jnp.clip(grad(w, x), -1, 1),
    "a gradient over its norm": lambda w, x: grad(w, x) / (1 + jnp.linalg.norm(w)),
    "a gradient where there are weights": lambda w, x: jnp.where(w != 0, grad(w, x), 0),
    "a gradient of microbatches": lambda w, x: lax.scan(
        lambda g, x: (g + grad(w, x[None]), None), jnp.zeros_like(w), x
    )[0],
    "a gradient through a scan": jax.grad(
        lambda w, x: jnp.sum(lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, None, 3)[0])
    ),
    "a gradient over devices": jax.shard_map(
        lambda w, x: lax.pmean(grad(w, x), "i"),
        mesh=one_mesh(),
        in_specs=(P(), P("i")),
        out_specs=P(),
    ),
    "gradients of both": jax.grad(loss, argnums=(0, 1)),
    "gradients of examples": lambda w, x: jax.vmap(grad, in_axes=(None, 0))(w, x[:, None]),
    "a Hessian times a vector": lambda w, x: jax.jvp(lambda w: grad(w, x), (w,), (x,))[1],
    "a Jacobian": lambda w, x: jax.jacrev(lambda w: jnp.tanh(x @ w)[0])(w[0]),
    "weights handed back": lambda w, x: (w, loss(w, x)),
    "weights handed back by a scan": lambda w, x: lax.scan(
        lambda w, x: (w, loss(w, x[None])), w, x
    ),
    "a prediction and its gradient": lambda w, x: (x @ w, grad(w, x)),
}


@pytest.mark.parametrize("name", KEPT)
def test_evaluation_and_gradients_give_up_nothing(name):
    weights = XS if "ws" in KEPT[name].__code__.co_varnames else S
    assert given_up(KEPT[name], weights, S) == set()


RETURNED = {
    "as it is": lambda w, x: x,
    "normalized": lambda w, x: (x - x.mean()) / x.std(),
    "by a cond": lambda w, x: lax.cond(x[0, 0] > 0, jnp.tanh, lambda x: x, x),
    "by a scan": lambda w, x: lax.scan(lambda c, x: (c, x * 2), 0.0, x)[1],
    "stacked by a scan of the weights": lambda w, x: lax.scan(
        lambda w, x: (sgd(w, x[None]), x / 2), w, x
    )[1],
    "carried as it is": lambda w, x: lax.scan(
        lambda c, _: ((sgd(*c), c[1]), None), (w, x), None, length=3
    )[0][1],
    "carried in a while": lambda w, x: lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, sgd(*c[1:]), c[2]), (0, w, x)
    )[2],
    "carried in loops in loops": lambda w, x: lax.fori_loop(
        0,
        2,
        lambda _, c: lax.fori_loop(0, 2, lambda _, c: (sgd(*c), c[1]), c),
        (w, x),
    )[1],
    "by a checkpoint": lambda w, x: jax.checkpoint(lambda x: 2 * x)(x),
    "with a constraint": lambda w, x: lax.with_sharding_constraint(x, device()),
}


@pytest.mark.parametrize("name", RETURNED)
def test_a_batch_that_comes_back_is_kept(name):
    def step(w, x):
        return sgd(w, x), RETURNED[name](w, x)

    assert given_up(step, S, S) == {"w"}
    assert reasons(step, S, S) == {"x": "nothing of x is updated from other arguments"}


def test_gradients_are_named_as_the_reason():
    said = "nothing of w is updated from other arguments: a gradient is no update"
    assert reasons(grad, S, S)["w"] == said
    assert reasons(lambda w, x: x @ w, S, S)["w"] == said.partition(":")[0]


def test_gradients_in_the_place_of_parameters_do_not_cost_the_parameters():
    """Momentum is kept by the step, the weights by the caller."""

    def step(state, x):
        g = grad(state["w"], x)
        return {"m": 0.9 * state["m"] + g, "w": g}

    assert given_up(step, {"m": S, "w": S}, S) == {"state['m']"}


def test_a_recurrent_state_is_given_up_as_a_whole():
    def cell(w, carry, x):
        c, h = carry
        gates = jnp.tanh(h @ w + x)
        c = gates * c + x
        return (c, jnp.tanh(c @ w)), x.sum()

    assert given_up(cell, S, (S, S), S) == {"carry[0]", "carry[1]"}


def test_a_part_of_the_state_is_no_whole():
    def step(state, x):
        return (sgd(state[0], x), x @ state[1]), (x.sum(),)

    assert given_up(step, (S, S, S), S) == {"state[0]"}


def test_each_leaf_takes_its_own_place():
    """Also where another leaf's update is one of it as well, and stands first."""

    def step(moments, weights, x):
        moments = {k: 0.9 * m + grad(weights[k], x) for k, m in moments.items()}
        return {k: w - 0.1 * moments[k] for k, w in weights.items()}, moments, x.sum()

    tree = {"a": S, "b": S}
    program = trace(step, (tree, tree, S))
    taken = {d.name: program.result_names[d.result] for d in match_donations(program) if d.donated}
    assert taken == {
        **{f"moments['{k}']": f"result[1]['{k}']" for k in "ab"},
        **{f"weights['{k}']": f"result[0]['{k}']" for k in "ab"},
    }


def test_what_the_step_does_not_read_is_not_given_up():
    """XLA never sees it: there is no buffer that could be taken."""

    def step(state, x):
        g = grad(state["w"], x)
        return {"w": state["w"] - g, "last": g}

    state = {"w": jnp.eye(64), "last": jnp.eye(64)}
    x = jnp.ones((64, 64))
    assert given_up(step, state, x) == {"state['w']"}
    assert reasons(step, state, x)["state['last']"].startswith("the step does not read it")
    report = memjax.memory_budget("1GiB")(step).report(state, x)
    assert report.compiled.alias_bytes == x.nbytes
    assert report.compiled.argument_bytes == 2 * x.nbytes


def test_as_many_as_possible_are_given_up():
    """`b` can take one result alone, which `a` would have taken first.

    a ─┬─▶ 0
       └──────▶ 1
    b ────▶ 0
    """

    def step(a, b, x):
        g = jnp.sin(x @ x)
        return a + b + g, a - g

    assert given_up(step, S, S, S) == {"a", "b"}


def test_a_result_that_comes_twice_takes_two_buffers():
    def step(w, average, x):
        new = w - grad(w, x) + 0.0 * average
        return new, new

    assert given_up(step, S, S, S) == {"w", "average"}


# Compiled


def trained(update):
    """A deep step with an optimizer, its state and its batch."""
    _, weights, x = mlp(width=64, batch=64, layers=3)

    def loss(weights, x):
        h = x
        for w in weights:
            h = jnp.tanh(h @ w)
        return jnp.mean(h**2)

    def step(state, x):
        params, inner = state
        value, gradients = jax.value_and_grad(loss)(params, x)
        updates, inner = update.update(gradients, inner, params)
        return (optax.apply_updates(params, updates), inner), value

    return step, (weights, update.init(weights)), x


def lookahead():
    """Two copies of the parameters that the optimizer keeps apart."""
    _, (weights, _), x = trained(optax.sgd(0.1))
    update = optax.lookahead(optax.adam(1e-2), sync_period=3, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(weights)

    def looking(state, x):
        params, inner = state
        gradients = jax.grad(lambda w: jnp.mean(jnp.tanh(x @ w[0] @ w[1] @ w[2]) ** 2))(params.fast)
        updates, inner = update.update(gradients, inner, params)
        return optax.apply_updates(params, updates), inner

    params = jax.tree.map(jnp.array, params)
    return looking, (params, update.init(params)), x


def epoch():
    step, state, x = trained(optax.adam(1e-2))
    return lambda state, x: lax.scan(step, state, x), state, jnp.stack([x, x + 1])


REAL = {
    "adamw": lambda: trained(optax.adamw(1e-2)),
    "MultiSteps": lambda: trained(optax.MultiSteps(optax.adam(1e-2), 4)),
    "apply_if_finite": lambda: trained(optax.apply_if_finite(optax.adam(1e-2), 5)),
    "flatten": lambda: trained(optax.flatten(optax.adam(1e-2))),
    "lookahead": lookahead,
    "epoch": epoch,
}


@pytest.mark.filterwarnings("error:Some donated buffers were not usable")
@pytest.mark.parametrize("name", REAL)
def test_real_optimizers_hold_no_more_than_under_jit_with_their_state_donated(name):
    step, state, x = REAL[name]()
    report = memjax.memory_budget("1GiB")(step).report(state, x)
    kept = [d for d in report.donations if not d.donated]
    assert {d.name for d in kept if "does not read it" not in d.reason} == {"x"}
    assert report.compiled.alias_bytes == sum(d.bytes for d in report.donations if d.donated)
    plain = jax.jit(step, donate_argnums=0).lower(state, x).compile()
    assert report.compiled.total_bytes <= memjax.footprint(plain).total_bytes


@pytest.mark.filterwarnings("error:Some donated buffers were not usable")
@pytest.mark.parametrize("step", [by_scan, by_fori, by_while, by_cond, by_matmul, by_epochs])
def test_what_is_given_up_is_aliased(step):
    w = jnp.eye(64)
    args = w, w, jnp.ones((3, 64, 64))
    report = memjax.memory_budget("1GiB")(step).report(*args)
    assert report.compiled.alias_bytes == 2 * w.nbytes
    plain = jax.jit(step, donate_argnums=(0, 1)).lower(*args).compile()
    assert report.compiled.total_bytes <= memjax.footprint(plain).total_bytes


def test_a_mapped_step():
    """`pmap`, over as many devices as there are."""
    n = jax.device_count()
    step = partial(jax.pmap, axis_name="i")(
        lambda w, m, x: (w - 0.1 * lax.pmean(grad(w, x), "i"), 0.9 * m + grad(w, x))
    )
    assert given_up(step, *(shape(n, 8, 8) for _ in range(3))) == {"w", "m"}
