"""Rewritings before any decision: the same numbers, where they should happen and nowhere else."""

from __future__ import annotations

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from memjax.program.prepare import (
    consume_early,
    merge_contracted,
    prepare,
    scatter_into_sum,
    swap_transposed_matmuls,
)
from memjax.program.tags import plain_name
from memjax.program.trace import trace
from tests.programs import mlp, primitives_of, run_program, shape

INT = shape(dtype=jnp.int32)


def values_for(types, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 4, t.shape).astype(t.dtype)
        if t.dtype == jnp.int32
        else rng.standard_normal(t.shape).astype(t.dtype)
        for t in jax.tree_util.tree_leaves(types)
    ]


def assert_same_results(one, other, types, *, exact=False):
    values = values_for(types)
    for a, b in zip(run_program(one, *values), run_program(other, *values), strict=True):
        if exact:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def assert_valid(program):
    """Read after written, every result there, each value written once, types as declared."""
    written = {*program.arguments, *(v for v, _ in program.constants)}
    for eqn in program.eqns:
        assert set(eqn.reads) <= written
        assert not set(eqn.outputs) & written
        written.update(eqn.outputs)
        types = [(v.aval.shape, v.aval.dtype) for v in eqn.raw.outvars]
        assert [(program.avals[v].shape, program.avals[v].dtype) for v in eqn.outputs] == types
    assert program.result_values <= written


# (a b)ᵀ = bᵀ aᵀ


SWAPS = {
    "plain": (lambda a, b: (a @ b).T, (shape(3, 4), shape(4, 5))),
    "aᵀb": (
        lambda a, b: jax.lax.dot_general(a, b, (((0,), (0,)), ((), ()))).T,
        (shape(4, 3), shape(4, 5)),
    ),
    "3D": (
        lambda a, b: jnp.transpose(jnp.tensordot(a, b, 1), (2, 0, 1)),
        (shape(2, 3, 4), shape(4, 5)),
    ),
    "batch": (
        lambda a, b: jnp.transpose(a @ b, (0, 2, 1)),
        (shape(2, 3, 4), shape(2, 4, 5)),
    ),
    "dtype": (
        lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32).T,
        (shape(3, 4, dtype=jnp.bfloat16), shape(4, 5, dtype=jnp.bfloat16)),
    ),
    "mixed": (
        lambda a, b: (
            jax.lax.dot_general(
                a, b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
            ).T
        ),
        (shape(3, 4, dtype=jnp.bfloat16), shape(4, 5)),
    ),
    "precision": (
        lambda a, b: jnp.matmul(a, b, precision=("highest", "default")).T,
        (shape(3, 4), shape(4, 5)),
    ),
}


@pytest.mark.parametrize("name", SWAPS)
def test_transposed_matmuls_are_swapped(name):
    """a, b ─ dot ─ transpose ─▶   becomes   b, a ─ dot ─▶"""
    step, types = SWAPS[name]
    program = trace(step, types)
    swapped = swap_transposed_matmuls(program)
    assert primitives_of(program) == ["dot_general", "transpose"]
    assert primitives_of(swapped) == ["dot_general"]
    assert swapped.eqns[0].inputs == (1, 0)
    assert swapped.results == program.results
    assert_valid(swapped)
    assert_same_results(program, swapped, types)


def test_precisions_change_places():
    step, types = SWAPS["precision"]
    (eqn,) = swap_transposed_matmuls(trace(step, types)).eqns
    assert [str(p) for p in eqn.raw.params["precision"]] == ["DEFAULT", "HIGHEST"]


def test_algorithms_of_matmuls_change_places():
    """Two components of the left operand become two of the right one."""
    f32 = np.float32
    algorithm = jax.lax.DotAlgorithm(f32, jnp.bfloat16, f32, 2, 1, 3, False)

    def step(a, b):
        numbers = (((1,), (0,)), ((), ()))
        return jax.lax.dot_general(a, b, numbers, precision=algorithm, preferred_element_type=f32).T

    (eqn,) = swap_transposed_matmuls(trace(step, (shape(3, 4), shape(4, 5)))).eqns
    swapped = jax.lax.DotAlgorithm(jnp.bfloat16, f32, f32, 1, 2, 3, False)
    assert eqn.raw.params["precision"] == swapped
    assert eqn.raw.params["preferred_element_type"] == f32


