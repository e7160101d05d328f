"""Take out of a traced step what nobody reads, inside of its loops, branches and calls too.

In: a jaxpr. Out: a jaxpr with the same arguments, results and effects, without the eqns that
none of those needs, and without the outputs, carries, constants and slices of `scan`, `while`,
`cond`, nested calls, `jax.checkpoint` and `shard_map` that nobody reads. XLA would take them
out as well, but only after a plan has counted them, and made room for them.

A carry is needed where it is read after the loop, by the condition, or by an iteration for a
carry or an output that is needed: the least fixpoint. A carry that feeds itself alone is dead.

JAX's own rules do it (`dce_jaxpr`, which `jax.jit` applies as well before it lowers a step, so
that the same effects are left), and one for the carries of `while`, which jax 0.10.2 lacks.

Not handled with jax 0.10.2: carries of a scan that only feed a dead carry of a `while` inside.
"""

from __future__ import annotations

from operator import or_
from typing import Any

from memjax import _compat


def without_dead_work(closed: Any) -> tuple[Any, tuple[Any, ...]]:
    """A jaxpr without what nobody reads, and its constants, which stay as they are."""
    jaxpr, consts = _compat.jaxpr_parts(closed)
    alive, _ = _without_dead(jaxpr, [True] * len(jaxpr.outvars), [True] * len(jaxpr.invars))
    return alive, consts


def _without_dead(jaxpr: Any, used: list[bool], kept: list[bool]) -> tuple[Any, list[bool]]:
    """A jaxpr reduced to its used results, and which of its arguments it still takes.

    Args:
        jaxpr: any.
        used: for each result, whether it is read.
        kept: for each argument, whether it stays although nothing reads it.
    """
    alive, taken = _compat.dce_jaxpr(jaxpr, used, kept)
    read = {v for eqn in alive.eqns for v in eqn.invars if not isinstance(v, _compat.Literal)}
    read.update(v for v in alive.outvars if not isinstance(v, _compat.Literal))
    eqns = [
        _with_needed_carries(eqn, [v in read for v in eqn.outvars])
        if eqn.primitive.name == "while"
        else eqn
        for eqn in alive.eqns
    ]
    if all(new is old for new, old in zip(eqns, alive.eqns, strict=True)):
        return alive, taken
    # What fed the carries that are gone may be dead now.
    again, still = _without_dead(alive.replace(eqns=eqns), [True] * sum(used), _picked(kept, taken))
    remaining = iter(still)
    return again, [t and next(remaining) for t in taken]


def _with_needed_carries(eqn: Any, used: list[bool]) -> Any:
    """A `while` without the carries that neither a used one nor the condition needs."""
    params, carries = eqn.params, len(eqn.outvars)
    of_condition, of_body = params["cond_nconsts"], params["body_nconsts"]
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]
    reads = _reduced(condition, [True], [False] * (of_condition + carries))[1]
    needed = list(map(or_, used, reads[of_condition:]))
    while True:
        new_body, taken = _reduced(body, needed, [False] * of_body + needed)
        if taken[of_body:] == needed:
            break
        needed = taken[of_body:]
    new_condition, reads = _reduced(condition, [True], [False] * of_condition + needed)
    operands = [*reads[:of_condition], *taken[:of_body], *needed]
    if all(operands):
        return eqn
    return _compat.replace_eqn(
        eqn,
        params={
            **params,
            "cond_jaxpr": new_condition,
            "body_jaxpr": new_body,
            "cond_nconsts": sum(reads[:of_condition]),
            "body_nconsts": sum(taken[:of_body]),
        },
        invars=_picked(eqn.invars, operands),
        outvars=_picked(eqn.outvars, needed),
    )


def _reduced(closed: Any, used: list[bool], kept: list[bool]) -> tuple[Any, list[bool]]:
    """A body reduced to its used results, and which of its arguments it still takes."""
    jaxpr, _ = _compat.jaxpr_parts(closed)
    alive, taken = _without_dead(jaxpr, used, kept)
    return _compat.with_jaxpr(closed, alive), taken


def _picked(items: list[Any], chosen: list[bool]) -> list[Any]:
    return [item for item, is_chosen in zip(items, chosen, strict=True) if is_chosen]
