"""What a compiled step holds from its start to its end: arguments, and results of their own.

In: a `Program`, the types of its arguments with their shardings, what is donated. Out:
`Resident`s, with bytes on one device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from memjax import _compat
from memjax.program.donation import Donation
from memjax.program.eqns import Program


@dataclass(frozen=True)
class Resident:
    """An argument or a result that is held on one device for the whole step.

    Attributes:
        value: id in the program.
        name: where it is in the user's arguments or results.
        bytes: on one device.
        is_argument: whether it is an argument, and not a result without an argument's buffer.
    """

    value: int
    name: str
    bytes: int
    is_argument: bool


def residents(
    program: Program, arguments: Sequence[Any], donations: Sequence[Donation]
) -> tuple[Resident, ...]:
    """What is held on one device for the whole step: arguments that something reads, and
    results that take no argument's buffer.
    """
    held = []
    names = program.argument_names or ("",) * len(program.arguments)
    for value, name, struct in zip(program.arguments, names, arguments, strict=True):
        if program.consumers[value] or value in program.result_values:
            count = _per_device(program.value_bytes[value], struct)
            held.append(Resident(value, name, count, is_argument=True))
    taken = {d.result for d in donations if d.donated}
    names = program.result_names or ("",) * len(program.results)
    for index, (result, name) in enumerate(zip(program.results, names, strict=True)):
        if isinstance(result, int) and index not in taken:
            held.append(Resident(result, name, program.value_bytes[result], is_argument=False))
    return tuple(held)


def resident_bytes(
    program: Program, arguments: Sequence[Any], donations: Sequence[Donation]
) -> int:
    """Bytes on one device for the whole step."""
    return sum(r.bytes for r in residents(program, arguments, donations))


def device_bytes(struct: jax.ShapeDtypeStruct) -> int:
    """What an argument takes on one device."""
    return _per_device(_compat.aval_bytes(struct), struct)


def _per_device(count: int, struct: object) -> int:
    sharding = getattr(struct, "sharding", None)
    shape = getattr(struct, "shape", ())
    if sharding is None or not shape or not count:
        return count
    part = 1
    for dimension, whole in zip(sharding.shard_shape(shape), shape, strict=True):
        part *= dimension / whole if whole else 1
    return int(count * part)