def twice_read(a, b):
    y = a @ b
    return y.T, jnp.sum(y)


def returned(a, b):
    y = a @ b
    return y.T, y


KEPT = {
    "another reader": (twice_read, (shape(3, 4), shape(4, 5))),
    "a result": (returned, (shape(3, 4), shape(4, 5))),
    "no exchange": (
        lambda a, b: jnp.transpose(jnp.tensordot(a, b, 1), (1, 0, 2)),
        (shape(2, 3, 4), shape(4, 5)),
    ),
    "batch moves": (
        lambda a, b: jnp.transpose(a @ b, (2, 1, 0)),
        (shape(2, 3, 4), shape(2, 4, 5)),
    ),
    "no transpose": (lambda a, b: -(a @ b), (shape(3, 4), shape(4, 5))),
}


@pytest.mark.parametrize("name", KEPT)
def test_other_matmuls_stay(name):
    step, types = KEPT[name]
    program = trace(step, types)
    assert swap_transposed_matmuls(program).eqns == program.eqns


def test_out_sharding_stays():
    step, types = SWAPS["plain"]
    program = trace(step, types)
    eqn = program.eqns[0]
    raw = eqn.raw.replace(params={**eqn.raw.params, "out_sharding": "somewhere"})
    marked = type(eqn)(raw, eqn.inputs, eqn.outputs, eqn.name_stack)
    program = type(program)(**{**fields_of(program), "eqns": (marked, program.eqns[1])})
    assert primitives_of(swap_transposed_matmuls(program)) == ["dot_general", "transpose"]


def fields_of(value):
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


# y + scatter_add(zeros, u) = scatter_add(y, u)


TABLE = shape(4, 3)


def scattered(y, i, u, *, add=jnp.add):
    return add(jnp.sin(y), jnp.zeros((4, 3)).at[i].add(u))


def test_a_scatter_goes_into_the_sum():
    """
    y ─ sin ──────────────┐                y ─ sin ─┐
    zeros ─ scatter-add ─ add ─▶  becomes   i, u ─ scatter-add ─▶
    """
    types = (TABLE, INT, shape(3))
    program = trace(scattered, types)
    changed = scatter_into_sum(program)
    assert primitives_of(program).count("add") == primitives_of(changed).count("add") + 1
    (scatter,) = (e for e in changed.eqns if e.primitive == "scatter-add")
    assert scatter.inputs[0] == program.eqns[0].outputs[0]
    assert scatter.outputs == program.results
    assert_valid(changed)
    assert_same_results(program, changed, types)


def test_the_other_way_round():
    types = (TABLE, INT, shape(3))
    program = trace(lambda y, i, u: jnp.zeros((4, 3)).at[i].add(u) + jnp.sin(y), types)
    changed = scatter_into_sum(program)
    assert "add" not in primitives_of(changed)[-1:]
    assert_same_results(program, changed, types)


def test_repeated_indices_are_all_added():
    types = (TABLE, shape(5, dtype=jnp.int32), shape(5, 3))
    program = trace(scattered, types)
    assert_same_results(program, scatter_into_sum(program), types)


def test_two_scatters_in_a_row():
    def step(y, i, u):
        once = jnp.sin(y) + jnp.zeros((4, 3)).at[i].add(u)
        return once + jnp.zeros((4, 3)).at[i + 1].add(2 * u)

    types = (TABLE, INT, shape(3))
    program = trace(step, types)
    changed = scatter_into_sum(program)
    assert_valid(changed)
    assert_same_results(program, changed, types)


