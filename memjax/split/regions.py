"""Regions: eqns that act along one axis, and can run as loops over chunks of it.

In: a `Program`, and a *seed*, one dimension of one value. Out: a `Region`.

Definitions

1. A region grows from its seed: an eqn that writes or reads a value of the region joins where it
   has a way (`memjax.split.axes`) that agrees with all members, through values of at least a
   given width. Narrower values end it: they are cheap to hold whole. Then join the fusible eqns
   on paths from member to member, however narrow: what a softmax does between two passes over
   its scores. No region grows through an argument, which many read along other axes.
2. What members write and others read is *written*, chunk by chunk into one buffer, or *reduced*.
   Whoever needs it whole runs after the loop.
3. Where a member needs, through eqns outside, the whole of what another wrote or reduced, the
   region has *phases*, one loop each. Members run in the last phase that is early enough for
   their readers. What a phase reads of an earlier one is written by that one where it is narrow,
   and computed again by chunk where it is wide: the scores of attention in the backward pass.

Regions of the kind have been grown by AutoChunk (Zhao et al., *AutoChunk: Automated Activation
Chunk for Memory-Efficient Long Sequence Inference*, 2024) for inference, where there is no
backward pass, and nothing is summed away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memjax.program.eqns import Program
from memjax.split.axes import Place, Way
from memjax.split.growth import Blocked, Growth, Surroundings
from memjax.split.phases import Phase, phases_of

WIDE_PART = 4
"""A value is wide where it has this part of the seed's bytes at least; a guess between the width
of a layer, and the attention or vocabulary that is worth a region."""


@dataclass(frozen=True, eq=False)
class Region:
    """Eqns that act along one axis.

    Attributes:
        program: that they are eqns of.
        seed: a value that has the axis.
        everything: whether it has grown through values of any width.
        units: equal pieces that the axis can be divided into: a chunk is one or several.
        ways: how each eqn acts along the axis.
        places: where the axis is in what they write.
        phases: in the order in which they run.
        made: values of the program that are made of nothing but literals; each chunk, and
            whoever reads them outside, makes its own.
        blocked: where growing ended although the value is wide.
    """

    program: Program
    seed: int
    everything: bool
    units: int
    ways: Mapping[int, Way]
    places: Mapping[int, Place]
    phases: tuple[Phase, ...]
    made: frozenset[int]
    blocked: tuple[Blocked, ...]


class Grower(Surroundings):
    """Grows the regions of one program."""

    def region(self, seed: int, dim: int, *, everything: bool) -> Region | None:
        """The region of a seed; None where nothing can be divided or it falls apart.

        Args:
            seed: a value.
            dim: one of its dimensions.
            everything: whether it grows through values of any width.
        """
        wide = self.program.value_bytes[seed] // WIDE_PART
        growth = Growth(self, seed, dim, 0 if everything else wide)
        growth.run()
        phases = phases_of(growth, wide)
        if not growth.members or not phases:
            return None
        return Region(
            self.program,
            seed,
            everything,
            growth.units,
            growth.members,
            growth.places,
            phases,
            self.made,
            tuple(growth.blocked),
        )
