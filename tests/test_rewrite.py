"""The program that a schedule asks for, run and lowered for real."""

from __future__ import annotations

import re
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from jax.experimental import io_callback

from memjax.emit.compile import Target, compile_step
from memjax.emit.rewrite import rewrite
from memjax.planning.simulate import simulate
from memjax.pricing.segments import Segment, emitted_order, segments
from memjax.program.trace import trace
from tests.programs import (
    CPU,
    matmul_chain,
    mlp,
    node_called,
    priced_of,
    priced_of_program,
    shape,
)

SQUARE = shape(16, 16)


def arrays_like(types: Any, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(t.shape).astype(t.dtype) for t in jax.tree_util.tree_leaves(types)]


def compiled(priced: Any, order: Any, types: Any) -> Any:
    target = Target(CPU, tuple(types))
    return compile_step(rewrite(priced, order), target, for_memory=True, has_barriers=True)


def inserted(order: tuple[int, ...], *, before: int, again: tuple[int, ...]) -> tuple[int, ...]:
    place = order.index(before)
    return (*order[:place], *again, *order[place:])


# An empty plan is the identity


STEPS = {
    "chain": (matmul_chain, (SQUARE, SQUARE, SQUARE)),
    "gradient": (jax.grad(matmul_chain), (SQUARE, SQUARE, SQUARE)),
    "scan": (
        lambda x: jax.lax.scan(lambda c, y: (jnp.sin(c) @ y, c.sum()), x, jnp.stack([x, x])),
        (SQUARE,),
    ),
    "literals": (lambda x: (x, 2.0, x + 1), (SQUARE,)),
}


@pytest.mark.parametrize("name", STEPS)
def test_an_empty_plan_is_the_identity(name):
    """The same eqns: those of the flattened program, free ones where they are read."""
    step, types = STEPS[name]
    priced = priced_of(step, *types)
    function = rewrite(priced, priced.problem.identity)
    again = trace(function, types)
    plain = priced.graph.program
    assert sorted(e.primitive for e in again.eqns) == sorted(e.primitive for e in plain.eqns)
    assert "optimization_barrier" not in {e.primitive for e in again.eqns}
    assert [again.avals[v] for v in again.result_values] == [
        plain.avals[v] for v in plain.result_values
    ]
    nodes = {plain.eqns[i].primitive for i in priced.eqn_of_node}
    nodes -= {e.primitive for e in plain.eqns if not priced.graph.is_node(e)}
    ours, theirs = ([e.primitive for e in p.eqns if e.primitive in nodes] for p in (again, plain))
    assert nodes
    assert ours == theirs


