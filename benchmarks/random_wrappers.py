"""Loops, branches, calls and derivative rules round drawn layers.

In: a `Chooser`, a `Size`, how deep to go. Out: a `Layer` that runs other layers in a `scan`, a
`cond`, a `while`, a nested `jit`, a `jax.checkpoint`, or under rules of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from benchmarks.random_layers import (
    ARRAY_LAYERS,
    Chooser,
    Layer,
    Run,
    Size,
    Spot,
    matmul,
    one_in,
)

Wrapper = Callable[[Chooser, Size, int], Layer]
Weights = Sequence[jax.Array]


def draw_layer(c: Chooser, size: Size, depth: int) -> Layer:
    """A layer, in up to `depth` wrappers."""
    if depth and one_in(c, 2):
        return c.pick(WRAPPERS)(c, size, depth - 1)
    return c.pick(ARRAY_LAYERS)(c, size)


def around(inner: Layer, name: str, run: Run, shapes: Any = None) -> Layer:
    """A layer that runs another one."""
    shapes = inner.shapes if shapes is None else shapes
    return Layer(f"{name}[{inner.name}]", shapes, run, inner.rough)


def residual(c: Chooser, size: Size, depth: int) -> Layer:
    """What is read, and a layer of it."""
    inner = draw_layer(c, size, depth)
    return around(inner, "residual", lambda w, x, at: x + 0.5 * inner.run(w, x, at))


def sequence(c: Chooser, size: Size, depth: int) -> Layer:
    """Two layers, one after the other."""
    first, second = draw_layer(c, size, depth), draw_layer(c, size, depth)
    count = len(first.shapes)

    def run(w: Weights, x: jax.Array, at: Spot) -> jax.Array:
        return second.run(w[count:], first.run(w[:count], x, at), at)

    rough = first.rough or second.rough
    return Layer(f"{first.name}, {second.name}", first.shapes + second.shapes, run, rough)


def called(c: Chooser, size: Size, depth: int) -> Layer:
    """A nested `jit`, a named scope, or both, called once or twice."""
    inner, twice = draw_layer(c, size, depth), c.pick((False, True))

    @jax.jit
    def body(w: Weights, x: jax.Array, at: Spot) -> jax.Array:
        with jax.named_scope("block"):
            return inner.run(w, x, at)

    def run(w: Weights, x: jax.Array, at: Spot) -> jax.Array:
        y = body(w, x, at)
        return body(w, y, at) if twice else y

    return around(inner, "jit twice" if twice else "jit", run)


POLICIES: dict[str, Any] = {
    "": None,
    "dots": jax.checkpoint_policies.dots_saveable,
    "everything": jax.checkpoint_policies.everything_saveable,
    "names": jax.checkpoint_policies.save_only_these_names("kept"),
}


def checkpointed(c: Chooser, size: Size, depth: int) -> Layer:
    """The user's own `jax.checkpoint`, with a policy or without."""
    inner, policy = draw_layer(c, size, depth), c.pick(tuple(POLICIES))

    def body(w: Weights, x: jax.Array, at: Spot) -> jax.Array:
        h = checkpoint_name(inner.run(w, x, at), "kept")
        return jnp.sin(h) + h

    run = jax.checkpoint(body, policy=POLICIES[policy])
    return around(inner, f"checkpoint {policy}".strip(), run)


def branch(c: Chooser, size: Size, depth: int) -> Layer:
    """One of two layers: by the count of steps, or by what is read."""
    first, second = draw_layer(c, size, depth), draw_layer(c, size, depth)
    count, kind = len(first.shapes), c.pick(("count", "data", "switch"))

    def run(w: Weights, x: jax.Array, at: Spot) -> jax.Array:
        ways = (
            lambda w, x, at: first.run(w[:count], x, at),
            lambda w, x, at: second.run(w[count:], x, at),
            lambda w, x, at: x * 0.5,
        )
        if kind == "switch":
            return lax.switch(at.count % 3, ways, w, x, at)
        chosen = at.count % 2 == 0 if kind == "count" else jnp.sum(x[0] ** 2) > 1e-3
        return lax.cond(chosen, *ways[:2], w, x, at)

    rough = first.rough or second.rough
    name = f"cond by {kind}[{first.name} or {second.name}]"
    return Layer(name, first.shapes + second.shapes, run, rough)


def _folded(at: Spot, index: Any) -> Spot:
    return at._replace(key=jax.random.fold_in(at.key, index))


def repeated(c: Chooser, size: Size, depth: int) -> Layer:
    """A `fori_loop` with static bounds, so that it has a gradient."""
    inner, times = draw_layer(c, size, depth), c.integer(2, 4)

    def run(w: Weights, x: jax.Array, at: Spot) -> jax.Array:
        body = lambda i, h: 0.5 * h + inner.run(w, h, _folded(at, i))  # noqa: E731
        return lax.fori_loop(0, times, body, x)

    return around(inner, f"fori {times}", run)


