"""What an infeasible budget says: XLA's own holders, and help that can work."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import memjax
from tests.programs import shape


def said(step: Any, *args: Any, budget: int, **settings: Any) -> str:
    with pytest.raises(memjax.BudgetInfeasible) as refused:
        memjax.plan(step, *args, budget=budget, **settings)
    return str(refused.value)


def head(w: Any, h: Any, labels: Any) -> Any:
    """A wide output: what is made of `[batch, vocabulary]` fills the step."""

    def loss(w: Any) -> Any:
        logits = h @ w
        picked = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - picked)

    return w - 0.1 * jax.grad(loss)(w)


HEAD = shape(16, 1024), shape(256, 16), shape(256, dtype=jnp.int32)


def test_a_wide_value_is_named_with_the_axis_of_the_batch():
    text = said(head, *HEAD, budget=400_000, split=False)
    assert "XLA's own peak" in text
    assert re.search(
        r"a loop over chunks of axis 0 \(256 long\) of float32\[256,1024\] at .*loss", text
    )
    assert "donate=" not in text  # w is given up already, and no result is like the others


def test_what_no_split_can_narrow_is_named_with_what_mixes_its_axes():
    def step(x: Any) -> Any:
        wide = jnp.sin(x)[:, None] * jnp.cos(x)
        return (jnp.cumsum(wide, axis=0) * jnp.sort(wide, axis=1)).sum()

    text = said(step, shape(1024), budget=2_000_000, split=False)
    assert re.search(r"float32\[1024,1024\] at .*step.* in another way: ", text)
    assert re.search(r"cumsum at .*test_advice.* mixes its axis 0", text)
    assert re.search(r"sort at .*test_advice.* mixes its axis 1", text)


def test_the_batch_that_fits_does_fit_about():
    text = said(head, *HEAD, budget=400_000, split=False)
    found = re.search(r"a batch of about (\d+) instead of 256 \(the first axis of h", text)
    assert found
    size = int(found[1])
    smaller = shape(16, 1024), shape(size, 16), shape(size, dtype=jnp.int32)
    whole = memjax.memory_budget(1, split=False)(head)
    floor = memjax.floor(whole, *smaller).bytes
    assert 0.5 * 400_000 < floor < 1.5 * 400_000


def test_no_batch_helps_where_the_state_alone_is_over_budget():
    text = said(head, *HEAD, budget=20_000)
    assert "a batch of" not in text


def test_only_donation_that_is_possible_is_named():
    def step(w: Any, x: Any) -> Any:
        return w - 0.1 * jax.grad(lambda w: jnp.mean(jnp.tanh(x @ w) ** 2))(w)

    text = said(step, shape(64, 64), shape(256, 64), budget=30_000, donate=None)
    assert re.search(r"giving up w \(16.0 KiB\) by donate=", text)
    assert "giving up w, x" not in text


def test_a_sorted_axis_is_not_chunked():
    def step(x: Any) -> Any:
        return jnp.sum(jnp.sort(x, axis=0) * x)

    text = said(step, shape(512, 64), budget=140_000)
    assert "chunks of axis 1" in text
    assert "chunks of axis 0" not in text


# Analyses beside what XLA makes of it


def pairwise(z: Any) -> Any:
    d = z[:, None] - z[None]
    distance = jnp.sqrt(jnp.sum(d**2, -1) + 1e-3)
    return jnp.mean(jnp.exp(-distance) * jnp.max(jnp.abs(d), -1))


def test_compiled_bytes_stand_beside_predicted_ones():
    step, argument = jax.grad(pairwise), shape(96, 32)
    found = memjax.analyze(step, argument, compile=True)
    assert found.compiled is not None
    plain = memjax.footprint(jax.jit(step).lower(argument).compile())
    assert found.compiled.total_bytes == plain.total_bytes
    assert found.xla is not None
    assert found.xla.total_bytes == pytest.approx(plain.total_bytes, rel=0.01)
    text = str(found)
    assert "compiled" in text
    assert "held at XLA's own peak" in text
    assert "unsure" not in text
    assert found.to_dict()["compiled_bytes"] == plain.total_bytes


def test_differences_of_all_pairs_are_predicted_and_doubted():
    step, argument = jax.grad(pairwise), shape(96, 32)
    found = memjax.analyze(step, argument)
    plain = memjax.footprint(jax.jit(step).lower(argument).compile()).total_bytes
    assert plain / 1.5 <= found.peak_bytes <= 1.5 * plain
    assert any("spread out" in doubt.why for doubt in found.doubts)
    assert "unsure of" in str(found)


def test_convolutions_and_whiles_are_doubted():
    def step(w: Any, x: Any) -> Any:
        y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME")
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 5, lambda y: y + 1, y)

    found = memjax.analyze(step, shape(4, 4, 3, 3), shape(2, 4, 16, 16))
    assert {doubt.what.split()[0] for doubt in found.doubts} == {"conv_general_dilated", "while"}


def test_a_plain_network_is_not_doubted():
    def step(w: Any, x: Any) -> Any:
        return w - 0.1 * jax.grad(lambda w: jnp.mean(jnp.tanh(jnp.tanh(x @ w) @ w) ** 2))(w)

    assert memjax.analyze(step, shape(64, 64), shape(256, 64)).doubts == ()


def test_a_step_whose_loop_was_changed_gets_advice_all_the_same():
    """A changed scan has other operands than JAX traced: what is given up is read as traced."""

    def step(w: Any, x: Any, key: Any) -> Any:
        def loss(w: Any) -> Any:
            def body(h: Any, _: Any) -> Any:
                keep = jax.random.bernoulli(key, 0.9, h.shape)
                return jnp.where(keep, jnp.tanh(jnp.sin(h @ w)), 0), h.mean()

            last, means = jax.lax.scan(body, x, length=8)
            return (last**2).mean() + means.sum()

        return w - 0.1 * jax.grad(loss)(w)

    args = shape(16, 16), shape(512, 16), shape(2, dtype=jnp.uint32)
    floor = memjax.floor(step, *args)
    changed = memjax.plan(step, *args, budget=floor.bytes)
    assert changed.loops or changed.insides
    text = said(step, *args, budget=floor.bytes * 9 // 10)
    assert "a batch of about" in text
