"""What was decided about the regions of a program, and the program that it makes.

In: a `Program` and `Split`s. Out: a `Program` with the same results. A split names its region by
the seed that it grows from, so that it prints, compares and is saved; regions grow alike in every
process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memjax.helpers.checked import Count, Index
from memjax.program.eqns import Program
from memjax.split.regions import Grower, Region
from memjax.split.transform import split_region


@dataclass(frozen=True)
class Split:
    """One region that runs in chunks.

    Attributes:
        value: the region's seed.
        axis: dimension of the seed.
        chunks: how many.
        everything: whether the region grows through values of any width.
    """

    value: Index
    axis: Index
    chunks: Count
    everything: bool


def region_of(program: Program, split: Split) -> Region:
    """The region of a split.

    Raises:
        ValueError: the program has none there.
    """
    if split.value >= len(program.avals) or split.axis >= program.avals[split.value].ndim:
        raise ValueError(f"there is no axis {split.axis} of value {split.value} to split")
    region = Grower(program).region(split.value, split.axis, everything=split.everything)
    if region is None:
        raise ValueError(f"nothing acts along axis {split.axis} of value {split.value}")
    return region


def carry_out_splits(program: Program, splits: Sequence[Split]) -> Program:
    """The program that splits make, one after the other.

    Raises:
        ValueError: the program has no such region.
    """
    for split in splits:
        program = split_region(region_of(program, split), split.chunks)
    return program
