"""FLOPs, bytes moved and seconds of each eqn.

In: a `LivenessGraph` and a `DeviceRates`. Out: numbers by eqn index.

FLOPs are counted from shapes: two for each multiply-add of a matmul or a convolution, one
for each element of an elementwise result, more for transcendental ones. Bytes moved are
the stored operands and results, since what is fused never travels. Seconds are
`flops / rate + bytes / bandwidth`: a roofline without overlap. The rate is that of the device
(`memjax.targets.figures`), for matmuls and convolutions that of their operands' type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from memjax import _compat
from memjax.pricing.backends import Backend
from memjax.pricing.liveness import LivenessGraph
from memjax.program import primitives
from memjax.program.eqns import Eqn
from memjax.targets.figures import DeviceRates

MATMULS = frozenset({"dot_general", "conv_general_dilated"})


def eqn_flops(eqn: Any) -> int:
    """FLOPs of one JAX eqn, bodies included; those of a `while` are counted once."""
    name = eqn.primitive.name
    if name == "dot_general":
        return _dot_flops(eqn)
    if name == "conv_general_dilated":
        return _conv_flops(eqn)
    bodies = [jaxpr_flops(body) for body in _compat.sub_jaxprs(eqn)]
    if bodies:
        total = max(bodies) if name == "cond" else sum(bodies)
        return total * _compat.loop_length(eqn)
    if name in primitives.STRUCTURAL or name == "optimization_barrier":
        return 0
    if name in primitives.REDUCTION:
        return sum(_elements(v.aval) for v in eqn.invars[:1])
    if name.startswith(primitives.UPDATES_IN_PLACE):
        return _elements(_update(eqn))
    weight = primitives.COSTLY_FLOPS if name in primitives.COSTLY | primitives.RANDOM else 1
    return weight * sum(_elements(v.aval) for v in eqn.outvars)


def jaxpr_flops(jaxpr: Any) -> int:
    """FLOPs of a jaxpr, open or closed."""
    inner, _ = _compat.jaxpr_parts(jaxpr)
    return sum(eqn_flops(eqn) for eqn in inner.eqns)


@dataclass(frozen=True)
class Inner:
    """What the bodies of one eqn take, all iterations together.

    Attributes:
        flops: of their schedules.
        seconds: likewise.
        peak_bytes: held by one iteration at its peak, beyond the eqn's operands and results.
    """

    flops: int
    seconds: float
    peak_bytes: int


NO_INNER: Mapping[int, Inner] = MappingProxyType({})


def node_flops(graph: LivenessGraph, inner: Mapping[int, Inner] = NO_INNER) -> tuple[int, ...]:
    """FLOPs of each eqn with the free eqns that are fused into it; 0 for the free ones.

    Args:
        graph: of the program.
        inner: what bodies take, by eqn index, where memjax looks into them.
    """
    program = graph.program
    own = [
        inner[i].flops if i in inner else eqn_flops(eqn.raw) for i, eqn in enumerate(program.eqns)
    ]
    return tuple(
        own[i] + sum(own[j] for j in free_closure(graph, i)) if graph.is_node(eqn) else 0
        for i, eqn in enumerate(program.eqns)
    )


def free_closure(graph: LivenessGraph, index: int) -> tuple[int, ...]:
    """The free eqns that are fused into eqn `index`, ascending."""
    program = graph.program
    found: set[int] = set()
    stack = [index]
    while stack:
        for value in program.eqns[stack.pop()].reads:
            producer = program.producer[value]
            if graph.free[value] and producer not in found:
                found.add(producer)
                stack.append(producer)
    return tuple(sorted(found))


def node_seconds(
    graph: LivenessGraph, rates: DeviceRates, inner: Mapping[int, Inner] = NO_INNER
) -> tuple[float, ...]:
    """Predicted seconds of each eqn, free eqns included where they are fused."""
    program = graph.program
    flops = node_flops(graph, inner)
    seconds = []
    for index, eqn in enumerate(program.eqns):
        if index in inner:
            seconds.append(inner[index].seconds)
            continue
        moved = _moved_bytes(graph, index) if graph.is_node(eqn) else 0
        seconds.append(flops[index] / _flops_rate(eqn, rates) + moved / rates.bytes_per_second)
    return tuple(seconds)


def _flops_rate(eqn: Eqn, rates: DeviceRates) -> float:
    """FLOPs in a second; what is fused into a matmul is counted at the matmul's rate."""
    if eqn.primitive not in MATMULS:
        return rates.flops_per_second
    kind = str(eqn.raw.invars[0].aval.dtype)
    return rates.matmul.get(kind, rates.flops_per_second)


