"""From a step to a flat list of eqns."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import _compat
from memjax.program.eqns import Constant
from memjax.program.tags import plain_name
from memjax.program.trace import trace
from tests.programs import primitives_of, run_program, shape

X = shape(4)


def test_three_eqns():
    """
    0 ─ sin(2) ─ mul(3) ─ neg(4) ─▶
    1 ──────────┘
    """
    program = trace(lambda x, y: -(jnp.sin(x) * y), (X, X))
    assert primitives_of(program) == ["sin", "mul", "neg"]
    assert [(e.inputs, e.outputs) for e in program.eqns] == [
        ((0,), (2,)),
        ((2, 1), (3,)),
        ((3,), (4,)),
    ]
    assert program.arguments == (0, 1)
    assert program.results == (4,)
    assert program.constants == ()
    assert program.producer == (-1, -1, 0, 1, 2)
    assert program.consumers == ((0,), (1,), (1,), (2,), ())
    assert program.value_bytes == (16,) * 5
    assert program.result_values == {4}


def test_reads_are_each_named_once():
    program = trace(lambda x: x * x + 2.0, (X,))
    assert program.eqns[0].inputs == (0, 0)
    assert program.eqns[0].reads == (0,)
    assert isinstance(program.eqns[1].inputs[1], Constant)
    assert program.eqns[1].reads == (1,)
    assert program.consumers[0] == (0,)


def test_nested_jits_are_inlined():
    @jax.jit
    def inner(x):
        return jnp.sin(x)

    @jax.jit
    def outer(x):
        return inner(x) + 1

    assert primitives_of(trace(lambda x: outer(x) * 2, (X,))) == ["sin", "add", "mul"]


def test_an_inner_program_used_twice_gets_its_own_values():
    inner = jax.jit(lambda x: jnp.sin(jnp.cos(x)))
    program = trace(lambda x: inner(inner(x)), (X,))
    assert [(e.primitive, e.inputs, e.outputs) for e in program.eqns] == [
        ("cos", (0,), (1,)),
        ("sin", (1,), (2,)),
        ("cos", (2,), (3,)),
        ("sin", (3,), (4,)),
    ]


def test_inner_results_that_are_arguments_or_literals():
    @jax.jit
    def inner(x, y):
        return y, x, 3.0

    program = trace(inner, (X, X))
    assert program.eqns == ()
    assert program.results[:2] == (1, 0)
    assert program.results[2] == Constant(3.0)


@jax.custom_jvp
def twice(x):
    return jnp.sin(x) * 2


twice.defjvp(lambda primals, tangents: (twice(*primals), tangents[0]))


@jax.custom_vjp
def thrice(x):
    return jnp.cos(x) * 3


thrice.defvjp(lambda x: (thrice(x), None), lambda _, g: (g * 7,))


def test_custom_derivatives_are_inlined():
    assert primitives_of(trace(twice, (X,))) == ["sin", "mul"]
    assert primitives_of(trace(thrice, (X,))) == ["cos", "mul"]


def test_custom_derivatives_are_used_before_they_are_gone():
    program = trace(jax.grad(lambda x: jnp.sum(thrice(x))), (X,))
    (result,) = run_program(program, np.arange(4.0, dtype=np.float32))
    np.testing.assert_array_equal(result, np.full(4, 7.0))


def test_calls_within_calls_are_inlined():
    assert primitives_of(trace(jax.nn.relu, (X,))) == ["max"]  # a custom_jvp over a jit


@pytest.mark.parametrize("name", ["closed_call", "core_call", "eval_jaxpr"])
def test_closed_calls_are_inlined(name):
    """What JAX makes of closures and of jaxprs that are called; which one, its version says."""
    inner = jax.make_jaxpr(lambda x: jnp.sin(jnp.cos(x)))(X)
    eqn = SimpleNamespace(primitive=SimpleNamespace(name=name), params={"call_jaxpr": inner})
    assert _compat.inlinable_body(eqn) is inner


def one_device_sharding():
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.mark.parametrize("option", ["in_shardings", "out_shardings"])
def test_a_jit_with_shardings_stays(option):
    inner = jax.jit(jnp.sin, **{option: one_device_sharding()})
    program = trace(lambda x: inner(x) + 1, (X,))
    names = primitives_of(program)
    assert names[0] in ("jit", "pjit")
    assert names[1:] == ["add"]
    x = np.arange(4.0, dtype=np.float32)
    np.testing.assert_allclose(run_program(program, x)[0], np.sin(x) + 1, rtol=1e-6)


def loop(x: Any) -> Any:
    return jax.lax.scan(lambda c, _: (jnp.sin(c), c), x, None, length=3)[1]


@pytest.mark.parametrize(
    ("step", "names"),
    [
        (loop, {"scan"}),
        (lambda x: jax.lax.fori_loop(0, x.astype(int)[0], lambda _, c: jnp.sin(c), x), {"while"}),
        (lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), {"cond"}),
        (jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))), {"checkpoint", "remat", "remat2"}),
    ],
)
def test_loops_branches_and_checkpoints_stay_single_eqns(step, names):
    found = primitives_of(trace(step, (X,)))
    assert len([n for n in found if n in names]) == 1
    assert "sin" not in found


def test_the_users_checkpoint_is_kept_under_grad():
    def step(x):
        return jnp.sum(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)))(x) ** 2)

    names = primitives_of(trace(jax.grad(step), (X,)))
    assert {"checkpoint", "remat", "remat2"} & set(names)


def test_dead_eqns_are_dropped_and_effects_kept():
    def step(x):
        jnp.cos(x)  # dead
        y = jnp.sin(x)  # read by the callback alone
        jax.debug.print("{}", y)
        return x + 1

    program = trace(step, (X,))
    names = primitives_of(program)
    assert "cos" not in names
    assert names[0] == "sin"
    assert names[-1] == "add"
    assert [e.has_effects for e in program.eqns] == [n.startswith("debug") for n in names]
    assert sum(e.has_effects for e in program.eqns) == 1


def test_dead_chains_are_dropped_whole():
    def step(x):
        jnp.sin(jnp.cos(jnp.tanh(x)))
        return x

    assert trace(step, (X,)).eqns == ()


def test_captured_arrays_are_constants():
    table = jnp.arange(4.0) ** 2
    other = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    program = trace(lambda x: (x * table, jax.jit(lambda x: other @ x)(x)), (X,))
    captured = {np.shape(array): np.asarray(array) for _, array in program.constants}
    np.testing.assert_array_equal(captured[4,], table)
    for value, array in program.constants:
        assert program.avals[value].shape == np.shape(array)
        assert program.producer[value] == -1
    x = np.ones(4, np.float32)
    one, two = run_program(program, x)
    np.testing.assert_array_equal(one, table)
    np.testing.assert_array_equal(two, other.sum(1))


def test_names_of_arguments_and_results():
    def step(state, batch, *, rate):
        return {"w": state["w"] - rate}, (batch[1], rate)

    state = {"w": X, "opt": (X, [X])}
    program = trace(step, (state, (X, X)), {"rate": shape()})
    assert program.argument_names == (
        "state['opt'][0]",
        "state['opt'][1][0]",
        "state['w']",
        "batch[0]",
        "batch[1]",
        "rate",
    )
    assert program.result_names == ("result[0]['w']", "result[1][0]", "result[1][1]")
    assert program.name == "step"
    assert program.in_tree == jax.tree_util.tree_structure(((state, (X, X)), {"rate": X}))


def test_names_where_parameters_have_none():
    program = trace(lambda *args: args[1][0], (X, [X]))
    assert program.argument_names == ("args[0]", "args[1][0]")
    assert program.name == "<lambda>"
    program = trace(partial(jnp.add, 1.0), (X,))
    assert len(program.argument_names) == 1


def test_static_arguments_are_no_arguments():
    def step(x, power, mode="sin"):
        return getattr(jnp, mode)(x) ** power

    program = trace(step, (X, 3), static_argnums=(1,))
    assert primitives_of(program) == ["sin", "integer_pow"]
    assert program.argument_names == ("x",)
    statics = {"static_argnums": (1,), "static_argnames": ("mode",)}
    program = trace(step, (X, 3), {"mode": "cos"}, **statics)
    assert primitives_of(program) == ["cos", "integer_pow"]
    assert program.argument_names == ("x",)


def test_static_arguments_before_dynamic_ones():
    program = trace(lambda mode, x: getattr(jnp, mode)(x), ("tanh", X), static_argnums=(0,))
    assert primitives_of(program) == ["tanh"]
    assert program.argument_names == ("x",)


def test_the_source_is_the_users_line():
    def step(x):
        y = jnp.sin(x)  # one below the head
        z = jax.nn.relu(y)  # two below: inside a jit of JAX's own
        return inner(z)  # the user's own jit: its line

    @jax.jit
    def inner(x):
        return jnp.cos(x)

    head = step.__code__.co_firstlineno
    sources = {e.primitive: e.source for e in trace(step, (X,)).eqns}
    assert {name: source.rsplit("/")[-1] for name, source in sources.items()} == {
        "sin": f"test_trace.py:{head + 1} (step)",
        "max": f"test_trace.py:{head + 2} (step)",
        "cos": f"test_trace.py:{head + 7} (inner)",
    }


def test_name_stacks_include_the_inlined_call():
    @jax.jit
    def inner(x):
        with jax.named_scope("deep"):
            return jnp.sin(x)

    def step(x):
        with jax.named_scope("block"):
            return inner(x)

    stack = str(trace(step, (X,)).eqns[0].name_stack)
    assert stack.startswith("block/")
    assert plain_name(stack).endswith("/deep")
    assert "(inner)" in stack


def test_gradients_say_so_in_name_stacks():
    def step(x):
        with jax.named_scope("block"):
            return jnp.sum(jnp.sin(x))

    stacks = [str(e.name_stack) for e in trace(jax.grad(step), (X,)).eqns]
    assert any("transpose" in s and "block" in s for s in stacks)


def test_what_jax_cannot_trace_is_jaxs_error():
    with pytest.raises(jax.errors.TracerBoolConversionError):
        trace(lambda x: 1 if x > 0 else 2, (shape(),))


def test_tracing_the_same_step_twice_gives_equal_programs():
    one, two = (trace(loop, (X,)) for _ in range(2))
    assert [(e.primitive, e.outputs) for e in one.eqns] == [
        (e.primitive, e.outputs) for e in two.eqns
    ]
