"""Splits against what people write by hand, on situations that they reported.

Claims that these numbers could refute, with compiled bytes:

1. memjax's floor is at most 1.1 × what the hand-made version holds, for each situation;
2. the vocabulary head recomputes nothing there;
3. results are equal within what the order of sums changes.

Hand-made versions are written as the reports' own workarounds are: scans that accumulate
gradients over microbatches or chunks, blocks of queries under `jax.checkpoint`. Bytes are of XLA's
own statistics; `whole` is memjax's floor without splits.

    python -m benchmarks.splits [NAME ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import memjax
from benchmarks.record import write_csv

CHUNKS = 16
CLAIMED = 1.1
Step = Callable[..., Any]


@dataclass(frozen=True)
class Situation:
    """A step as it is written at first, the same by hand in chunks, and arguments."""

    step: Step
    by_hand: Step
    arguments: tuple[Any, ...]


def descend(loss: Callable[..., Any], over: int) -> tuple[Step, Step]:
    """A step down the gradient of a mean loss, and the same in microbatches.

    Args:
        loss: of parameters, and arrays whose first axis is the batch.
        over: microbatches.
    """

    def step(params: Any, *batch: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient), value

    def by_hand(params: Any, *batch: Any) -> Any:
        parts = [x.reshape(over, x.shape[0] // over, *x.shape[1:]) for x in batch]

        def add(sums: Any, part: Any) -> Any:
            return jax.tree.map(jnp.add, sums, jax.value_and_grad(loss)(params, *part)), None

        zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        (value, gradient), _ = lax.scan(add, zeros, parts)
        new = jax.tree.map(lambda p, g: p - 0.01 * g / over, params, gradient)
        return new, value / over

    return step, by_hand


def keys(count: int) -> list[Any]:
    return list(jax.random.split(jax.random.key(0), count))


def head() -> Situation:
    """A large vocabulary (jax 35915)."""

    def loss(w: Any, h: Any, labels: Any) -> Any:
        logits = h @ w
        picked = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - picked)

    w, h = (
        jax.random.normal(k, s) / 11
        for k, s in zip(keys(2), ((128, 16384), (1024, 128)), strict=True)
    )
    return Situation(*descend(loss, CHUNKS), (w, h, jnp.arange(1024) % 16384))


def field() -> Situation:
    """A network at many points (jax 3865, 11319)."""

    def loss(params: Any, x: Any, y: Any) -> Any:
        h = x
        for w in params:
            h = jax.nn.softplus(h @ w)
        return jnp.mean((h[:, :3] - y) ** 2)

    params = [jax.random.normal(k, (128, 128)) / 12 for k in keys(8)]
    x = jax.random.normal(jax.random.key(1), (16384, 128))
    return Situation(*descend(loss, CHUNKS), (params, x, jnp.zeros((16384, 3))))


def pinn() -> Situation:
    """Fourth derivatives of a network at many points."""

    def network(params: Any, x: Any) -> Any:
        h = jnp.stack([x, x**2])
        for w in params[:-1]:
            h = jnp.tanh(h @ w)
        return (h @ params[-1])[0]

    def loss(params: Any, points: Any) -> Any:
        def fourth(x: Any) -> Any:
            f = lambda x: network(params, x)  # noqa: E731
            for _ in range(4):
                f = lambda x, f=f: jax.jvp(f, (x,), (jnp.ones(()),))[1]  # noqa: E731
            return f(x)

        return jnp.mean((jax.vmap(fourth)(points) - jnp.sin(points)) ** 2)

    shapes = ((2, 32), (32, 32), (32, 32), (32, 1))
    params = [jax.random.normal(k, s) / 4 for k, s in zip(keys(4), shapes, strict=True)]
    return Situation(*descend(loss, CHUNKS), (params, jnp.linspace(0, 1, 4096)))


def attention() -> Situation:
    """Attention over a long sequence."""
    heads, tokens, width = 4, 2048, 32

    def qkv(w: Any, x: Any) -> list[Any]:
        return [jnp.einsum("td,dhe->hte", x, w[i]) for i in range(3)]

    def attended(q: Any, k: Any, v: Any) -> Any:
        a = jax.nn.softmax(jnp.einsum("hqe,hke->hqk", q, k) / 6, axis=-1)
        return jnp.mean(jnp.einsum("hqk,hke->qhe", a, v) ** 2)

    def whole(w: Any, x: Any) -> Any:
        return attended(*qkv(w, x))

    def in_blocks(w: Any, x: Any) -> Any:
        q, k, v = qkv(w, x)
        blocks = jnp.moveaxis(q.reshape(heads, CHUNKS, -1, width), 1, 0)
        return jnp.mean(lax.map(jax.checkpoint(lambda block: attended(block, k, v)), blocks))

    def step(loss: Any) -> Step:
        def run(w: Any, x: Any) -> Any:
            value, gradient = jax.value_and_grad(loss)(w, x)
            return w - 0.1 * gradient, value

        return run

    w = jax.random.normal(jax.random.key(0), (3, heads * width, heads, width)) / 11
    x = jax.random.normal(jax.random.key(1), (tokens, heads * width))
    return Situation(step(whole), step(in_blocks), (w, x))


def pairs() -> Situation:
    """All pairwise distances under a gradient (jax 1918)."""

    def rows(part: Any, z: Any) -> Any:
        squared = jnp.sum((part[:, None] - z[None]) ** 2, -1)
        weights = jnp.exp(-jnp.sqrt(squared + 1e-3))
        return jnp.sum((weights @ z - part) ** 2)

    def by_hand(z: Any) -> Any:
        def add(gradient: Any, part: Any) -> Any:
            own, others = jax.grad(rows, argnums=(0, 1))(part, z)
            return gradient + others, own

        parts = z.reshape(4 * CHUNKS, -1, z.shape[1])
        gradient, own = lax.scan(add, jnp.zeros_like(z), parts)
        return gradient + own.reshape(z.shape)

    z = jax.random.normal(jax.random.key(0), (2048, 8))
    return Situation(jax.grad(lambda z: rows(z, z)), by_hand, (z,))


def edges() -> Situation:
    """Messages on the edges of a graph."""
    nodes, count, width = 2048, 65536, 64

    def messages(w: Any, h: Any, source: Any, target: Any) -> Any:
        pair = jnp.concatenate([h[source], h[target]], -1)
        return jax.ops.segment_sum(jnp.tanh(pair @ w), target, nodes)

    def whole(w: Any, h: Any, source: Any, target: Any) -> Any:
        return jnp.mean(messages(w, h, source, target) ** 2)

    def in_chunks(w: Any, h: Any, source: Any, target: Any) -> Any:
        def add(total: Any, part: Any) -> Any:
            return total + messages(w, h, *part), None

        parts = source.reshape(CHUNKS, -1), target.reshape(CHUNKS, -1)
        total, _ = lax.scan(jax.checkpoint(add), jnp.zeros((nodes, width)), parts)
        return jnp.mean(total**2)

    def step(loss: Any) -> Step:
        def run(w: Any, h: Any, source: Any, target: Any) -> Any:
            value, gradient = jax.value_and_grad(loss)(w, h, source, target)
            return w - 0.1 * gradient, value

        return run

    one, two, three, four = keys(4)
    w = jax.random.normal(one, (2 * width, width)) / 11
    h = jax.random.normal(two, (nodes, width))
    ends = [jax.random.randint(k, (count,), 0, nodes) for k in (three, four)]
    return Situation(step(whole), step(in_chunks), (w, h, *ends))


SITUATIONS: dict[str, Callable[[], Situation]] = {
    "head": head,
    "field": field,
    "pinn": pinn,
    "attention": attention,
    "pairs": pairs,
    "edges": edges,
}


def compiled_bytes(step: Step, arguments: tuple[Any, ...], donate: tuple[int, ...]) -> int:
    """The footprint of what `jax.jit` compiles."""
    compiled = jax.jit(step, donate_argnums=donate).lower(*arguments).compile()
    return memjax.footprint(compiled).total_bytes


def largest_error(ours: Any, theirs: Any) -> float:
    """The largest difference, in parts of the largest number of an array."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    errors = [
        float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / max(np.max(np.abs(b)), 1e-30))
        for a, b in pairs
    ]
    return max(errors)


