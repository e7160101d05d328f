"""Train steps at real sizes, for devices that need not be there: GPT-2 124M, ViT-B/16, ResNet-50.

In: a policy of `jax.checkpoint` round each block, and whether layers are scanned over. Out: a
`Task`, of which only the shapes are ever made. Activations are bfloat16, state float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks.models import Labelled, cross_entropy, task_of
from memjax.demo.task import Task

BF16 = jnp.bfloat16
Policy = Callable[..., bool] | None
"""What `jax.checkpoint` keeps of a block beside its input; None for nothing."""


def convolutions(primitive: Any, *_: Any, **__: Any) -> bool:
    """The policy that keeps the results of convolutions, as `dots_saveable` those of matmuls."""
    return bool(primitive is jax.lax.conv_general_dilated_p)


def narrow_convolutions(primitive: Any, *types: Any, **__: Any) -> bool:
    """The policy that keeps those of them that do not widen: of a bottleneck the first two."""
    if primitive is not jax.lax.conv_general_dilated_p:
        return False
    *_, channels, features = types[1].shape  # Flax's kernels: (height, width, in, out)
    return bool(features <= channels)


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP: (batch, tokens, width) to the same."""

    heads: int
    causal: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block."""
        batch, tokens, width = x.shape
        normed = nn.LayerNorm(dtype=BF16)(x)
        heads = nn.Dense(3 * width, dtype=BF16)(normed).reshape(batch, tokens, 3 * self.heads, -1)
        q, k, v = jnp.split(heads, 3, axis=2)
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + nn.Dense(width, dtype=BF16)(attended.reshape(x.shape))
        hidden = nn.gelu(nn.Dense(4 * width, dtype=BF16)(nn.LayerNorm(dtype=BF16)(x)))
        return x + nn.Dense(width, dtype=BF16)(hidden)


class Carried(nn.Module):
    """A module as the body of a scan that stacks nothing."""

    module: type[nn.Module]
    arguments: tuple[Any, ...]

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        """Apply the module."""
        return self.module(*self.arguments)(x), None


def stack(
    module: type[nn.Module], arguments: tuple[Any, ...], count: int, remat: Any, scanned: bool
) -> Callable[[jax.Array], jax.Array]:
    """Some modules that are alike, one after the other; only inside of a compact module.

    Args:
        module: applied `count` times.
        arguments: of each.
        count: of them.
        remat: `(policy,)` for `jax.checkpoint` round each; empty for none.
        scanned: whether as a scan.
    """
    block: Any = nn.remat(module, policy=remat[0], prevent_cse=not scanned) if remat else module
    if not scanned:

        def unrolled(x: jax.Array) -> jax.Array:
            for _ in range(count):
                x = block(*arguments)(x)
            return x

        return unrolled
    scan = nn.scan(
        Carried,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=count,
    )
    return lambda x: scan(block, arguments)(x, None)[0]


class GPT2(nn.Module):
    """Token ids (batch, tokens) to logits (batch, tokens, vocab), with tied embeddings."""

    remat: tuple[Policy, ...]
    scanned: bool
    layers: int = 12
    width: int = 768
    heads: int = 12
    vocab: int = 50304

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Apply the model."""
        embed = nn.Embed(self.vocab, self.width, dtype=BF16)
        places = self.param("places", nn.initializers.normal(0.02), (ids.shape[1], self.width))
        x = embed(ids) + places.astype(BF16)
        arguments = (self.heads, True)
        x = stack(TransformerBlock, arguments, self.layers, self.remat, self.scanned)(x)
        return embed.attend(nn.LayerNorm(dtype=BF16)(x))


