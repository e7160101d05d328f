"""Train steps of many kinds, as `memjax.demo.task.Task`: what the GPT does not have.

Mutable state (batch norm), random bits (dropout), a recurrence written as a Python loop and
as a scan, and the other ways to write a step: Flax NNX, Equinox, raw JAX. The defaults are
small, for tests; benchmarks pass sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from memjax.demo.task import Task

CLASSES = 10


class Labelled(NamedTuple):
    """A batch: inputs (batch, …) and class labels (batch,)."""

    inputs: Any
    labels: Any


def labelled(*shape: int) -> Labelled:
    """The shapes of a labelled batch of float32 inputs."""
    return Labelled(
        jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    )


def task_of(step: Callable[..., Any], init: Callable[[jax.Array], Any], batch: Any) -> Task:
    """A task whose state's shapes are found by tracing `init`."""
    return Task(step, init, jax.eval_shape(init, jax.random.key(0)), batch)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross entropy of integer labels."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm, and a shortcut: (batch, height, width, channels)."""

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        strides = (self.stride, self.stride)
        y = nn.Conv(self.channels, (3, 3), strides, use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.Conv(self.channels, (3, 3), use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=not train)(y)
        if x.shape != y.shape:
            x = nn.Conv(self.channels, (1, 1), strides, use_bias=False)(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Images (batch, height, width, 3) to logits (batch, CLASSES)."""

    channels: tuple[int, ...]
    blocks: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.channels[0], (3, 3), use_bias=False)(x)
        for stage, channels in enumerate(self.channels):
            for block in range(self.blocks):
                x = ResidualBlock(channels, 2 if stage and not block else 1)(x)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


def resnet(
    batch: int = 16, size: int = 16, channels: tuple[int, ...] = (8, 16), blocks: int = 2
) -> Task:
    """A ResNet with batch norm: the step also returns new running averages."""
    model = ResNet(channels, blocks)
    optimizer = optax.sgd(0.05, momentum=0.9)
    shapes = labelled(batch, size, size, 3)

    def init(key: jax.Array) -> Any:
        variables = model.init(key, jnp.zeros(shapes.inputs.shape))
        return {**variables, "optimizer": optimizer.init(variables["params"])}

    def step(state: Any, data: Labelled) -> tuple[Any, jax.Array]:
        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": state["batch_stats"]}
            logits, new = model.apply(variables, data.inputs, mutable=["batch_stats"])
            return cross_entropy(logits, data.labels), new["batch_stats"]

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(state["params"])
        updates, opt = optimizer.update(grads, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "batch_stats": stats, "optimizer": opt}, loss

    return task_of(step, init, shapes)


class DropoutNet(nn.Module):
    """Features (batch, features) to logits (batch, CLASSES), half of all units dropped."""

    width: int
    layers: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(self.layers):
            x = nn.Dropout(0.5, deterministic=False)(nn.gelu(nn.Dense(self.width)(x)))
        return nn.Dense(CLASSES)(x)


def dropout(batch: int = 256, features: int = 16, width: int = 32, layers: int = 6) -> Task:
    """An MLP with dropout: the state carries the key, every step splits it."""
    model = DropoutNet(width, layers)
    optimizer = optax.adam(1e-3)

    def init(key: jax.Array) -> Any:
        variables = model.init({"params": key, "dropout": key}, jnp.zeros((1, features)))
        return variables["params"], optimizer.init(variables["params"]), key

    def step(state: Any, data: Labelled) -> tuple[Any, jax.Array]:
        params, opt, key = state
        key, now = jax.random.split(key)

        def loss_of(params: Any) -> jax.Array:
            logits = model.apply({"params": params}, data.inputs, rngs={"dropout": now})
            return cross_entropy(logits, data.labels)

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt = optimizer.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt, key), loss

    return task_of(step, init, labelled(batch, features))


class LSTM(nn.Module):
    """Sequences (batch, time, features) to logits (batch, CLASSES)."""

    width: int
    scan: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cell = nn.OptimizedLSTMCell(self.width)
        if self.scan:
            return nn.Dense(CLASSES)(nn.RNN(cell)(x)[:, -1])
        carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
        hidden = x[:, 0]
        for time in range(x.shape[1]):
            carry, hidden = cell(carry, x[:, time])
        return nn.Dense(CLASSES)(hidden)


def lstm(
    batch: int = 64, time: int = 12, features: int = 8, width: int = 32, *, scan: bool = False
) -> Task:
    """An LSTM over time, as a Python loop or as a scan, trained by AdamW."""
    model = LSTM(width, scan)
    optimizer = optax.adamw(1e-3)
    shapes = labelled(batch, time, features)

    def init(key: jax.Array) -> Any:
        params = model.init(key, jnp.zeros(shapes.inputs.shape))
        return params, optimizer.init(params)

    def step(state: Any, data: Labelled) -> tuple[Any, jax.Array]:
        params, opt = state

        def loss_of(params: Any) -> jax.Array:
            return cross_entropy(model.apply(params, data.inputs), data.labels)

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt = optimizer.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), loss

    return task_of(step, init, shapes)


def mlp(batch: int = 512, features: int = 16, width: int = 32, layers: int = 8) -> Task:
    """A plain MLP without any library, trained by gradient descent."""
    sizes = [features, *[width] * layers, CLASSES]

    def init(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(sizes))
        return [
            {"w": jax.random.normal(k, (rows, columns)) / rows**0.5, "b": jnp.zeros(columns)}
            for k, rows, columns in zip(keys, sizes, sizes[1:], strict=False)
        ]

    def loss_of(params: Any, data: Labelled) -> jax.Array:
        x = data.inputs
        for layer in params[:-1]:
            x = jnp.tanh(x @ layer["w"] + layer["b"])
        return cross_entropy(x @ params[-1]["w"] + params[-1]["b"], data.labels)

    def step(params: Any, data: Labelled) -> tuple[Any, jax.Array]:
        loss, grads = jax.value_and_grad(loss_of)(params, data)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss

    return task_of(step, init, labelled(batch, features))


def equinox_mlp(batch: int = 512, features: int = 16, width: int = 32, depth: int = 8) -> Task:
    """An Equinox MLP; the step takes its arrays, as a jitted function can take no others."""
    optimizer = optax.adam(1e-3)

    def build(key: jax.Array) -> eqx.nn.MLP:
        return eqx.nn.MLP(features, CLASSES, width, depth, key=key)

    static = eqx.filter(build(jax.random.key(0)), eqx.is_array, inverse=True)

    def init(key: jax.Array) -> Any:
        arrays = eqx.filter(build(key), eqx.is_array)
        return arrays, optimizer.init(arrays)

    def step(state: Any, data: Labelled) -> tuple[Any, jax.Array]:
        arrays, opt = state

        def loss_of(arrays: Any) -> jax.Array:
            model = eqx.combine(arrays, static)
            return cross_entropy(jax.vmap(model)(data.inputs), data.labels)

        loss, grads = jax.value_and_grad(loss_of)(arrays)
        updates, opt = optimizer.update(grads, opt)
        return (eqx.apply_updates(arrays, updates), opt), loss

    return task_of(step, init, labelled(batch, features))


class NnxNet(nnx.Module):
    """Features (batch, features) to logits (batch, CLASSES), with batch norm."""

    def __init__(self, features: int, width: int, layers: int, rngs: nnx.Rngs) -> None:
        sizes = [features, *[width] * layers]
        pairs = list(itertools.pairwise(sizes))
        self.layers = nnx.List([nnx.Linear(a, b, use_bias=False, rngs=rngs) for a, b in pairs])
        self.norms = nnx.List([nnx.BatchNorm(width, rngs=rngs) for _ in pairs])
        self.head = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nnx.relu(norm(layer(x)))
        return self.head(x)


def nnx_mlp(batch: int = 512, features: int = 16, width: int = 32, layers: int = 6) -> Task:
    """A Flax NNX model with batch norm: the step merges and splits model and optimizer."""

    def build(key: jax.Array) -> Any:
        model = NnxNet(features, width, layers, nnx.Rngs(key))
        return nnx.split((model, nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)))

    graph, _ = build(jax.random.key(0))

    def init(key: jax.Array) -> Any:
        return build(key)[1]

    def step(state: Any, data: Labelled) -> tuple[Any, jax.Array]:
        model, optimizer = nnx.merge(graph, state)

        def loss_of(model: NnxNet) -> jax.Array:
            return cross_entropy(model(data.inputs), data.labels)

        loss, grads = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, grads)
        return nnx.split((model, optimizer))[1], loss

    return task_of(step, init, labelled(batch, features))
