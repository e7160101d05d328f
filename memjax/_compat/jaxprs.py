"""What a jaxpr says: its parts, the bodies of its eqns, how they are called.

In: eqns and closed jaxprs of any supported version. Out: the same answers for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jax._src import core
from jax._src.interpreters import partial_eval
from jax.extend import core as jex

Literal = jex.Literal

JIT_PRIMITIVES = frozenset({"jit", "pjit"})
INLINED_CALLS = frozenset(
    {
        "closed_call",
        "core_call",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "eval_jaxpr",
    }
)

BODIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(INLINED_CALLS, ("call_jaxpr", "fun_jaxpr")),
    **dict.fromkeys((*JIT_PRIMITIVES, "scan", "shard_map"), ("jaxpr",)),
    "while": ("cond_jaxpr", "body_jaxpr"),
    "cond": ("branches",),
}
"""The parameters in which eqns have programs, or a tuple of them, that memjax looks into."""


def jaxpr_parts(jaxpr: Any) -> tuple[Any, tuple[Any, ...]]:
    """A jaxpr and its constants, from what a version calls a closed jaxpr.

    Up to 0.10 that is a `ClosedJaxpr` round a `Jaxpr`; from 0.11 a `Jaxpr` holds its own.
    """
    consts = tuple(getattr(jaxpr, "consts", ()))
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    return inner, consts


def with_jaxpr(closed: Any, jaxpr: Any) -> Any:
    """What a version calls a closed jaxpr, with another jaxpr over the same constants."""
    return jaxpr if jaxpr_parts(closed)[0] is closed else closed.replace(jaxpr=jaxpr)


def dce_jaxpr(jaxpr: Any, used: Sequence[bool], kept: Sequence[bool]) -> tuple[Any, list[bool]]:
    """JAX's own removal of dead code: the reduced jaxpr, and which arguments it still takes.

    Args:
        jaxpr: without its constants, where a version keeps them apart.
        used: for each result, whether it is read.
        kept: for each argument, whether it stays although nothing reads it.
    """
    reduced, taken = partial_eval.dce_jaxpr(jaxpr, list(used), list(kept))
    return reduced, list(taken)


def inlinable_body(eqn: Any) -> Any | None:
    """The body of a call that loses nothing when it is inlined, or None.

    A nested `jit` that sets shardings, layouts or compiler options stays a call.
    """
    name = eqn.primitive.name
    if name in JIT_PRIMITIVES:
        return eqn.params["jaxpr"] if _is_plain_jit(eqn.params) else None
    if name in INLINED_CALLS:
        return eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))
    return None


def _is_plain_jit(params: dict[str, Any]) -> bool:
    shardings = (*params.get("in_shardings", ()), *params.get("out_shardings", ()))
    layouts = (*params.get("in_layouts", ()), *params.get("out_layouts", ()))
    return (
        all(type(s).__name__ == "UnspecifiedValue" for s in shardings)
        and all(layout is None for layout in layouts)
        and not params.get("compiler_options_kvs", ())
    )


def call_name(eqn: Any) -> str:
    """How JAX shows a nested call in name stacks."""
    name = eqn.params.get("name")
    return f"{eqn.primitive.name}({name})" if name else str(eqn.primitive.name)


def sub_jaxprs(eqn: Any) -> Iterator[Any]:
    """Every jaxpr among an eqn's parameters, in the order of the parameters' names."""
    for key in sorted(eqn.params):
        value = eqn.params[key]
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns") and hasattr(item, "outvars"):
                yield item


def as_function(closed: Any, name: str) -> Callable[..., list[Any]]:
    """A closed jaxpr as a function of flat arguments that returns a list of flat results."""
    evaluate = jex.jaxpr_as_fun(closed)

    def run(*arguments: Any) -> list[Any]:
        return list(evaluate(*arguments))

    run.__name__ = run.__qualname__ = name
    return run


def count_eqns(eqn: Any) -> int:
    """How many eqns an eqn is, with those of its bodies."""
    bodies = (jaxpr_parts(body)[0] for body in sub_jaxprs(eqn))
    return 1 + sum(count_eqns(inner) for body in bodies for inner in body.eqns)


def contains(eqn: Any, primitives: frozenset[str]) -> bool:
    """Whether an eqn is one of some primitives, or runs one in a body."""
    if eqn.primitive.name in primitives:
        return True
    bodies = (jaxpr_parts(body)[0] for body in sub_jaxprs(eqn))
    return any(contains(inner, primitives) for body in bodies for inner in body.eqns)


def loop_length(eqn: Any) -> int:
    """How often an eqn runs its bodies: a scan's length; 1 where nobody knows (while)."""
    return int(eqn.params["length"]) if eqn.primitive.name == "scan" else 1


@dataclass(frozen=True)
class ScanParts:
    """A scan eqn's body and how its operands are grouped: constants, carries, slices.

    Attributes:
        body: takes constants, carries, slices; returns carries and what is stacked.
        constants: how many operands are read whole by every iteration.
        carries: how many operands, and results, are handed from iteration to iteration.
        length: iterations.
        reverse: whether the last slice comes first.
        unroll: iterations that XLA sees at once.
    """

    body: Any
    constants: int
    carries: int
    length: int
    reverse: bool
    unroll: int


def scan_parts(eqn: Any) -> ScanParts:
    """Read a scan eqn. jax 0.12 groups operands by `ft_in`, earlier versions by two counts."""
    params = eqn.params
    if "num_consts" in params:
        constants, carries = params["num_consts"], params["num_carry"]
    else:
        groups = params["ft_in"].update(range(len(eqn.invars))).unpack()
        constants, carries, _ = (len(list(group)) for group in groups)
    return ScanParts(
        body=params["jaxpr"],
        constants=int(constants),
        carries=int(carries),
        length=int(params["length"]),
        reverse=bool(params["reverse"]),
        unroll=int(params["unroll"]),
    )


def mesh_of(eqn: Any) -> Any:
    """The mesh that was in force where an eqn was traced."""
    return eqn.ctx.cur_abstract_mesh


def replace_eqn(eqn: Any, **changes: Any) -> Any:
    """A copy of an eqn with other `params`, `invars` or `outvars`."""
    return eqn.replace(**changes)


def with_types(eqn: Any, operands: Sequence[Any], results: Sequence[Any], params: Any) -> Any:
    """A copy of an eqn over variables of other types, with other parameters."""
    invars = [
        var if isinstance(var, Literal) else core.Var(aval)
        for var, aval in zip(eqn.invars, operands, strict=True)
    ]
    return eqn.replace(invars=invars, outvars=[core.Var(a) for a in results], params=params)
