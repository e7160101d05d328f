"""Rules of gathers and scatters: see `memjax.split.axes`.

Both have three kinds of dimensions that can be an axis: batch dimensions, which operand, indices
and slices share; those of the indices alone; and those of which every slice takes all. A scatter
that adds sums over what only its indices have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memjax.split.axes import Reduced, Shape, Way

Params = Mapping[str, Any]
Shapes = Sequence[Shape]


def gather(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Along all three kinds."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    outer = _others(numbers.offset_dims, len(results[0]))
    batching, indexed = numbers.operand_batching_dims, numbers.start_indices_batching_dims
    for operand, index in zip(batching, indexed, strict=True):
        yield Way((operand, index), (outer[index],))
    for index, place in enumerate(outer):
        if index not in indexed:
            yield Way((None, index), (place,))
    kept = _others((*numbers.collapsed_slice_dims, *batching), len(operands[0]))
    for dim, place in zip(kept, numbers.offset_dims, strict=True):
        if sizes[dim] == operands[0][dim] and dim not in numbers.start_index_map:
            yield Way((dim, None), (place,))


def gather_params(params: Params, way: Way, operands: Shapes, results: Shapes) -> dict[str, Any]:
    """Slices that take all of a dimension take a chunk's."""
    sizes, dim = list(params["slice_sizes"]), way.operands[0]
    if isinstance(dim, int) and dim not in params["dimension_numbers"].operand_batching_dims:
        sizes[dim] = operands[0][dim]
    return {"slice_sizes": tuple(sizes)}


def scatter(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """Along batch dimensions and those of which every update writes all."""
    numbers = params["dimension_numbers"]
    batching, indexed = numbers.operand_batching_dims, numbers.scatter_indices_batching_dims
    outer = _others(numbers.update_window_dims, len(operands[2]))
    for operand, index in zip(batching, indexed, strict=True):
        yield Way((operand, index, outer[index]), (operand,))
    kept = _others((*numbers.inserted_window_dims, *batching), len(operands[0]))
    for dim, window in zip(kept, numbers.update_window_dims, strict=True):
        whole = operands[2][window] == operands[0][dim]
        if whole and dim not in numbers.scatter_dims_to_operand_dims:
            yield Way((dim, None, window), (dim,))


def scatter_add(params: Params, operands: Shapes, results: Shapes) -> Iterator[Way]:
    """As of any scatter; over what only the indices have, it sums into its operand."""
    yield from scatter(params, operands, results)
    numbers = params["dimension_numbers"]
    outer = _others(numbers.update_window_dims, len(operands[2]))
    for index, update in enumerate(outer):
        if index not in numbers.scatter_indices_batching_dims:
            yield Way((None, index, update), (Reduced.SUM,), into=0)
            yield Way((Reduced.SUM, index, update), (Reduced.SUM,))


def _others(dims: Sequence[int], rank: int) -> list[int]:
    return [d for d in range(rank) if d not in dims]
