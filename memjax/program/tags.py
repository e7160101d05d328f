"""A name for each eqn that survives into the compiled program.

In: a jaxpr. Out: the same jaxpr, with a scope `eqn.<number>` at the end of each eqn's name stack.
JAX writes name stacks into the metadata of what it lowers (`op_name`), XLA keeps the metadata of
what an instruction was made of, and metadata decides nothing in either: so an instruction of the
compiled module says which eqn of the traced program it computes, at no cost.

A `Program` keeps the scopes in its name stacks. What `memjax.program.prepare` puts in the place of
one eqn gets scopes of its own (`eqn.12.0`). People never see them: `plain_name` leaves them
out, and so does `memjax.pricing.attribution`.

A body that is called in several places is numbered once, so that JAX still lowers it once: the
*path* of all numbers in a name, outermost first, is what is unique.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from typing import Any

from memjax import _compat

Path = tuple[str, ...]
"""The numbers of an eqn and of the eqns that it stands in, outermost first."""
_MARK = "eqn."
_TAG = re.compile(rf"(?<![\w.]){re.escape(_MARK)}(\d+(?:\.\d+)*)(?![\w.])")


def tag_of(number: int | str) -> str:
    """The scope of an eqn."""
    return f"{_MARK}{number}"


def is_tag(scope: str) -> bool:
    """Whether a scope is one of this module's."""
    return _TAG.fullmatch(scope) is not None


def path_of(name: str) -> Path:
    """The path in a name stack, or in the name that XLA has of an instruction."""
    return tuple(_TAG.findall(name))


def plain_name(name: str) -> str:
    """A name stack, or an instruction's name, without the scopes of this module."""
    if _MARK not in name:
        return name
    left = (_TAG.sub("", part) for part in name.split("/"))
    return "/".join(part for part in left if part)


def tagged(closed: Any) -> Any:
    """A jaxpr whose eqns, and those of its bodies, have scopes of their own."""
    return _tagged(closed, count(), {})


def _tagged(closed: Any, numbers: Iterator[int], known: dict[int, Any]) -> Any:
    jaxpr, _ = _compat.jaxpr_parts(closed)
    if id(jaxpr) not in known:
        eqns = []
        for eqn in jaxpr.eqns:
            eqns.append(_tagged_eqn(eqn, numbers, known))
        known[id(jaxpr)] = jaxpr, jaxpr.replace(eqns=eqns)  # the first is kept alive for its id
    return _compat.with_jaxpr(closed, known[id(jaxpr)][1])


def _tagged_eqn(eqn: Any, numbers: Iterator[int], known: dict[int, Any]) -> Any:
    stack = _compat.name_stack_of(eqn).extend(tag_of(next(numbers)))
    bodies = {
        key: _tagged_bodies(value, numbers, known)
        for key, value in eqn.params.items()
        if key in _compat.BODIES.get(eqn.primitive.name, ())
    }
    params = {**eqn.params, **bodies} if bodies else eqn.params
    source = eqn.source_info.replace(name_stack=stack)
    return _compat.replace_eqn(eqn, params=params, source_info=source)


def _tagged_bodies(value: Any, numbers: Iterator[int], known: dict[int, Any]) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_tagged(item, numbers, known) for item in value)
    return _tagged(value, numbers, known) if hasattr(value, "eqns") else value