def test_a_sum_of_two_scatters():
    def step(i, u):
        return jnp.zeros((4, 3)).at[i].add(u) + jnp.zeros((4, 3)).at[1].add(u)

    types = (INT, shape(3))
    program = trace(step, types)
    changed = scatter_into_sum(program)
    assert primitives_of(changed).count("scatter-add") == 2
    assert_valid(changed)
    assert_same_results(program, changed, types)


def not_zero(y, i, u):
    return jnp.sin(y) + jnp.ones((4, 3)).at[i].add(u)


def scatter_read_twice(y, i, u):
    s = jnp.zeros((4, 3)).at[i].add(u)
    return jnp.sin(y) + s, jnp.sum(s)


def scatter_returned(y, i, u):
    s = jnp.zeros((4, 3)).at[i].add(u)
    return jnp.sin(y) + s, s


def summand_read_twice(y, i, u):
    z = jnp.sin(y)
    return z + jnp.zeros((4, 3)).at[i].add(u), z @ z.T


def summand_returned(y, i, u):
    z = jnp.sin(y)
    return z + jnp.zeros((4, 3)).at[i].add(u), z


def summand_is_an_argument(y, i, u):
    return y + jnp.zeros((4, 3)).at[i].add(u)


def other_scatter(y, i, u):
    return jnp.sin(y) + jnp.zeros((4, 3)).at[i].set(u)


def with_itself(y, i, u):
    s = jnp.zeros((4, 3)).at[i].add(u)
    return s + s


def difference(y, i, u):
    return jnp.sin(y) - jnp.zeros((4, 3)).at[i].add(u)


@pytest.mark.parametrize(
    "step",
    [
        not_zero,
        scatter_read_twice,
        scatter_returned,
        summand_read_twice,
        summand_returned,
        summand_is_an_argument,
        other_scatter,
        with_itself,
        difference,
    ],
)
def test_other_sums_stay(step):
    program = trace(step, (TABLE, INT, shape(3)))
    assert scatter_into_sum(program).eqns == program.eqns


def test_gradient_of_a_cross_entropy():
    """The case that it is for: no zeros, and one logits-sized buffer less."""

    def loss(x, w, labels):
        logits = x @ w
        right = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - right)

    types = (shape(8, 6), shape(6, 4), shape(8, dtype=jnp.int32))
    program = trace(jax.grad(loss, argnums=(0, 1)), types)
    changed = scatter_into_sum(program)
    assert len(changed.eqns) == len(program.eqns) - 1
    assert_valid(changed)
    assert_same_results(program, changed, types)


# Several contracted dimensions


MERGED = {
    "weight gradient": ("bti,bto->io", (2, 3, 4), (2, 3, 5)),
    "last of one, first of the other": ("iab,abo->io", (4, 2, 3), (2, 3, 5)),
    "three": ("abci,abco->io", (2, 3, 2, 4), (2, 3, 2, 5)),
    "in the middle": ("iabj,abo->ijo", (4, 2, 3, 5), (2, 3, 6)),
}


@pytest.mark.parametrize("name", MERGED)
def test_neighbouring_contracted_dimensions_are_merged(name):
    equation, left, right = MERGED[name]
    types = (shape(*left), shape(*right))
    program = trace(lambda a, b: contract(equation, a, b), types)
    merged = merge_contracted(program)
    assert primitives_of(program) == ["dot_general"]
    assert [p for p in primitives_of(merged) if p != "reshape"] == ["dot_general"]
    contracts, _ = merged.eqns[-1].raw.params["dimension_numbers"]
    assert [len(c) for c in contracts] == [1, 1]
    assert merged.results == program.results
    assert merged.avals[: len(program.avals)] == program.avals
    assert_valid(merged)
    assert_same_results(program, merged, types)


