"""Regions in chunks: the same numbers as the plain program, whatever the program and the region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from memjax.emit.rewrite import rewrite
from memjax.pricing import cost
from memjax.pricing.price import Pricer
from memjax.program.eqns import Program
from memjax.program.prepare import prepare
from memjax.program.trace import trace
from memjax.split.axes import Reduced, possible_ways
from memjax.split.regions import Grower, Region
from memjax.split.rules import RULES
from memjax.split.transform import split_region
from tests.programs import PLAIN_BACKEND, primitives_of

PRICER = Pricer(PLAIN_BACKEND, cost.DeviceRates(1e9, 1e9))


def program_of(step: Callable[..., Any], args: Sequence[Any]) -> Program:
    return prepare(trace(step, args))


def run(program: Program, args: Sequence[Any]) -> list[Any]:
    priced = PRICER.priced(program, keeps_order=True)
    return rewrite(priced, priced.problem.identity)(*jax.tree.leaves(args))


def regions(program: Program, *, most: int = 4) -> list[Region]:
    """Different regions of a program, from its widest values on."""
    grower, found, seen = Grower(program), [], set()
    wide = sorted(range(len(program.avals)), key=lambda v: (-program.value_bytes[v], v))
    for seed in wide:
        for axis in range(program.avals[seed].ndim):
            for everything in (False, True):
                region = grower.region(seed, axis, everything=everything)
                key = region and (frozenset(region.ways), region.units)
                if key and key not in seen and len(found) < most:
                    seen.add(key)
                    found.append(region)
    return found


def check(
    step: Callable[..., Any], args: Sequence[Any], chunks: int, most: int = 6
) -> list[Region]:
    """Each region of a step, in so many chunks, gives its numbers."""
    program = program_of(step, args)
    expected = jax.tree.leaves(jax.jit(step)(*args))
    found = regions(program, most=most)
    for region in found:
        results = run(split_region(region, chunks), args)
        for ours, theirs in zip(results, expected, strict=True):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    return found


def softmax_head(h: Any, w: Any, labels: Any) -> Any:
    logits = h @ w
    picked = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
    return h + (jax.nn.logsumexp(logits, -1) - picked)[:, None]


def attention(h: Any, w: Any, labels: Any) -> Any:
    scores = h @ (h @ w).T / 3
    mask = jnp.tril(jnp.ones_like(scores, bool))
    return jax.nn.softmax(jnp.where(mask, scores, -1e9), -1) @ h


def embedding(h: Any, w: Any, labels: Any) -> Any:
    return h + w[labels % w.shape[0]]


def tied(h: Any, w: Any, labels: Any) -> Any:
    return (h + w[labels % w.shape[0]]) @ w


def convolution(h: Any, w: Any, labels: Any) -> Any:
    image = h.reshape(h.shape[0], 1, 2, -1)
    out = jax.lax.conv(image, w[:2, :1].reshape(2, 1, 1, 1), (1, 1), "SAME")
    return h + out.sum((1, 2, 3))[:, None]


OPS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "layer": lambda h, w, labels: jnp.tanh(h @ w),
    "norm": lambda h, w, labels: (h - h.mean(-1, keepdims=True)) / (1 + h.std(-1, keepdims=True)),
    "batch norm": lambda h, w, labels: (h - h.mean(0)) / (1 + h.std(0)),
    "softmax": lambda h, w, labels: jax.nn.softmax(h @ w, axis=-1),
    "softmax over rows": lambda h, w, labels: jax.nn.softmax(h @ w, axis=0),
    "head": softmax_head,
    "attention": attention,
    "embedding": embedding,
    "tied": tied,
    "convolution": convolution,
    "pairs": lambda h, w, labels: h + jnp.sqrt(1 + ((h[:, None] - h) ** 2).sum(-1)).sum(1)[:, None],
    "cumsum": lambda h, w, labels: jnp.cumsum(h, axis=0),
    "sorted": lambda h, w, labels: jnp.sort(h, axis=-1) @ w,
    "largest": lambda h, w, labels: h - jnp.max(h, axis=0),
    "counted": lambda h, w, labels: h * jnp.arange(h.shape[0])[:, None] / h.shape[0],
    "reversed": lambda h, w, labels: h[::-1] @ w,
    "segments": lambda h, w, labels: h + jax.ops.segment_sum(h @ w, labels, 3)[labels],
    "flat": lambda h, w, labels: jnp.sin(h.reshape(-1)).reshape(h.shape) @ w,
    "turned": lambda h, w, labels: (w @ jnp.sin(h.T)).T,
}


def arguments(rows: int, width: int = 4) -> tuple[Any, ...]:
    keys = jax.random.split(jax.random.key(rows), 2)
    w = jax.random.normal(keys[0], (width, width), jnp.float64) / 2
    x = jax.random.normal(keys[1], (rows, width), jnp.float64)
    return w, x, jnp.arange(rows) * 2 % 3


def train_step(names: Sequence[str]) -> Callable[..., Any]:
    def step(w: Any, x: Any, labels: Any) -> Any:
        def loss(w: Any, x: Any) -> Any:
            h = x
            for name in names:
                h = OPS[name](h, w, labels)
            return jnp.mean(h**2)

        value, (dw, dx) = jax.value_and_grad(loss, argnums=(0, 1))(w, x)
        return w - 0.1 * dw, dx, value

    return step


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("chunks", [2, 3])
def test_a_step_with_each_op(name, chunks):
    with jax.enable_x64(True):
        assert check(train_step([name]), arguments(8), chunks)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    names=st.lists(st.sampled_from(sorted(OPS)), min_size=2, max_size=4),
    rows=st.integers(2, 13),
    chunks=st.integers(2, 7),
)
def test_random_steps(names, rows, chunks):
    with jax.enable_x64(True):
        check(train_step(names), arguments(rows), chunks, most=2)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=st.lists(st.sampled_from(sorted(OPS)), min_size=1, max_size=4))
def test_members_act_along_the_axis(names):
    with jax.enable_x64(True):
        program = program_of(train_step(names), arguments(8))
    for region in regions(program):
        for index, way in region.ways.items():
            eqn = program.eqns[index]
            assert way in possible_ways(eqn, RULES)
            for value, place in zip(eqn.inputs, way.operands, strict=True):
                if isinstance(value, int) and value in region.places.keys() - region.made:
                    there = region.places[value]
                    later = isinstance(there, Reduced) and place is None
                    assert place == there or later


def test_a_region_ends_where_its_axis_is_mixed():
    def step(x: Any) -> Any:
        return jnp.sin(jnp.cumsum(jnp.tanh(jnp.exp(x)), axis=0)).sum()

    program = trace(step, (jnp.ones((64, 8)),))
    names = primitives_of(program)
    along = Grower(program).region(program.eqns[0].outputs[0], 0, everything=True)
    across = Grower(program).region(program.eqns[0].outputs[0], 1, everything=True)
    assert along is not None
    assert [names[i] for i in sorted(along.ways)] == ["exp", "tanh"]
    assert [names[b.eqn] for b in along.blocked] == ["cumsum"]
    assert across is not None
    assert len(across.ways) == len(names)


def test_a_vocabulary_head_is_one_loop_that_repeats_nothing():
    def step(w: Any, h: Any, labels: Any) -> Any:
        def loss(w: Any, h: Any) -> Any:
            logits = h @ w
            picked = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
            return jnp.mean(jax.nn.logsumexp(logits, -1) - picked)

        return jax.value_and_grad(loss, argnums=(0, 1))(w, h)

    args = jnp.ones((8, 512)), jnp.ones((64, 8)), jnp.zeros(64, jnp.int32)
    program = program_of(step, args)
    logits = program.eqns[0].outputs[0]
    region = Grower(program).region(logits, 0, everything=False)
    assert region is not None
    assert len(region.phases) == 1
    assert all(program.value_bytes[v] < 64 * 512 for v in region.phases[0].written)
    split = split_region(region, 8)
    loops = [eqn for eqn in split.eqns if eqn.nest is not None]
    (body,) = loops[0].nest.bodies
    assert len(loops) == 1
    assert primitives_of(body.program).count("dot_general") == 3
    assert "dot_general" not in primitives_of(split)
    assert max(body.program.value_bytes) <= max(program.value_bytes) / 8


def test_attention_makes_its_scores_again_in_the_backward_loop():
    """Two layers: what the second does lies between the first one's forward and backward pass."""

    def step(w: Any, x: Any) -> Any:
        def loss(w: Any) -> Any:
            h = x
            for _ in range(2):
                h = jnp.tanh(jax.nn.softmax((h @ w) @ h.T, -1) @ h)
            return jnp.mean(h)

        return jax.grad(loss)(w)

    program = program_of(step, (jnp.ones((4, 4)), jnp.ones((64, 4))))
    scores = [e.outputs[0] for e in program.eqns if program.avals[e.outputs[0]].shape == (64, 64)]
    region = Grower(program).region(scores[0], 0, everything=False)
    assert region is not None
    first, second = region.phases
    assert set(first.eqns) & set(second.eqns)
    wide = {v for phase in region.phases for v in phase.written} & set(scores)
    assert not wide


