"""Copies that XLA makes of a program's arguments, from the text of the compiled module."""

from __future__ import annotations

import math
import re

import jax

_PARAMETER = re.compile(r"^ *%?([\w.-]+) = \S+ parameter\(\d+\)", re.MULTILINE)
_COPY = re.compile(r"= ([a-z]+)(\d*)\w*\[([\d,]*)\]\S* copy\(%?([\w.-]+)\)")


def copies_of_arguments(compiled: jax.stages.Compiled) -> int:
    """Bytes of the copies of arguments; 0 where the backend does not show its program."""
    text = compiled.as_text() or ""
    entry = text[text.find("\nENTRY") + 1 :]
    parameters = frozenset(_PARAMETER.findall(entry))
    total = 0
    for _, bits, dimensions, operand in _COPY.findall(entry):
        if operand in parameters:
            elements = math.prod(int(d) for d in dimensions.split(",") if d)
            total += elements * max(1, int(bits or 8) // 8)  # pred has no number
    return total