def contract(equation, a, b, **options):
    """One dot_general, its results in its own order."""
    inputs, _ = equation.split("->")
    left, right = inputs.split(",")
    common = [c for c in left if c in right]
    batch = [c for c in common if c in equation.split("->")[1]]
    summed = [c for c in common if c not in batch]
    numbers = [
        tuple(tuple(s.index(c) for c in cs) for s in (left, right)) for cs in (summed, batch)
    ]
    return jax.lax.dot_general(a, b, tuple(numbers), **options)


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("ij,jk->ik", (2, 3), (3, 4)),  # one
        ("xab,xabo->xo", (2, 3, 4), (2, 3, 4, 5)),  # batch dimensions
        ("aib,abo->io", (2, 4, 3), (2, 3, 5)),  # not neighbours
        ("abi,bao->io", (2, 3, 4), (3, 2, 5)),  # in another order
    ],
)
def test_other_contractions_stay(equation, left, right):
    types = (shape(*left), shape(*right))
    program = trace(lambda a, b: contract(equation, a, b), types)
    assert merge_contracted(program).eqns == program.eqns


def test_merging_keeps_types_precision_and_source():
    types = (shape(2, 3, 4, dtype=jnp.bfloat16), shape(2, 3, 5, dtype=jnp.bfloat16))
    options = {"preferred_element_type": jnp.float32, "precision": jax.lax.Precision.HIGHEST}
    program = trace(lambda a, b: contract("bti,bto->io", a, b, **options), types)
    merged = merge_contracted(program)
    (before,), after = program.eqns, merged.eqns[-1]
    assert after.raw.params["precision"] == before.raw.params["precision"]
    assert after.raw.params["preferred_element_type"] == jnp.float32
    assert {e.source for e in merged.eqns} == {before.source}
    assert {plain_name(str(e.name_stack)) for e in merged.eqns} == {
        plain_name(str(before.name_stack))
    }
    assert_same_results(program, merged, types)


def test_merging_one_array_with_itself():
    types = (shape(2, 3, 4),)
    program = trace(lambda a: contract("bti,bto->io", a, a), types)
    merged = merge_contracted(program)
    assert_valid(merged)
    assert_same_results(program, merged, types)


# Early updates


def test_updates_run_behind_what_they_read():
    """
    before: g1 ─ g2 ─ (w1 - g1) ─ (w2 - g2)
    after:  g1 ─ (w1 - g1) ─ g2 ─ (w2 - g2)      (the w are read by nothing heavy)
    """

    def step(w1, w2, x):
        g1 = x @ x
        g2 = g1 @ x
        return w1 - g1, w2 - g2

    square = shape(8, 8)
    program = trace(step, (square,) * 3)
    early = consume_early(program)
    assert primitives_of(program) == ["dot_general", "dot_general", "sub", "sub"]
    assert [e.outputs for e in early.eqns] == [program.eqns[i].outputs for i in (0, 2, 1, 3)]
    assert_same_results(program, early, (square,) * 3, exact=True)


def test_an_update_waits_for_the_other_readers_of_its_argument():
    """
    before: g = x x ─ h = g w ─ (w - g) ─ sum(h)
    The update of w must not come before h reads w; it would have to copy.
    """

    def step(w, x):
        g = x @ x
        g2 = g @ g
        h = g2 @ w
        last = h @ h
        return w - g, last

    square = shape(8, 8)
    program = trace(step, (square, square))
    early = consume_early(program)
    order = [program.eqns.index(e) for e in early.eqns]
    assert primitives_of(early) == [
        "dot_general",
        "dot_general",
        "dot_general",
        "sub",
        "dot_general",
    ]
    assert order == [0, 1, 2, 4, 3]


def test_what_reads_arguments_alone_runs_before_its_first_reader():
    """Adam's bias correction, a scalar function of the step count."""

    def step(w, x, count):
        correction = 1 - 0.9 ** (count + 1)
        g = x @ x
        g = g @ g
        return w - g / correction, count + 1

    square = shape(8, 8)
    program = trace(step, (square, square, shape()))
    early = consume_early(program)
    names = primitives_of(early)
    assert names[:2] == ["dot_general", "dot_general"]
    assert_valid(early)
    assert_same_results(program, early, (square, square, shape()), exact=True)


def test_nothing_heavy_at_all():
    program = trace(lambda x, y: (x + 1, y * 2 - x, 3.0), (shape(3), shape(3)))
    early = consume_early(program)
    assert_valid(early)
    assert_same_results(program, early, (shape(3), shape(3)), exact=True)


