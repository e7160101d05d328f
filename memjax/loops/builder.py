"""Build programs with loops, eqn by eqn.

In: eqns of other programs, small functions of JAX's, loops. Out: eqns, and `Program`s for the
bodies of loops.

A `Level` is a program in the making: the outermost one adds eqns to a program that is there,
the others become the bodies of loops. A `Ref` is a value of one level; deeper levels that read
it get it as a constant of their loops, so that whoever writes a body need not say what it
captures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memjax import _compat
from memjax.program.eqns import Body, Constant, Eqn, Nest, Operand, Program
from memjax.program.trace import program_of_jaxpr

ZERO = Constant(np.int32(0))
INDEX = jax.typeof(ZERO.value)


@dataclass(frozen=True)
class Ref:
    """A value of a level; equal where level and value are the same."""

    level: Level
    value: int

    @property
    def aval(self) -> Any:
        """Its type."""
        return self.level.avals[self.value]


Source = Ref | Constant
Step = Callable[["Level", Ref, list[Ref]], Sequence[Source]]
"""Adds one iteration to a level, from the index and the state; returns the new state."""


@dataclass(eq=False)
class Level:
    """A program in the making.

    Attributes:
        like: the new eqns carry this eqn's name and source line.
        avals: by value id, growing.
        parent: the level that the loop stands in; None for the outermost.
    """

    like: Eqn
    avals: list[Any] = field(default_factory=list)
    parent: Level | None = None

    def __post_init__(self) -> None:
        self.eqns: list[Eqn] = []
        self.arguments: list[int] = []
        self.constants: list[tuple[int, Any]] = []
        self.captured: dict[Ref, int] = {}

    def value(self, aval: Any) -> int:
        """A new value id."""
        self.avals.append(aval)
        return len(self.avals) - 1

    def argument(self, aval: Any) -> Ref:
        """A new argument."""
        self.arguments.append(self.value(aval))
        return Ref(self, self.arguments[-1])

    def array(self, aval: Any, array: Any) -> Ref:
        """A captured array."""
        self.constants.append((self.value(aval), array))
        return Ref(self, self.constants[-1][0])

    def read(self, source: Source) -> Operand:
        """A source as an operand of this level."""
        if isinstance(source, Constant):
            return source
        if source.level is self:
            return source.value
        assert self.parent is not None, "a value of a body is read outside of its loop"
        if source not in self.captured:
            self.captured[source] = self.value(source.aval)
        return self.captured[source]

    def copy(
        self, eqn: Eqn, inputs: Sequence[Source], avals: Sequence[Any] | Mapping[int, Any]
    ) -> list[Ref]:
        """An eqn of another program on other inputs; returns its results.

        Args:
            eqn: what is copied.
            inputs: in the place of the eqn's own.
            avals: of the other program, by value id.
        """
        outputs = tuple(self.value(avals[v]) for v in eqn.outputs)
        operands = tuple(self.read(source) for source in inputs)
        self.eqns.append(replace(eqn, inputs=operands, outputs=outputs))
        return [Ref(self, v) for v in outputs]

    def call(self, function: Callable[..., Any], *sources: Source, **static: Any) -> Ref:
        """The result of a small function of JAX's, one of this module or of `jax.lax`.

        Args:
            function: of `sources`, and by keyword of what is known when it is traced.
            sources: arrays.
            static: the rest.
        """
        types = tuple(_compat.struct(type_of(s)) for s in sources)
        mesh = _compat.mesh_of(self.like.raw)
        inner = _traced(function, types, tuple(sorted(static.items())), mesh)
        known: dict[int, Source] = dict(zip(inner.arguments, sources, strict=True))
        info = {"source_info": self.like.raw.source_info, "ctx": self.like.raw.ctx}
        for eqn in inner.eqns:
            named = Eqn(
                _compat.replace_eqn(eqn.raw, **info),
                eqn.inputs,
                eqn.outputs,
                self.like.name_stack,
                self.like.call,
            )
            inputs = [known[v] if isinstance(v, int) else v for v in eqn.inputs]
            known.update(zip(eqn.outputs, self.copy(named, inputs, inner.avals), strict=True))
        (result,) = inner.results
        assert isinstance(result, int), "a small function must compute something"
        output = known[result]
        assert isinstance(output, Ref)
        return output

    def take(self, stack: Source, index: Source) -> Ref:
        """`stack[index]`."""
        return self.call(_take, stack, index)

    def take_transposed(self, source: Source, index: Source, order: tuple[int, ...]) -> Ref:
        """`source.transpose(order)[index]`, without the transposed whole."""
        return self.call(_take_transposed, source, index, order=order)

    def put(self, stack: Source, index: Source, value: Source) -> Ref:
        """`stack.at[index].set(value)`, in place where `stack` dies."""
        return self.call(_put, stack, index, value)

    def stack(self, aval: Any, length: int) -> Ref:
        """A stack to be filled with `length` values of a type."""
        function = _keys if _compat.is_key(aval) else _zeros
        return self.call(function, like=_compat.stacked(aval, length))

    def affine(self, index: Source, factor: int, start: Source) -> Ref:
        """`start + index * factor`."""
        return self.call(_affine, index, start, factor=factor)

    def loop(
        self,
        step: Step,
        length: int,
        reverse: bool,
        start: Source,
        state: Sequence[Source],
        *,
        in_chunks: bool = False,
    ) -> list[Ref]:
        """A loop over the indices `[start, start + length)`; returns the last state.

        Args:
            step: builds one iteration.
            length: how many there are.
            reverse: whether it starts at the last index.
            start: the first index.
            state: what the iterations hand on.
            in_chunks: see `Nest`.
        """
        body = Level(self.like, [], self)
        index = body.argument(INDEX)
        arguments = [body.argument(type_of(s)) for s in state]
        results = [body.read(s) for s in step(body, index, arguments)]
        program = body.program(results)
        constants = [self.read(source) for source in body.captured]
        nest = Nest(
            "loop",
            (Body(program, keeps_order=True),),
            length,
            reverse,
            len(constants),
            len(state),
            in_chunks,
        )
        outputs = tuple(self.value(type_of(s)) for s in state)
        inputs = (self.read(start), *(self.read(s) for s in state), *constants)
        self.eqns.append(replace(self.like, inputs=inputs, outputs=outputs, nest=nest))
        return [Ref(self, v) for v in outputs]

    def program(self, results: Sequence[Operand]) -> Program:
        """What was built, as the body of a loop."""
        return Program(
            eqns=tuple(self.eqns),
            avals=tuple(self.avals),
            arguments=(*self.arguments, *self.captured.values()),
            constants=tuple(self.constants),
            results=tuple(results),
            name=self.like.primitive,
        )


def type_of(source: Source) -> Any:
    """The aval of a source."""
    return jax.typeof(source.value) if isinstance(source, Constant) else source.aval


@cache
def _traced(
    function: Callable[..., Any],
    types: tuple[jax.ShapeDtypeStruct, ...],
    static: tuple[tuple[str, Any], ...],
    mesh: Any,
) -> Program:
    """The program of a small function; the same few are asked for again and again."""
    likes = [value for _, value in static if isinstance(value, jax.ShapeDtypeStruct)]
    closed = _compat.make_jaxpr(
        lambda *arrays: function(*arrays, **dict(static)), types, mesh, *likes
    )
    program = program_of_jaxpr(closed, function.__name__)
    assert not program.constants, "a small function must not capture arrays"
    return program


def _take(stack: jax.Array, index: jax.Array) -> jax.Array:
    taken: jax.Array = lax.dynamic_index_in_dim(stack, index, 0, keepdims=False)
    return taken


def _take_transposed(source: jax.Array, index: jax.Array, order: tuple[int, ...]) -> jax.Array:
    taken = lax.dynamic_index_in_dim(source, index, order[0], keepdims=False)
    left = tuple(d - (d > order[0]) for d in order[1:])
    return taken if left == tuple(sorted(left)) else lax.transpose(taken, left)


def _put(stack: jax.Array, index: jax.Array, value: jax.Array) -> jax.Array:
    filled: jax.Array = lax.dynamic_update_index_in_dim(stack, value, index, 0)
    return filled


def _affine(index: jax.Array, start: jax.Array, factor: int) -> jax.Array:
    return start + index * factor


def _zeros(like: jax.ShapeDtypeStruct) -> jax.Array:
    return _compat.as_type(lax.full(like.shape, 0, like.dtype, sharding=like.sharding), like)


def _keys(like: jax.ShapeDtypeStruct) -> jax.Array:
    key = jax.random.key(0, impl=str(like.dtype._impl.name))
    return _compat.as_type(jnp.broadcast_to(key, like.shape), like)
