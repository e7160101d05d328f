"""FLOPs, bytes inside of eqns, and the copies that XLA:CPU makes for matmuls."""

import jax
import jax.numpy as jnp
import pytest

from memjax.emit.compile import footprint
from memjax.pricing.backends import BACKENDS, Backend
from memjax.pricing.cost import (
    eqn_flops,
    inner_peak_bytes,
    jaxpr_flops,
    reduced_transpose_bytes,
    workspace_bytes,
)
from memjax.pricing.liveness import liveness
from memjax.program.primitives import COSTLY_FLOPS
from memjax.program.trace import trace
from tests.programs import shape

CPU = BACKENDS["cpu"]


def eqns_of(step, *types):
    return jax.make_jaxpr(step)(*types).eqns


def flops_of(step, *types):
    return jaxpr_flops(jax.make_jaxpr(step)(*types))


def scanned(body, length=5):
    def step(x):
        return jax.lax.scan(lambda c, _: (body(c), None), x, None, length=length)[0]

    return step


SQUARE = shape(8, 8)


@pytest.mark.parametrize(
    ("step", "types", "expected"),
    [
        (jnp.dot, (shape(3, 5), shape(5, 7)), 2 * 3 * 5 * 7),
        (jnp.vdot, (shape(9), shape(9)), 2 * 9),
        (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (shape(2, 3, 5), shape(2, 5, 7)), 420),
        (lambda a, b: jnp.einsum("bti,bto->io", a, b), (shape(2, 3, 5), shape(2, 3, 7)), 420),
        (lambda x: x + 1, (SQUARE,), 64),
        (jnp.sin, (SQUARE,), 64 * COSTLY_FLOPS),
        (lambda x: x.T, (SQUARE,), 0),
        (lambda x: x.reshape(64), (SQUARE,), 0),
        (lambda x: jax.lax.reduce_sum(x, (0,)), (SQUARE,), 64),
        (lambda x: jax.lax.reduce_max(x, (0, 1)), (SQUARE,), 64),
        (scanned(lambda c: c @ c), (SQUARE,), 5 * 2 * 8**3),
        (scanned(scanned(lambda c: c + 1, 3)), (SQUARE,), 5 * 3 * 64),
        (jax.checkpoint(lambda x: x @ x), (SQUARE,), 2 * 8**3),
        (jax.jit(lambda x: x @ x), (SQUARE,), 2 * 8**3),
    ],
)
def test_flops(step, types, expected):
    assert flops_of(step, *types) == expected


def test_a_branch_costs_the_dearest():
    def step(i, x):
        return jax.lax.switch(i, [lambda x: x + 1, lambda x: x @ x, lambda x: x], x)

    eqn = next(e for e in eqns_of(step, shape(dtype=jnp.int32), SQUARE) if "cond" in str(e))
    assert eqn_flops(eqn) == 2 * 8**3


def test_a_while_counts_once():
    def step(x):
        return jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ c, x)

    (eqn,) = eqns_of(step, SQUARE)
    assert 2 * 8**3 <= eqn_flops(eqn) < 2 * 8**3 + 100


