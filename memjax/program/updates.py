"""What a step makes of each of its arguments: the flow of values through its eqns and bodies.

In: a `Program`. Out: a `Flow` for each of its results, with sets of flat arguments as bit masks.

Definitions

1. An eqn is of the *backward pass* where JAX's name stack says that it transposes; what it
   writes is a *cotangent*. A value is a *gradient* where it is a cotangent or moves from one.
2. A value *moves* through an eqn where the eqn is elementwise and keeps its shape (an addition,
   a `where`, a cast, an update of a slice, a reduction over devices), or only places it
   elsewhere (a reshape, a slice, a concatenation: what ravels all parameters into one vector).
   A comparison moves nothing.
3. A result is an *update* of the argument that moves into it without an eqn of the backward
   pass. So `w - g` is one of `w`, and so is `m` in `0.9 * m + g`; a gradient is one of nothing,
   also where a penalty adds `w` to it.
4. An argument goes *directly* into a result where it does so through values of its own type,
   whatever computes them (a matmul, say), and without an eqn of the backward pass.
5. Bodies are no border. A call and a branch hand on what goes through them. What a loop's body
   makes of a carry holds for the loop: the transitive closure over iterations. What it makes of
   a slice and stacks holds for what is sliced and the stack.
6. A result *depends* on what it is computed from. What a body returns as it got it depends on
   that alone. A carry that a loop does change depends on all that the loop reads: what is
   carried together is one state.

Not handled: what goes through kernels and calls of the host moves nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from math import prod
from operator import or_
from typing import Any

from memjax import _compat
from memjax.program import primitives
from memjax.program.eqns import Eqn, Program
from memjax.program.trace import program_of_jaxpr

_ELEMENTWISE = primitives.FUSIBLE | {"dynamic_update_slice", "reduce_precision"}
_PLACES = frozenset("reshape squeeze expand_dims transpose rev slice split concatenate".split())
_UNTOUCHED = frozenset(
    """optimization_barrier sharding_constraint mesh_cast reshard layout_constraint device_put name
    pvary pcast""".split()
)
"""Output `i` is operand `i`."""
_OVER_DEVICES = frozenset("psum psum2 psum_invariant pmax pmin ppermute".split())
"""Output `i` is made of operand `i` on all devices, element by element."""


@dataclass(frozen=True)
class Flow:
    """What has gone into a value. Sets are bit masks over a program's arguments.

    Attributes:
        depends: what it is computed from.
        updates: what moves into it.
        direct: what goes directly into it.
        is_gradient: whether a cotangent moves into it.
    """

    depends: int = 0
    updates: int = 0
    direct: int = 0
    is_gradient: bool = False


_NOTHING = Flow()


def type_key(aval: Any) -> tuple[Any, Any]:
    """Shape and dtype: what two buffers must share for one to take the other's place."""
    return getattr(aval, "shape", None), getattr(aval, "dtype", None)


def bits(mask: int) -> Iterator[int]:
    """The members of a set, ascending."""
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1


def flows_of_results(program: Program) -> tuple[Flow, ...]:
    """What each flat result is made of."""
    return _Reader({}).read(program)[1]


@dataclass(frozen=True)
class _Body:
    """The flows of a body's arguments and results, over its own arguments."""

    arguments: tuple[Flow, ...]
    results: tuple[Flow, ...]

    def same(self, number: int) -> int | None:
        """The argument that a result is, untouched."""
        flow = self.results[number]
        return next((i for i, a in enumerate(self.arguments) if a is flow), None)


@dataclass(frozen=True)
class _Reader:
    """Reads programs and the bodies of their eqns.

    Attributes:
        bodies: those read before, with the jaxpr, by the jaxpr's identity.
    """

    bodies: dict[int, tuple[Any, _Body]] = field(default_factory=dict)

    def read(self, program: Program) -> tuple[tuple[Flow, ...], tuple[Flow, ...]]:
        """The flows of a program's arguments and results."""
        of_type: dict[Any, int] = {}
        flows = [_NOTHING] * len(program.avals)
        for number, value in enumerate(program.arguments):
            key = type_key(program.avals[value])
            of_type[key] = of_type.get(key, 0) | 1 << number
            flows[value] = Flow(1 << number, 1 << number, 1 << number)
        for eqn in program.eqns:
            inputs = [flows[v] if isinstance(v, int) else _NOTHING for v in eqn.inputs]
            for value, flow in zip(eqn.outputs, self.through(program, eqn, inputs), strict=True):
                kept = flow.direct & of_type.get(type_key(program.avals[value]), 0)
                flows[value] = flow if kept == flow.direct else replace(flow, direct=kept)
        arguments = tuple(flows[v] for v in program.arguments)
        return arguments, tuple(
            flows[r] if isinstance(r, int) else _NOTHING for r in program.results
        )

    def through(self, program: Program, eqn: Eqn, inputs: Sequence[Flow]) -> Sequence[Flow]:
        """What an eqn writes; `direct` is not yet reduced to arguments of the same type."""
        if "transpose" in _compat.transforms(eqn.name_stack):
            depends = reduce(or_, (f.depends for f in inputs), 0)
            return [Flow(depends, is_gradient=True)] * len(eqn.outputs)
        raw, kind = eqn.raw, eqn.primitive
        if kind == "scan":
            parts = _compat.scan_parts(raw)
            return _loop(self.body(parts.body), inputs, 0, parts.constants, parts.carries)
        if kind == "while":
            skipped, constants = raw.params["cond_nconsts"], raw.params["body_nconsts"]
            carries = len(eqn.outputs)
            return _loop(self.body(raw.params["body_jaxpr"]), inputs, skipped, constants, carries)
        if kind == "cond":
            branches = [self.body(branch) for branch in raw.params["branches"]]
            return [_branch(branches, number, inputs) for number in range(len(eqn.outputs))]
        called = _only_body(eqn)
        if called is not None:
            body = self.body(called)
            return [_call(body, number, inputs) for number in range(len(eqn.outputs))]
        return [_plain(program, eqn, number, inputs) for number in range(len(eqn.outputs))]

    def body(self, jaxpr: Any) -> _Body:
        """The flows of a body."""
        if id(jaxpr) not in self.bodies:
            found = _Body(*self.read(program_of_jaxpr(jaxpr, "body")))
            self.bodies[id(jaxpr)] = jaxpr, found
        return self.bodies[id(jaxpr)][1]


