"""Eqns that run programs of their own: loops, branches, calls.

In: an eqn with bodies. Out: the same eqn with its bodies as `Program`s, which are priced and
planned like a step. `memjax.emit.bodies` runs it with planned bodies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from memjax import _compat
from memjax.pricing.cost import free_closure
from memjax.pricing.liveness import LivenessGraph, liveness
from memjax.program import primitives
from memjax.program.eqns import Body, Eqn, Nest, Program
from memjax.program.prepare import prepare
from memjax.program.trace import program_of_jaxpr


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


def with_bodies(program: Program) -> Program:
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
    return Body(with_bodies(prepare(program_of_jaxpr(jaxpr, name))))
