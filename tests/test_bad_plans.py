"""Plans from files that were changed: refused, or carried out with equal numbers."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memjax
from memjax.emit.plan import MOST_CHARACTERS, Plan
from memjax.planning.planners import AutoPlanner
from memjax.planning.simulate import InvalidPlan

LAYERS, WIDTH, BATCH = 6, 16, 256
QUICK = AutoPlanner(work=2000, rounds=1, starts=1)


def step(weights: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A scan over layers with several values in each, and eqns around it."""

    def layer(h: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        return jnp.tanh(jnp.sin(h @ w) @ w) + h, None

    def loss(weights: jax.Array) -> jax.Array:
        h = jnp.tanh(jnp.exp(jnp.sin(x) @ weights[0]) @ weights[1])
        h, _ = jax.lax.scan(layer, h, weights)
        return jnp.mean(jnp.cos(jnp.sin(h @ weights[0]) @ weights[1]) ** 2)

    value, gradient = jax.value_and_grad(loss)(weights)
    return weights - 0.1 * gradient, value


def arguments() -> tuple[jax.Array, jax.Array]:
    weights = jax.random.normal(jax.random.key(0), (LAYERS, WIDTH, WIDTH)) / WIDTH**0.5
    return weights, jax.random.normal(jax.random.key(1), (BATCH, WIDTH))


def planned(budget: int | str, **settings: Any) -> memjax.BudgetedStep:
    return memjax.memory_budget(budget, planner=QUICK, donate=None, **settings)(step)


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    """A plan that changes loops, looks inside of one and recomputes outside."""
    plain = memjax.footprint(jax.jit(step).lower(*arguments()).compile()).total_bytes
    content = json.loads(planned(int(0.45 * plain)).plan(*arguments()).to_json())
    assert content["loops"]
    assert content["loops"][0]["chunks"] or content["loops"][0]["kept"]
    return content


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.jit(step)(*arguments())]


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a plan's JSON; of lists, the first element and the last."""
    yield path
    if isinstance(content, dict):
        for key, value in content.items():
            yield from places(value, (*path, key))
    elif isinstance(content, list):
        for index in sorted({0, len(content) - 1} if content else ()):
            yield from places(content[index], (*path, index))


def changed(content: dict[str, Any], path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    content = copy.deepcopy(content)
    holder: Any = content
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return content


def at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def of_other_types(value: Any) -> list[Any]:
    """What no place with such a value may hold."""
    wrong: list[Any] = [{"a": 1}, [["x"]], True, "text"]
    if isinstance(value, bool):
        wrong = [0, 1.5, "1", [], None]
    elif isinstance(value, str):
        wrong = [3, [], None, True]
    elif isinstance(value, int):
        wrong = [-1, 1.5, "1", True, [], 10**30]
    elif isinstance(value, float):
        wrong = ["0.1", [], True]
    return wrong


def of_the_same_type(value: Any) -> list[Any]:
    """What may be right in another plan."""
    if isinstance(value, bool | str | float) or value is None:
        return []
    if isinstance(value, int):
        return [value + 1, 2**62]
    if isinstance(value, list):
        return [[], value[::-1], value * 2]
    return []


def refused(text: str) -> bool:
    with pytest.raises(InvalidPlan):
        Plan.from_json(text)
    return True


def test_fields_of_other_types_are_refused(good):
    count = 0
    for path in places(good):
        for wrong in of_other_types(at(good, path)):
            if path == ("bound_overhead",) and not isinstance(wrong, str | list | dict | bool):
                continue
            count += refused(json.dumps(changed(good, path, wrong)))
    assert count >= 60


def test_missing_and_unknown_fields_are_refused(good):
    for path in places(good):
        held = at(good, path)
        if not isinstance(held, dict):
            continue
        refused(json.dumps(changed(good, path, {**held, "more": 1})))
        for key in held:
            refused(json.dumps(changed(good, path, {k: v for k, v in held.items() if k != key})))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_numbers_that_are_none(good, number):
    for field in ("overhead", "bound_overhead", "budget_bytes"):
        text = json.dumps(changed(good, (field,), "HERE")).replace('"HERE"', number)
        refused(text)


def test_texts_that_are_too_much(good):
    refused("[" * 100_000)
    refused(json.dumps(good)[:-1] + ',"overhead":0.5}')  # twice
    refused(" " * (MOST_CHARACTERS + 1))
    deep: dict[str, Any] = {"loops": [], "insides": [], "order": None}
    for _ in range(300):
        deep = {"loops": [], "insides": [{"eqn": 0, "body": 0, "decisions": deep}], "order": None}
    with pytest.raises(InvalidPlan):
        call(json.dumps(changed(good, ("insides",), deep["insides"])))


def call(text: str) -> list[np.ndarray]:
    results = planned("1GB", plan=Plan.from_json(text))(*arguments())
    return [np.asarray(leaf) for leaf in results]


def test_a_good_plan_is_carried_out(good, expected):
    for ours, theirs in zip(call(json.dumps(good)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def changes_of_the_same_type(good: dict[str, Any]) -> Iterator[str]:
    for path in places(good):
        if path and path[0] in ("recomputations", "first_runs", "loops", "insides", "splits"):
            for other in of_the_same_type(at(good, path)):
                yield json.dumps(changed(good, path, other))


def test_other_decisions_are_refused_or_give_equal_numbers(good, expected):
    carried_out = count = 0
    for text in changes_of_the_same_type(good):
        count += 1
        try:
            results = call(text)
        except InvalidPlan:
            continue
        carried_out += 1
        for ours, theirs in zip(results, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert count >= 20
    assert carried_out < count


def test_no_plan_in_the_cache_is_fatal(good, expected, tmp_path):
    """Among them one that nothing refuses before it is carried out."""
    plain = int(0.5 * memjax.footprint(jax.jit(step).lower(*arguments()).compile()).total_bytes)
    planned(plain, plan_cache=tmp_path).plan(*arguments())
    (file,) = tmp_path.iterdir()
    bad = [
        "[" * 100_000,
        "\x00",
        json.dumps(changed(good, ("loops", 0, "kept"), [])),
        json.dumps(changed(good, ("loops", 0, "scan"), 10**6)),
        json.dumps(changed(good, ("insides",), [{"eqn": 0, "body": 0, "decisions": None}])),
        json.dumps(changed(good, ("first_runs",), [0, 0, 0])),
    ]
    for text in bad:
        file.write_text(text)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            results = planned(plain, plan_cache=tmp_path)(*arguments())
        assert text == bad[2] or any("ignoring the cached plan" in str(w.message) for w in told)
        for ours, theirs in zip(results, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_what_is_no_plan():
    with pytest.raises(TypeError, match=r"memjax\.Plan"):
        planned("1GB", plan="{}")
