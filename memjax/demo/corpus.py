"""The text that the demo learns: the source of Python's standard library on this machine.

Characters are ASCII codes; the few others become `?`. So the vocabulary is 128, and nothing
is downloaded.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VOCAB = 128


def standard_library_text() -> NDArray[np.uint8]:
    """The top-level modules of the standard library, joined in order of their names.

    Returns:
        ASCII codes, shape (characters,).

    Raises:
        ValueError: if this Python has its standard library without sources.
    """
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    if not sources:
        raise ValueError("this Python has no source text of its standard library to learn from")
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in sources)
    return np.frombuffer("\n".join(texts).encode("ascii", errors="replace"), np.uint8)


def random_excerpts(
    text: NDArray[np.uint8], count: int, length: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Excerpts from random places of a text: int32, shape (count, length)."""
    starts = rng.integers(0, len(text) - length, count)
    return np.stack([text[start : start + length] for start in starts]).astype(np.int32)
