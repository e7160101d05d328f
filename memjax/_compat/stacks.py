"""Where an eqn comes from, and how to run it so that its copy comes from there as well.

In: eqns, name stacks, tracebacks. Out: scopes, transformations, lines; values of a bound eqn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import CodeType
from typing import Any

from jax._src import source_info_util

from memjax._compat.jaxprs import inlinable_body, jaxpr_parts

NameStack = source_info_util.NameStack


def name_stack_of(eqn: Any) -> NameStack:
    """The module path and transforms under which an eqn was traced."""
    stack: NameStack = eqn.source_info.name_stack
    return stack


def raw_frames(traceback: Any) -> Iterator[tuple[CodeType, int]]:
    """Frames of a traceback, innermost first, as (code, offset of its last instruction)."""
    if traceback is not None:
        yield from zip(*traceback.raw_frames(), strict=True)


@cache
def line_number(code: CodeType, offset: int) -> int:
    """The source line of an instruction."""
    return int(source_info_util.raw_frame_to_frame(code, offset).start_line)


def is_jax_file(file_name: str) -> bool:
    """Whether JAX leaves a file out of its own messages: its own, and parts of Python's."""
    return not source_info_util.is_user_filename(file_name)


def body_function(eqn: Any) -> tuple[str, int] | None:
    """File and first line of the function that a call's body was traced from, where known."""
    body = inlinable_body(eqn)
    if body is None:
        return None
    info = getattr(jaxpr_parts(body)[0], "debug_info", None)
    # "name at file:line"
    _, found, place = str(getattr(info, "func_src_info", "")).partition(" at ")
    file_name, _, line = place.rpartition(":")
    return (file_name, int(line)) if found and line.isdigit() else None


def transforms(stack: NameStack) -> tuple[str, ...]:
    """The transformations in a name stack, outermost first: `("transpose", "jvp")`."""
    return tuple(e.name for e in stack.stack if isinstance(e, source_info_util.Transform))


def scopes(stack: NameStack) -> tuple[str, ...]:
    """The named scopes in a name stack, outermost first: modules, calls."""
    return tuple(e.name for e in stack.stack if isinstance(e, source_info_util.Scope))


def bind(eqn: Any, name_stack: NameStack, operands: Sequence[Any]) -> list[Any]:
    """Run an eqn on new operands under its own name stack, source line and context."""
    primitive = eqn.primitive
    params = primitive.get_bind_params(eqn.params)
    functions: Sequence[Any] = ()
    if isinstance(params, tuple):  # (functions, params): the form of older versions
        functions, params = params
    with name_context(eqn, name_stack):
        result = primitive.bind(*functions, *operands, **params)
    return list(result) if primitive.multiple_results else [result]


@contextmanager
def name_context(eqn: Any, name_stack: NameStack) -> Iterator[None]:
    """Whatever is traced inside carries an eqn's source line and context, and a name stack."""
    full_stack = source_info_util.current_name_stack() + name_stack
    context = source_info_util.user_context(eqn.source_info.traceback, name_stack=full_stack)
    with context, eqn.ctx.manager:
        yield
