"""Trace a step into a `Program`: one flat list of eqns over integer value ids.

In: a step and its arguments. Out: `Program`.

Nested `jit`, `closed_call`, `custom_jvp_call` and `custom_vjp_call` are inlined, unless a
nested `jit` sets shardings, layouts or compiler options. Loops, branches, `shard_map`,
kernels, custom calls and the user's own `jax.checkpoint` stay single eqns. What nobody reads
is taken out first, from inside of them too.

Derivative rules of inlined custom calls are gone: a `Program` is to be run, not to be
differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax.tree_util import keystr, tree_flatten_with_path

from memjax import _compat
from memjax.program.dead import without_dead_work
from memjax.program.eqns import Constant, Eqn, Operand, Program
from memjax.program.module_names import nnx_scopes
from memjax.program.tags import tag_of, tagged


def trace(
    step: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    static_argnums: Sequence[int] = (),
    static_argnames: Sequence[str] = (),
) -> Program:
    """Trace a step with example arguments; `jax.ShapeDtypeStruct` leaves will do.

    Raises:
        whatever JAX raises where it cannot trace the step with these arguments.
    """
    kwargs = kwargs or {}
    jitted = jax.jit(
        step, static_argnums=tuple(static_argnums), static_argnames=tuple(static_argnames)
    )
    with nnx_scopes():
        traced = jitted.trace(*args, **kwargs)
    jaxpr = tagged(traced.jaxpr)
    return replace(
        program_of_jaxpr(jaxpr, step_name(step)),
        argument_names=_argument_names(traced.args_info, step, static_argnums),
        result_names=_leaf_names(traced.out_info, "result"),
        in_tree=traced.in_tree,
        jaxpr=jaxpr,
        out_tree=jax.tree_util.tree_structure(traced.out_info),
    )


def program_of_jaxpr(closed: Any, name: str) -> Program:
    """The program of a jaxpr, the body of a loop for instance, with flat names."""
    flat = _Flattener()
    arguments, constants, results = flat.run_top(closed)
    return Program(
        eqns=without_dead(flat.eqns, results),
        avals=tuple(flat.avals),
        arguments=arguments,
        constants=constants,
        results=results,
        argument_names=tuple(f"argument {i}" for i in range(len(arguments))),
        result_names=tuple(f"result {i}" for i in range(len(results))),
        name=name,
    )


def step_name(step: Callable[..., Any]) -> str:
    """The name of a function, also of one inside of a `functools.partial`."""
    inner = getattr(step, "func", step)
    return str(getattr(step, "__name__", getattr(inner, "__name__", "step")))


def without_dead(eqns: Sequence[Eqn], results: Sequence[Operand]) -> tuple[Eqn, ...]:
    """Drop the eqns that nothing needs, as XLA would."""
    needed = {r for r in results if isinstance(r, int)}
    kept = []
    for eqn in reversed(eqns):
        if eqn.has_effects or any(v in needed for v in eqn.outputs):
            needed.update(eqn.reads)
            kept.append(eqn)
    return tuple(reversed(kept))


def _argument_names(
    tree: Any, step: Callable[..., Any], static_argnums: Sequence[int]
) -> tuple[str, ...]:
    names = _compat.parameter_names(step, static_argnums)
    leaves, _ = tree_flatten_with_path(tree)
    return tuple(_compat.argument_name(path, names) for path, _ in leaves)


def _leaf_names(tree: Any, root: str) -> tuple[str, ...]:
    leaves, _ = tree_flatten_with_path(tree)
    return tuple(root + keystr(path) for path, _ in leaves)


@dataclass
class _Flattener:
    """Gives every variable of every inlined call a value id of its own."""

    eqns: list[Eqn] = field(default_factory=list)
    avals: list[Any] = field(default_factory=list)
    constants: list[tuple[int, Any]] = field(default_factory=list)

    def new_value(self, var: Any) -> int:
        self.avals.append(var.aval)
        return len(self.avals) - 1

    def run_top(
        self, closed: Any
    ) -> tuple[tuple[int, ...], tuple[tuple[int, Any], ...], tuple[Operand, ...]]:
        jaxpr, consts = without_dead_work(closed)
        arguments = tuple(self.new_value(v) for v in jaxpr.invars)
        results = self.run(jaxpr, consts, arguments, _compat.NameStack())
        return arguments, tuple(self.constants), tuple(results)

    def run(
        self,
        jaxpr: Any,
        consts: Sequence[Any],
        operands: Sequence[Operand],
        stack: Any,
        call: Any = None,
    ) -> list[Operand]:
        env: dict[Any, Operand] = {}

        def read(atom: Any) -> Operand:
            if isinstance(atom, _compat.Literal):
                return Constant(atom.val)
            return env[atom]

        for var, const in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self.new_value(var)
            self.constants.append((env[var], const))  # type: ignore[arg-type]
        env.update(zip(jaxpr.invars, operands, strict=True))
        for eqn in jaxpr.eqns:
            inputs = tuple(read(v) for v in eqn.invars)
            eqn_stack = stack + _compat.name_stack_of(eqn)
            body = _compat.inlinable_body(eqn)
            if body is not None:
                inner, inner_consts = _compat.jaxpr_parts(body)
                eqn_stack = eqn_stack.extend(_compat.call_name(eqn))
                outputs = self.run(inner, inner_consts, inputs, eqn_stack, call or eqn)
            else:
                ids = tuple(self.new_value(v) for v in eqn.outvars)
                self.eqns.append(Eqn(eqn, inputs, ids, eqn_stack, call))
                outputs = list(ids)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars]


def splice(eqn: Eqn, closed: Any, avals: list[Any]) -> list[Eqn]:
    """The eqns of a jaxpr in the place of one eqn, under its name and source line,
    with tags of their own.

    Args:
        eqn: what is replaced; the jaxpr takes its inputs and returns its outputs.
        closed: a jaxpr without constants.
        avals: of the program; grows by the values that the new eqns write in between.
    """
    jaxpr, consts = _compat.jaxpr_parts(closed)
    assert not consts, "a replacement must not capture arrays"
    env: dict[Any, Operand] = dict(zip(jaxpr.invars, eqn.inputs, strict=True))
    results = dict(zip(jaxpr.outvars, eqn.outputs, strict=True))
    spliced = []
    for number, new in enumerate(jaxpr.eqns):
        inputs = tuple(
            Constant(v.val) if isinstance(v, _compat.Literal) else env[v] for v in new.invars
        )
        for var in new.outvars:
            env[var] = results.get(var, len(avals))
            if var not in results:
                avals.append(var.aval)
        outputs = tuple(int(env[v]) for v in new.outvars)  # type: ignore[arg-type]
        raw = _compat.replace_eqn(new, source_info=eqn.raw.source_info, ctx=eqn.raw.ctx)
        stack = eqn.name_stack.extend(tag_of(number))
        spliced.append(Eqn(raw, inputs, outputs, stack, eqn.call))
    return spliced
