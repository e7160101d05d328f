"""A GPT-2 style transformer (Flax) and its train step (Optax AdamW).

In: sizes and a rematerialization policy. Out: `Task`: a train step, a function that makes its
first state, and the shapes of its arguments. The demo, the benchmarks and the tests all
train this model, so that their numbers can be compared.

The blocks are unrolled, or scanned over, or scanned over in scanned chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

from memjax.demo.task import Task

Remat = Literal["full", "dots", "nobatch"]
"""What `jax.checkpoint` keeps of each block besides its input: nothing, the matmuls, or the
matmuls without batch dimensions."""

_POLICIES: dict[Remat, Any] = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_saveable,
    "nobatch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a GPT and of its batches. The defaults are the reference of the benchmarks."""

    layers: int = 8
    width: int = 256
    heads: int = 8
    tokens: int = 256
    batch: int = 8
    vocab: int = 4096


class Block(nn.Module):
    """Pre-norm attention and MLP: (batch, tokens, width) to the same."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Apply the block."""
        width = x.shape[-1]
        normed = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads)(normed, normed, mask=mask)
        hidden = nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x)))
        return x + nn.Dense(width)(hidden)


class ScannedBlock(nn.Module):
    """A block as the body of a scan, which hands the activations on and stacks nothing."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        """Apply the block."""
        return Block(self.heads)(x, mask), None


class Layers(nn.Module):
    """Blocks in a scan: (batch, tokens, width) to the same.

    Attributes:
        heads: of each block.
        lengths: of the scan, or of nested scans, outermost first.
        remat: `jax.checkpoint` round each body, with this policy.
    """

    heads: int
    lengths: tuple[int, ...]
    remat: Remat | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        """Apply the blocks."""
        first, *rest = self.lengths
        body: Any = ScannedBlock
        arguments: tuple[Any, ...] = (self.heads,)
        if rest:
            body, arguments = Layers, (self.heads, tuple(rest), self.remat)
        if self.remat is not None:
            policy = _POLICIES[self.remat]
            body = nn.remat(body, prevent_cse=False, policy=policy)
        scanned = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=first,
        )
        return scanned(*arguments)(x, mask)[0], None


class GPT(nn.Module):
    """Token ids (batch, tokens) to logits (batch, tokens, vocab).

    Attributes:
        sizes: of the model.
        remat: `jax.checkpoint` round each block, or each body of a scan, with this policy.
        lengths: of the scans over the blocks; empty for unrolled blocks.
    """

    sizes: Sizes
    remat: Remat | None = None
    lengths: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Apply the model."""
        s = self.sizes
        positions = self.param("positions", nn.initializers.normal(0.02), (s.tokens, s.width))
        x = nn.Embed(s.vocab, s.width)(ids) + positions[None, : ids.shape[1]]
        mask = nn.make_causal_mask(ids)
        if self.lengths:
            x, _ = Layers(s.heads, self.lengths, self.remat)(x, mask)
        else:
            block = Block if self.remat is None else nn.remat(Block, policy=_POLICIES[self.remat])
            for layer in range(s.layers):
                x = block(s.heads, name=f"block_{layer}")(x, mask)
        return nn.Dense(s.vocab, use_bias=False)(nn.LayerNorm()(x))


def gpt_task(
    sizes: Sizes | None = None,
    *,
    remat: Remat | None = None,
    lengths: tuple[int, ...] = (),
    microbatches: int = 1,
    learning_rate: float = 1e-3,
    **changes: int,
) -> Task:
    """A GPT's train step: cross entropy of the next token, AdamW, float32.

    Args:
        sizes: sizes of the model and its batches; the reference sizes where None.
        remat: `jax.checkpoint` round each block, with this policy; none where None.
        lengths: of nested scans over the layers, their product; empty for unrolled layers.
        microbatches: the batch is this many times larger, and gradients are added up in a scan.
        learning_rate: AdamW's.
        changes: single sizes to change, as in `gpt_task(layers=2)`.

    Returns:
        The task. A batch is an int32 array (batch, tokens + 1): inputs and targets overlap.
    """
    sizes = replace(sizes or Sizes(), **changes)
    model = GPT(sizes, remat, lengths)
    optimizer = optax.adamw(learning_rate)

    def init(key: jax.Array) -> Any:
        params = model.init(key, jnp.zeros((1, sizes.tokens), jnp.int32))["params"]
        return TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)

    def loss_of(params: Any, ids: jax.Array) -> jax.Array:
        logits = model.apply({"params": params}, ids[:, :-1])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]))

    def train_step(state: TrainState, ids: jax.Array) -> tuple[Any, jax.Array]:
        if microbatches == 1:
            loss, gradients = jax.value_and_grad(loss_of)(state.params, ids)
        else:
            loss, gradients = accumulated(loss_of, state.params, ids, microbatches)
        return state.apply_gradients(grads=gradients), loss

    state = jax.eval_shape(init, jax.random.key(0))
    batch = jax.ShapeDtypeStruct((microbatches * sizes.batch, sizes.tokens + 1), jnp.int32)
    return Task(train_step, init, state, batch)


def accumulated(
    loss_of: Callable[..., jax.Array], params: Any, batch: jax.Array, microbatches: int
) -> tuple[jax.Array, Any]:
    """Mean loss and gradients over microbatches, added up in a scan."""

    def add(total: Any, part: jax.Array) -> tuple[Any, None]:
        new = jax.value_and_grad(loss_of)(params, part)
        return jax.tree.map(lambda t, n: t + n / microbatches, total, new), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    parts = batch.reshape(microbatches, -1, *batch.shape[1:])
    (loss, gradients), _ = jax.lax.scan(add, zeros, parts)
    return loss, gradients
