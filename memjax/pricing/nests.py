"""Eqns that run programs of their own: loops, branches, calls.

In: an eqn with bodies. Out: the same eqn with its bodies as `Program`s, which are priced and
planned like a step, and a function that runs it with planned bodies, through JAX's public
control flow.

Kinds

- `scan`: the body takes constants, carries, slices; returns carries and what is stacked.
- `loop`: a scan that memjax made. The body takes the index, the state, constants; returns the
  state. It reads slices and writes stacks at the index itself, so that a stack is one buffer
  in however many loops (XLA updates it in place), and any stretch of indices can be run.
- `cond`, `while`, `jit`, `shard_map`: as JAX has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax import lax

from memjax import _compat
from memjax.pricing.cost import free_closure
from memjax.pricing.liveness import LivenessGraph, liveness
from memjax.program import primitives
from memjax.program.prepare import prepare
from memjax.program.trace import Eqn, Program, program_of_jaxpr

Function = Callable[..., Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Body:
    """A program that an eqn runs, and how.

    Attributes:
        program: its arguments and results are the eqn's, as its kind says.
        order: the schedule of its nodes; None for each once, in the program's order.
        keeps_order: whether XLA is held to the order where nothing runs again, too.
    """

    program: Program
    order: tuple[int, ...] | None = None
    keeps_order: bool = False


@dataclass(frozen=True, eq=False)
class Nest:
    """What an eqn runs.

    Attributes:
        kind: see the module.
        bodies: one; the branches of a `cond`; condition and body of a `while`.
        length: how often they run, where that is known.
        reverse: whether a loop starts at its last index.
        constants: operands of a loop or scan that each iteration reads whole.
        carries: its operands that are handed from iteration to iteration.
    """

    kind: str
    bodies: tuple[Body, ...]
    length: int = 1
    reverse: bool = False
    constants: int = 0
    carries: int = 0

    @property
    def carry_places(self) -> range:
        """Where the carries stand among the operands of a loop or scan."""
        first = 1 if self.kind == "loop" else self.constants
        return range(first, first + self.carries)

    @property
    def repeats(self) -> bool:
        """Whether the bodies run for each iteration."""
        return self.kind in ("loop", "scan", "while")

    @property
    def is_planned(self) -> bool:
        """Whether the eqn cannot be run as JAX wrote it."""
        return self.kind == "loop" or any(body.keeps_order for body in self.bodies)


def nest_of(eqn: Eqn) -> Nest | None:
    """The bodies of an eqn as programs; None where it has none that memjax looks into."""
    raw, kind = eqn.raw, eqn.primitive
    if kind == "scan":
        parts = _compat.scan_parts(raw)
        return Nest(
            "scan",
            (_body(parts.body, kind),),
            parts.length,
            parts.reverse,
            parts.constants,
            parts.carries,
        )
    if kind == "cond":
        return Nest("cond", tuple(_body(branch, kind) for branch in raw.params["branches"]))
    if kind == "while":
        jaxprs = raw.params["cond_jaxpr"], raw.params["body_jaxpr"]
        return Nest("while", tuple(_body(jaxpr, kind) for jaxpr in jaxprs))
    if kind in (*_compat.JIT_PRIMITIVES, "shard_map"):
        name = "shard_map" if kind == "shard_map" else "jit"
        return Nest(name, (_body(raw.params["jaxpr"], kind),))
    return None


def look_inside(program: Program) -> Program:
    """The same program, with the bodies of its eqns as programs.

    What a scan reads as a constant although it is made of nothing but literals (a mask, a
    broadcast number: JAX hoists them) is made again in the body, where XLA fuses it; the
    body's argument stays, unread.
    """
    graph = liveness(program)
    return replace(program, eqns=tuple(_with_nest(graph, eqn) for eqn in program.eqns))


def _with_nest(graph: LivenessGraph, eqn: Eqn) -> Eqn:
    nest = eqn.nest or nest_of(eqn)
    if nest is None or nest.kind != "scan":
        return replace(eqn, nest=nest)
    (body,) = nest.bodies
    sunk = {
        argument: operand
        for argument, operand in zip(
            body.program.arguments, eqn.inputs[: nest.constants], strict=False
        )
        if isinstance(operand, int) and _is_made_of_literals(graph, operand)
    }
    if sunk:
        body = replace(body, program=_with_sunk(graph, body.program, sunk))
    return replace(eqn, nest=replace(nest, bodies=(body,)))


def _is_made_of_literals(graph: LivenessGraph, value: int) -> bool:
    cheap = primitives.STRUCTURAL | primitives.CHEAP
    if not graph.free[value] or graph.sources[value]:
        return False
    return all(graph.program.eqns[i].primitive in cheap for i in _made_by(graph, value))


def _made_by(graph: LivenessGraph, value: int) -> tuple[int, ...]:
    """The eqns that compute a free value, ascending."""
    producer = graph.program.producer[value]
    return (*free_closure(graph, producer), producer)


def _with_sunk(graph: LivenessGraph, body: Program, sunk: dict[int, int]) -> Program:
    """A body that makes some of its arguments itself.

    Args:
        graph: of the program whose eqns make them.
        body: what reads them.
        sunk: value of that program by argument of `body`.
    """
    outer = graph.program
    avals = list(body.avals)
    new_id: dict[int, int] = {}
    made: list[Eqn] = []
    for index in sorted({i for v in sunk.values() for i in _made_by(graph, v)}):
        eqn = outer.eqns[index]
        for value in eqn.outputs:
            new_id[value] = len(avals)
            avals.append(outer.avals[value])
        made.append(_renamed(eqn, new_id))
    instead = {argument: new_id[value] for argument, value in sunk.items()}
    eqns = (*made, *(_renamed(eqn, instead) for eqn in body.eqns))
    results = tuple(instead.get(r, r) if isinstance(r, int) else r for r in body.results)
    return replace(body, eqns=eqns, avals=tuple(avals), results=results)


def _renamed(eqn: Eqn, new_id: dict[int, int]) -> Eqn:
    return replace(
        eqn,
        inputs=tuple(new_id.get(v, v) if isinstance(v, int) else v for v in eqn.inputs),
        outputs=tuple(new_id.get(v, v) for v in eqn.outputs),
    )


def _body(jaxpr: Any, name: str) -> Body:
    return Body(look_inside(prepare(program_of_jaxpr(jaxpr, name))))


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
