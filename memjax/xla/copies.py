"""Copies that XLA makes since arguments are given up, from the text of the compiled module.

Where XLA cannot prove that a result is written after all other reads of the argument whose
buffer it takes, it copies the one or the other: in the entry computation, at its start or end.
"""

from __future__ import annotations

import math
import re

import jax

_PARAMETER = re.compile(r"^ *%?([\w.-]+) = \S+ parameter\(\d+\)", re.MULTILINE)
_COPY = re.compile(
    r"^ *(ROOT )?%?([\w.-]+) = [a-z]+(\d*)\w*\[([\d,]*)\]\S* copy\(%?([\w.-]+)\)", re.M
)
_ROOT = re.compile(r"^ *ROOT .* tuple\((.*?)\)", re.MULTILINE)


def copies_at_the_ends(compiled: jax.stages.Compiled) -> int:
    """Bytes of the copies of arguments and results; 0 where the backend shows no program."""
    text = compiled.as_text() or ""
    entry = text[text.find("\nENTRY") + 1 :]
    arguments = frozenset(_PARAMETER.findall(entry))
    root = _ROOT.search(entry)
    results = frozenset(re.findall(r"[\w.-]+", root[1])) if root else frozenset()
    return sum(
        math.prod(int(d) for d in dimensions.split(",") if d) * max(1, int(bits or 8) // 8)
        for is_root, name, bits, dimensions, operand in _COPY.findall(entry)
        if is_root or name in results or operand in arguments
    )  # pred, of a byte, has no bits in its name
