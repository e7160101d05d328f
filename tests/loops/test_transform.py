"""Pairs of scans, rewritten in every way, give the plain program's values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from jax import lax

from memjax.emit.rewrite import rewrite
from memjax.loops.choose import Chooser
from memjax.loops.pairs import Pair, find_pairs
from memjax.loops.residuals import cuts, joint_body
from memjax.loops.transform import LoopPlan, transform
from memjax.planning.planners import Planner, get_planner
from memjax.planning.problem import Problem, Solution
from memjax.pricing import cost
from memjax.pricing.backends import BACKENDS
from memjax.pricing.nests import with_bodies
from memjax.pricing.price import Pricer
from memjax.program.eqns import Program
from memjax.program.prepare import prepare
from memjax.program.trace import trace
from memjax.targets.figures import rates_of

PRICER = Pricer(BACKENDS["cpu"], rates_of("cpu"))
ROWS, WIDTH = 2, 3


def program_of(step: Callable[..., Any], *args: Any) -> Program:
    return with_bodies(prepare(trace(step, args)))


def run(program: Program, *args: Any) -> list[np.ndarray]:
    priced = PRICER.priced(program, keeps_order=True)
    flat = jax.tree_util.tree_leaves(args)
    return [np.asarray(r) for r in jax.jit(rewrite(priced, priced.problem.identity))(*flat)]


def kept_sets(pair: Pair) -> list[tuple[int, ...]]:
    joint = joint_body(pair)
    inner = PRICER.priced(joint.program).inner
    seconds = cost.node_seconds(joint.graph, PRICER.rates, inner)
    return [cut.kept for cut in cuts(joint, seconds)]


def check(step: Callable[..., Any], args: Sequence[Any], chunks: Sequence[tuple[int, ...]]) -> None:
    """Every cut of every pair, with each of the chunks, equals the plain step."""
    expected = [np.asarray(x) for x in jax.tree_util.tree_leaves(jax.jit(step)(*args))]
    program = program_of(step, *args)
    pairs = find_pairs(program)
    assert pairs
    for sizes in chunks:
        choices = [kept_sets(pair) for pair in pairs]
        for number in (0, -1):
            plans = [
                LoopPlan(pair.forward.index, kept[number], sizes)
                for pair, kept in zip(pairs, choices, strict=True)
            ]
            for got, want in zip(run(transform(program, plans), *args), expected, strict=True):
                np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5)


@dataclass(frozen=True)
class Body:
    """A random scan body over carries, a slice and a constant, all (ROWS, WIDTH)."""

    carries: int
    ops: tuple[tuple[str, int, int], ...]
    stacks: bool

    def __call__(self, table: Any, carries: Any, x: Any) -> tuple[Any, Any]:
        values = [*carries, x, table]
        for name, one, other in self.ops:
            a, b = values[one % len(values)], values[other % len(values)]
            values.append(_OPS[name](a, b))
        new = tuple(0.5 * values[-1 - i] + 0.5 * c for i, c in enumerate(carries))
        return new, values[-1] if self.stacks or not carries else None


_OPS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "tanh": lambda a, b: jnp.tanh(a),
    "sin": lambda a, b: jnp.sin(a) + b,
    "matmul": lambda a, b: a @ jnp.cos(b).T @ b,
    "reduce": lambda a, b: a - b.mean(-1, keepdims=True),
    "scan": lambda a, b: lax.scan(lambda c, _: (jnp.tanh(c) + 0.1 * b, None), a, None, 3)[0],
    "stack": lambda a, b: jnp.tanh(b) + lax.scan(lambda c, x: (c * x, c), a[0], b)[1],
}


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    ops = draw(
        st.lists(
            st.tuples(st.sampled_from(sorted(_OPS)), st.integers(0, 9), st.integers(0, 9)),
            min_size=2,
            max_size=7,
        )
    )
    return Body(draw(st.integers(0, 2)), tuple(ops), draw(st.booleans()))


def step_of(
    body: Body, length: int, seed: int, **options: Any
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Value and gradients of a loss on what a scan over a body returns, and arguments."""

    def loss(table: Any, xs: Any, first: Any) -> Any:
        step = lambda carry, x: body(table, carry, x)  # noqa: E731
        last, stacked = lax.scan(step, first, xs, **options)
        total = sum((jnp.sum(jnp.sin(c)) for c in last), jnp.zeros(()))
        return total if stacked is None else total + jnp.sum(jnp.sin(stacked))

    keys = jax.random.split(jax.random.key(seed), 3)
    args = (
        jax.random.normal(keys[0], (ROWS, WIDTH)),
        jax.random.normal(keys[1], (length, ROWS, WIDTH)),
        tuple(jax.random.normal(k, (ROWS, WIDTH)) for k in jax.random.split(keys[2], body.carries)),
    )
    return jax.value_and_grad(loss, (0, 1, 2)), args


