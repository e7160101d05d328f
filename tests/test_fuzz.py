"""What memjax promises holds for random train steps; `benchmarks.fuzz` draws many more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks import fuzz, promises, record
from benchmarks.random_layers import Dice
from benchmarks.random_steps import RandomStep, draw_step

LAYERS = 2
SOME = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


@pytest.fixture(scope="module", autouse=True)
def compile_once() -> Iterator[None]:
    with fuzz.compiled_once():
        yield


class Drawn:
    """Choices of hypothesis, so that what fails is made smaller."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def pick(self, options: Any) -> Any:
        return options[self._draw(st.integers(0, len(options) - 1))]


@st.composite
def steps(draw: Any, layers: int = LAYERS) -> RandomStep:
    return draw_step(Drawn(draw), layers)


@settings(SOME, max_examples=30)
@given(steps())
def test_random_decisions_change_nothing(drawn):
    with jax.enable_x64(True):
        assert fuzz.random_schedules(drawn, count=1) is None


@settings(SOME, max_examples=20)
@given(steps(layers=1))
def test_budgets_that_plain_fits(drawn):
    with jax.enable_x64(True):
        found, _ = promises.failures(drawn, ("at plain", "above plain"), planner=promises.SHORT)
    assert not found


@settings(SOME, max_examples=10)
@given(steps(layers=1), st.floats(0.5, 0.95))
def test_budgets_below_plain(drawn, share):
    with jax.enable_x64(True):
        checks = "blind", "stated as budget"
        found, _ = promises.failures(drawn, checks, planner=promises.SHORT, shares=(share,))
    assert not found


@pytest.mark.parametrize(("seed", "number"), [(10, 12)])
def test_what_once_held_more_than_plain(seed, number):
    """Gradients summed in a loop take their results' buffers only where these are not arguments'
    (jax 0.10.2: 6.7 % more with donation).
    """
    with jax.enable_x64(True):
        subject = promises.Subject(fuzz.drawn_step(seed, number, layers=2), promises.SHORT)
        assert promises.above_plain(subject) is None


# The checks can fail, and the same seed draws the same program


def test_a_seed_draws_the_same_step():
    one, other = draw_step(Dice(5), LAYERS), draw_step(Dice(5), LAYERS)
    assert str(one.recipe) == str(other.recipe)
    with jax.enable_x64(True):
        ours, theirs = (jax.tree.leaves(drawn.arguments()) for drawn in (one, other))
        assert all(jnp.all(a == b) for a, b in zip(ours, theirs, strict=True))
        texts = [jax.jit(s.step).lower(*s.arguments()).as_text() for s in (one, other)]
    assert texts[0] == texts[1]


def outcome(**results: Any) -> promises.Outcome:
    return promises.Outcome(results, ("callback",), (False,), ())


def test_differences_are_found():
    plain = outcome(a=jnp.ones(3), n=jnp.arange(3))
    assert promises.differences(plain, plain, 1e-9) is None
    wrong = {
        "numbers: off by": outcome(a=jnp.ones(3).at[1].add(1e-4), n=jnp.arange(3)),
        "numbers: not finite": outcome(a=jnp.ones(3).at[1].set(jnp.nan), n=jnp.arange(3)),
        "numbers: integers": outcome(a=jnp.ones(3), n=jnp.arange(3).at[0].set(1)),
        "dtype": outcome(a=jnp.ones(3, jnp.bfloat16), n=jnp.arange(3)),
        "weak_type": outcome(a=jax.jit(lambda: jnp.full(3, 1.0))(), n=jnp.arange(3)),
        "committed": outcome(a=jax.device_put(jnp.ones(3), jax.devices()[0]), n=jnp.arange(3)),
        "structure": outcome(a=jnp.ones(3)),
        "effects": dataclasses.replace(plain, host_calls=()),
        "arguments": dataclasses.replace(plain, changed=(0,)),
    }
    for text, seen in wrong.items():
        assert promises.differences(seen, plain, 1e-9).startswith(text)


def test_a_larger_footprint_is_found(monkeypatch):
    """Plain that is said to take less than it does makes every check of bytes fail."""
    drawn = draw_step(Dice(3), 2)
    with jax.enable_x64(True):
        subject = promises.Subject(drawn)
        outcome, plain_bytes = subject.plain
        subject.plain = outcome, plain_bytes // 10
        assert promises.at_plain(subject).startswith("refused")
        assert subject.faults(3 * plain_bytes).startswith("above plain")


def test_programs_are_not_run_twice(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    ran = []

    def checked(drawn: RandomStep, *_: Any) -> dict[str, Any]:
        ran.append(drawn)
        return {"recipe": "r", "failures": {"floor": "floor: 3 above 2"} if len(ran) == 2 else {}}

    monkeypatch.setattr(fuzz, "checked", checked)
    monkeypatch.setattr(fuzz, "use_float64", lambda: None)
    out = str(tmp_path / "out.jsonl")
    fuzz.main(["--count", "2", "--out", out], standalone_mode=False)
    fuzz.main(["--count", "3", "--out", out, "--summary"], standalone_mode=False)
    assert len(ran) == 3
    (path,) = tmp_path.glob("fuzz-*.csv")
    assert path.read_text(encoding="utf-8").splitlines()[1].startswith("3,1,")
