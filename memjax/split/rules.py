"""The table: what each primitive does to an axis.

A rule takes parameters, shapes of the operands, shapes of the results, and lists the `Way`s; see
`memjax.split.axes`. What is not in `RULES` mixes every axis: loops and calls that memjax does not
look into for this, random bits (whose numbers would change), FFTs, decompositions, kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import gcd, prod
from typing import Any

from memjax.program import primitives
from memjax.split.axes import Place, Reduced, Rule, Shape, Way
from memjax.split.contractions import convolution, matmul
from memjax.split.indexed import gather, gather_params, scatter, scatter_add

Params = Mapping[str, Any]
Shapes = Sequence[Shape]

NOT_ELEMENTWISE = frozenset(
    """pad concatenate slice dynamic_slice rev select_and_gather_add random_wrap random_unwrap
    """.split()
)
"""Of the cheap primitives, those that do not act on each element alone."""
ELEMENTWISE = (primitives.CHEAP | primitives.COSTLY | {"copy", "copy_p", "stop_gradient"}) - (
    NOT_ELEMENTWISE
)
SUMS = frozenset({"add", "add_any", "sub"})
"""Elementwise, and of two sums the sum again."""

CUMULATIVE = "cumsum cumprod cummax cummin cumlogsumexp top_k".split()
WINDOWED = """reduce_window_sum reduce_window_max reduce_window_min select_and_gather_add
    select_and_scatter_add""".split()


def elementwise(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Every dimension; scalars and what has only one element of it are read whole."""
    for dim, size in enumerate(results[0]):
        has = [bool(s) and s[dim] == size for s in operands]
        if any(has):
            yield Way(tuple(dim if h else None for h in has), (dim,))


