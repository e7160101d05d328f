"""Where each eqn and each argument of a program comes from: line, module path, phase.

In: a `Program`. Out: an `Origin` for each eqn, and for each argument.

Definitions

1. An eqn belongs to the *backward* phase if its name stack has `transpose`, as JAX writes
   it round what it transposes, or if it runs a body that has. A scan that accumulates
   gradients is one eqn, and backward.
2. It belongs to the *forward* phase if its name stack has `jvp` and no `transpose`.
3. Without either mark it belongs to the *optimizer* if it depends on a backward eqn, or if
   whatever reads it does (the bias corrections of Adam), and to the forward phase
   otherwise. A step without backward eqns is all forward.
4. The module path is what is left of the name stack without transforms, calls and einsum's
   texts: `GPT/block_0/Dense_1`.
5. What a scan or another eqn with a body writes has the line and the module path of the eqn in
   the body that writes it.
6. An eqn in a body has the phase of the eqn that runs it, where that one's name stack has a
   mark; else its own mark's, and without one that of the eqn that runs it. Module paths are
   joined.
7. An argument has the line and the module path of the eqn that reads it first, and a phase of
   its own, *argument*. One that nothing reads has none.

Dependence, not position, tells the optimizer from the rest: `memjax.program.prepare` moves updates
into the backward phase.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from memjax import _compat
from memjax.program.eqns import Eqn, Program
from memjax.program.source_lines import user_line
from memjax.program.tags import is_tag

Phase = Literal["forward", "backward", "optimizer", "argument", "result"]
_MODULE = re.compile(r"[A-Za-z_][\w.\-]*")
_CALLS = _compat.INLINED_CALLS | _compat.JIT_PRIMITIVES
_LOOPS = frozenset("checkpoint rematted_computation while body cond branch".split())
_PASSED_ON = frozenset("dynamic_update_slice reshape squeeze expand_dims broadcast_in_dim".split())
_TRANSFORM = re.compile(r"(?:jvp|transpose|vmap|remat)\((.*)\)")


@dataclass(frozen=True)
class Origin:
    """Where something comes from.

    Attributes:
        line: the user's own, as `file:line (function)`; None where there is none.
        module: module path, joined by `/`; empty outside of modules.
        phase: forward, backward or optimizer; argument or result for what the caller holds.
    """

    line: str | None
    module: str
    phase: Phase


def origins(program: Program) -> tuple[Origin, ...]:
    """The origin of each eqn, by eqn index."""
    phases = eqn_phases(program)
    return tuple(
        Origin(eqn.source, module_path(eqn.name_stack), phase)
        for eqn, phase in zip(program.eqns, phases, strict=True)
    )


def body_origins(body: Program, eqn: Eqn, outer: Origin) -> tuple[Origin, ...]:
    """The origin of each eqn of a body: see definition 6.

    Args:
        body: a program that an eqn runs.
        eqn: that one.
        outer: its origin.
    """
    decided = _mark_of(eqn.name_stack)
    return tuple(
        Origin(
            inner.source or outer.line,
            _joined(outer.module, module_path(inner.name_stack)),
            decided or _mark(inner) or outer.phase,
        )
        for inner in body.eqns
    )


def output_origin(eqn: Eqn, number: int, outer: Origin) -> Origin:
    """The origin of one output of an eqn: that of the body's eqn that writes it.

    A scan stacks residuals of many lines of its body; each output has its own line. The phase
    is the outer eqn's.

    Args:
        eqn: with or without a body.
        number: of the output.
        outer: the eqn's own origin.
    """
    if eqn.nest is not None:
        return _in_nest(eqn, number, outer)
    inner = _inner_eqn(eqn.raw, number) if len(eqn.outputs) == len(eqn.raw.outvars) else None
    if inner is None:
        return outer
    found, call = inner
    module = module_path(_compat.name_stack_of(found))
    line = user_line(found, call) or outer.line
    return Origin(line, _joined(outer.module, module), outer.phase)


def _in_nest(eqn: Eqn, number: int, outer: Origin) -> Origin:
    """The origin in a body that memjax has as a program."""
    assert eqn.nest is not None
    body = eqn.nest.bodies[-1].program
    if len(body.results) != len(eqn.outputs):
        return outer
    result = body.results[number]
    inner = _writer_of(body, result) if isinstance(result, int) else None
    if inner is None:
        return outer
    module = _joined(outer.module, module_path(inner.name_stack))
    found = Origin(inner.source or outer.line, module, outer.phase)
    return found if inner.nest is None else output_origin(inner, 0, found)


def _writer_of(body: Program, value: int) -> Eqn | None:
    """The eqn that computes a value; of a slice that is written into a stack, the slice's."""
    while body.producer[value] >= 0:
        eqn = body.eqns[body.producer[value]]
        place = 1 if eqn.primitive == "dynamic_update_slice" else 0
        passed = eqn.inputs[place] if eqn.primitive in _PASSED_ON else None
        if not isinstance(passed, int) or body.producer[passed] < 0:
            return eqn
        value = passed
    return None


