"""Layers that keep the shape of what they read, drawn at random: the vocabulary of the fuzzer.

In: a `Chooser` and a `Size`. Out: a `Layer`. Every random decision is made when a layer is
drawn, so that what it runs is a pure function. `benchmarks.random_wrappers` puts layers into
loops, branches and calls; `benchmarks.random_steps` makes train steps of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

T = TypeVar("T")
VOCABULARY = 16

calls: list[str] = []
"""A line for each call of the host by a layer, since somebody cleared it."""


class Chooser(Protocol):
    """Where choices come from; the first option is the simplest."""

    def integer(self, low: int, high: int) -> int:
        """One of `low` to `high`, both included."""

    def pick(self, options: Sequence[T]) -> T:
        """One of some options."""


class Dice:
    """Choices that a seed determines."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        """One of `low` to `high`, both included."""
        return self._random.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        """One of some options."""
        return options[self._random.randrange(len(options))]


def one_in(c: Chooser, count: int) -> bool:
    """True in one of `count` draws."""
    return c.integer(1, count) == count


@dataclass(frozen=True)
class Size:
    """Of what a layer reads and returns: an array of (rows, width); rows divide by 16."""

    rows: int
    width: int


class Spot(NamedTuple):
    """What a layer reads beside weights and input.

    Attributes:
        key: for random bits.
        tokens: an integer below `VOCABULARY` for each row.
        count: of steps so far; its value decides nothing but positions and branches.
    """

    key: jax.Array
    tokens: jax.Array
    count: jax.Array


Run = Callable[[Sequence[jax.Array], jax.Array, Spot], jax.Array]


@dataclass(frozen=True)
class Layer:
    """A function of weights, an array, and a `Spot` to another array of the same type.

    Attributes:
        name: with its choices, for people.
        shapes: of its weights.
        run: the function.
        rough: whether a rounding of its input may change its output by more than that.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    run: Run
    rough: bool = False


Factory = Callable[[Chooser, Size], Layer]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "sin": jnp.sin,
    "softplus": jax.nn.softplus,
}


def matmul(c: Chooser, size: Size) -> Layer:
    """A dense layer, in several spellings."""
    name, square = c.pick(tuple(ACTIVATIONS)), (size.width, size.width)
    spelling = c.pick(("x @ w", "x @ w.T", "einsum", "(w.T @ x.T).T"))
    products: dict[str, Callable[[Any, Any], Any]] = {
        "x @ w": lambda x, w: x @ w,
        "x @ w.T": lambda x, w: x @ w.T,
        "einsum": lambda x, w: jnp.einsum("bi,io->bo", x, w),
        "(w.T @ x.T).T": lambda x, w: (w.T @ x.T).T,
    }
    run: Run = lambda w, x, at: ACTIVATIONS[name](products[spelling](x, w[0]) + w[1])  # noqa: E731
    return Layer(f"{name}({spelling})", (square, (size.width,)), run)


def feed_forward(c: Chooser, size: Size) -> Layer:
    """Up, an activation or a gate, and down again."""
    gated, wide = c.pick((False, True)), 4 * size.width
    up = (size.width, 2 * wide if gated else wide)

    def run(w: Sequence[jax.Array], x: jax.Array, at: Spot) -> jax.Array:
        h = x @ w[0]
        if gated:
            h, gate = jnp.split(h, 2, axis=-1)
            h = h * jax.nn.silu(gate)
        return jnp.tanh(h) @ w[1]

    return Layer("feed forward" + " gated" * gated, (up, (wide, size.width)), run)


def norm(c: Chooser, size: Size) -> Layer:
    """Normalization over features, over rows, or by the root of the mean square."""
    kind = c.pick(("layer", "batch", "rms"))

    def run(w: Sequence[jax.Array], x: jax.Array, at: Spot) -> jax.Array:
        axis = 0 if kind == "batch" else -1
        mean = 0.0 if kind == "rms" else x.mean(axis, keepdims=True)
        spread = jnp.mean((x - mean) ** 2, axis, keepdims=True)
        return (x - mean) * lax.rsqrt(spread + 1e-3) * w[0] + w[1]

    return Layer(f"{kind} norm", ((size.width,), (size.width,)), run)


