"""What the demo, the benchmarks and the tests train: a step with its state and its batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Task:
    """Something to train.

    Attributes:
        step: `(state, batch) -> (state, loss)`, neither jitted nor donated.
        init: makes the first state from a PRNG key.
        state: shapes of the state.
        batch: shapes of a batch.
    """

    step: Callable[[Any, Any], tuple[Any, jax.Array]]
    init: Callable[[jax.Array], Any]
    state: Any
    batch: Any

    def random_batch(self, seed: int) -> Any:
        """A batch of random bits: non-negative integers, standard normal floats."""
        leaves, tree = jax.tree.flatten(self.batch)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        return jax.tree.unflatten(tree, map(_random, keys, leaves))


def _random(key: jax.Array, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return jax.random.randint(key, leaf.shape, 0, 10, leaf.dtype)
    return jax.random.normal(key, leaf.shape, leaf.dtype)
