"""Train steps as people write them, drawn at random.

In: a `Chooser` (`Dice` with a seed, or one of hypothesis). Out: a `RandomStep`: the step, its
arguments, and how exactly its numbers are determined. Values between the layers take 16 to
256 KiB and the weights a few KiB, so that there is something to plan and compiling is quick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import io_callback

from benchmarks.random_layers import VOCABULARY, Chooser, Layer, Size, Spot, calls, one_in
from benchmarks.random_wrappers import draw_layer

FEATURES = 4
CAPTURED = np.linspace(0.0, 1.0, 8)
GRADIENTS = ("plain", "microbatches", "by example", "penalty", "none")
UPDATES = ("sgd", "momentum", "adam")
FLOWS = ("straight", "guarded", "two steps", "gradients only")
CONTAINERS = ("dict", "tuple", "named tuple")
EXTRAS = ("nothing", "average", "placed average", "rate", "empty", "numpy")
RESULTS = ("batch", "loss twice", "literal", "none", "captured", "tokens", "weights too", "extra")
AUXILIARY = ("hidden", "means", "logits", "predictions")


@dataclass(frozen=True)
class Placed:
    """A layer of a model: which earlier values it reads, and whether it shares weights."""

    layer: Layer
    reads: int
    other: int
    shares: bool


@dataclass(frozen=True)
class Recipe:
    """All choices of a step.

    Attributes:
        layers: in their order.
        size: of the values in between.
        dtype: of weights, batch and most of the work.
        gradients: how they are computed.
        update: of the weights.
        flow: what stands round the update.
        container: of the state.
        extra: what else the state has.
        results: what is returned beside state and loss.
        auxiliary: what the loss returns beside its value.
        entropy: whether the loss is a cross-entropy with tied weights.
        announces: whether the step calls the host in order.
        donate: as in `memory_budget`.
        seed: of the numbers.
    """

    layers: tuple[Placed, ...]
    size: Size
    dtype: str
    gradients: str = "plain"
    update: str = "sgd"
    flow: str = "straight"
    container: str = "dict"
    extra: str = "nothing"
    results: tuple[str, ...] = ()
    auxiliary: tuple[str, ...] = ()
    entropy: bool = False
    announces: bool = False
    donate: str | None = "auto"
    seed: int = 0

    def __str__(self) -> str:
        layers = "; ".join(
            f"{n}: {p.layer.name}({p.reads}{f'+{p.other}' if p.other >= 0 else ''}"
            f"{' shared' if p.shares else ''})"
            for n, p in enumerate(self.layers, 1)
        )
        rest = (self.gradients, self.update, self.flow, self.container, self.extra)
        flags = ["entropy"] * self.entropy + ["announces"] * self.announces
        more = (*self.results, *self.auxiliary, *flags, f"donate={self.donate}")
        size = f"{self.size.rows}×{self.size.width} {self.dtype}"
        return f"{size} | {layers} | {', '.join((*rest, *more))}"

    @property
    def is_half(self) -> bool:
        """Whether some of the work is done in 16 bits."""
        return any("float16" in p.layer.name for p in self.layers)

    @property
    def tolerance(self) -> float:
        """Of a result, relative to its largest element: what another order of sums may do."""
        if self.is_half:
            return 5e-2
        return 1e-9 if self.dtype == "float64" else 1e-3


class State(NamedTuple):
    """What a step takes and returns."""

    params: Any
    slots: Any
    count: Any
    key: Any
    extra: Any


@dataclass(frozen=True)
class RandomStep:
    """A drawn step.

    Attributes:
        recipe: what was drawn.
        step: takes a state and a batch.
    """

    recipe: Recipe
    step: Callable[[Any, Any], Any]

    def arguments(self) -> tuple[Any, Any]:
        """A state and a batch in new buffers; the same numbers each time."""
        return make_arguments(self.recipe)


def draw_recipe(c: Chooser, most_layers: int = 7) -> Recipe:
    """All choices of a step."""
    size = Size(c.pick((128, 256, 512)), c.pick((16, 32)))
    dtype = c.pick(("float64", "float64", "float64", "float32"))
    gradients = c.pick(("plain",) * 5 + GRADIENTS)
    parts = 2 if gradients in ("microbatches", "by example") else 1
    return Recipe(
        layers=draw_layers(c, Size(size.rows // parts, size.width), c.integer(1, most_layers)),
        size=size,
        dtype=dtype,
        gradients=gradients,
        update=c.pick(UPDATES),
        flow=c.pick(("straight",) * 4 + FLOWS),
        container=c.pick(CONTAINERS),
        extra=c.pick(EXTRAS),
        results=tuple(name for name in RESULTS if one_in(c, 6)),
        auxiliary=tuple(name for name in AUXILIARY if one_in(c, 5)),
        entropy=c.pick((False, True)),
        announces=one_in(c, 8),
        donate=c.pick(("auto", "auto", "auto", None)),
        seed=c.integer(0, 99),
    )


def draw_layers(c: Chooser, size: Size, count: int) -> tuple[Placed, ...]:
    """Layers that read the newest value or an older one; rough ones never beside 16 bits."""
    placed: list[Placed] = []
    half = False
    for number in range(count):
        layer = draw_layer(c, size, depth=2)
        reads = c.integer(0, number) if one_in(c, 4) else number
        other = c.integer(0, number) if one_in(c, 4) else -1
        is_half = "float16" in layer.name
        if (half or is_half) and (layer.rough or any(p.layer.rough for p in placed)):
            continue
        half = half or is_half
        last = len(placed)
        placed.append(Placed(layer, min(reads, last), min(other, last), one_in(c, 4)))
    return tuple(placed)


def draw_step(c: Chooser, most_layers: int = 7) -> RandomStep:
    """A step and what makes its arguments."""
    return build(draw_recipe(c, most_layers))


def weight_places(recipe: Recipe) -> tuple[list[tuple[int, ...]], list[int]]:
    """Shapes of all weights, and for each layer where its own begin among them."""
    width = recipe.size.width
    shapes: list[tuple[int, ...]] = [(FEATURES, width), (VOCABULARY, width)]
    places: list[int] = []
    for number, placed in enumerate(recipe.layers):
        alike = [
            places[n]
            for n, earlier in enumerate(recipe.layers[:number])
            if earlier.layer.shapes == placed.layer.shapes
        ]
        if placed.shares and alike:
            places.append(alike[-1])
            continue
        places.append(len(shapes))
        shapes += placed.layer.shapes
    return shapes, places


def make_arguments(recipe: Recipe) -> tuple[Any, Any]:
    """A state and a batch."""
    rng = np.random.default_rng(recipe.seed)
    shapes, _ = weight_places(recipe)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), recipe.dtype)

    weights = [
        normal(*s) / s[-2] ** 0.5 if len(s) > 1 and s[-1] != 1 else 1 + 0.1 * normal(*s)
        for s in shapes
    ]
    params = {f"w{n:02}": w for n, w in enumerate(weights)}
    slots = {"sgd": 0, "momentum": 1, "adam": 2}[recipe.update]
    positive = [jax.tree.map(lambda w: 0.01 + 0.01 * w**2, params) for _ in range(slots)]
    extras = {
        "nothing": None,
        "average": params,  # the same arrays, as at the start of training
        "placed average": placed(params),
        "rate": 0.05,
        "empty": jnp.zeros((0, 3), recipe.dtype),
        "numpy": np.asarray(rng.standard_normal(5)),
    }
    key = jax.random.key(1) if recipe.seed % 2 else jax.random.PRNGKey(1)
    state = State(params, positive, jnp.zeros((), jnp.int32), key, extras[recipe.extra])
    tokens = rng.integers(0, VOCABULARY, recipe.size.rows).astype(np.int32)
    batch = {"x": normal(recipe.size.rows, FEATURES), "tokens": jnp.asarray(tokens)}
    return contained(recipe, state), batch


def placed(arrays: Any) -> Any:
    """Other arrays in the same buffers."""
    return jax.tree.map(lambda array: jax.device_put(array, array.sharding), arrays)


def contained(recipe: Recipe, state: State) -> Any:
    """A state in the container of a recipe."""
    if recipe.container == "dict":
        return state._asdict()
    return tuple(state) if recipe.container == "tuple" else state


def opened(state: Any) -> State:
    """The opposite of `contained`."""
    return State(**state) if isinstance(state, dict) else State(*state)


def make_loss(recipe: Recipe) -> Callable[..., Any]:
    """The loss of a model: its value and auxiliary results."""
    _, places = weight_places(recipe)

    def loss(params: Any, batch: Any, at: Spot) -> Any:
        weights = list(params.values())
        values = [batch["x"] @ weights[0] + weights[1][batch["tokens"]]]
        for placed, first in zip(recipe.layers, places, strict=True):
            x = values[min(placed.reads, len(values) - 1)]
            if placed.other >= 0:
                x = 0.5 * (x + values[min(placed.other, len(values) - 1)])
            own = weights[first : first + len(placed.layer.shapes)]
            values.append(placed.layer.run(own, x, at))
        logits = values[-1] @ weights[1].T
        auxiliary = {
            "hidden": values[len(values) // 2],
            "means": [v.mean() for v in values],
            "logits": logits,
            "predictions": jnp.argmax(lax.stop_gradient(logits), -1),
        }
        if recipe.is_half:  # a rounding may decide
            auxiliary.pop("predictions")
        chosen = {k: v for k, v in auxiliary.items() if k in recipe.auxiliary}
        return loss_of(recipe, values[-1], logits, batch), chosen

    return loss


def loss_of(recipe: Recipe, last: jax.Array, logits: jax.Array, batch: Any) -> jax.Array:
    """The value to be made small."""
    if recipe.entropy:
        logs = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(logs, batch["tokens"][:, None], axis=1))
    return jnp.mean(last**2) + 0.1 * jnp.mean(jnp.abs(logits))


def make_gradients(recipe: Recipe) -> Callable[..., Any]:
    """A function of weights, batch and `Spot` to the loss, auxiliary results and gradients."""
    loss = make_loss(recipe)
    of_batch = jax.value_and_grad(loss, has_aux=True)

    def plain(params: Any, batch: Any, at: Spot) -> Any:
        (value, auxiliary), gradients = of_batch(params, batch, at)
        return value, auxiliary, gradients

    def parted(batch: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)

    def microbatches(params: Any, batch: Any, at: Spot) -> Any:
        def body(total: Any, part: Any) -> Any:
            here = at._replace(tokens=part["tokens"])
            (value, _), gradients = of_batch(params, part, here)
            return jax.tree.map(jnp.add, total, gradients), value

        zeros = jax.tree.map(jnp.zeros_like, params)
        total, values = lax.scan(body, zeros, parted(batch))
        return values.mean(), {}, jax.tree.map(lambda g: g / 2, total)

    def by_example(params: Any, batch: Any, at: Spot) -> Any:
        def one(part: Any) -> Any:
            (value, _), gradients = of_batch(params, part, at._replace(tokens=part["tokens"]))
            norm = jnp.sqrt(sum(jnp.sum(g**2) for g in gradients.values()) + 1e-6)
            return value, jax.tree.map(lambda g: g / jnp.maximum(1, norm), gradients)

        values, gradients = jax.vmap(one)(parted(batch))
        return values.mean(), {}, jax.tree.map(lambda g: g.mean(0), gradients)

    def penalty(params: Any, batch: Any, at: Spot) -> Any:
        def penalized(params: Any) -> Any:
            (value, auxiliary), gradients = of_batch(params, batch, at)
            return value + 0.01 * sum(jnp.sum(g**2) for g in gradients.values()), auxiliary

        (value, auxiliary), gradients = jax.value_and_grad(penalized, has_aux=True)(params)
        return value, auxiliary, gradients

    def none(params: Any, batch: Any, at: Spot) -> Any:
        value, auxiliary = loss(params, batch, at)
        return value, auxiliary, jax.tree.map(jnp.ones_like, params)

    functions = (plain, microbatches, by_example, penalty, none)
    return dict(zip(GRADIENTS, functions, strict=True))[recipe.gradients]


def updated(recipe: Recipe, state: State, gradients: Any) -> State:
    """A state after one update, written out as without a library."""
    rate = state.extra if recipe.extra == "rate" else 0.05
    slots = state.slots
    if recipe.update == "momentum":
        slots = [jax.tree.map(lambda m, g: 0.9 * m + g, slots[0], gradients)]
        moves = slots[0]
    elif recipe.update == "adam":
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, slots[0], gradients)
        second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g**2, slots[1], gradients)
        moves = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + 1e-3), first, second)
        slots = [first, second]
    else:
        moves = gradients
    params = jax.tree.map(lambda p, g: p - rate * g, state.params, moves)
    extra = state.extra
    if "average" in recipe.extra:
        extra = jax.tree.map(lambda e, p: 0.99 * e + 0.01 * p, extra, params)
    return State(params, slots, state.count + 1, state.key, extra)


def _announced(*_: Any) -> None:
    calls.append("announced")


def build(recipe: Recipe) -> RandomStep:
    """The step of a recipe."""
    gradients_of = make_gradients(recipe)
    captured = jnp.asarray(CAPTURED)

    def once(state: State, batch: Any) -> Any:
        key = state.key
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.wrap_key_data(key)
        at = Spot(jax.random.fold_in(key, state.count), batch["tokens"], state.count)
        value, auxiliary, gradients = gradients_of(state.params, batch, at)
        if recipe.flow == "gradients only":
            return gradients, value, auxiliary
        new = updated(recipe, state, gradients)
        if recipe.flow == "guarded":
            finite = jnp.isfinite(value)
            new = lax.cond(finite, lambda: new, lambda: state._replace(count=state.count + 1))
        return new, value, auxiliary

    def step(state: Any, batch: Any) -> Any:
        state = opened(state)
        if recipe.announces:
            io_callback(_announced, None, state.count, ordered=True)
        if recipe.flow == "two steps":
            body = lambda _, carry: once(carry, batch)[0]  # noqa: E731
            state = lax.fori_loop(0, 1, body, state)
        new, value, auxiliary = once(state, batch)
        if recipe.announces:
            io_callback(_announced, None, value, ordered=True)
        results = {
            "batch": batch,
            "loss twice": (value, value),
            "literal": (3, 0.5, True),
            "none": None,
            "captured": captured,
            "tokens": batch["tokens"] % 3,
            "weights too": new,
            "extra": state.extra,
        }
        chosen = {k: v for k, v in results.items() if k in recipe.results}
        out = contained(recipe, new) if isinstance(new, State) else new
        return out, {"loss": value, **auxiliary, **chosen}

    return RandomStep(recipe, step)