def measure(name: str) -> dict[str, Any]:
    """A row of the table."""
    situation = SITUATIONS[name]()
    step, arguments = situation.step, situation.arguments
    expected = jax.jit(step)(*arguments)
    whole = memjax.floor(memjax.memory_budget(1, split=False)(step), *arguments)
    found = memjax.floor(memjax.memory_budget(1)(step), *arguments)
    planned = memjax.memory_budget(found.bytes)(step)
    given = found.report.donations
    donate = tuple(n for n in range(len(arguments)) if n == 0 and any(d.donated for d in given))
    by_hand = compiled_bytes(situation.by_hand, arguments, donate)
    fresh = jax.tree.map(jnp.array, arguments)
    error = largest_error(planned(*fresh), expected)
    return {
        "situation": name,
        "plain_bytes": compiled_bytes(step, arguments, donate),
        "whole_bytes": whole.bytes,
        "floor_bytes": found.bytes,
        "by_hand_bytes": by_hand,
        "ratio": round(found.bytes / by_hand, 3),
        "recomputed_flops": found.report.recomputed_flops,
        "plain_flops": found.report.plain_flops,
        "splits": "; ".join(map(str, found.report.splits)),
        "planning_seconds": round(found.report.planning_seconds, 2),
        "largest_error": error,
        "claim_holds": found.bytes <= CLAIMED * by_hand and error < 1e-3,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SITUATIONS)}; all by default")
    names = parser.parse_args().names
    rows = []
    for name in names or SITUATIONS:
        rows.append(measure(name))
        print(rows[-1], flush=True)
    if not names:
        write_csv("splits", rows)


if __name__ == "__main__":
    main()