def test_effects_keep_their_order_and_place_among_heavy_eqns():
    def step(w, x):
        jax.debug.callback(print, x[0, 0], ordered=True)
        g = x @ x
        jax.debug.callback(print, g[0, 0], ordered=True)
        h = g @ x
        jax.debug.callback(print, h[0, 0], ordered=True)
        return w - g

    square = shape(8, 8)
    program = trace(step, (square, square))
    early = consume_early(program)
    assert_valid(early)
    fixed = [e for e in program.eqns if e.has_effects or e.primitive == "dot_general"]
    assert [e for e in early.eqns if e.has_effects or e.primitive == "dot_general"] == fixed


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_train_step(optimizer):
    """Each update directly behind the matmul that makes its gradient, or its last reader."""
    if optimizer == "sgd":
        step, weights, x = mlp(width=8, batch=16, layers=3)
        args = (weights, x)
    else:
        optax = pytest.importorskip("optax")
        adam = optax.adamw(1e-2)
        loss = lambda ws, x: jnp.mean((jnp.tanh(jnp.tanh(x @ ws[0]) @ ws[1]) @ ws[2]) ** 2)  # noqa: E731

        def step(state, x):
            weights, moments = state
            gradients = jax.grad(loss)(weights, x)
            updates, moments = adam.update(gradients, moments, weights)
            return optax.apply_updates(weights, updates), moments

        _, weights, x = mlp(width=8, batch=16, layers=3)
        args = ((weights, adam.init(weights)), x)
    program = trace(step, args)
    early = consume_early(program)
    assert_valid(early)
    assert sorted(map(id, early.eqns)) == sorted(map(id, program.eqns))
    matmuls = [i for i, e in enumerate(early.eqns) if e.primitive == "dot_general"]
    updated = [early.producer[r] for r in early.results[:3]]
    assert min(updated) < matmuls[-1]  # the last layer's, before the first layer's gradient
    plain = [program.producer[r] for r in program.results[:3]]
    last = max(i for i, e in enumerate(program.eqns) if e.primitive == "dot_general")
    assert min(plain) > last
    assert_same_results(program, early, args)


# All of them, on random programs


MATRIX = shape(4, 4)


def swap(a, b):
    return (a @ b).T


def scatter(a, b):
    return jnp.sin(a) + jnp.zeros((4, 4)).at[2].add(b[0])


def merge(a, b):
    return jnp.einsum("bti,bto->io", a.reshape(2, 2, 4), b.reshape(2, 2, 4)) / 4


OPERATIONS = (swap, scatter, merge, jnp.add, jnp.multiply, jnp.matmul, lambda a, b: a - jnp.sum(b))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.data())
def test_random_programs_keep_their_results(data):
    count = data.draw(st.integers(1, 10))
    chosen = [
        (
            data.draw(st.sampled_from(OPERATIONS)),
            data.draw(st.integers(0, i + 1)),
            data.draw(st.integers(0, i + 1)),
        )
        for i in range(count)
    ]
    outputs = data.draw(st.lists(st.integers(0, count + 1), min_size=1, max_size=3))

    def step(x, y):
        values = [x, y]
        for operation, a, b in chosen:
            values.append(jnp.tanh(operation(values[a], values[b])))
        return [values[-1], *(values[i] for i in outputs)]

    program = trace(step, (MATRIX, MATRIX))
    for change in (
        swap_transposed_matmuls,
        scatter_into_sum,
        merge_contracted,
        consume_early,
        prepare,
    ):
        changed = change(program)
        assert_valid(changed)
        assert changed.arguments == program.arguments
        assert changed.results == program.results
    values = values_for((MATRIX, MATRIX))
    expected = jax.jit(step)(*values)
    for one, other in zip(run_program(prepare(program), *values), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_preparing_twice_changes_nothing_more():
    step, weights, x = mlp(width=8, batch=16, layers=3)
    once = prepare(trace(step, (weights, x)))
    assert prepare(once).eqns == once.eqns
