"""Cuts against brute force; chunk sizes against brute force and the binomial schedule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import assume, given, settings, strategies as st
from jax import lax

from memjax.loops.choose import BOUND_SLACK
from memjax.loops.menu import best_chunks, runs_of_carries, stacks_bytes, variants
from memjax.loops.pairs import find_pairs
from memjax.loops.residuals import Cut, JointBody, cuts, joint_body, near_cuts
from memjax.loops.transform import transform
from memjax.pricing import cost
from memjax.pricing.backends import BACKENDS
from memjax.pricing.nests import with_bodies
from memjax.pricing.price import Pricer
from memjax.program.eqns import Program
from memjax.program.prepare import prepare
from memjax.program.trace import trace
from memjax.targets.figures import rates_of

PRICER = Pricer(BACKENDS["cpu"], rates_of("cpu"))


def chain(weights: Any, x: Any) -> Any:
    def body(x: Any, w: Any) -> tuple[Any, None]:
        hidden = jnp.tanh(x @ w)
        return x + jnp.exp(-((hidden @ w.T) ** 2)), None

    return jnp.sum(lax.scan(body, x, weights)[0])


def gated(weights: Any, x: Any) -> Any:
    def body(x: Any, w: Any) -> tuple[Any, None]:
        gate = jax.nn.sigmoid(x @ w)
        wide = jnp.concatenate([gate, jnp.sin(x)], -1)
        return x * gate + jnp.tanh(wide @ jnp.concatenate([w, w])), None

    return jnp.sum(lax.scan(body, x, weights)[0])


def traced(loss: Callable[..., Any], length: int = 8) -> Program:
    args = jax.ShapeDtypeStruct((length, 8, 8), jnp.float32), jax.ShapeDtypeStruct((64, 8), "f4")
    return with_bodies(prepare(trace(jax.grad(loss, (0, 1)), args)))


def joint_of(loss: Callable[..., Any]) -> tuple[JointBody, tuple[float, ...]]:
    (pair,) = find_pairs(traced(loss))
    joint = joint_body(pair)
    return joint, cost.node_seconds(joint.graph, PRICER.rates)


def every_cut(joint: JointBody, seconds: tuple[float, ...]) -> list[Cut]:
    """All choices of stored values that leave nothing out, by trying each set."""
    graph, program, scan = joint.graph, joint.program, joint.pair.forward
    given_values = {*scan.constant_arguments, *scan.slice_arguments}
    stored = [v for e in range(joint.split) for v in program.eqns[e].outputs if not graph.free[v]]
    stored += scan.carry_arguments
    found = []
    for size in range(len(stored) + 1):
        for kept in itertools.combinations(stored, size):
            again, todo, complete = set(), [v for v in joint.needed if v not in kept], True
            while todo and complete:
                value = todo.pop()
                producer = program.producer[value]
                complete = producer >= 0 or value in given_values
                if producer >= 0 and producer not in again:
                    again.add(producer)
                    todo += [v for v in graph.stored_reads[producer] if v not in kept]
            if complete:
                total = sum(program.value_bytes[v] for v in kept)
                found.append(Cut(kept, total, sum(seconds[e] for e in again)))
    return found


@pytest.mark.parametrize("loss", [chain, gated])
def test_corners_are_on_the_hull_of_all_choices(loss: Callable[..., Any]) -> None:
    joint, seconds = joint_of(loss)
    everything = every_cut(joint, seconds)
    corners = cuts(joint, seconds)
    assert len(corners) >= 2
    assert corners[-1].bytes == min(c.bytes for c in everything)
    assert corners[0].seconds == pytest.approx(min(c.seconds for c in everything))
    for price in (1e-12, 1e-10, 1e-9, 1e-8):
        cheapest = min(c.seconds + price * c.bytes for c in everything)
        assert min(c.seconds + price * c.bytes for c in corners) == pytest.approx(cheapest)


@pytest.mark.parametrize("loss", [chain, gated])
def test_cuts_between_corners_are_choices(loss: Callable[..., Any]) -> None:
    joint, seconds = joint_of(loss)
    known = {(c.bytes, round(c.seconds, 15)) for c in every_cut(joint, seconds)}
    for cut in near_cuts(joint, seconds, cuts(joint, seconds)):
        assert (cut.bytes, round(cut.seconds, 15)) in known


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(2, 60), st.integers(1, 2), st.integers(1, 9), st.integers(0, 40))
def test_chunks_against_brute_force(length: int, splits: int, carry: int, rest: int) -> None:
    sizes = best_chunks(length, splits, carry, rest)
    assert all(a % b == 0 for a, b in itertools.pairwise(sizes))
    dividing = [
        trial
        for trial in itertools.product(range(2, length), repeat=splits)
        if all(a % b == 0 and a > b for a, b in itertools.pairwise((length, *trial)))
    ]
    assume(dividing)
    assert sizes
    least = min(stacks_bytes(length, trial, carry, rest) for trial in dividing)
    assert stacks_bytes(length, sizes, carry, rest) <= least


@pytest.mark.parametrize("splits", [1, 2, 3])
@pytest.mark.parametrize("length", [1_000, 16_000])
def test_chunks_against_the_binomial_schedule(length: int, splits: int) -> None:
    """With s checkpoints and each step run forward at most t times, the best schedule reaches
    C(s + t, t) steps (Griewank and Walther, 2000).
    """
    passes = splits + 1
    binomial = next(s for s in itertools.count(1) if math.comb(s + passes, passes) >= length)
    sizes = best_chunks(length, splits, 1, 1)
    assert 1 + runs_of_carries(sizes) <= passes + 1
    assert binomial <= stacks_bytes(length, sizes, 1, 1) <= (1 + 0.5 * splits) * binomial


@pytest.mark.parametrize("loss", [chain, gated])
def test_variants_cost_more_and_hold_less(loss: Callable[..., Any]) -> None:
    program = traced(loss, 16)
    (pair,) = find_pairs(program)
    found = variants(program, pair, PRICER)
    assert any(v.plan and v.plan.chunks for v in found)
    assert found[0].plan is None
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(found[1:]))
    step_seconds = PRICER.priced(program).problem.total_cost
    for variant in found[1:]:
        assert variant.plan is not None
        changed = PRICER.priced(transform(program, [variant.plan]), keeps_order=True)
        added = changed.problem.total_cost - step_seconds
        assert variant.seconds <= added + BOUND_SLACK * step_seconds
    assert all(v.least_bytes <= v.bytes for v in found)
