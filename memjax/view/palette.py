"""Colours and hatches of phases and decisions, the same in figures and on the page.

Colours are of Okabe and Ito, "Color Universal Design" (2008), which people with any kind of
colour blindness can tell apart. Each comes with a hatch and a lightness of its own, so that
a greyscale print can be read as well.
"""

from __future__ import annotations

from dataclasses import dataclass

INK, GREY = "#24292f", "#8c959f"


@dataclass(frozen=True)
class Look:
    """How one phase or decision is drawn."""

    color: str
    hatch: str


PHASES = {
    "argument": Look("#d9d9d9", ""),
    "result": Look("#f2f2f2", "oo"),
    "forward": Look("#56b4e9", ""),
    "backward": Look("#d55e00", "////"),
    "optimizer": Look("#f0e442", "...."),
    "recompute": Look("#000000", ""),
}
OTHER = Look("#cc79a7", "xxxx")
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
BUDGET = "#000000"


AREAS = "#0072b2 #e69f00 #009e73 #56b4e9 #d55e00 #cc79a7 #f0e442".split()
"""Areas of the page; the second round of them is hatched."""


def look(phase: str) -> Look:
    """How a phase is drawn."""
    return PHASES.get(phase, OTHER)
