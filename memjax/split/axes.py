"""What an eqn does to an axis of its values: the ways in which it can run chunk by chunk.

In: an `Eqn`. Out: its `Way`s.

Definitions

1. An *axis* runs through a program as one dimension of each value that has it. Chunk `i` of `n`
   of the axis is chunk `i` of `n` of that dimension in all of them.
2. An eqn acts *along* an axis where chunk `i` of its results needs chunk `i` of its operands, and
   of the other operands the whole: every elementwise eqn along each of its dimensions, a matmul
   along its batch and free dimensions.
3. It *reduces* an axis where its result is the sum (the maximum, ...) of what it makes of the
   chunks: a matmul that contracts the axis, as all weight gradients contract the batch.
4. Otherwise it *mixes* the axis, and the primitive has no way for it. A primitive without a rule
   mixes everything.

One rule a primitive, in the style of JAX's rules for batching, which ask the same of an axis that
is not there yet. `memjax.split.rules` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from memjax.program.eqns import Constant, Eqn

Shape = tuple[int, ...]


class Reduced(Enum):
    """A value that chunks contribute to, and how their contributions are put together."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    AND = "and"
    OR = "or"


Place = int | Reduced | None
"""Where the axis is in a value: its dimension, reduced, or nowhere: the value is whole."""


@dataclass(frozen=True)
class Way:
    """One way in which an eqn can run chunk by chunk.

    Attributes:
        operands: where the axis is in each operand; reduced for one that is still being summed.
        outputs: where it is in each result.
        into: number of the operand that a sum starts from, where the eqn adds to it; None where
            it starts from nothing.
    """

    operands: tuple[Place, ...]
    outputs: tuple[Place, ...]
    into: int | None = None


@dataclass(frozen=True)
class Rule:
    """What is known of a primitive.

    Attributes:
        ways: of an eqn, from its parameters and the shapes of operands and results.
        params: what changes in the parameters, from them, the way, and the shapes of a chunk's
            operands and results; None where nothing does.
        counts: whether the results are numbers of positions, which start anew in each chunk.
    """

    ways: Callable[[Mapping[str, Any], Sequence[Shape], Sequence[Shape]], Iterable[Way]]
    params: (
        Callable[[Mapping[str, Any], Way, Sequence[Shape], Sequence[Shape]], dict[str, Any]] | None
    ) = None
    counts: bool = False


def possible_ways(eqn: Eqn, rules: Mapping[str, Rule]) -> tuple[Way, ...]:
    """The ways of an eqn by a table of rules; none where it must run whole, or once."""
    rule = rules.get(eqn.primitive)
    if rule is None or eqn.nest is not None or eqn.runs_once:
        return ()
    operands = [shape_of(v.aval) for v in eqn.raw.invars]
    results = [shape_of(v.aval) for v in eqn.raw.outvars]
    found = map(_in_ints, rule.ways(eqn.raw.params, operands, results))
    return tuple(way for way in found if _is_possible(eqn, way, operands, results))


def shape_of(aval: Any) -> Shape:
    """The shape of a value; that of a scalar for what has none."""
    return tuple(int(size) for size in getattr(aval, "shape", ()))


def _in_ints(way: Way) -> Way:
    """The same way; JAX's parameters have dimensions of NumPy's types here and there."""

    def place(given: Place) -> Place:
        return given if given is None or isinstance(given, Reduced) else int(given)

    return Way(tuple(map(place, way.operands)), tuple(map(place, way.outputs)), way.into)


def _is_possible(eqn: Eqn, way: Way, operands: Sequence[Shape], results: Sequence[Shape]) -> bool:
    """Whether there is something to divide, and nothing that is written in the program is."""
    for number, place in enumerate(way.operands):
        literal = isinstance(eqn.inputs[number], Constant)
        if place is not None and literal:
            return False
        if isinstance(place, int) and operands[number][place] < 2:
            return False
    return all(
        results[number][place] > 1
        for number, place in enumerate(way.outputs)
        if isinstance(place, int)
    )
