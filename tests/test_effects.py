"""Effects and calls of the host run as often as under plain `jax.jit`, at every budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

import memjax

calls: list[str] = []
W, X = jnp.eye(64) + 0.1, jnp.ones((512, 64))


def note(tag: str) -> Callable[..., None]:
    return lambda *_: calls.append(tag)


def trained(w: Any, x: Any) -> Any:
    """An update whose gradient can be planned, and has a transposed matmul to be swapped."""
    return w - 0.1 * jax.grad(lambda w: jnp.mean(jnp.tanh(jnp.tanh(jnp.tanh(x @ w) @ w) @ w) ** 2))(
        w
    )


def at_the_top(w, x):
    jax.debug.callback(note("debug"))
    io_callback(note("1"), None, ordered=True)
    h = jnp.tanh(x @ w)
    io_callback(note("2"), None, h.sum(), ordered=True)
    return trained(w, x), h.sum()


def in_a_scan(w, x):
    def body(h, _):
        io_callback(note("1"), None, ordered=True)
        jax.debug.callback(note("debug"))
        return jnp.tanh(h @ w), None

    return trained(w, jax.lax.scan(body, x, None, length=3)[0])


def in_a_differentiated_scan(w, x):
    def loss(w):
        def body(h, _):
            jax.debug.callback(note("debug"), h[0, 0])
            return jnp.tanh(h @ w), None

        return jnp.mean(jax.lax.scan(body, x, None, length=4)[0] ** 2)

    return w - 0.1 * jax.grad(loss)(w)


def in_a_branch(w, x):
    def taken(w):
        io_callback(note("1"), None, ordered=True)
        return w * 2

    return trained(jax.lax.cond(x[0, 0] > 0, taken, lambda w: w, w), x)


def in_a_while(w, x):
    def body(carry):
        io_callback(note("1"), None, carry[0], ordered=True)
        return carry[0] + 1, carry[1] * 1.01

    return trained(jax.lax.while_loop(lambda c: c[0] < 3, body, (0, w))[1], x)


def in_a_nested_jit(w, x):
    @jax.jit
    def inner(w):
        io_callback(note("1"), None, ordered=True)
        jax.debug.callback(note("debug"))
        return w * 1.5

    return trained(inner(w), x)


def on_the_host(x: Any) -> Any:
    def tanh(x: Any) -> Any:
        calls.append("host")
        return np.tanh(x)

    return jax.pure_callback(tanh, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@jax.custom_vjp
def host_tanh(x):
    return on_the_host(x)


def _forward(x):
    y = on_the_host(x)
    return y, y


host_tanh.defvjp(_forward, lambda y, g: (g * (1 - y**2),))


def pure(w, x):
    def loss(w):
        return jnp.mean(jnp.tanh(host_tanh(jnp.tanh(x @ w) @ w) @ w) ** 2)

    return w - 0.1 * jax.grad(loss)(w)


def pure_in_a_scan(w, x):
    def loss(w):
        return jnp.mean(jax.lax.scan(lambda h, _: (host_tanh(h @ w), None), x, None, length=4)[0])

    return w - 0.1 * jax.grad(loss)(w)


def ran(step: Callable[..., Any]) -> list[str]:
    calls.clear()
    jax.block_until_ready(step(W, X))
    jax.effects_barrier()
    return list(calls)


STEPS = (
    at_the_top,
    in_a_scan,
    in_a_differentiated_scan,
    in_a_branch,
    in_a_while,
    in_a_nested_jit,
    pure,
    pure_in_a_scan,
)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_what_runs_under_jit_runs_as_often(step: Callable[..., Any]) -> None:
    wanted = ran(jax.jit(step))
    assert wanted
    compiled = jax.jit(step).lower(W, X).compile().memory_analysis()
    plain_bytes = (
        compiled.argument_size_in_bytes
        + compiled.output_size_in_bytes
        + compiled.temp_size_in_bytes
    )
    for part in (1.5, 0.95, 0.8, 0.6):
        try:
            seen = ran(memjax.memory_budget(int(part * plain_bytes), donate=None)(step))
        except memjax.BudgetInfeasible:
            assert part < 1
            continue
        assert sorted(seen) == sorted(wanted)
        assert [c for c in seen if c.isdigit()] == [c for c in wanted if c.isdigit()]
