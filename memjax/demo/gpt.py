"""A GPT-2 style transformer (Flax) and its train step (Optax AdamW).

In: sizes and a rematerialization policy. Out: `Task`: a train step, a function that makes its
first state, and the shapes of its arguments. The demo, the benchmarks and the tests all
train this model, so that their numbers can be compared.

The blocks are unrolled, not scanned: a scan is one eqn for memjax so far.
"""

from __future__ import annotations

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


class GPT(nn.Module):
    """Token ids (batch, tokens) to logits (batch, tokens, vocab)."""

    sizes: Sizes
    remat: Remat | None = None

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Apply the model."""
        s = self.sizes
        positions = self.param("positions", nn.initializers.normal(0.02), (s.tokens, s.width))
        x = nn.Embed(s.vocab, s.width)(ids) + positions[None, : ids.shape[1]]
        mask = nn.make_causal_mask(ids)
        block = Block if self.remat is None else nn.remat(Block, policy=_POLICIES[self.remat])
        for layer in range(s.layers):
            x = block(s.heads, name=f"block_{layer}")(x, mask)
        return nn.Dense(s.vocab, use_bias=False)(nn.LayerNorm()(x))


def gpt_task(
    sizes: Sizes | None = None,
    *,
    remat: Remat | None = None,
    learning_rate: float = 1e-3,
    **changes: int,
) -> Task:
    """A GPT's train step: cross entropy of the next token, AdamW, float32.

    Args:
        sizes: sizes of the model and its batches; the reference sizes where None.
        remat: `jax.checkpoint` round each block, with this policy; none where None.
        learning_rate: AdamW's.
        changes: single sizes to change, as in `gpt_task(layers=2)`.

    Returns:
        The task. A batch is an int32 array (batch, tokens + 1): inputs and targets overlap.
    """
    sizes = replace(sizes or Sizes(), **changes)
    model = GPT(sizes, remat)
    optimizer = optax.adamw(learning_rate)

    def init(key: jax.Array) -> Any:
        params = model.init(key, jnp.zeros((1, sizes.tokens), jnp.int32))["params"]
        return TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)

    def train_step(state: TrainState, ids: jax.Array) -> tuple[Any, jax.Array]:
        def loss_of(params: Any) -> jax.Array:
            logits = state.apply_fn({"params": params}, ids[:, :-1])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:])
            return jnp.mean(losses)

        loss, gradients = jax.value_and_grad(loss_of)(state.params)
        return state.apply_gradients(grads=gradients), loss

    state = jax.eval_shape(init, jax.random.key(0))
    batch = jax.ShapeDtypeStruct((sizes.batch, sizes.tokens + 1), jnp.int32)
    return Task(train_step, init, state, batch)