@pytest.mark.parametrize(("groups", "per_output"), [(1, 3 * 3 * 4), (4, 3 * 3), (2, 3 * 3 * 2)])
def test_convolutions(groups, per_output):
    def step(x, k):
        return jax.lax.conv_general_dilated(
            x,
            k,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    types = shape(2, 8, 8, 4), shape(3, 3, 4 // groups, 8)
    assert flops_of(step, *types) == 2 * per_output * 2 * 8 * 8 * 8


@pytest.mark.parametrize("numbers", [("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "NHWC")])
def test_a_convolutions_layout_does_not_matter(numbers):
    sizes = {"N": 2, "C": 4, "H": 8, "W": 8}
    kernel = {"O": 8, "I": 4, "H": 3, "W": 3}

    def step(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers)

    types = shape(*(sizes[c] for c in numbers[0])), shape(*(kernel[c] for c in numbers[1]))
    assert flops_of(step, *types) == 2 * 36 * 2 * 8 * 8 * 8


def test_xla_counts_the_same_for_matmuls():
    def step(x):
        return jnp.einsum("bij,bkj->bik", x, x)

    types = shape(4, 16, 32)
    counted = jax.jit(step).lower(types).compile().cost_analysis()["flops"]
    assert flops_of(step, types) == pytest.approx(counted, rel=0.05)


# Bytes inside


def test_the_peak_inside_a_scan():
    """Per iteration: y (256), then z (256) beside it, then only their product is left."""

    def body(c, _):
        y = jnp.sin(c)
        z = c @ c
        return y @ z, None

    (eqn,) = eqns_of(lambda x: jax.lax.scan(body, x, None, length=3), SQUARE)
    assert inner_peak_bytes(eqn) == 3 * 256  # y, z and the product, while it is made


def test_the_peak_inside_takes_the_largest_body():
    branches = [lambda x: x, lambda x: jnp.cumsum(x, 0) @ x, lambda x: x @ x]

    def step(i, x):
        return jax.lax.switch(i, branches, x)

    eqn = next(e for e in eqns_of(step, shape(dtype=jnp.int32), SQUARE) if "cond" in str(e))
    assert inner_peak_bytes(eqn) == 2 * 256


def test_nested_bodies_add_up():
    def inner(c, _):
        return c @ c @ c, None

    def outer(c, _):
        y = c @ c
        return y @ jax.lax.scan(inner, c, None, length=2)[0], None

    (eqn,) = eqns_of(lambda x: jax.lax.scan(outer, x, None, length=2), SQUARE)
    # y, the inner result, and two products inside of the inner body
    assert inner_peak_bytes(eqn) == 4 * 256


def test_structure_inside_takes_nothing():
    (eqn,) = eqns_of(
        scanned(lambda c: jnp.broadcast_to(jnp.reshape(c, (64,)), (64, 64))[:8, :8] @ c), SQUARE
    )
    assert inner_peak_bytes(eqn) <= 2 * 256


def test_plain_eqns_have_no_inside():
    (eqn,) = eqns_of(lambda x: x + 1, SQUARE)
    assert inner_peak_bytes(eqn) == workspace_bytes(eqn, CPU) == 0


# What XLA:CPU copies, against XLA itself

MATMULS = {
    "ab": ("ij,jk->ik", (64, 96), (96, 128)),
    "aᵀb": ("ji,jk->ik", (96, 64), (96, 128)),
    "abᵀ": ("ij,kj->ik", (64, 96), (128, 96)),
    "aᵀbᵀ": ("ji,kj->ik", (96, 64), (128, 96)),
    "3D ab": ("bti,io->bto", (4, 32, 64), (64, 96)),
    "3D abᵀ": ("bti,oi->bto", (4, 32, 64), (96, 64)),
    "3D aᵀb": ("bti,bto->io", (4, 32, 64), (4, 32, 96)),
    "batch 0": ("bij,bjk->bik", (4, 32, 48), (4, 48, 64)),
    "batch 0, bᵀ": ("bij,bkj->bik", (4, 32, 48), (4, 64, 48)),
    "batch 0 and 2": ("bthd,bshd->bhts", (4, 32, 8, 16), (4, 32, 8, 16)),
    "batch 0 and 1": ("bhtd,bhsd->bhts", (4, 8, 32, 16), (4, 8, 32, 16)),
    "batch 0 and 1, ab": ("bhts,bhsd->bhtd", (4, 8, 32, 32), (4, 8, 32, 16)),
}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a rule for XLA:CPU")
@pytest.mark.parametrize("name", MATMULS)
def test_copies_of_operands_are_what_xla_makes(name):
    equation, left, right = MATMULS[name]
    inputs, _ = equation.split("->")
    contracted = [c for c in inputs.split(",")[0] if c in inputs.split(",")[1]]
    contracted = [c for c in contracted if c not in equation.split("->")[1]]
    batch = [c for c in inputs.split(",")[0] if c in inputs.split(",")[1] and c not in contracted]
    dimensions = tuple(
        (tuple(side.index(c) for c in contracted), tuple(side.index(c) for c in batch))
        for side in inputs.split(",")
    )
    numbers = tuple(zip(*dimensions, strict=True))

    def step(a, b):
        return jax.lax.dot_general(a, b, numbers)

    types = shape(*left), shape(*right)
    (eqn,) = eqns_of(step, *types)
    temp = footprint(jax.jit(step).lower(*types).compile()).temp_bytes
    assert workspace_bytes(eqn, Backend("other")) == 0
    assert workspace_bytes(eqn, CPU) == pytest.approx(temp, abs=256)


REDUCTIONS = {
    "square": lambda x: jnp.sum(x**2),
    "transposed": lambda x: jnp.sum(x.swapaxes(0, 1)),
    "transposed square": lambda x: jnp.sum(x.swapaxes(0, 1) ** 2),
    "rows of a transposed square": lambda x: jnp.sum(x.swapaxes(0, 1) ** 2, -1),
    "largest of a transposed sine": lambda x: jnp.max(jnp.sin(x.swapaxes(0, 1)), -1),
}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a rule for XLA:CPU")
@pytest.mark.parametrize("name", REDUCTIONS)
def test_what_is_transposed_before_a_reduction_is_stored_as_xla_does(name):
    x = shape(100, 16, 64)
    graph = liveness(trace(REDUCTIONS[name], (x,)))
    stored = sum(reduced_transpose_bytes(graph, i) for i in range(len(graph.program.eqns)))
    temp = footprint(jax.jit(REDUCTIONS[name]).lower(x).compile()).temp_bytes
    assert stored == pytest.approx(temp, rel=0.05, abs=2048)
