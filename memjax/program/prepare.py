"""Bring a program into a form and an order that hold less, before any decision.

In: a `Program`. Out: a `Program` that computes the same sums and products.

- `merge_contracted`: a matmul that contracts several neighbouring dimensions, as every weight
  gradient of a batch of sequences does, contracts one, of reshaped operands. XLA:CPU copies
  the left operand otherwise.
- `swap_transposed_matmuls`: `(a b)ᵀ` becomes `bᵀ aᵀ`, without the transposition.
- `scatter_into_sum`: `y + scatter_add(zeros, u)` becomes `scatter_add(y, u)`, which updates
  in place and needs neither the zeros nor a third buffer. In the gradient of a
  cross-entropy over a large vocabulary that is one logits-sized buffer of three.
- `consume_early`: what nothing heavy depends on, in a train step the optimizer's update of
  each parameter, runs directly behind what it reads, so that gradients are freed as they
  appear.

Floating-point sums may be taken in another order inside a matmul or where a scatter hits an
element twice; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import jax
import numpy as np
from jax import lax

from memjax import _compat
from memjax.program import primitives
from memjax.program.eqns import Constant, Eqn, Program
from memjax.program.trace import splice

_MOVABLE = primitives.FUSES_OPERANDS


def prepare(program: Program) -> Program:
    """All of this module's changes, in the order that lets each see what the others left."""
    return consume_early(scatter_into_sum(merge_contracted(swap_transposed_matmuls(program))))


def consume_early(program: Program) -> Program:
    """Place every movable eqn without a heavy eqn after it as early as its inputs allow.

    An eqn that reads an argument waits for the others that read it: the update of a
    parameter, say, for the matmul that passes the cotangent on, since in its place the
    update would have to copy what that matmul still reads. Eqns with effects and all others
    keep their order; ties keep theirs, too. What reads nothing but arguments (the bias
    corrections of Adam) runs right before its first reader.
    """
    tail = _tail(program)
    place = list(range(len(program.eqns)))
    floating = [False] * len(program.eqns)
    for index, eqn in enumerate(program.eqns):
        if tail[index]:
            ready = [_ready(program, tail, place, floating, v) for v in eqn.reads]
            floating[index] = max(ready, default=-1) < 0
            place[index] = max(ready, default=-1)
    for index in range(len(program.eqns) - 1, -1, -1):
        if floating[index]:
            place[index] = _first_reader(program, place, index)
    # An anchor runs before the tail eqns that were moved to it.
    ranked = sorted(range(len(place)), key=lambda i: (place[i], tail[i], i))
    return replace(program, eqns=tuple(program.eqns[i] for i in ranked))


def _ready(
    program: Program, tail: list[bool], place: list[int], floating: list[bool], value: int
) -> int:
    """The place from which on a tail eqn may read a value; -1 where any will do."""
    producer = program.producer[value]
    if producer >= 0:
        return -1 if floating[producer] else place[producer]
    return max((r for r in program.consumers[value] if not tail[r]), default=-1)


def _first_reader(program: Program, place: list[int], index: int) -> int:
    """Where an eqn that waits for nothing is needed first: no earlier, it would be held."""
    readers = [c for v in program.eqns[index].outputs for c in program.consumers[v]]
    return min((place[r] for r in readers), default=index)


def _tail(program: Program) -> list[bool]:
    """Whether neither an eqn nor anything that depends on it is heavy."""
    tail = [False] * len(program.eqns)
    for index in range(len(program.eqns) - 1, -1, -1):
        eqn = program.eqns[index]
        tail[index] = (
            eqn.primitive in _MOVABLE
            and not eqn.has_effects
            and all(tail[c] for v in eqn.outputs for c in program.consumers[v])
        )
    return tail


def swap_transposed_matmuls(program: Program) -> Program:
    """Exchange the operands of each matmul that is only read transposed."""
    eqns: list[Eqn | None] = list(program.eqns)
    for index, eqn in enumerate(program.eqns):
        readers = program.consumers[eqn.outputs[0]] if len(eqn.outputs) == 1 else ()
        if len(readers) != 1 or eqn.outputs[0] in program.result_values:
            continue
        transposed = program.eqns[readers[0]]
        if _is_swap(program, eqn, transposed):
            eqns[index] = _swapped(eqn, transposed)
            eqns[readers[0]] = None
    return replace(program, eqns=tuple(e for e in eqns if e is not None))


def _is_swap(program: Program, matmul: Eqn, transposed: Eqn) -> bool:
    if matmul.primitive != "dot_general" or transposed.primitive != "transpose":
        return False
    lhs, rhs = matmul.inputs
    if not (isinstance(lhs, int) and isinstance(rhs, int)):
        return False
    if matmul.raw.params.get("out_sharding") is not None:
        return False
    (lhs_contract, rhs_contract), (lhs_batch, _) = matmul.raw.params["dimension_numbers"]
    batch = len(lhs_batch)
    lhs_free = program.avals[lhs].ndim - len(lhs_contract) - batch
    rhs_free = program.avals[rhs].ndim - len(rhs_contract) - batch
    exchanged = (
        *range(batch),
        *range(batch + lhs_free, batch + lhs_free + rhs_free),
        *range(batch, batch + lhs_free),
    )
    return tuple(transposed.raw.params["permutation"]) == exchanged


