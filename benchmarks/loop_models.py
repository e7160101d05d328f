"""Train steps with loops, each also as somebody would checkpoint it by hand.

In: sizes, and how it is checkpointed by hand. Out: `memjax.demo.task.Task`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.models import task_of
from memjax.demo.gpt import Remat, Sizes, gpt_task
from memjax.demo.task import Task

RATE = 0.01
THIN = Sizes(layers=64, width=64, heads=2, tokens=64, batch=128, vocab=256)


def scanned_gpt(sizes: Sizes, remat: Remat | None = None, chunk: int | None = None) -> Task:
    """A GPT that scans over its layers, `chunk` of them in a scan of their own by hand."""
    lengths = (sizes.layers,) if chunk is None else (sizes.layers // chunk, chunk)
    return gpt_task(sizes, lengths=lengths, remat=remat)


def accumulating_gpt(microbatches: int) -> Task:
    """A GPT of four layers whose gradients are added up over microbatches in a scan."""
    return gpt_task(layers=4, microbatches=microbatches)


def descend(params: Any, gradients: Any) -> Any:
    """A step of gradient descent."""
    return jax.tree.map(lambda p, g: p - RATE * g, params, gradients)


def lstm(
    time: int, width: int = 256, batch: int = 16, features: int = 64, chunk: int | None = None
) -> Task:
    """An LSTM in raw JAX with a loss on its last state; `chunk` is checkpointed by hand."""

    def init(key: jax.Array) -> Any:
        keys = jax.random.split(key)
        return {
            "x": 0.1 * jax.random.normal(keys[0], (features, 4 * width)),
            "h": 0.05 * jax.random.normal(keys[1], (width, 4 * width)),
            "b": jnp.zeros(4 * width),
        }

    def loss_of(params: Any, xs: jax.Array) -> jax.Array:
        def cell(carry: Any, x: jax.Array) -> tuple[Any, None]:
            hidden, memory = carry
            gates = x @ params["x"] + hidden @ params["h"] + params["b"]
            i, f, g, o = jnp.split(gates, 4, -1)
            memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(g)
            return (nn.sigmoid(o) * jnp.tanh(memory), memory), None

        first = (jnp.zeros((batch, width)), jnp.zeros((batch, width)))
        (hidden, _), _ = scan_in_chunks(cell, first, xs, chunk)
        return jnp.mean(hidden**2)

    def step(params: Any, xs: jax.Array) -> tuple[Any, jax.Array]:
        loss, gradients = jax.value_and_grad(loss_of)(params, xs)
        return descend(params, gradients), loss

    return task_of(step, init, jax.ShapeDtypeStruct((time, batch, features), jnp.float32))


def scan_in_chunks(body: Callable[..., Any], first: Any, xs: Any, chunk: int | None) -> Any:
    """`lax.scan`, or a scan over checkpointed scans over `chunk` slices each."""
    if chunk is None:
        return lax.scan(body, first, xs)
    parts = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), xs)
    carry, ys = lax.scan(jax.checkpoint(lambda c, x: lax.scan(body, c, x)), first, parts)
    return carry, jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), ys)


class Reader(nn.Module):
    """An LSTM by Flax over (batch, time, features), with an output for every state."""

    width: int
    chunk: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Every hidden state."""
        cell = nn.LSTMCell(self.width)
        if self.chunk is None:
            return nn.RNN(cell)(x)
        carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
        parts = x.swapaxes(0, 1).reshape(-1, self.chunk, *x[:, 0].shape)

        def run(cell: Any, carry: Any, part: jax.Array) -> Any:
            scan = nn.scan(
                lambda cell, c, x: cell(c, x),
                variable_broadcast="params",
                split_rngs={"params": False},
            )
            return scan(cell, carry, part)

        outer = nn.scan(
            nn.remat(run, prevent_cse=False),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        _, states = outer(cell, carry, parts)
        return states.reshape(-1, *states.shape[2:]).swapaxes(0, 1)


def lstm_states(
    time: int, width: int = 256, batch: int = 16, features: int = 64, chunk: int | None = None
) -> Task:
    """A Flax LSTM with a loss on all of its states."""
    model = Reader(width, chunk)
    shapes = jax.ShapeDtypeStruct((batch, time, features), jnp.float32)

    def init(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros((batch, chunk or 2, features)))["params"]

    def step(params: Any, xs: jax.Array) -> tuple[Any, jax.Array]:
        def loss_of(params: Any) -> jax.Array:
            return jnp.mean(model.apply({"params": params}, xs) ** 2)

        loss, gradients = jax.value_and_grad(loss_of)(params)
        return descend(params, gradients), loss

    return task_of(step, init, shapes)


def neural_ode(
    steps: int = 100, width: int = 64, batch: int = 256, chunk: int | None = None
) -> Task:
    """A neural ODE (Chen et al., 2018) solved by Runge-Kutta of order 4 with fixed steps."""

    def init(key: jax.Array) -> Any:
        keys = jax.random.split(key)
        return {
            "in": jax.random.normal(keys[0], (width, 4 * width)) / width**0.5,
            "out": jax.random.normal(keys[1], (4 * width, width)) / (2 * width**0.5),
        }

    def loss_of(params: Any, y: jax.Array) -> jax.Array:
        def field(time: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.tanh(jnp.sin(y @ params["in"] + time) @ params["out"])

        def advance(y: jax.Array, time: jax.Array) -> tuple[jax.Array, None]:
            h = 1.0 / steps
            k1 = field(time, y)
            k2 = field(time + h / 2, y + h / 2 * k1)
            k3 = field(time + h / 2, y + h / 2 * k2)
            k4 = field(time + h, y + h * k3)
            return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

        times = jnp.arange(steps) / steps
        y, _ = scan_in_chunks(advance, y, times, chunk)
        return jnp.mean((y - 1.0) ** 2)

    def step(params: Any, y: jax.Array) -> tuple[Any, jax.Array]:
        loss, gradients = jax.value_and_grad(loss_of)(params, y)
        return descend(params, gradients), loss

    return task_of(step, init, jax.ShapeDtypeStruct((batch, width), jnp.float32))
