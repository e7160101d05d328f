"""Each rule of the table alone: an eqn run chunk by chunk, in every way that its rule lists.

`CASES` has, for each primitive, a function that binds it, and the ways that it must have, at the
least: where the axis is in operands and results, as it is in `Way`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from memjax import _compat
from memjax.program.eqns import Eqn
from memjax.program.trace import trace
from memjax.split.axes import Place, Reduced, Way, possible_ways
from memjax.split.rules import ELEMENTWISE, RULES

SUM, MAX, MIN, AND, OR = Reduced
COMBINE: dict[Reduced, Any] = {
    SUM: np.add,
    MAX: np.maximum,
    MIN: np.minimum,
    AND: np.logical_and,
    OR: np.logical_or,
}


def w(*operands: Place, to: Any) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    return operands, to if isinstance(to, tuple) else (to,)


def array(*shape: int, low: int = -5, dtype: Any = np.float64) -> np.ndarray:
    size = int(np.prod(shape))
    return np.asarray((np.arange(size) * 7 % 11 + low).reshape(shape), dtype)


def ints(*shape: int, below: int) -> np.ndarray:
    return np.asarray(np.arange(int(np.prod(shape))) * 5 % below, np.int32).reshape(shape)


def gathered(x: Any, i: Any) -> Any:
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    return lax.gather(x, i, numbers, (1, x.shape[1]), mode="clip")


def gathered_in_batch(x: Any, i: Any) -> Any:
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(),
        collapsed_slice_dims=(1,),
        start_index_map=(1,),
        operand_batching_dims=(0,),
        start_indices_batching_dims=(0,),
    )
    return lax.gather(x, i, numbers, (1, 1), mode="clip")


def scattered(how: Callable[..., Any]) -> Callable[..., Any]:
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(1,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
    )
    return lambda x, i, u: how(x, i, u, numbers)


def scattered_in_batch(x: Any, i: Any, u: Any) -> Any:
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(),
        inserted_window_dims=(1,),
        scatter_dims_to_operand_dims=(1,),
        operand_batching_dims=(0,),
        scatter_indices_batching_dims=(0,),
    )
    return lax.scatter_add(x, i, u, numbers)


def matmul(contract: Any, batch: Any = ((), ())) -> Callable[..., Any]:
    return lambda a, b: lax.dot_general(a, b, (contract, batch))


def windowed(x: Any) -> Any:
    return lax.reduce_window(x, -np.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID")


X, Y = array(4, 6), array(4, 6, low=-3)
IMAGE, KERNEL = array(4, 2, 6, 6), array(8, 2, 3, 3)
SUMS = [w(0, 0, to=0), w(1, 1, to=1), w(SUM, SUM, to=SUM)]
BOTH = [w(0, to=0), w(1, to=1)]
ROWS = ints(6, 1, below=4)

CASES: list[tuple[str, Callable[..., Any], Sequence[Any], list[Any]]] = [
    ("add", lax.add, (X, Y), SUMS),
    ("add", lax.add_p.bind, (X, array(1, 6)), [w(0, None, to=0), w(1, 1, to=1)]),
    ("sub", lax.sub, (X, Y), SUMS),
    ("mul", lax.mul, (X, Y), SUMS[:2]),
    ("tanh", lax.tanh, (X,), BOTH),
    ("select_n", lax.select_n, (X > 0, X, Y), [w(0, 0, 0, to=0), w(1, 1, 1, to=1)]),
    ("select_n", lax.select_n, (np.asarray(True), X, Y), [w(None, 0, 0, to=0)]),
    ("clamp", lax.clamp, (np.float64(-1), X, np.float64(2)), [w(None, 0, None, to=0)]),
    ("convert_element_type", lambda x: x.astype(jnp.float32), (X,), BOTH),
    ("reduce_sum", lambda x: lax.reduce_sum_p.bind(x, axes=(1,)), (X,), [w(0, to=0), w(1, to=SUM)]),
    ("reduce_max", lambda x: lax.reduce_max(x, (0,)), (X,), [w(1, to=0), w(0, to=MAX)]),
    ("reduce_min", lambda x: lax.reduce_min(x, (0,)), (X,), [w(1, to=0), w(0, to=MIN)]),
    ("reduce_and", lambda x: lax.reduce_and(x, (0,)), (X > 0,), [w(1, to=0), w(0, to=AND)]),
    ("reduce_or", lambda x: lax.reduce_or(x, (0,)), (X > 0,), [w(1, to=0), w(0, to=OR)]),
    ("reduce_prod", lambda x: lax.reduce_prod(x, (0,)), (X,), [w(1, to=0)]),
    ("argmax", lambda x: lax.argmax(x, 1, np.int32), (X,), [w(0, to=0)]),
    ("cumsum", lambda x: lax.cumsum(x, 1), (X,), [w(0, to=0)]),
    ("sort", lambda x, y: lax.sort((x, y), dimension=1), (X, Y), [w(0, 0, to=(0, 0))]),
    ("top_k", lambda x: lax.top_k(x, 2), (X,), [w(0, to=(0, 0))]),
    ("rev", lambda x: lax.rev(x, (1,)), (X,), [w(0, to=0)]),
    ("transpose", lambda x: lax.transpose(x, (1, 0)), (X,), [w(1, to=0), w(0, to=1)]),
    ("squeeze", lambda x: lax.squeeze(x, (1,)), (array(4, 1, 6),), [w(0, to=0), w(2, to=1)]),
    ("reshape", lambda x: lax.reshape(x, (24, 2)), (array(4, 6, 2),), [w(0, to=0), w(2, to=1)]),
    ("reshape", lambda x: lax.reshape(x, (4, 6, 2)), (array(24, 2),), [w(0, to=0), w(1, to=2)]),
    ("reshape", lambda x: lax.reshape(x, (1, 4, 2, 3)), (X,), [w(0, to=1), w(1, to=2)]),
    ("broadcast_in_dim", lambda x: lax.broadcast_in_dim(x, (2, 4, 6), (1, 2)), (X,),
     [w(None, to=0), w(0, to=1), w(1, to=2)]),
    ("broadcast_in_dim", lambda x: lax.broadcast_in_dim(x, (4, 6), (0, 1)), (array(4, 1),),
     [w(0, to=0), w(None, to=1)]),
    ("iota", lambda: lax.broadcasted_iota(np.int32, (4, 6), 1), (), [w(to=0), w(to=1)]),
    ("concatenate", lambda x, y: lax.concatenate([x, y], 1), (X, Y), [w(0, 0, to=0)]),
    ("pad", lambda x: lax.pad(x, 0.0, ((0, 0, 0), (1, 2, 1))), (X,), [w(0, None, to=0)]),
    ("slice", lambda x: lax.slice(x, (0, 1), (4, 3)), (X,), [w(0, to=0)]),
    ("dynamic_slice", lambda x, i: lax.dynamic_slice(x, (np.int32(0), i), (4, 2)), (X, np.int32(3)),
     [w(0, None, None, to=0)]),
    ("dynamic_update_slice", lambda x, u, i: lax.dynamic_update_slice(x, u, (np.int32(0), i)),
     (X, array(4, 2), np.int32(3)), [w(0, 0, None, None, to=0)]),
    ("split", lambda x: lax.split(x, (2, 4), 1), (X,), [w(0, to=(0, 0))]),
    ("reduce_window_max", windowed, (array(4, 6, 2),), [w(0, to=0), w(2, to=2)]),
    ("dot_general", matmul(((1,), (0,))), (X, array(6, 8)),
     [w(0, None, to=0), w(None, 1, to=1), w(1, 0, to=SUM)]),
    ("dot_general", matmul(((2,), (1,)), ((0,), (0,))), (array(2, 4, 6), array(2, 6, 8)),
     [w(0, 0, to=0), w(1, None, to=1), w(None, 2, to=2), w(2, 1, to=SUM)]),
    ("conv_general_dilated", lambda x, k: lax.conv(x, k, (1, 1), "SAME"), (IMAGE, KERNEL),
     [w(0, None, to=0), w(None, 0, to=1), w(1, 1, to=SUM)]),
    ("gather", gathered, (array(4, 8), ROWS), [w(None, 0, to=0), w(1, None, to=1)]),
    ("gather", gathered_in_batch, (X, ints(4, 1, below=6)), [w(0, 0, to=0)]),
    ("scatter", scattered(lax.scatter), (array(4, 8), ints(2, 1, below=4), array(2, 8)),
     [w(1, None, 1, to=1)]),
    ("scatter-add", scattered(lax.scatter_add), (array(4, 8), ROWS, array(6, 8)),
     [w(1, None, 1, to=1), w(None, 0, 0, to=SUM), w(SUM, 0, 0, to=SUM)]),
    ("scatter-add", scattered_in_batch, (X, ints(4, 1, below=6), array(4)), [w(0, 0, 0, to=0)]),
]  # fmt: skip


def eqn_of(function: Callable[..., Any], arrays: Sequence[Any], primitive: str) -> Eqn:
    (eqn,) = (e for e in trace(function, arrays).eqns if e.primitive == primitive)
    return eqn


def piece(value: Any, place: Place, number: int, pieces: int) -> Any:
    if not isinstance(place, int):
        return value
    return np.split(np.asarray(value), pieces, place)[number]


def in_pieces(eqn: Eqn, way: Way, operands: Sequence[Any], pieces: int) -> list[list[Any]]:
    """The results of each chunk; a sum that is handed on is handed on in equal parts."""
    found = []
    rule = RULES[eqn.primitive]
    for number in range(pieces):
        given = []
        for n, (operand, place) in enumerate(zip(operands, way.operands, strict=True)):
            part = piece(operand, place, number, pieces)
            if place is SUM:
                part = operand / pieces
            given.append(np.zeros_like(part) if way.into == n and number else part)
        whole = [v.aval.shape for v in eqn.raw.outvars]
        shapes = [
            tuple(s // pieces if d == place else s for d, s in enumerate(shape))
            for shape, place in zip(whole, way.outputs, strict=True)
        ]
        params = dict(eqn.raw.params)
        if rule.params is not None:
            params |= rule.params(params, way, [np.shape(g) for g in given], shapes)
        raw = _compat.replace_eqn(eqn.raw, params=params)
        results = _compat.bind(raw, eqn.name_stack, given)
        if rule.counts and way.outputs[0] == params["dimension"]:
            results = [results[0] + number * shapes[0][params["dimension"]]]
        found.append([np.asarray(r) for r in results])
    return found


def joined(parts: Sequence[Any], place: Place) -> Any:
    if isinstance(place, int):
        return np.concatenate(parts, place)
    assert place is not None
    total = parts[0]
    for part in parts[1:]:
        total = COMBINE[place](total, part)
    return total


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_every_way_of_an_eqn_gives_its_results(case):
    primitive, function, arrays, expected = case
    with jax.enable_x64(True):
        eqn = eqn_of(function, arrays, primitive)
        ways = possible_ways(eqn, RULES)
        assert {(way.operands, way.outputs) for way in ways} >= set(expected)
        rest = iter(arrays)
        operands = [next(rest) if isinstance(v, int) else v.value for v in eqn.inputs]
        whole = _compat.bind(eqn.raw, eqn.name_stack, operands)
        for way in ways:
            parts = in_pieces(eqn, way, operands, 2)
            for n, place in enumerate(way.outputs):
                result = joined([part[n] for part in parts], place)
                np.testing.assert_allclose(result, whole[n], rtol=1e-12, err_msg=str(way))


MIXING: list[tuple[str, Callable[..., Any], Sequence[Any], set[int]]] = [
    ("sort", lambda x: lax.sort(x, dimension=1), (X,), {1}),
    ("cumsum", lambda x: lax.cumsum(x, 0), (X,), {0}),
    ("argmax", lambda x: lax.argmax(x, 1, np.int32), (X,), {1}),
    ("rev", lambda x: lax.rev(x, (0,)), (X,), {0}),
    ("reduce_prod", lambda x: lax.reduce_prod(x, (1,)), (X,), {1}),
    ("pad", lambda x: lax.pad(x, 0.0, ((0, 0, 0), (1, 0, 0))), (X,), {1}),
    ("slice", lambda x: lax.slice(x, (0, 1), (4, 3)), (X,), {1}),
    ("reshape", lambda x: lax.reshape(x, (24,)), (X,), {1}),
    ("reshape", lambda x: lax.reshape(x, (9, 4)), (array(4, 9),), {0, 1}),
    ("gather", gathered, (array(4, 8), ROWS), {0}),
    ("scatter", scattered(lax.scatter), (array(4, 8), ints(2, 1, below=4), array(2, 8)), {0}),
    ("fft", lambda x: lax.fft(x.astype(np.complex128), "fft", (6,)), (X,), {0, 1}),
    ("conv_general_dilated", lambda x, k: lax.conv(x, k, (1, 1), "SAME"), (IMAGE, KERNEL), {2, 3}),
    ("concatenate", lambda x, y: lax.concatenate([x, y], 0), (X, Y), {0}),
]


@pytest.mark.parametrize("case", MIXING, ids=lambda case: case[0])
def test_an_axis_that_is_mixed_has_no_way(case):
    primitive, function, arrays, axes = case
    with jax.enable_x64(True):
        ways = possible_ways(eqn_of(function, arrays, primitive), RULES)
    assert not axes & {way.operands[0] for way in ways}


def test_every_rule_but_those_of_elementwise_primitives_is_tested():
    alike = {"scatter-mul", "scatter-min", "scatter-max", "reduce_xor", "argmin", "add_any"}
    alike |= {"cumprod", "cummax", "cummin", "cumlogsumexp"}
    alike |= {"reduce_window_sum", "reduce_window_min"}
    alike |= {"select_and_gather_add", "select_and_scatter_add"}
    tested = {case[0] for case in CASES}
    assert set(RULES) - ELEMENTWISE - alike <= tested


def test_random_bits_have_no_way():
    program = trace(lambda key: jax.random.bits(key, (8, 8)), (jax.random.key(0),))
    drawn = [eqn for eqn in program.eqns if eqn.primitive in ("random_bits", "threefry2x32")]
    assert drawn
    assert not any(possible_ways(eqn, RULES) for eqn in drawn)