def stacked(c: Chooser, size: Size, depth: int) -> Layer:
    """A `scan` over layers with weights of their own, as deep models are written."""
    inner, times = draw_layer(c, size, depth), c.integer(1, 5)
    remat, unroll, split = c.pick((False, True)), c.pick((1, 2)), c.pick((False, True))

    def run(w: Weights, x: jax.Array, at: Spot) -> jax.Array:
        def body(h: jax.Array, xs: Any) -> tuple[jax.Array, None]:
            w, each = xs
            here = at._replace(key=each) if split else _folded(at, each)
            return h + 0.5 * inner.run(w, h, here), None

        body = jax.checkpoint(body, prevent_cse=False) if remat else body
        each = jax.random.split(at.key, times) if split else jnp.arange(times)
        return lax.scan(body, x, (w, each), unroll=unroll)[0]

    shapes = tuple((times, *shape) for shape in inner.shapes)
    return around(inner, f"scan of {times} layers" + " with remat" * remat, run, shapes)


def recurrent(c: Chooser, size: Size, depth: int) -> Layer:
    """A `scan` over stretches of rows; its stacked outputs are read, or only its carry is."""
    steps = c.pick((4, 8))
    part = Size(size.rows // steps, size.width)
    if part.rows % 16:
        return draw_layer(c, size, depth)
    inner = draw_layer(c, part, depth)
    reads, reverse, dead = c.pick(("outputs", "carry", "both")), c.pick((False, True)), one_in(c, 3)

    def run(w: Weights, x: jax.Array, at: Spot) -> jax.Array:
        def body(carry: Any, xs: Any) -> tuple[Any, Any]:
            h, total, index = carry
            part, tokens = xs
            here = _folded(at._replace(tokens=tokens), index)
            h = inner.run(w, 0.5 * h + part, here)
            kept = (h, jnp.sin(h)) if dead else (h, None)
            return (h, total + jnp.tanh(h).mean(0), index + 1), kept

        parts = x.reshape(steps, -1, x.shape[-1])
        start = (jnp.zeros_like(parts[0]), jnp.zeros_like(x[0]), 0)
        tokens = at.tokens.reshape(steps, -1)
        (h, total, _), (hs, _) = lax.scan(body, start, (parts, tokens), reverse=reverse)
        y = x + total if reads == "carry" else hs.reshape(x.shape)
        return y + jnp.tile(h, (steps, 1)) if reads == "both" else y

    return around(inner, f"scan over rows, reads {reads}" + " reversed" * reverse, run)


def mapped(c: Chooser, size: Size, depth: int) -> Layer:
    """`vmap` or `lax.map` over stretches of rows."""
    count, part = 4, Size(size.rows // 4, size.width)
    if part.rows % 16:
        return draw_layer(c, size, depth)
    inner, loop = draw_layer(c, part, depth), c.pick((False, True))

    def run(w: Weights, x: jax.Array, at: Spot) -> jax.Array:
        def one(operands: Any) -> jax.Array:
            part, tokens = operands
            return inner.run(w, part, at._replace(tokens=tokens))

        parts = x.reshape(count, -1, x.shape[-1]), at.tokens.reshape(count, -1)
        return (lax.map(one, parts) if loop else jax.vmap(one)(parts)).reshape(x.shape)

    return around(inner, "map" if loop else "vmap", run)


def own_rule(c: Chooser, size: Size, depth: int) -> Layer:
    """A `custom_vjp` that runs its layer again, or a `custom_jvp` with a scaled tangent."""
    inner, forward = draw_layer(c, size, depth), c.pick((False, True))

    def plain(w: Weights, x: jax.Array, at: Spot) -> jax.Array:
        return inner.run(w, x, at)

    if forward:
        ruled = jax.custom_jvp(plain)

        @ruled.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            w, x, at = primals
            y, moved = jax.jvp(lambda w, x: plain(w, x, at), (w, x), tangents[:2])
            return y, moved * 0.9

        return around(inner, "custom_jvp", ruled)

    by_hand = jax.custom_vjp(plain)

    def backward(kept: Any, g: jax.Array) -> Any:
        w, x, at = kept
        _, pull = jax.vjp(lambda w, x: plain(w, x, at), w, x)
        return (*pull(jnp.clip(g, -1.0, 1.0)), None)

    by_hand.defvjp(lambda w, x, at: (plain(w, x, at), (w, x, at)), backward)
    return around(inner, "custom_vjp", by_hand)


def searched(c: Chooser, size: Size, depth: int) -> Layer:
    """A `while_loop` without a gradient, and a layer of what comes out."""
    inner, limit = matmul(c, size), c.integer(2, 5)

    def run(w: Weights, x: jax.Array, at: Spot) -> jax.Array:
        still = lambda carry: (carry[0] < limit) & (jnp.max(jnp.abs(carry[1])) < 1e6)  # noqa: E731
        again = lambda carry: (carry[0] + 1, jnp.cos(carry[1]) + carry[1])  # noqa: E731
        _, found = lax.while_loop(still, again, (0, lax.stop_gradient(x)))
        return inner.run(w, x + found / limit, at)

    return around(inner, "while", run)


WRAPPERS: tuple[Wrapper, ...] = (
    residual,
    sequence,
    called,
    checkpointed,
    branch,
    repeated,
    stacked,
    recurrent,
    mapped,
    own_rule,
    searched,
)