def _swapped(matmul: Eqn, transposed: Eqn) -> Eqn:
    params: dict[str, Any] = dict(matmul.raw.params)
    contract, batch = params["dimension_numbers"]
    params["dimension_numbers"] = (tuple(reversed(contract)), tuple(reversed(batch)))
    params["precision"] = _swapped_precision(params["precision"])
    raw = _compat.replace_eqn(
        matmul.raw,
        params=params,
        invars=list(reversed(matmul.raw.invars)),
        outvars=list(transposed.raw.outvars),
    )
    return Eqn(
        raw, tuple(reversed(matmul.inputs)), transposed.outputs, matmul.name_stack, matmul.call
    )


def _swapped_precision(precision: Any) -> Any:
    """A matmul's precision when its operands change places."""
    if isinstance(precision, jax.lax.DotAlgorithm):  # a tuple as well
        return precision._replace(
            lhs_precision_type=precision.rhs_precision_type,
            rhs_precision_type=precision.lhs_precision_type,
            lhs_component_count=precision.rhs_component_count,
            rhs_component_count=precision.lhs_component_count,
        )
    return tuple(reversed(precision)) if isinstance(precision, tuple) else precision


def scatter_into_sum(program: Program) -> Program:
    """Scatter into the other summand where a scatter into zeros is only read by one sum."""
    eqns: list[Eqn | None] = list(program.eqns)
    for index, eqn in enumerate(program.eqns):
        if eqn.primitive not in ("add_any", "add") or len(eqn.reads) != 2:
            continue
        for scattered, other in (eqn.reads, eqn.reads[::-1]):
            source = program.producer[scattered]
            if source >= 0 and _is_scatter_into_zeros(program, source, other):
                eqns[index] = _scatter_into(program.eqns[source], other, eqn)
                eqns[source] = None
                break
    return replace(program, eqns=tuple(e for e in eqns if e is not None))


def _is_scatter_into_zeros(program: Program, index: int, other: int) -> bool:
    scatter = program.eqns[index]
    if scatter.primitive != "scatter-add" or scatter.has_effects:
        return False
    output, target = scatter.outputs[0], scatter.inputs[0]
    if len(program.consumers[output]) != 1 or not isinstance(target, int):
        return False
    if output in program.result_values or program.producer[target] < 0:
        return False
    one, two = program.avals[output], program.avals[other]
    same = (one.shape, one.dtype, one.sharding) == (two.shape, two.dtype, two.sharding)
    # The other summand dies in the sum: otherwise the update in place would copy it.
    dies = len(program.consumers[other]) == 1 and other not in program.result_values
    return same and dies and _is_zeros(program, target) and program.producer[other] >= 0


def _is_zeros(program: Program, value: int) -> bool:
    eqn = program.eqns[program.producer[value]]
    if eqn.primitive != "broadcast_in_dim":
        return False
    operand = eqn.inputs[0]
    return isinstance(operand, Constant) and not np.any(np.asarray(operand.value))


def _scatter_into(scatter: Eqn, target: int, total: Eqn) -> Eqn:
    invars = [
        total.raw.invars[total.inputs.index(target)],
        *scatter.raw.invars[1:],
    ]
    raw = _compat.replace_eqn(scatter.raw, invars=invars, outvars=list(total.raw.outvars))
    return Eqn(raw, (target, *scatter.inputs[1:]), total.outputs, scatter.name_stack, scatter.call)


def merge_contracted(program: Program) -> Program:
    """Contract one merged dimension where a matmul contracts several neighbouring ones."""
    eqns: list[Eqn] = []
    avals = list(program.avals)
    for eqn in program.eqns:
        if eqn.primitive == "dot_general" and _is_mergeable(eqn):
            eqns += _merged(eqn, avals)
        else:
            eqns.append(eqn)
    return replace(program, eqns=tuple(eqns), avals=tuple(avals))


def _is_mergeable(eqn: Eqn) -> bool:
    contracts, batches = eqn.raw.params["dimension_numbers"]
    if len(contracts[0]) < 2 or batches[0] or eqn.raw.params.get("out_sharding") is not None:
        return False
    if any(_compat.is_spread(v.aval) for v in eqn.raw.invars):
        return False  # dimensions that are spread cannot be merged by a reshape
    return all(tuple(c) == tuple(range(c[0], c[0] + len(c))) for c in contracts)


def _merged(eqn: Eqn, avals: list[Any]) -> list[Eqn]:
    """The eqns of the merged matmul; `avals` grows by what they write in between."""
    params = eqn.raw.params
    contracts, _ = params["dimension_numbers"]

    def merge(x: jax.Array, contract: Sequence[int]) -> jax.Array:
        first, last = contract[0], contract[-1]
        size = prod(x.shape[first : last + 1])
        return lax.reshape(x, (*x.shape[:first], size, *x.shape[last + 1 :]))

    def matmul(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        numbers = (((contracts[0][0],), (contracts[1][0],)), ((), ()))
        rest = {k: params[k] for k in ("precision", "preferred_element_type") if k in params}
        lhs, rhs = merge(lhs, contracts[0]), merge(rhs, contracts[1])
        return lax.dot_general(lhs, rhs, numbers, **rest)

    types = [_compat.struct(v.aval) for v in eqn.raw.invars]
    return splice(eqn, _compat.make_jaxpr(matmul, types, _compat.mesh_of(eqn.raw)), avals)