def _only_body(eqn: Eqn) -> Any | None:
    """The body of an eqn that runs one on its own operands and returns what that returns."""
    bodies = list(_compat.sub_jaxprs(eqn.raw))
    if len(bodies) != 1:
        return None
    jaxpr, _ = _compat.jaxpr_parts(bodies[0])
    takes, returns = len(jaxpr.invars), len(jaxpr.outvars)
    return bodies[0] if (takes, returns) == (len(eqn.inputs), len(eqn.outputs)) else None


def _plain(program: Program, eqn: Eqn, number: int, inputs: Sequence[Flow]) -> Flow:
    """What an eqn without bodies writes."""
    if len(inputs) == len(eqn.outputs):
        if eqn.primitive in _UNTOUCHED:
            return inputs[number]
        if eqn.primitive in _OVER_DEVICES:
            return replace(inputs[number])
    moving = [
        flow
        for flow, operand in zip(inputs, eqn.inputs, strict=True)
        if isinstance(operand, int) and _moves(program, eqn, operand, eqn.outputs[number])
    ]
    return Flow(
        depends=reduce(or_, (f.depends for f in inputs), 0),
        updates=reduce(or_, (f.updates for f in moving), 0),
        direct=reduce(or_, (f.direct for f in inputs), 0),
        is_gradient=any(f.is_gradient for f in moving),
    )


def _moves(program: Program, eqn: Eqn, operand: int, output: int) -> bool:
    """Whether an operand moves through an eqn without bodies into an output: definition 2."""
    if eqn.primitive in _PLACES:
        return True
    one, other = program.avals[operand], program.avals[output]
    if eqn.primitive == "broadcast_in_dim":  # a new axis, as in `x[None]`
        return bool(prod(one.shape) == prod(other.shape))
    if other.dtype == bool and one.dtype != bool:  # a mask holds nothing of what was compared
        return False
    elementwise = eqn.primitive in _ELEMENTWISE or eqn.primitive.startswith("scatter")
    return elementwise and bool(one.shape == other.shape)


def _composed(inner: Flow, inputs: Sequence[Flow]) -> Flow:
    """What a flow over a body's arguments is over those of the program that runs it."""
    return Flow(
        depends=reduce(or_, (inputs[i].depends for i in bits(inner.depends)), 0),
        updates=reduce(or_, (inputs[i].updates for i in bits(inner.updates)), 0),
        direct=reduce(or_, (inputs[i].direct for i in bits(inner.direct)), 0),
        is_gradient=inner.is_gradient or any(inputs[i].is_gradient for i in bits(inner.updates)),
    )


def _call(body: _Body, number: int, inputs: Sequence[Flow]) -> Flow:
    same = body.same(number)
    return _composed(body.results[number], inputs) if same is None else inputs[same]


def _branch(branches: Sequence[_Body], number: int, inputs: Sequence[Flow]) -> Flow:
    which, *operands = inputs
    flows = [_call(branch, number, operands) for branch in branches]
    if all(flow is flows[0] for flow in flows):  # handed on untouched, whichever it is
        return flows[0]
    return _union([Flow(which.depends), *flows])


def _union(flows: Sequence[Flow]) -> Flow:
    return Flow(
        depends=reduce(or_, (f.depends for f in flows), 0),
        updates=reduce(or_, (f.updates for f in flows), 0),
        direct=reduce(or_, (f.direct for f in flows), 0),
        is_gradient=any(f.is_gradient for f in flows),
    )


def _loop(
    body: _Body, inputs: Sequence[Flow], skipped: int, constants: int, carries: int
) -> list[Flow]:
    """What a scan or a `while` returns: carries, then stacks.

    Args:
        body: takes constants, carries, slices.
        inputs: the loop's operands.
        skipped: operands before those of the body: a condition's constants.
        constants: how many of the body's arguments are constants.
        carries: how many are carries.
    """
    operands = inputs[skipped:]
    everything = reduce(or_, (f.depends for f in inputs), 0)
    over_iterations = _closure(body, constants, carries)
    returned = []
    for number in range(carries):
        if body.same(number) == constants + number:
            returned.append(operands[constants + number])
        else:
            flow = _composed(over_iterations[number], operands)
            returned.append(_union([flow, Flow(everything)]))
    carried = [*operands[:constants], *returned, *operands[constants + carries :]]
    for number in range(carries, len(body.results)):
        first = _call(body, number, operands)
        later = _call(body, number, carried)
        returned.append(first if first is later else _union([first, later]))
    return returned


def _closure(body: _Body, constants: int, carries: int) -> list[Flow]:
    """The flows into a loop's carries, over the body's arguments, whatever its length."""
    flows = list(body.results[:carries])
    while True:
        again = [_union([f, _composed(f, _as_arguments(body, flows, constants))]) for f in flows]
        if again == flows:
            return flows
        flows = again


def _as_arguments(body: _Body, carried: Sequence[Flow], constants: int) -> list[Flow]:
    """The body's arguments, with what an iteration returned for its carries."""
    after = constants + len(carried)
    return [*body.arguments[:constants], *carried, *body.arguments[after:]]