@pytest.mark.parametrize("name", STEPS)
def test_an_empty_plan_has_the_same_results(name):
    step, types = STEPS[name]
    priced = priced_of(step, *types)
    values = arrays_like(types)
    ours = jax.jit(rewrite(priced, priced.problem.identity))(*values)
    for one, other in zip(ours, jax.tree_util.tree_leaves(jax.jit(step)(*values)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_empty_plan_has_one_segment():
    priced = priced_of(matmul_chain, SQUARE, SQUARE, SQUARE)
    order = priced.problem.identity
    assert segments(priced, order) == (Segment(order, recomputed=False),)


# One recomputation, drawn


def three(x, a, b):
    """
    x ─ dot 0 ─ sin 1 ─ dot 2 ─ exp 3 ─ dot 4 ─▶
                  └──────────────────────┘
    """
    y = jnp.sin(x @ a)
    return jnp.exp(y @ b) @ y


def test_one_recomputation():
    """Fences stand beside the recomputation: in so small a program all is near the peak."""
    priced = priced_of(three, SQUARE, SQUARE, SQUARE)
    program = priced.graph.program
    assert [
        n.name for n in priced.problem.nodes
    ] == "dot_general sin dot_general exp dot_general".split()
    x, a, _ = program.arguments
    first, _, _, z, _ = (program.eqns[e].outputs[0] for e in priced.eqn_of_node)
    parts = [p for p in segments(priced, (0, 1, 2, 3, 0, 1, 4)) if p.nodes]
    assert parts[:3] == [
        Segment((0, 1, 2, 3), recomputed=False),
        Segment((0,), recomputed=True, barrier=(z, x, a)),
        Segment((1,), recomputed=True, barrier=(first,)),
    ]
    assert emitted_order(parts) == (0, 1, 2, 3, 0, 1, 4)


def test_xla_keeps_the_recomputation():
    types = [shape(64, 64)] * 3
    priced = priced_of(three, *types)
    plain = compiled(priced, priced.problem.identity, types)
    again = compiled(priced, (0, 1, 2, 3, 0, 1, 4), types)
    assert plain.measured.flops >= 3 * 2 * 64**3
    assert again.measured.flops >= plain.measured.flops + 2 * 64**3


def test_xla_would_merge_it_without_a_barrier():
    """Else the test above could not fail."""

    def twice(x, a, b):
        y = jnp.sin(x @ a)
        return jnp.exp(y @ b) @ jnp.sin(x @ a)

    types = [shape(64, 64)] * 3
    target = Target(CPU, tuple(types))
    merged = compile_step(twice, target, for_memory=True, has_barriers=True)
    assert merged.measured.flops < 3.5 * 2 * 64**3


# Random programs


UNARY = (jnp.sin, jnp.tanh, jnp.negative, jnp.square, lambda x: x * 0.5 + 1.0)
BINARY = (jnp.add, jnp.subtract, jnp.multiply, jnp.maximum)
MATMUL = (
    lambda a, b: a @ b / 4,
    lambda a, b: a.T @ b / 4,
    lambda a, b: a @ b.T / 4,
    lambda a, b: (a @ b).T / 4,
)
REDUCE = (
    lambda x: x - jnp.sum(x, axis=0),
    lambda x: x * jnp.mean(x),
    lambda x: x - jnp.max(x, axis=1, keepdims=True),
    lambda x: jnp.broadcast_to(jnp.sum(x, axis=1), x.shape),
    lambda x: jnp.cumsum(x, axis=0) / 4,
)


@st.composite
def recipes(draw: Any) -> tuple[list[tuple[Any, ...]], list[int]]:
    """Operations on square matrices, each with the indices of what it reads, and outputs."""
    count = draw(st.integers(3, 14))
    operations: list[tuple[Any, ...]] = []
    for index in range(count):
        known = st.integers(0, index + 1)  # two arguments
        table = draw(st.sampled_from((UNARY, BINARY, MATMUL, MATMUL, REDUCE)))
        operation = draw(st.integers(0, len(table) - 1))
        arity = 1 if table in (UNARY, REDUCE) else 2
        operations.append((table[operation], [draw(known) for _ in range(arity)]))
    outputs = draw(st.lists(st.integers(0, count + 1), min_size=1, max_size=3))
    return operations, [count + 1, *outputs]


def step_of(recipe: tuple[list[tuple[Any, ...]], list[int]]) -> Any:
    operations, outputs = recipe

    def step(x: Any, y: Any) -> Any:
        values = [x, y]
        for operation, reads in operations:
            values.append(operation(*(values[r] for r in reads)))
        return [values[i] for i in outputs]

    return step


def random_order(priced: Any, draw: Any, most: int = 3) -> tuple[int, ...]:
    """A valid schedule: recomputable nodes that have run, ascending, before some first runs.

    Draws in which nothing runs again are left out.
    """
    order: list[int] = []
    allowed = [i for i, node in enumerate(priced.problem.nodes) if node.recomputable]
    for node in range(len(priced.problem.nodes)):
        known = [i for i in allowed if i < node]
        if known and draw(st.booleans()):
            again = draw(st.lists(st.sampled_from(known), max_size=most, unique=True))
            order += sorted(again)
        order.append(node)
    assume(len(order) > len(priced.problem.nodes))
    simulate(priced.problem, order)
    return tuple(order)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(recipes(), st.data())
def test_random_schedules_compute_the_same(recipe, data):
    types = (shape(8, 8), shape(8, 8))
    step = step_of(recipe)
    priced = priced_of(step, *types, prepared=data.draw(st.booleans()))
    order = random_order(priced, data.draw)
    values = arrays_like(types, seed=1)
    expected = jax.jit(step)(*values)
    ours = compiled(priced, order, types).compiled(*values)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(recipes(), st.data())
def test_segments_carry_out_the_schedule(recipe, data):
    priced = priced_of(step_of(recipe), shape(8, 8), shape(8, 8))
    order = random_order(priced, data.draw)
    parts = segments(priced, order)
    emitted = emitted_order(parts)
    simulate(priced.problem, emitted)  # valid
    assert sorted(emitted) == sorted(order)
    settled = priced.updates.keys()  # these alone may move
    assert [n for n in emitted if n not in settled] == [n for n in order if n not in settled]
    for node in settled:
        assert emitted.index(node) >= [n for n in order if n not in settled or n == node].index(
            node
        )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(recipes(), st.data())
def test_barriers_hold_what_they_should(recipe, data):
    """No free values; for each recomputed segment, a live value made since the barrier before."""
    priced = priced_of(step_of(recipe), shape(8, 8), shape(8, 8))
    program, graph = priced.graph.program, priced.graph
    parts = segments(priced, random_order(priced, data.draw))
    held = set(program.arguments)
    fresh: set[int] = set()
    for number, part in enumerate(parts):
        assert len(set(part.barrier)) == len(part.barrier)
        assert not any(graph.free[v] for v in part.barrier)
        assert set(part.barrier) <= held
        if part.recomputed:
            assert part.barrier
            assert set(part.barrier) & fresh or not later_reads(priced, parts, number) & fresh
        fresh = set() if part.barrier else fresh
        for node in part.nodes:
            outputs = program.eqns[priced.eqn_of_node[node]].outputs
            held.update(outputs)
            fresh.update(outputs)


def later_reads(priced: Any, parts: Any, number: int) -> set[int]:
    """Values that some node from segment `number` on reads before it is written again."""
    reads: set[int] = set()
    written: set[int] = set()
    for part in parts[number:]:
        for node in part.nodes:
            eqn = priced.eqn_of_node[node]
            reads |= set(priced.graph.stored_reads[eqn]) - written
            written |= set(priced.graph.program.eqns[eqn].outputs)
    return reads | (priced.graph.program.result_values - written)


@pytest.mark.parametrize("seed", range(3))
def test_whole_train_steps_with_random_recomputations(seed):
    step, weights, x = mlp(width=16, batch=64)
    types = [shape(*a.shape) for a in (*weights, x)]
    priced = priced_of(lambda *flat: step(list(flat[:-1]), flat[-1]), *types, prepared=True)
    rng = np.random.default_rng(seed)
    count = len(priced.problem.nodes)
    allowed = [i for i, n in enumerate(priced.problem.nodes) if n.recomputable]
    order: list[int] = []
    for node in range(count):
        known = [i for i in allowed if i < node]
        if known and rng.random() < 0.3:
            order += sorted(rng.choice(known, size=min(3, len(known)), replace=False).tolist())
        order.append(node)
    planned = compiled(priced, order, types)
    plain = compiled(priced, priced.problem.identity, types)
    again = [priced.problem.nodes[n] for n in set(order)]
    assert len(order) > count
    matmuls = sum(n.cost for n in again if n.name == "dot_general")
    assert matmuls
    for one, other in zip(planned.compiled(*weights, x), plain.compiled(*weights, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_compiled_flops_have_every_recomputed_matmul():
    """Each matmul of the forward pass is run again before the backward pass."""
    step, weights, x = mlp(width=32, batch=64)
    types = [shape(*a.shape) for a in (*weights, x)]
    priced = priced_of(lambda *flat: step(list(flat[:-1]), flat[-1]), *types)
    names = [node.name for node in priced.problem.nodes]
    turn = names.index("reduce_sum")
    forward = tuple(i for i in range(turn) if priced.problem.nodes[i].recomputable)
    order = inserted(priced.problem.identity, before=turn + 1, again=forward)
    matmuls = sum(names[i] == "dot_general" for i in forward)
    assert matmuls == len(weights)
    planned = compiled(priced, order, types).measured.flops
    plain = compiled(priced, priced.problem.identity, types).measured.flops
    assert planned >= plain + matmuls * 2 * 64 * 32**2


# Free values


def test_long_chains_of_free_eqns():
    def step(x):
        for _ in range(600):
            x = x * 1.01 + 0.1
        return jnp.sum(x)

    priced = priced_of(step, shape(1000))
    assert len(priced.problem.nodes) == 1
    (result,) = jax.eval_shape(rewrite(priced, (0,)), shape(1000))
    assert result.shape == ()


def test_free_values_are_made_anew_behind_a_barrier():
    """The broadcast is read on both sides of the barrier, and does not pass through it."""

    def step(x, a, s):
        wide = jnp.broadcast_to(s, (16, 16))
        y = jnp.sin(x @ a)
        return jnp.exp((y * wide) @ a) @ (y * wide)

    priced = priced_of(step, SQUARE, SQUARE, shape(16))
    dot, sin = node_called(priced, "dot_general"), node_called(priced, "sin")
    order = inserted(
        priced.problem.identity, before=node_called(priced, "mul", 1), again=(dot, sin)
    )
    again = trace(rewrite(priced, order), (SQUARE, SQUARE, shape(16)))
    names = [e.primitive for e in again.eqns]
    barriers = [e for e in again.eqns if e.primitive == "optimization_barrier"]
    assert barriers
    assert names.count("broadcast_in_dim") == 2
    broadcasts = {e.outputs[0] for e in again.eqns if e.primitive == "broadcast_in_dim"}
    assert not any(broadcasts & set(barrier.reads) for barrier in barriers)


# Names and source lines


def test_names_and_source_lines_survive_into_the_lowered_text():
    @jax.jit
    def inner(x):
        return jnp.sin(x)

    def step(x, a):
        with jax.named_scope("block"):
            y = inner(x @ a)
        with jax.named_scope("head"):
            return jnp.exp(y @ a) @ y

    types = (SQUARE, SQUARE)
    priced = priced_of(step, *types)
    order = inserted(priced.problem.identity, before=4, again=(0, 1))
    function = rewrite(priced, order)
    assert function.__name__ == "step"
    text = jax.jit(function).lower(*types).as_text(debug_info=True)
    assert re.search(r"jit\(step\)/[^\"]*block/(eqn\.\d+/)?dot_general", text)
    assert re.search(r"block/[^\"]*\(inner\)/(eqn\.\d+/)*sin", text)
    assert re.search(r"head/(eqn\.\d+/)*exp", text)
    assert "test_rewrite.py" in text
    line = step.__code__.co_firstlineno + 4
    assert re.search(rf"test_rewrite\.py\":{line}:", text)


# Effects


def test_effects_run_once_and_in_order():
    seen: list[str] = []

    def note(label: str) -> Any:
        return lambda value: seen.append(f"{label} {float(value):.0f}")

    def step(x, a):
        jax.debug.callback(note("first"), x[0, 0], ordered=True)
        y = jnp.sin(x @ a)
        jax.debug.callback(note("second"), x[0, 1], ordered=True)
        z = jnp.exp(y @ a)
        jax.debug.callback(note("third"), x[0, 2], ordered=True)
        return z @ y

    priced = priced_of(step, SQUARE, SQUARE)
    nodes = priced.problem.nodes
    effects = [i for i, node in enumerate(nodes) if "callback" in node.name]
    assert len(effects) == 3
    assert not any(nodes[i].recomputable for i in effects)
    again = tuple(i for i, node in enumerate(nodes[:-1]) if node.recomputable)
    order = inserted(priced.problem.identity, before=len(nodes) - 1, again=again)
    x = jnp.arange(256.0).reshape(16, 16)
    compiled(priced, order, (SQUARE, SQUARE)).compiled(x, jnp.eye(16))
    jax.effects_barrier()
    assert seen == ["first 0", "second 1", "third 2"]


def test_results_of_callbacks_are_kept():
    calls: list[float] = []

    def host(x: Any) -> Any:
        calls.append(float(np.sum(x)))
        return np.asarray(x) * 2

    def step(x, a):
        y = io_callback(host, SQUARE, x, ordered=True)
        return jnp.exp(jnp.sin(y @ a) @ a) @ y

    priced = priced_of(step, SQUARE, SQUARE)
    names = [n.name for n in priced.problem.nodes]
    order = inserted(
        priced.problem.identity, before=len(names) - 1, again=(names.index("dot_general"),)
    )
    x, a = arrays_like((SQUARE, SQUARE))
    result = compiled(priced, order, (SQUARE, SQUARE)).compiled(x, a)
    jax.block_until_ready(result)
    assert len(calls) == 1
    expected = np.exp(np.sin(2 * x @ a) @ a) @ (2 * x)
    np.testing.assert_allclose(result[0], expected, rtol=1e-3)


# Random bits


@pytest.mark.parametrize("typed", [True, False])
def test_random_bits_are_the_same_when_recomputed(typed):
    def step(key, x, a):
        mask = jax.random.bernoulli(key, 0.5, (16, 16))
        y = jnp.where(mask, x @ a, 0.0)
        return jnp.exp(jnp.sin(y @ a)) @ jnp.where(mask, y, 1.0)

    make = jax.random.key if typed else jax.random.PRNGKey
    x, a = arrays_like((SQUARE, SQUARE))
    args = (make(3), x, a)
    priced = priced_of(step, *args)
    nodes = priced.problem.nodes
    again = tuple(i for i in range(len(nodes) - 1) if nodes[i].recomputable)
    order = inserted(priced.problem.identity, before=len(nodes) - 1, again=again)
    assert any("random" in nodes[i].name or "threefry" in nodes[i].name for i in again)
    types = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in args]
    (result,) = compiled(priced, order, types).compiled(*args)
    np.testing.assert_allclose(result, jax.jit(step)(*args), rtol=1e-5)


# Captured arrays, loops


def test_captured_arrays_pass_through_barriers():
    table = jnp.asarray(arrays_like(SQUARE)[0])

    def step(x):
        y = jnp.sin(x @ table)
        return jnp.exp(y @ table) @ y

    priced = priced_of(step, SQUARE)
    x = arrays_like(SQUARE, seed=2)[0]
    (result,) = compiled(priced, (0, 1, 2, 3, 0, 1, 4), (SQUARE,)).compiled(x)
    np.testing.assert_allclose(result, jax.jit(step)(x), rtol=1e-4)


def test_loops_branches_and_checkpoints_are_recomputed_whole():
    def step(x, a):
        y = jax.lax.scan(lambda c, _: (jnp.sin(c @ a), c), x, None, length=3)[1]
        y = jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, y[1] + y[2])
        y = jax.checkpoint(lambda y: jnp.tanh(y @ a))(y)
        y = jax.lax.fori_loop(0, 2, lambda _, c: jnp.cos(c @ a), y)
        return jnp.exp(y @ a) @ y

    def loss(x, a):
        return jnp.sum(step(x, a))

    program = trace(loss, (SQUARE, SQUARE))
    priced = priced_of_program(program)
    nodes = priced.problem.nodes
    again = tuple(i for i in range(len(nodes) - 1) if nodes[i].recomputable)
    assert {"scan", "cond"} <= {nodes[i].name for i in again}
    order = inserted(priced.problem.identity, before=len(nodes) - 1, again=again)
    x, a = arrays_like((SQUARE, SQUARE))
    (result,) = compiled(priced, order, (SQUARE, SQUARE)).compiled(x, a)
    np.testing.assert_allclose(result, jax.jit(loss)(x, a), rtol=1e-4)