@settings(max_examples=10, deadline=None, derandomize=True)
@given(body=bodies(), length=st.integers(4, 20), reverse=st.booleans(), seed=st.integers(0, 100))
def test_random_bodies_planned_as_tight_as_they_go(
    body: Body, length: int, reverse: bool, seed: int
) -> None:
    step, args = step_of(body, length, seed, reverse=reverse)
    program = program_of(step, *args)
    assume(find_pairs(program))
    chooser = Chooser(PRICER, get_planner("auto").quick())
    choice = chooser.choose(program, 0, lambda p, k: PRICER.priced(p, keeps_order=k))
    assert choice.decisions.loops
    flat = jax.tree_util.tree_leaves(args)
    got = jax.jit(rewrite(choice.priced, choice.solution.order))(*flat)
    expected = jax.tree_util.tree_leaves(jax.jit(step)(*args))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)


@dataclass(frozen=True)
class Recording(Planner):
    """Remembers what it was asked."""

    name: ClassVar[str] = "recording"
    asked: list[tuple[Problem, int]] = field(compare=False)

    def solve(self, problem: Problem, budget_bytes: int, *_: Any) -> Solution:
        self.asked.append((problem, budget_bytes))
        return get_planner("auto").quick().solve(problem, budget_bytes)


def test_no_body_is_planned_twice_for_the_same_target() -> None:
    def outer(table: Any, carry: Any, x: Any) -> Any:
        def inner(h: Any, _: Any) -> Any:
            return jnp.sin(jnp.tanh(h @ table.T @ table)), None

        return lax.scan(inner, carry + x, length=6)[0], None

    def loss(table: Any, xs: Any) -> Any:
        return jnp.sum(lax.scan(lambda c, x: outer(table, c, x), xs[0], xs)[0])

    args = jnp.ones((ROWS, WIDTH)), jnp.ones((9, ROWS, WIDTH))
    program = program_of(jax.grad(loss), *args)
    planner = Recording([])
    chooser = Chooser(PRICER, planner)
    for target_bytes in (0, 10_000, 0, 10_000):
        chooser.choose(program, target_bytes, lambda p, k: PRICER.priced(p, keeps_order=k))
    assert planner.asked
    assert len(planner.asked) == len(set(planner.asked))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    body=bodies(),
    length=st.integers(1, 20),
    reverse=st.booleans(),
    unroll=st.sampled_from([1, 1, 2]),
    sizes=st.lists(st.integers(2, 9), max_size=2),
    seed=st.integers(0, 100),
)
def test_random_bodies(
    body: Body, length: int, reverse: bool, unroll: int, sizes: list[int], seed: int
) -> None:
    step, args = step_of(body, length, seed, reverse=reverse, unroll=unroll)
    assume(find_pairs(program_of(step, *args)))
    chunks = tuple(sorted({s for s in sizes if s < length}, reverse=True))
    check(step, args, [(), chunks] if chunks else [()])


def rnn(length: int, *, reverse: bool = False) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """An Elman network with a loss on its last state: weights, inputs."""

    def loss(weights: Any, xs: Any) -> Any:
        def cell(h: Any, x: Any) -> tuple[Any, None]:
            return jnp.tanh(h @ weights + x), None

        return jnp.sum(lax.scan(cell, jnp.zeros((4, 8)), xs, reverse=reverse)[0] ** 2)

    keys = jax.random.split(jax.random.key(0))
    weights = jax.random.normal(keys[0], (8, 8))
    return jax.value_and_grad(loss), (weights, jax.random.normal(keys[1], (length, 4, 8)))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("chunks", [(3,), (5,), (7,), (9,), (6, 2), (7, 3), (8, 4, 2)])
def test_chunks_of_a_length_they_may_not_divide(chunks: tuple[int, ...], reverse: bool) -> None:
    step, args = rnn(17, reverse=reverse)
    check(step, args, [chunks])


def test_float64_is_exact() -> None:
    with jax.enable_x64(True):
        step, args = rnn(12)
        args = jax.tree_util.tree_map(lambda a: a.astype(jnp.float64), args)
        expected = jax.tree_util.tree_leaves(jax.jit(step)(*args))
        program = program_of(step, *args)
        (pair,) = find_pairs(program)
        for kept in kept_sets(pair):
            plan = LoopPlan(pair.forward.index, kept, (4,))
            got = run(transform(program, [plan]), *args)
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


def test_a_plan_for_something_else_is_refused() -> None:
    step, args = rnn(6)
    with pytest.raises(ValueError, match="eqn 0 is no scan"):
        transform(program_of(step, *args), [LoopPlan(0, ())])