def _moved_bytes(graph: LivenessGraph, index: int) -> int:
    """Bytes that a node reads and writes; of what it reads or updates in slices, these."""
    program, eqn = graph.program, graph.program.eqns[index]
    if eqn.primitive.startswith(primitives.UPDATES_IN_PLACE):
        return 2 * _compat.aval_bytes(_update(eqn.raw))
    found: dict[int, int] = {}
    stack = list(eqn.reads) if eqn.primitive not in primitives.SLICES else []
    moved = sum(program.value_bytes[v] for v in eqn.outputs) * (1 if stack else 2)
    while stack:
        value = stack.pop()
        if value in found:
            continue
        producer = program.eqns[program.producer[value]] if graph.free[value] else None
        if producer is not None and producer.primitive not in primitives.SLICES:
            found[value] = 0
            stack += producer.reads
        else:
            found[value] = program.value_bytes[value]
    return moved + sum(found.values())


def workspace_bytes(eqn: Any, backend: Backend) -> int:
    """Bytes held only while an eqn runs: inside its bodies, or in copies of its operands."""
    if eqn.primitive.name == "dot_general" and backend.copies_matmul_operands:
        return _operand_copies_bytes(eqn)
    if eqn.primitive.name in primitives.RANDOM:
        return backend.random_workspace * sum(_compat.aval_bytes(v.aval) for v in eqn.outvars)
    return inner_peak_bytes(eqn)


def reduced_transpose_bytes(graph: LivenessGraph, index: int) -> int:
    """Bytes of a reduction's operand if it is computed from a transposed value.

    A transposition that is reduced directly is only another order of the reduction.
    """
    eqn = graph.program.eqns[index]
    if eqn.primitive not in primitives.REDUCTION or not eqn.reads:
        return 0
    operand = eqn.reads[0]
    producer = graph.program.producer[operand]
    fused = {graph.program.eqns[i].primitive for i in free_closure(graph, index) if i != producer}
    return graph.program.value_bytes[operand] if "transpose" in fused else 0


def _operand_copies_bytes(eqn: Any) -> int:
    """Bytes of the operands that XLA:CPU brings into another order before a matmul.

    Batch dimensions must come first. With one contracted and one free dimension any order
    will do; with more, the left operand must be (batch, free, contracted) and the right one
    (batch, contracted, free), so that they can be merged. Measured, the same on jaxlib
    0.10.2 and 0.12.0.1.
    """
    contracts, batches = eqn.params["dimension_numbers"]
    copied = 0
    for side, operand in enumerate(eqn.invars):
        contract, batch = tuple(contracts[side]), tuple(batches[side])
        dimensions = range(operand.aval.ndim)
        free = tuple(d for d in dimensions if d not in contract and d not in batch)
        wanted = (*batch, *free, *contract) if side == 0 else (*batch, *contract, *free)
        simple = len(contract) <= 1 and len(free) <= 1 and batch == tuple(range(len(batch)))
        if not simple and wanted != tuple(dimensions):
            copied += _compat.aval_bytes(operand.aval)
    return copied


def inner_peak_bytes(eqn: Any) -> int:
    """Bytes that an eqn's bodies hold at their peak beyond their inputs and outputs."""
    return max((_jaxpr_peak_bytes(body) for body in _compat.sub_jaxprs(eqn)), default=0)


def _jaxpr_peak_bytes(jaxpr: Any) -> int:
    inner, _ = _compat.jaxpr_parts(jaxpr)
    end = len(inner.eqns)
    last_read = {v: end for v in inner.outvars if not isinstance(v, _compat.Literal)}
    for position in range(end - 1, -1, -1):
        for var in inner.eqns[position].invars:
            if not isinstance(var, _compat.Literal):
                last_read.setdefault(var, position)
    held: dict[Any, int] = {}
    total = peak = 0
    for position, eqn in enumerate(inner.eqns):
        for var in eqn.outvars:
            held[var] = _stored_bytes(eqn, var)
            total += held[var]
        peak = max(peak, total + inner_peak_bytes(eqn))
        for var in (*eqn.invars, *eqn.outvars):
            if not isinstance(var, _compat.Literal) and last_read.get(var, position) <= position:
                total -= held.pop(var, 0)
    return peak


def _stored_bytes(eqn: Any, var: Any) -> int:
    return 0 if eqn.primitive.name in primitives.STRUCTURAL else _compat.aval_bytes(var.aval)


def _elements(aval: Any) -> int:
    return math.prod(int(d) for d in getattr(aval, "shape", ()))


def _update(eqn: Any) -> Any:
    """The type of what a scatter or an update of a slice writes."""
    return eqn.invars[1 if eqn.primitive.name == "dynamic_update_slice" else 2].aval


def _dot_flops(eqn: Any) -> int:
    (lhs_contract, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval.shape
    contracted = math.prod(int(lhs[d]) for d in lhs_contract)
    return 2 * contracted * _elements(eqn.outvars[0].aval)


def _conv_flops(eqn: Any) -> int:
    kernel = eqn.invars[1].aval.shape
    output_features = int(kernel[eqn.params["dimension_numbers"].rhs_spec[0]])
    per_output = math.prod(int(d) for d in kernel) // max(output_features, 1)
    return 2 * per_output * _elements(eqn.outvars[0].aval)