def elementwise(c: Chooser, size: Size) -> Layer:
    """Arithmetic, masks and reductions that are broadcast again."""
    options: dict[str, Callable[[jax.Array], jax.Array]] = {
        "exp": lambda x: jnp.exp(-(x**2)) + 0.5 * x,
        "where": lambda x: jnp.where(x > 0, x, jnp.expm1(x)),
        "clip": lambda x: jnp.clip(x, -1.5, 1.5),
        "softmax": lambda x: x * jax.nn.softmax(x, axis=-1) * x.shape[-1],
        "logsumexp": lambda x: x - jax.nn.logsumexp(x, axis=0, keepdims=True),
        "center": lambda x: x - x.mean(0) * 0.5,
        "max": lambda x: x / (1 + jnp.max(jnp.abs(x), axis=-1, keepdims=True)),
        "outer": lambda x: x + jnp.tanh(x.mean(1))[:, None] * x.sum(0)[None, :] / x.shape[0],
        "barrier": lambda x: lax.optimization_barrier(jnp.sin(x)) * x,
        "scalar": lambda x: x * lax.stop_gradient(1 / (1 + jnp.sqrt(jnp.mean(x**2)))),
    }
    name = c.pick(tuple(options))
    return Layer(name, (), lambda w, x, at: options[name](x))


def causal(c: Chooser, size: Size) -> Layer:
    """Attention over stretches of 16 rows, with a mask made of positions."""
    masked, time = c.pick((False, True)), 16

    def run(w: Sequence[jax.Array], x: jax.Array, at: Spot) -> jax.Array:
        h = x.reshape(-1, time, x.shape[-1])
        q, k, v = jnp.split(h @ w[0], 3, axis=-1)
        scores = jnp.einsum("btd,bsd->bts", q, k) / x.shape[-1] ** 0.5
        if masked:
            mask = jnp.arange(time)[:, None] >= jnp.arange(time)[None, :]
            scores = jnp.where(mask, scores, -1e9)
        mixed = jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores), v)
        return mixed.reshape(x.shape)

    return Layer("attention" + " masked" * masked, ((size.width, 3 * size.width),), run)


