"""Rules of matmuls and convolutions: see `memjax.split.axes`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memjax.split.axes import Reduced, Shape, Way


def matmul(
    params: Mapping[str, Any], operands: Sequence[Shape], results: Sequence[Shape]
) -> Iterator[Way]:
    """Along batch and free dimensions; what is contracted is summed."""
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = params["dimension_numbers"]
    for place, (lhs, rhs) in enumerate(zip(lhs_batch, rhs_batch, strict=True)):
        yield Way((lhs, rhs), (place,))
    place = len(lhs_batch)
    for dim in range(len(operands[0])):
        if dim not in (*lhs_contract, *lhs_batch):
            yield Way((dim, None), (place,))
            place += 1
    for dim in range(len(operands[1])):
        if dim not in (*rhs_contract, *rhs_batch):
            yield Way((None, dim), (place,))
            place += 1
    for lhs, rhs in zip(lhs_contract, rhs_contract, strict=True):
        yield Way((lhs, rhs), (Reduced.SUM,))


def convolution(
    params: Mapping[str, Any], operands: Sequence[Shape], results: Sequence[Shape]
) -> Iterator[Way]:
    """Along the batch; without groups also along the features that come out, and those that
    go in are summed: in the gradient of a kernel that is the batch.
    """
    if params["batch_group_count"] != 1:
        return
    numbers = params["dimension_numbers"]
    (batch, features), (out_features, in_features) = numbers.lhs_spec[:2], numbers.rhs_spec[:2]
    yield Way((batch, None), (numbers.out_spec[0],))
    if params["feature_group_count"] == 1:
        yield Way((None, out_features), (numbers.out_spec[1],))
        yield Way((features, in_features), (Reduced.SUM,))