def _joined(outer: str, inner: str) -> str:
    return "/".join(part for part in (outer, inner) if part)


def _inner_eqn(eqn: Any, number: int) -> tuple[Any, Any] | None:
    """The eqn of a body that writes an output, and the outermost call in it around that eqn."""
    found, call = None, None
    while True:
        inner = _writer_in_body(eqn, number)
        if inner is None:
            return None if found is None else (found, call)
        found, number = inner
        if call is None and _compat.inlinable_body(found) is not None:
            call = found
        eqn = found


def _writer_in_body(eqn: Any, number: int) -> tuple[Any, int] | None:
    """The eqn of a body that writes an output, and as which of its own."""
    for closed in _compat.sub_jaxprs(eqn):
        jaxpr, _ = _compat.jaxpr_parts(closed)
        if len(jaxpr.outvars) != len(eqn.outvars):
            continue
        for inner in reversed(jaxpr.eqns):
            for place, var in enumerate(inner.outvars):
                if var is jaxpr.outvars[number]:
                    return inner, place
        return None
    return None


def argument_origins(program: Program, of_eqns: tuple[Origin, ...]) -> tuple[Origin, ...]:
    """The origin of each flat argument, given those of the eqns."""
    result = []
    for value in program.arguments:
        first = next(iter(program.consumers[value]), None)
        if first is None:
            result.append(Origin(None, "", "argument"))
        else:
            result.append(Origin(of_eqns[first].line, of_eqns[first].module, "argument"))
    return tuple(result)


def module_path(name_stack: Any) -> str:
    """The module path in a name stack."""
    return _modules(_compat.scopes(name_stack))


def module_of_op_name(op_name: str) -> str:
    """The module path in a name stack as XLA has it, with the primitive at its end:
    `jit(step)/transpose(jvp(GPT))/block_0/dot_general` is in `GPT/block_0`.
    """
    names = []
    for name in op_name.split("/")[1:-1]:
        while match := _TRANSFORM.fullmatch(name):
            name = match[1]
        names.append(name)
    return _modules(names)


def phase_of_op_name(op_name: str) -> Phase | None:
    """The phase that the marks in XLA's name tell; None without a mark."""
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else None


def _modules(names: Iterable[str]) -> str:
    own = (n for n in names if not is_tag(n) and n not in _CALLS and n not in _LOOPS)
    left = (n for n in own if _MODULE.fullmatch(n))
    return "/".join(left)


def eqn_phases(program: Program) -> tuple[Phase, ...]:
    """The phase of each eqn, by eqn index."""
    marks = [_mark(eqn) for eqn in program.eqns]
    behind = _behind_backward(program, marks)
    only = _only_for_optimizer(program, marks, behind)
    return tuple(
        mark or ("optimizer" if after or needed else "forward")
        for mark, after, needed in zip(marks, behind, only, strict=True)
    )


def _mark(eqn: Eqn) -> Literal["forward", "backward"] | None:
    """The phase that an eqn's own name stack, or its bodies', tells."""
    own = _mark_of(eqn.name_stack)
    if own != "backward" and _has_transposed(_compat.sub_jaxprs(eqn.raw)):
        return "backward"
    return own


def _mark_of(name_stack: Any) -> Literal["forward", "backward"] | None:
    names = _compat.transforms(name_stack)
    if "transpose" in names:
        return "backward"
    return "forward" if "jvp" in names else None


def _has_transposed(jaxprs: Iterable[Any]) -> bool:
    for closed in jaxprs:
        jaxpr, _ = _compat.jaxpr_parts(closed)
        for eqn in jaxpr.eqns:
            if "transpose" in _compat.transforms(_compat.name_stack_of(eqn)):
                return True
            if _has_transposed(_compat.sub_jaxprs(eqn)):
                return True
    return False


def _behind_backward(program: Program, marks: list[Any]) -> list[bool]:
    """Whether each eqn is unmarked and depends on a backward eqn."""
    tainted = [False] * len(program.avals)
    behind = []
    for eqn, mark in zip(program.eqns, marks, strict=True):
        depends = any(tainted[v] for v in eqn.reads)
        behind.append(depends and mark is None)
        if depends or mark == "backward":
            for value in eqn.outputs:
                tainted[value] = True
    return behind


def _only_for_optimizer(program: Program, marks: list[Any], behind: list[bool]) -> list[bool]:
    """Whether each unmarked eqn is read, and by nothing but the optimizer."""
    only = [False] * len(program.eqns)
    for index in range(len(program.eqns) - 1, -1, -1):
        eqn = program.eqns[index]
        readers = [c for v in eqn.outputs for c in program.consumers[v]]
        only[index] = (
            marks[index] is None and bool(readers) and all(behind[c] or only[c] for c in readers)
        )
    return only
