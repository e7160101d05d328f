"""Small programs that several test files share, and what turns them into each stage's values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.emit.rewrite import rewrite
from memjax.pricing import cost
from memjax.pricing.backends import BACKENDS, Backend
from memjax.pricing.coarsen import PricedProgram, coarsen
from memjax.pricing.liveness import liveness
from memjax.program.eqns import Program
from memjax.program.prepare import prepare
from memjax.program.trace import trace

PLAIN_BACKEND = Backend("test")
CPU = BACKENDS["cpu"]


def shape(*dimensions: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dimensions, dtype)


def primitives_of(program: Program) -> list[str]:
    return [eqn.primitive for eqn in program.eqns]


def priced_of(
    step: Any, *args: Any, prepared: bool = False, backend: Backend = PLAIN_BACKEND
) -> PricedProgram:
    """The problem of a step, with FLOPs for seconds."""
    program = trace(step, args)
    if prepared:
        program = prepare(program)
    graph = liveness(program)
    return coarsen(graph, [float(f) for f in cost.node_flops(graph)], backend)


def priced_of_program(program: Program) -> PricedProgram:
    graph = liveness(program)
    return coarsen(graph, [float(f) for f in cost.node_flops(graph)], PLAIN_BACKEND)


def run_program(program: Program, *args: Any) -> list[np.ndarray]:
    """The flat results of a program, eqn after eqn, compiled as a whole."""
    priced = priced_of_program(program)
    flat = jax.tree_util.tree_leaves(args)
    return [np.asarray(r) for r in jax.jit(rewrite(priced, priced.problem.identity))(*flat)]


def node_called(priced: PricedProgram, primitive: str, number: int = 0) -> int:
    """The node of the `number`-th eqn of a primitive."""
    names = [node.name for node in priced.problem.nodes]
    return [i for i, name in enumerate(names) if name == primitive][number]


def mlp(width: int = 32, batch: int = 256, layers: int = 4) -> tuple[Any, list[Any], Any]:
    """A step of gradient descent on a deep tanh network, its state and its batch."""

    def step(weights: list[jax.Array], x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        def loss(weights: list[jax.Array]) -> jax.Array:
            h = x
            for w in weights:
                h = jnp.tanh(h @ w) + h
            return jnp.mean(h**2)

        value, gradients = jax.value_and_grad(loss)(weights)
        return [w - 0.1 * g for w, g in zip(weights, gradients, strict=True)], value

    keys = jax.random.split(jax.random.key(0), layers + 1)
    weights = [jax.random.normal(k, (width, width)) / width**0.5 for k in keys[:-1]]
    return step, weights, jax.random.normal(keys[-1], (batch, width))


def train_step(weights: list[jax.Array], x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """A step of a multilayer perceptron: its activations are what fills the memory."""

    def loss(weights: list[jax.Array]) -> jax.Array:
        h = x
        for w in weights:
            h = jnp.tanh(h @ w)
        return jnp.mean(h**2)

    value, gradients = jax.value_and_grad(loss)(weights)
    return [w - 0.1 * g for w, g in zip(weights, gradients, strict=True)], value


def matmul_chain(x: Any, a: Any, b: Any) -> Any:
    """y = sin(x a); z = y b; returns sum(z * y): `y` lies idle while `z` is made.

    x ─ dot ─ sin(y) ─ dot(z) ─ mul ─ sum
                 └───────────────┘
    """
    y = jnp.sin(x @ a)
    return jnp.sum(jnp.cos(y @ b) @ y.T)