def test_small_sums_are_taken_in_32_bits():
    def step(x: Any) -> Any:
        return jnp.dot(x, x.T * 2, preferred_element_type=jnp.bfloat16)

    args = (jnp.full((4, 4096), 0.0625, jnp.bfloat16),)
    program = trace(step, args)
    dot = next(e for e in program.eqns if e.primitive == "dot_general")
    region = Grower(program).region(args and dot.inputs[1], 0, everything=True)
    assert region is not None
    (result,) = run(split_region(region, 512), args)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(result, np.float32), 32.0)


def test_effects_keep_their_order():
    def step(x: Any) -> Any:
        jax.debug.print("first {}", jnp.sin(x).sum(), ordered=True)
        jax.debug.print("second", ordered=True)
        return x

    program = trace(step, (jnp.ones((8, 4)),))
    region = Grower(program).region(program.eqns[0].outputs[0], 0, everything=True)
    assert region is not None
    before = [eqn.raw for eqn in program.eqns if eqn.has_effects]
    after = [eqn.raw for eqn in split_region(region, 2).eqns if eqn.has_effects]
    assert len(before) == 2
    assert [id(raw) for raw in after] == [id(raw) for raw in before]


def test_what_is_made_of_literals_is_made_by_chunk():
    def step(x: Any) -> Any:
        mask = jnp.tril(jnp.ones((64, 64), bool))
        return jnp.where(mask, jnp.exp(x), 0.0).sum(), mask

    program = trace(step, (jnp.ones((64, 64)),))
    exp = next(e for e in program.eqns if e.primitive == "exp")
    region = Grower(program).region(exp.outputs[0], 0, everything=False)
    assert region is not None
    (loop,) = (e for e in split_region(region, 8).eqns if e.nest is not None)
    assert [program.avals[v].shape for v in region.phases[0].written] == []
    assert "iota" in primitives_of(loop.nest.bodies[0].program)
    total, mask = run(split_region(region, 8), (jnp.ones((64, 64)),))
    np.testing.assert_allclose(total, np.exp(1) * 65 * 32, rtol=1e-5)
    np.testing.assert_array_equal(mask, np.tril(np.ones((64, 64), bool)))