def convolution(c: Chooser, size: Size) -> Layer:
    """Over images of 4 × 4, or over a sequence channel by channel."""
    flat, width = c.pick((False, True)), size.width

    def run(w: Sequence[jax.Array], x: jax.Array, at: Spot) -> jax.Array:
        if flat:
            h = x.reshape(-1, 16, width)
            numbers = ("NHC", "HIO", "NHC")
            y = lax.conv_general_dilated(
                h, w[0], (1,), "SAME", dimension_numbers=numbers, feature_group_count=width
            )
        else:
            h = x.reshape(-1, 4, 4, width)
            y = lax.conv_general_dilated(
                h, w[0], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return jnp.tanh(y.reshape(x.shape))

    shape = (3, 1, width) if flat else (3, 3, width, width)
    return Layer("depthwise convolution" if flat else "convolution", (shape,), run)


def pooling(c: Chooser, size: Size) -> Layer:
    """The largest or the mean of neighbouring rows."""
    largest = c.pick((False, True))

    def run(w: Sequence[jax.Array], x: jax.Array, at: Spot) -> jax.Array:
        if largest:
            return lax.reduce_window(x, -jnp.inf, lax.max, (3, 1), (1, 1), "SAME")
        return lax.reduce_window(x, 0.0, lax.add, (3, 1), (1, 1), "SAME") / 3

    return Layer("max pooling" if largest else "mean pooling", (), run)


def lookup(c: Chooser, size: Size) -> Layer:
    """Rows of a table by integer, by gather or by a one-hot matmul."""
    one_hot = c.pick((False, True))

    def run(w: Sequence[jax.Array], x: jax.Array, at: Spot) -> jax.Array:
        if one_hot:
            return x + jax.nn.one_hot(at.tokens, VOCABULARY, dtype=x.dtype) @ w[0]
        return x + w[0][at.tokens]

    return Layer("one-hot" if one_hot else "lookup", ((VOCABULARY, size.width),), run)


def scatter(c: Chooser, size: Size) -> Layer:
    """Rows that are added, written or collected by index."""

    def sums(x: jax.Array, at: Spot) -> jax.Array:
        table = jnp.zeros((VOCABULARY, x.shape[1]), x.dtype).at[at.tokens].add(x)
        return x - table[at.tokens] / x.shape[0]

    def segments(x: jax.Array, at: Spot) -> jax.Array:
        largest = jax.ops.segment_max(x, at.tokens, VOCABULARY)
        return x - 0.1 * largest[at.tokens]

    options: dict[str, Callable[[jax.Array, Spot], jax.Array]] = {
        ".at[].add": sums,
        ".at[].set": lambda x, at: x.at[::2].set(jnp.tanh(x[1::2])),
        ".at[].mul": lambda x, at: x.at[jnp.arange(0, x.shape[0], 3)].multiply(0.5),
        "segment_max": segments,
    }
    name = c.pick(tuple(options))
    return Layer(name, (), lambda w, x, at: options[name](x, at))


def slices(c: Chooser, size: Size) -> Layer:
    """Slices, concatenations, paddings, and updates at a position that is computed."""

    def update(x: jax.Array, at: Spot) -> jax.Array:
        zero = jnp.zeros((), jnp.int32)
        part = lax.dynamic_slice(x, (at.count % 4, zero), (x.shape[0] // 2, x.shape[1]))
        return lax.dynamic_update_slice(x, jnp.sin(part), (at.count % 3, zero))

    def padded(x: jax.Array, at: Spot) -> jax.Array:
        wide = jnp.pad(x, ((1, 1), (0, 0)))
        return (wide[:-2] + wide[2:]) * 0.5

    options: dict[str, Callable[[jax.Array, Spot], jax.Array]] = {
        "concatenate": lambda x, at: jnp.concatenate(
            [x[x.shape[0] // 2 :], jnp.cos(x[: x.shape[0] // 2])]
        ),
        "roll": lambda x, at: x + 0.5 * jnp.roll(x, 1, axis=0),
        "flip": lambda x, at: x - 0.5 * x[::-1],
        "dynamic update": update,
        "pad": padded,
        "stack": lambda x, at: jnp.stack([x, jnp.sin(x), x * x]).mean(0),
    }
    name = c.pick(tuple(options))
    return Layer(name, (), lambda w, x, at: options[name](x, at))


def cumulative(c: Chooser, size: Size) -> Layer:
    """Sums along an axis, and a linear recurrence by `associative_scan`."""

    def recurrence(x: jax.Array) -> jax.Array:
        decay = jax.nn.sigmoid(x)
        join = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])  # noqa: E731
        return lax.associative_scan(join, (decay, x))[1]

    options: dict[str, Callable[[jax.Array], jax.Array]] = {
        "cumsum": lambda x: jnp.cumsum(x, axis=0) / x.shape[0] ** 0.5,
        "cumlogsumexp": lambda x: lax.cumlogsumexp(x, axis=0) * 0.1,
        "cummax": lambda x: lax.cummax(x, axis=0),
        "cumprod": lambda x: jnp.cumprod(jnp.tanh(x) + 1, axis=1) / 4,
        "associative_scan": recurrence,
    }
    name = c.pick(tuple(options))
    return Layer(name, (), lambda w, x, at: options[name](x))


def sorting(c: Chooser, size: Size) -> Layer:
    """Sorts, and values that are picked by rank."""

    def by_rank(x: jax.Array) -> jax.Array:
        return x + x[jnp.argsort(x[:, 0])]

    def top(x: jax.Array) -> jax.Array:
        values, places = lax.top_k(x, 4)
        return x + values.mean(-1, keepdims=True) * (places.sum(-1, keepdims=True) % 2)

    options: dict[str, Callable[[jax.Array], jax.Array]] = {
        "sort": lambda x: jnp.sort(x, axis=0),
        "argsort": by_rank,
        "top_k": top,
        "argmax": lambda x: x + jax.nn.one_hot(jnp.argmax(x, -1), x.shape[-1], dtype=x.dtype),
        "median": lambda x: x - jnp.median(x, axis=0),
    }
    name = c.pick(tuple(options))
    return Layer(name, (), lambda w, x, at: options[name](x), rough=True)


def dropout(c: Chooser, size: Size) -> Layer:
    """Random bits from a key that is folded or split."""
    salt, noise = c.integer(0, 9), c.pick((False, True))

    def run(w: Sequence[jax.Array], x: jax.Array, at: Spot) -> jax.Array:
        key = jax.random.fold_in(at.key, salt)
        if noise:
            key, _ = jax.random.split(key)
            return x + 0.1 * jax.random.normal(key, x.shape, x.dtype)
        return jnp.where(jax.random.bernoulli(key, 0.9, x.shape), x / 0.9, 0.0)

    return Layer("noise" if noise else "dropout", (), run)


def cast(c: Chooser, size: Size) -> Layer:
    """Some of the work in bfloat16 or float16."""
    dtype = c.pick((jnp.bfloat16, jnp.float16))

    def run(w: Sequence[jax.Array], x: jax.Array, at: Spot) -> jax.Array:
        half = jnp.tanh(x.astype(dtype) @ w[0].astype(dtype))
        return half.astype(x.dtype)

    return Layer(f"{dtype.__name__} matmul", ((size.width, size.width),), run)


def algebra(c: Chooser, size: Size) -> Layer:
    """Small factorizations and transforms, which call libraries."""

    def solved(x: jax.Array) -> jax.Array:
        gram = x.T @ x / x.shape[0] + jnp.eye(x.shape[1], dtype=x.dtype)
        return jnp.linalg.solve(gram, x.T).T

    def whitened(x: jax.Array) -> jax.Array:
        gram = x.T @ x / x.shape[0] + jnp.eye(x.shape[1], dtype=x.dtype)
        lower = jnp.linalg.cholesky(gram)
        return jax.scipy.linalg.solve_triangular(lower, x.T, lower=True).T

    def pairs(x: jax.Array) -> jax.Array:
        far = jnp.sqrt(jnp.sum((x[:64, None] - x[None, :64]) ** 2, -1) + 1e-2)
        return x + jnp.exp(-far).mean()

    options: dict[str, Callable[[jax.Array], jax.Array]] = {
        "pairs": pairs,
        "fft": lambda x: jnp.fft.ifft(jnp.fft.fft(x, axis=0) * 0.7j, axis=0).imag.astype(x.dtype),
        "solve": solved,
        "cholesky": whitened,
    }
    name = c.pick(tuple(options))
    return Layer(name, (), lambda w, x, at: options[name](x))


def _called(*_: Any) -> None:
    calls.append("callback")


def watched(c: Chooser, size: Size) -> Layer:
    """A call of the host that reads a little, nothing, or the whole array."""
    kind = c.pick(("a number", "nothing", "all", "print"))

    def run(w: Sequence[jax.Array], x: jax.Array, at: Spot) -> jax.Array:
        if kind == "print":
            jax.debug.print("mean {}", x.mean())
        else:
            read = {"a number": (x.sum(),), "nothing": (), "all": (x,)}[kind]
            jax.debug.callback(_called, *read)
        return jnp.sin(x)

    return Layer(f"callback of {kind}", (), run)


ARRAY_LAYERS: tuple[Factory, ...] = (
    matmul,
    elementwise,
    norm,
    feed_forward,
    causal,
    convolution,
    pooling,
    lookup,
    scatter,
    slices,
    cumulative,
    sorting,
    dropout,
    cast,
    algebra,
    watched,
)
