"""Run an eqn with other functions for its bodies, through JAX's public control flow.

In: an eqn with a `Nest`, a function for each of its bodies, and its operands. Out: its results.
What each kind of body takes and returns is in `memjax.program.eqns`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from memjax import _compat
from memjax.program.eqns import Eqn

Function = Callable[..., Sequence[Any]]


def emit(eqn: Eqn, bodies: Sequence[Function], operands: Sequence[Any]) -> Sequence[Any]:
    """Run an eqn with other functions for its bodies."""
    assert eqn.nest is not None
    with _compat.name_context(eqn.raw, eqn.name_stack):
        return _EMIT[eqn.nest.kind](eqn, bodies, list(operands))


def _emit_loop(eqn: Eqn, bodies: Sequence[Function], operands: list[Any]) -> Sequence[Any]:
    """Operands: the first index of the stretch, the state, constants."""
    nest, (run,) = eqn.nest, bodies
    assert nest is not None
    start, state = operands[0], operands[1 : 1 + nest.carries]
    constants = operands[1 + nest.carries :]
    first = start + (nest.length - 1 if nest.reverse else 0)

    def step(carried: tuple[Any, list[Any]], _: None) -> tuple[tuple[Any, list[Any]], None]:
        index, state = carried
        new = run(index, *state, *constants)
        return (index + (-1 if nest.reverse else 1), list(new)), None

    (_, state), _ = lax.scan(step, (first, state), None, length=nest.length)
    return list(state)


def _emit_scan(eqn: Eqn, bodies: Sequence[Function], operands: list[Any]) -> Sequence[Any]:
    nest, (run,) = eqn.nest, bodies
    assert nest is not None
    split = nest.constants, nest.constants + nest.carries
    constants, carries, slices = (
        operands[: split[0]],
        operands[split[0] : split[1]],
        operands[split[1] :],
    )

    def step(carries: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        results = list(run(*constants, *carries, *slices))
        return results[: nest.carries], results[nest.carries :]

    unroll = _compat.scan_parts(eqn.raw).unroll
    carries, stacked = lax.scan(
        step, carries, slices, length=nest.length, reverse=nest.reverse, unroll=unroll
    )
    return [*carries, *stacked]


def _emit_cond(eqn: Eqn, bodies: Sequence[Function], operands: list[Any]) -> Sequence[Any]:
    which, *rest = operands
    branches = [lambda *args, run=run: list(run(*args)) for run in bodies]
    result: Sequence[Any] = lax.switch(which, branches, *rest)
    return result


def _emit_while(eqn: Eqn, bodies: Sequence[Function], operands: list[Any]) -> Sequence[Any]:
    """A `while` that was batched has a condition for each element: it runs while any holds, and
    what does not hold keeps its state, as in JAX's own lowering.
    """
    condition, body = bodies
    of_condition = eqn.raw.params["cond_nconsts"]
    split = of_condition + eqn.raw.params["body_nconsts"]
    before, constants = operands[:of_condition], operands[of_condition:split]

    def holds(state: Sequence[Any]) -> Any:
        return next(iter(condition(*before, *state)))

    def step(state: Sequence[Any]) -> Sequence[Any]:
        new, going = list(body(*constants, *state)), holds(state)
        if not going.ndim:
            return new
        return [_chosen(going, n, old) for n, old in zip(new, state, strict=True)]

    result: Sequence[Any] = lax.while_loop(lambda s: holds(s).any(), step, operands[split:])
    return result


def _chosen(going: Any, new: Any, old: Any) -> Any:
    """`new` where `going`, which has the first dimensions of both, and `old` elsewhere."""
    dimensions = tuple(range(going.ndim))
    return lax.select(lax.broadcast_in_dim(going, new.shape, dimensions), new, old)


def _emit_jit(eqn: Eqn, bodies: Sequence[Function], operands: list[Any]) -> Sequence[Any]:
    """The same call, with its shardings and options, of a body that was traced again."""
    (run,) = bodies
    types = [_compat.struct(v.aval) for v in eqn.raw.invars]
    jaxpr = jax.make_jaxpr(lambda *args: list(run(*args)))(*types)
    raw = _compat.replace_eqn(eqn.raw, params={**eqn.raw.params, "jaxpr": jaxpr})
    return _compat.bind(raw, _compat.NameStack(), operands)


def _emit_shard_map(eqn: Eqn, bodies: Sequence[Function], operands: list[Any]) -> Sequence[Any]:
    (run,) = bodies
    mapped = _compat.shard_map_like(eqn.raw, lambda *args: tuple(run(*args)))
    return list(mapped(*operands))


_EMIT: dict[str, Callable[[Eqn, Sequence[Function], list[Any]], Sequence[Any]]] = {
    "loop": _emit_loop,
    "scan": _emit_scan,
    "cond": _emit_cond,
    "while": _emit_while,
    "jit": _emit_jit,
    "shard_map": _emit_shard_map,
}
