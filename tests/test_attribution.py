"""Lines, module paths and phases of eqns and arguments."""

from __future__ import annotations

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from memjax.pricing.attribution import (
    argument_origins,
    module_of_op_name,
    module_path,
    origins,
    output_origin,
)
from memjax.program.prepare import prepare
from memjax.program.trace import trace
from tests.programs import mlp, shape

X = shape(8, 8)


def phases_of(program):
    """Phases by primitive, in order, each run once."""
    found = {}
    for eqn, origin in zip(program.eqns, origins(program), strict=True):
        found.setdefault(eqn.primitive, []).append(origin.phase)
    return found


def lines_of(program, primitive):
    """The text of the source line of each eqn of a primitive, in order."""
    texts = []
    for eqn in program.eqns:
        if eqn.primitive == primitive:
            file, number = eqn.source.split(" ")[0].rsplit(":", 1)
            assert file.endswith("test_attribution.py")
            with open(__file__) as source:
                texts.append(source.read().splitlines()[int(number) - 1].strip())
    return texts


@pytest.mark.parametrize("change", [lambda p: p, prepare], ids=["plain", "prepared"])
def test_phases_of_raw_jax(change):
    """h = tanh(h w) + h for two layers: the last weight gradient needs no cotangent of x."""
    step, weights, x = mlp(layers=2)
    found = phases_of(change(trace(step, (weights, x))))
    assert set(found["tanh"]) == {"forward"}
    assert found["dot_general"].count("forward") == 2
    assert found["dot_general"].count("backward") == 3
    assert found["sub"].count("optimizer") == 2  # w - 0.1 g; the others are of tanh's derivative


def test_optimizer_is_what_depends_on_gradients_or_only_serves_what_does():
    def step(w, x, count):
        key_like = jnp.sin(x)  # before the loss, not differentiated
        loss, gradient = jax.value_and_grad(lambda w: jnp.sum(jnp.tanh(key_like @ w)))(w)
        rate = jnp.power(0.9, count)  # depends on no gradient, but only the update reads it
        gradient = gradient / jnp.sqrt(jnp.sum(gradient**2))  # clipping
        return w - rate * gradient, jnp.log(loss)

    found = phases_of(trace(step, (X, X, shape())))
    assert found["sin"] == ["forward"]
    assert found["pow"] == ["optimizer"]
    assert found["sqrt"] == ["optimizer"]
    assert found["log"] == ["forward"]
    assert found["tanh"] == ["forward"]


def test_without_gradients_all_is_forward():
    assert set(phases_of(trace(lambda x: jnp.sin(x) @ x, (X,)))["dot_general"]) == {"forward"}


def test_checkpoint_and_custom_vjp_are_backward_where_they_run_again():
    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, g: (jnp.cos(x) * g,))

    def loss(x):
        return jnp.sum(cube(jax.checkpoint(lambda y: jnp.exp(jnp.sin(y)))(x)))

    program = trace(jax.grad(loss), (X,))
    found = phases_of(program)
    assert found["cos"] == ["backward"]
    (remat,) = [name for name in found if name in ("remat2", "checkpoint", "remat")]
    assert found[remat] == ["backward"]


def test_a_scan_that_accumulates_gradients_is_backward():
    def step(w, xs):
        def body(total, x):
            return total + jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w), None

        gradient, _ = jax.lax.scan(body, jnp.zeros_like(w), xs)
        return w - gradient

    found = phases_of(trace(step, (X, shape(4, 8, 8))))
    assert found["scan"] == ["backward"]
    assert found["sub"] == ["optimizer"]


def test_a_cached_jit_of_a_library_has_the_line_of_its_own_call():
    def step(x):
        y = jnp.where(x > 0, x, 1.0) @ x  # first
        return jnp.where(y > 0, y, 1.0) @ y  # second

    lines = lines_of(trace(step, (X,)), "select_n")
    assert [line.split("# ")[1] for line in lines] == ["first", "second"]


def test_a_jit_of_the_user_keeps_the_lines_of_its_body():
    @jax.jit
    def body(x):
        return jnp.sin(x)  # inside

    def step(x):
        return body(body(x) @ x)

    assert lines_of(trace(step, (X,)), "sin") == ["return jnp.sin(x)  # inside"] * 2


