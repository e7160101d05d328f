"""Names of devices as users write them: `"h100"`, `"h100:8"`, `"v5e"`, `"v5e:2x2"`.

In: a text. Out: `Named`, or `ValueError` with the names that there are.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

from memjax.targets.figures import Figures, all_figures

_FORM = re.compile(r"([a-z0-9-]+)(?::(\d+(?:x\d+)*))?", re.IGNORECASE)


@dataclass(frozen=True)
class Named:
    """Some devices of one kind.

    Attributes:
        figures: of the kind.
        shape: how many along each axis: of a TPU's topology in chips, else the count alone.
        count: how many devices that is: one if the name says no more, also of a chip that is two.
    """

    figures: Figures
    shape: tuple[int, ...]
    count: int

    @property
    def extent(self) -> str:
        """The shape as users write it."""
        return "x".join(map(str, self.shape))


def named(name: str) -> Named:
    """What a name stands for.

    Raises:
        ValueError: it is no name, or its topology is none.
    """
    match = _FORM.fullmatch(name.strip())
    known = all_figures()
    figures = known.get(match[1].lower()) if match else None
    if match is None or figures is None:
        close = difflib.get_close_matches(name.partition(":")[0].lower(), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"{name!r} names no device that memjax knows; {hint}there are {', '.join(known)}, "
            'and several as in "h100:8" and "v5e:2x2"'
        )
    axes = figures.tpu.axes if figures.tpu else 1
    shape = tuple(map(int, match[2].split("x"))) if match[2] else (1,) * axes
    if len(shape) != axes or 0 in shape:
        example = f"{figures.name}:" + ("8" if axes == 1 else "2x2" if axes == 2 else "2x2x1")
        raise ValueError(f"{name!r} is no number of devices of this kind; write as in {example!r}")
    per_chip = figures.tpu.devices_per_chip if figures.tpu else 1
    return Named(figures, shape, per_chip * math.prod(shape) if match[2] else 1)
