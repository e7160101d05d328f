"""Where a prediction may be far off, since nothing was compiled: values and eqns that XLA treats
in ways that memjax does not model.

In: a `LivenessGraph` and a peak. Out: `Doubt`s, those of most bytes first.
"""

from __future__ import annotations

from dataclasses import dataclass

from memjax.helpers.budget import format_bytes
from memjax.pricing.liveness import LivenessGraph, is_spread_out
from memjax.program import primitives
from memjax.program.eqns import Eqn, Program

WORTH = 0.1
"""Doubts about less than this part of the peak are not worth a line."""
SPREAD = "spread out from smaller values: XLA may store it, or make it again for each reader"
SHARED = "reduced as well as read elsewhere: XLA may store it, and what it is made of"
CONVOLUTION = "workspace and layouts of convolutions are not modelled"
UNKNOWN = "a loop of unknown length: what it holds is counted once"


@dataclass(frozen=True)
class Doubt:
    """One reason why a prediction may be off.

    Attributes:
        bytes: of the value that it is about.
        what: primitive and type.
        why: the rule that is unsure.
        source: the user's line.
    """

    bytes: int
    what: str
    why: str
    source: str | None

    def __str__(self) -> str:
        where = f" at {self.source}" if self.source else ""
        return f"{self.what} ({format_bytes(self.bytes)}){where}: {self.why}"


def doubts(graph: LivenessGraph, peak_bytes: int) -> tuple[Doubt, ...]:
    """What a predicted peak is unsure of, one doubt a line and rule."""
    program = graph.program
    found: dict[tuple[str | None, str], Doubt] = {}
    for eqn in program.eqns:
        size = max((program.value_bytes[v] for v in eqn.outputs), default=0)
        why = _why(graph, eqn) if size >= WORTH * peak_bytes else None
        if why is None:
            continue
        what = f"{eqn.primitive} {program.avals[eqn.outputs[0]].str_short()}"
        doubt = Doubt(size, what, why, eqn.source)
        known = found.get((eqn.source, why))
        if known is None or known.bytes < size:
            found[eqn.source, why] = doubt
    return tuple(sorted(found.values(), key=lambda d: -d.bytes))


def _why(graph: LivenessGraph, eqn: Eqn) -> str | None:
    program = graph.program
    if eqn.primitive == "conv_general_dilated":
        return CONVOLUTION
    if eqn.primitive == "while":
        return UNKNOWN
    fuses = eqn.primitive in primitives.FUSIBLE - primitives.STRUCTURAL
    if not fuses or len(eqn.outputs) != 1:
        return None
    (value,) = eqn.outputs
    if is_spread_out(program, value):
        return SPREAD
    return SHARED if graph.free[value] and _is_shared(program, value) else None


def _is_shared(program: Program, value: int) -> bool:
    """Whether a reduction and something else read a value."""
    reduces = [program.eqns[r].primitive in primitives.REDUCTION for r in program.consumers[value]]
    return any(reduces) and not all(reduces)