def linear(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Elementwise, and sums of unfinished sums."""
    yield from elementwise(params, operands, results)
    if len(operands) == 2 and operands[0] == operands[1]:
        yield Way((Reduced.SUM, Reduced.SUM), (Reduced.SUM,))


def reduction(how: Reduced | None) -> Callable[[Params, Shapes, Shapes], Iterator[Way]]:
    """Along what is kept; what is reduced is, in the given way."""

    def ways(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
        axes = params["axes"]
        kept = [d for d in range(len(operands[0])) if d not in axes]
        for dim, old in enumerate(kept):
            yield Way((old,) * len(operands), (dim,) * len(results))
        if how is not None:
            for old in axes:
                yield Way((old,), (how,))

    return ways


def other_axes(name: str) -> Callable[[Params, Shapes, Shapes], Iterator[Way]]:
    """Along every dimension but those that a parameter names; operands and results alike."""

    def ways(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
        named = params.get(name, len(operands[0]) - 1)
        mixed = named if isinstance(named, (tuple, list)) else (named,)
        rank = len(operands[0])
        for dim in range(rank):
            if dim not in {axis % rank for axis in mixed}:
                yield Way((dim,) * len(operands), (dim,) * len(results))

    return ways


def transpose(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Along every dimension, which goes elsewhere."""
    for dim, old in enumerate(params["permutation"]):
        yield Way((int(old),), (dim,))


def squeeze(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Along the dimensions that stay."""
    kept = [d for d in range(len(operands[0])) if d not in params["dimensions"]]
    for dim, old in enumerate(kept):
        yield Way((old,), (dim,))


def reshape(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Along a dimension that leads its part of the elements, before and after.

    Chunks of `(batch, time, width)` along the batch are chunks of `(batch · time, width)` along
    its first dimension, and the other way round where there are as many.
    """
    if params.get("dimensions") is not None:
        return
    (old,), (new,) = operands[:1], results
    starts = {prod(new[:d]): d for d in range(len(new)) if new[d] > 1}
    for source, size in enumerate(old):
        target = starts.get(prod(old[:source]))
        if size > 1 and target is not None and gcd(size, new[target]) > 1:
            yield Way((source,) + (None,) * (len(operands) - 1), (target,))


def broadcast(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Along what is there, and along each new dimension, which is made chunk by chunk."""
    (old,), (new,) = operands[:1], results
    target = tuple(params["broadcast_dimensions"])
    rest: tuple[Place, ...] = (None,) * (len(operands) - 1)
    for dim, size in enumerate(new):
        source = target.index(dim) if dim in target else None
        if source is not None and old[source] != size:
            source = None  # one element, spread out
        yield Way((source, *rest), (dim,))


def iota(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Along every dimension; see `Rule.counts`."""
    for dim in range(len(results[0])):
        yield Way((None,) * len(operands), (dim,))


def concatenate(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Along every dimension but the one that grows."""
    for dim in range(len(results[0])):
        if dim != params["dimension"]:
            yield Way((dim,) * len(operands), (dim,))


def pad(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Along what is not padded."""
    for dim, config in enumerate(params["padding_config"]):
        if tuple(config) == (0, 0, 0):
            yield Way((dim, None), (dim,))


def slice_(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Along what is taken whole."""
    for dim, size in enumerate(operands[0]):
        if results[0][dim] == size:
            yield Way((dim,) + (None,) * (len(operands) - 1), (dim,))


def slice_params(params: Params, way: Way, operands: Shapes, results: Shapes) -> dict[str, Any]:
    """What is taken whole is as long as a chunk."""
    limits = list(params["limit_indices"])
    dim = way.outputs[0]
    assert isinstance(dim, int)
    limits[dim] = operands[0][dim]
    return {"limit_indices": tuple(limits)}


def update_slice(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Along what is written whole."""
    for dim, size in enumerate(operands[0]):
        if operands[1][dim] == size:
            yield Way((dim, dim) + (None,) * (len(operands) - 2), (dim,))


def windows(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Along dimensions that no window moves over."""
    sizes = params["window_dimensions"]
    for dim in range(len(sizes)):
        still = all(
            params.get(name) is None or params[name][dim] == 1
            for name in ("window_strides", "base_dilation", "window_dilation")
        )
        if sizes[dim] == 1 and still and tuple(params["padding"][dim]) == (0, 0):
            yield Way((dim,) * len(operands), (dim,) * len(results))


def out_shape(name: str) -> Callable[[Params, Way, Shapes, Shapes], dict[str, Any]]:
    """The parameter that says the shape of the result."""

    def changed(params: Params, way: Way, operands: Shapes, results: Shapes) -> dict[str, Any]:
        return {name: results[0]}

    return changed


RULES: dict[str, Rule] = {
    **{name: Rule(elementwise) for name in sorted(ELEMENTWISE - SUMS)},
    **{name: Rule(linear) for name in sorted(SUMS)},
    "reduce_sum": Rule(reduction(Reduced.SUM)),
    "reduce_max": Rule(reduction(Reduced.MAX)),
    "reduce_min": Rule(reduction(Reduced.MIN)),
    "reduce_and": Rule(reduction(Reduced.AND)),
    "reduce_or": Rule(reduction(Reduced.OR)),
    "reduce_prod": Rule(reduction(None)),
    "reduce_xor": Rule(reduction(None)),
    "argmax": Rule(reduction(None)),
    "argmin": Rule(reduction(None)),
    "transpose": Rule(transpose),
    "squeeze": Rule(squeeze),
    "reshape": Rule(reshape, out_shape("new_sizes")),
    "broadcast_in_dim": Rule(broadcast, out_shape("shape")),
    "iota": Rule(iota, out_shape("shape"), counts=True),
    "concatenate": Rule(concatenate),
    "pad": Rule(pad),
    "slice": Rule(slice_, slice_params),
    "dynamic_slice": Rule(slice_, out_shape("slice_sizes")),
    "dynamic_update_slice": Rule(update_slice),
    "rev": Rule(other_axes("dimensions")),
    "sort": Rule(other_axes("dimension")),
    "split": Rule(other_axes("axis")),
    **dict.fromkeys(CUMULATIVE, Rule(other_axes("axis"))),
    **dict.fromkeys(WINDOWED, Rule(windows)),
    "dot_general": Rule(matmul),
    "conv_general_dilated": Rule(convolution),
    "gather": Rule(gather, gather_params),
    "scatter": Rule(scatter),
    "scatter-add": Rule(scatter_add),
    "scatter-mul": Rule(scatter),
    "scatter-min": Rule(scatter),
    "scatter-max": Rule(scatter),
}