class ViT(nn.Module):
    """Images (batch, height, width, 3) to logits (batch, classes): patches of 16, mean pooling."""

    remat: tuple[Policy, ...]
    scanned: bool
    layers: int = 12
    width: int = 768
    heads: int = 12
    classes: int = 1000

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Apply the model."""
        x = nn.Conv(self.width, (16, 16), (16, 16), dtype=BF16)(images)
        x = x.reshape(x.shape[0], -1, self.width)
        places = self.param("places", nn.initializers.normal(0.02), x.shape[1:])
        x = x + places.astype(BF16)
        arguments = (self.heads, False)
        x = stack(TransformerBlock, arguments, self.layers, self.remat, self.scanned)(x)
        return nn.Dense(self.classes, dtype=BF16)(nn.LayerNorm(dtype=BF16)(x).mean(axis=1))


class Bottleneck(nn.Module):
    """The bottleneck block of He et al. (2016), with batch norm in training mode."""

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block: (batch, height, width, any) to 4 × `channels`, strides apart."""
        strides = (self.stride, self.stride)

        def normed(x: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=False, dtype=BF16)(x)

        def conv(channels: int, size: int, strides: tuple[int, int] = (1, 1)) -> nn.Conv:
            return nn.Conv(channels, (size, size), strides, use_bias=False, dtype=BF16)

        y = nn.relu(normed(conv(self.channels, 1)(x)))
        y = nn.relu(normed(conv(self.channels, 3, strides)(y)))
        y = normed(conv(4 * self.channels, 1)(y))
        if x.shape != y.shape:
            x = normed(conv(4 * self.channels, 1, strides)(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """Images (batch, height, width, 3) to logits (batch, classes)."""

    remat: tuple[Policy, ...]
    scanned: bool
    stages: tuple[int, ...] = (3, 4, 6, 3)
    channels: int = 64
    classes: int = 1000

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Apply the model. The first block of a stage has another shape, and is never scanned."""
        x = nn.Conv(self.channels, (7, 7), (2, 2), use_bias=False, dtype=BF16)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=False, dtype=BF16)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for number, count in enumerate(self.stages):
            channels = self.channels * 2**number
            first = (channels, 1 if number == 0 else 2)
            x = stack(Bottleneck, first, 1, self.remat, False)(x)
            x = stack(Bottleneck, (channels,), count - 1, self.remat, self.scanned)(x)
        return nn.Dense(self.classes, dtype=BF16)(x.mean(axis=(1, 2)))


def gpt2(remat: tuple[Policy, ...], scanned: bool, batch: int, tokens: int = 1024) -> Task:
    """GPT-2 of 124 million parameters (Radford et al., 2019) and AdamW."""
    model = GPT2(remat, scanned)
    ids = jax.ShapeDtypeStruct((batch, tokens), jnp.int32)

    def loss_of(params: Any, ids: jax.Array) -> jax.Array:
        logits = model.apply({"params": params}, ids)[:, :-1]
        return cross_entropy(logits.astype(jnp.float32), ids[:, 1:])

    def init(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros(ids.shape, ids.dtype))["params"]

    return _trained(optax.adamw(3e-4), init, lambda p, _, ids: (loss_of(p, ids), ()), (), ids)


def vit(remat: tuple[Policy, ...], scanned: bool, batch: int, size: int = 224) -> Task:
    """ViT-B/16 (Dosovitskiy et al., 2021) and AdamW."""
    return _classifier(ViT(remat, scanned), optax.adamw(3e-4), batch, size)


def resnet50(remat: tuple[Policy, ...], scanned: bool, batch: int, size: int = 224) -> Task:
    """ResNet-50 (He et al., 2016) and SGD with momentum."""
    return _classifier(ResNet50(remat, scanned), optax.sgd(0.1, momentum=0.9), batch, size)


def _classifier(
    model: nn.Module, optimizer: optax.GradientTransformation, batch: int, size: int
) -> Task:
    images = jax.ShapeDtypeStruct((batch, size, size, 3), BF16)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), images)
    kept = tuple(name for name in shapes if name != "params")

    def loss_of(params: Any, others: Any, batch: Labelled) -> tuple[jax.Array, Any]:
        variables = {"params": params, **others}
        logits, changed = model.apply(variables, batch.inputs, mutable=list(kept))
        return cross_entropy(logits.astype(jnp.float32), batch.labels), changed

    def init(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros(images.shape, images.dtype))["params"]

    others = {name: shapes[name] for name in kept}
    return _trained(optimizer, init, loss_of, others, Labelled(images, labels))


def _trained(
    optimizer: optax.GradientTransformation,
    init_params: Callable[[jax.Array], Any],
    loss_of: Callable[[Any, Any, Any], tuple[jax.Array, Any]],
    others: Any,
    batch: Any,
) -> Task:
    """A task whose state is (parameters, optimizer's, what else the model keeps)."""

    def init(key: jax.Array) -> Any:
        params = init_params(key)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), others)
        return params, optimizer.init(params), zeros

    def step(state: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, moments, kept = state
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, kept), gradients = gradient(params, kept, batch)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments, kept), loss

    return task_of(step, init, batch)