def test_a_library_that_jits_the_users_function_keeps_its_lines():
    import equinox

    @equinox.filter_jit
    def body(x):
        return jnp.sin(x)  # mine

    assert lines_of(trace(body, (X,)), "sin") == ["return jnp.sin(x)  # mine"]


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Dense(8, name="first")(x)  # dense
        return x + nn.Dense(8, name="second")(nn.gelu(y))


def test_module_path_and_users_line_of_flax():
    model = Block()
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((8, 8)))

    def step(params, x):
        def loss(params):
            return jnp.einsum("ij,jk->", model.apply(params, x), x)

        return jax.tree.map(jnp.subtract, params, jax.grad(loss)(params))

    program = trace(step, (params, X))
    found = origins(program)
    where = {
        (o.module, o.phase)
        for e, o in zip(program.eqns, found, strict=True)
        if e.primitive == "dot_general"
    }
    assert {("Block/first", "forward"), ("Block/second", "backward")} <= where
    assert not any("->" in module or "(" in module for module, _ in where)
    assert all(o.line and "test_attribution.py" in o.line for o in found)
    of_arguments = dict(zip(program.argument_names, argument_origins(program, found), strict=True))
    kernel = of_arguments["params['params']['first']['kernel']"]
    assert (kernel.module, kernel.phase) == ("Block/first", "argument")
    line = inspect.getsourcelines(Block.__call__)[1] + 2
    assert kernel.line == f"tests/test_attribution.py:{line} (__call__)"


def test_an_argument_that_nothing_reads_has_no_line():
    program = trace(lambda x, unused: jnp.sin(x), (X, X))
    used, unused = argument_origins(program, origins(program))
    assert used.line
    assert unused.line is None


def test_optax_has_the_line_that_calls_it():
    optimizer = optax.adam(1e-3)

    def step(w, state, x):
        gradient = jax.grad(lambda w: jnp.sum(x @ w))(w)
        updates, state = optimizer.update(gradient, state, w)  # update
        return optax.apply_updates(w, updates), state

    program = trace(step, (X, jax.eval_shape(optimizer.init, X), X))
    found = origins(program)
    of_optimizer = [o for o in found if o.phase == "optimizer"]
    assert len(of_optimizer) > 5
    assert all("test_attribution.py" in o.line for o in of_optimizer)


def test_partial_and_lambda_steps_have_lines():
    step = functools.partial(lambda scale, x: jnp.sin(x) * scale, 2.0)
    assert all(o.line for o in origins(trace(step, (X,))))


def test_what_a_scan_stacks_has_the_lines_of_its_body():
    """The forward scan of a gradient stacks what its backward scan reads, here of two lines."""

    def step(w, x):
        def body(h, w):
            with jax.named_scope("layer"):
                y = jnp.tanh(h @ w)  # tanh
                return jnp.sin(y) * y, None  # sin

        return jax.grad(lambda w: jnp.sum(jax.lax.scan(body, x, w)[0]))(w)

    program = trace(step, (shape(5, 8, 8), X))
    found = origins(program)
    (forward,) = [
        i
        for i, e in enumerate(program.eqns)
        if e.primitive == "scan" and found[i].phase == "forward"
    ]
    eqn = program.eqns[forward]
    stacked = [
        output_origin(eqn, number, found[forward])
        for number, value in enumerate(eqn.outputs)
        if program.avals[value].shape == (5, 8, 8)
    ]
    # The carry is stacked as it comes in: no eqn of the body writes it.
    assert stacked.count(found[forward]) == 1
    stacked.remove(found[forward])
    with open(__file__) as source:
        lines = source.read().splitlines()
    texts = {lines[int(o.line.split(" ")[0].rsplit(":")[1]) - 1].split("# ")[1] for o in stacked}
    assert texts == {"tanh", "sin"}
    assert {o.module for o in stacked} == {"layer"}
    assert {o.phase for o in stacked} == {"forward"}


def test_module_path_of_xlas_names():
    name = "jit(step)/transpose(jvp(GPT))/while/body/closed_call/block_0/jit(_where)/dot_general"
    assert module_of_op_name(name) == "GPT/block_0"
    assert module_of_op_name("jit(step)/mul") == ""


def test_module_path_keeps_names_alone():
    from memjax import _compat

    stack = _compat.NameStack().extend("jit(step)").transform("jvp").extend("GPT")
    stack = stack.extend("block_0").extend("jit(_where)").extend("...hqk,...khd->...qhd")
    assert module_path(stack) == "GPT/block_0"
