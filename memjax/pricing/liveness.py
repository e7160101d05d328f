"""Values, their lives, and which of them XLA never stores.

In: a `Program`, and what compiled programs showed. Out: a `LivenessGraph`.

Definitions

1. A value is *free* where XLA does not store it: it is structural or tiny, or it is
   elementwise, everybody who reads it fuses what it reads, and either a single eqn reads it
   (in the end, through free values) or it is a cheap function of at most one large stored
   value. (Several readers of a function of two large values would keep both alive; XLA stores
   it. So it does what is spread out from smaller values, as the differences of all pairs, where
   that is reduced over different axes.) A reduction of a few elements each is free where a
   single elementwise eqn reads it. What a loop reads in every iteration is stored, unless it is
   another view of something stored.
2. The *stored* values of a free one are what is left when free values are traced back to
   what they are computed from: what must be alive wherever the free value is read.
3. The live range of a stored value is `[its eqn, one past its last reader)`, where an eqn
   that reads a free value reads the stored values behind it.
4. Where XLA was seen to store a value or not to store it (`memjax.pricing.learnt`), that overrules
   definition 1, with two limits. Structural values stay free: a copy of one is made where a
   schedule has it read early, and no plan repeats that. And what takes much work is free only if
   a single eqn reads it in the end, since each reader computes a free value again.

All positions are eqn indices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from memjax.pricing.learnt import NOTHING, Learnt
from memjax.program import primitives
from memjax.program.eqns import Eqn, Program
from memjax.program.tags import plain_name

if TYPE_CHECKING:
    import networkx

SCALAR_BYTES = 256
"""Values up to this size are counted but never worth a decision."""


LARGE = 8
"""One value is much smaller than another below one part in so many: a guess between the last
dimensions of a network, 16 and more, and the coordinates of a point, 2 or 3."""


@dataclass(frozen=True)
class Gap:
    """A stretch `[start, stop)` of a value's live range in which nobody reads it."""

    value: int
    start: int
    stop: int


@dataclass(frozen=True)
class LivenessGraph:
    """Who reads what, with free values traced back to stored ones.

    Attributes:
        program: what was analysed.
        free: whether each value is free, by value id.
        stored_reads: for each eqn, the stored values that must be alive when it runs;
            arguments and constants included.
        sources: for each free value, the stored values behind it; empty for stored ones.
    """

    program: Program
    free: tuple[bool, ...]
    stored_reads: tuple[tuple[int, ...], ...]
    sources: tuple[tuple[int, ...], ...]

    @cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """For each stored value, the eqns with a stored output, or effects, that read it."""
        readers: list[list[int]] = [[] for _ in self.program.avals]
        for index, eqn in enumerate(self.program.eqns):
            if not self.is_node(eqn):
                continue
            for value in self.stored_reads[index]:
                readers[value].append(index)
        return tuple(tuple(r) for r in readers)

    def is_node(self, eqn: Eqn) -> bool:
        """Whether an eqn does work of its own, rather than inside its readers' fusions."""
        return eqn.has_effects or not all(self.free[v] for v in eqn.outputs)

    def gaps(self, value: int) -> tuple[Gap, ...]:
        """The idle gaps of a stored value, in order."""
        uses = (self.program.producer[value], *self.readers[value])
        if value in self.program.result_values:
            uses = (*uses, len(self.program.eqns))
        return tuple(
            Gap(value, start + 1, stop) for start, stop in pairwise(uses) if stop > start + 1
        )

    def to_networkx(self) -> networkx.DiGraph:
        """The graph to explore: eqns as nodes, stored values as edges.

        Node attributes: `primitive`, `source`, `name_stack`. Edge attributes: `value`,
        `bytes`, `gap` (eqns between the two ends).
        """
        import networkx

        graph = networkx.DiGraph()
        for index, eqn in enumerate(self.program.eqns):
            if self.is_node(eqn):
                graph.add_node(
                    index,
                    primitive=eqn.primitive,
                    source=eqn.source,
                    name_stack=plain_name(str(eqn.name_stack)),
                )
        for value, readers in enumerate(self.readers):
            producer = self.program.producer[value]
            if producer < 0:
                continue
            for reader in readers:
                graph.add_edge(
                    producer,
                    reader,
                    value=value,
                    bytes=self.program.value_bytes[value],
                    gap=reader - producer - 1,
                )
        return graph


def liveness(program: Program, learnt: Learnt = NOTHING) -> LivenessGraph:
    """Find the free values of a program and what stands behind each of them."""
    free = [False] * len(program.avals)
    for eqn, reads in zip(program.eqns, _stored_reads(program, free), strict=True):
        if _is_free(program, eqn, reads):
            free[eqn.outputs[0]] = True
    for eqn in _with_one_end(program, free):
        free[eqn.outputs[0]] = True
    if learnt.stored or learnt.free:
        _overrule(program, free, learnt)
    reads_of_eqn = tuple(_stored_reads(program, free))
    sources: list[tuple[int, ...]] = [()] * len(program.avals)
    for eqn, reads in zip(program.eqns, reads_of_eqn, strict=True):
        for value in eqn.outputs:
            sources[value] = reads if free[value] else ()
    return LivenessGraph(program, tuple(free), reads_of_eqn, tuple(sources))


def _stored_reads(program: Program, free: list[bool]) -> Iterator[tuple[int, ...]]:
    """The stored values that each eqn reads; `free` may grow on the way."""
    behind: list[tuple[int, ...]] = [()] * len(program.avals)
    for eqn in program.eqns:
        found: dict[int, None] = {}
        for value in eqn.reads:
            found.update(dict.fromkeys(behind[value] if free[value] else (value,)))
        reads = tuple(found)
        for value in eqn.outputs:
            behind[value] = reads
        yield reads


def _with_one_end(program: Program, free: list[bool]) -> Iterator[Eqn]:
    """Elementwise eqns whose result, through free values, ends in one eqn: part of its fusion.

    A result with several readers is not repeated for that, as all of them are in one fusion.
    """
    ends: list[frozenset[int]] = [frozenset()] * len(program.avals)
    for index in range(len(program.eqns) - 1, -1, -1):
        eqn = program.eqns[index]
        outputs = eqn.outputs
        reached = frozenset[int]().union(*(ends[v] for v in outputs))
        if all(free[v] for v in outputs) and not eqn.has_effects:
            mine = reached
        elif _could_fuse(program, eqn) and len(reached) == 1:
            yield eqn
            mine = reached
        else:
            mine = frozenset((index,))
        for value in eqn.reads:
            ends[value] |= mine


def _overrule(program: Program, free: list[bool], learnt: Learnt) -> None:
    """What was seen in the place of what the rules say: definition 4."""
    ends: list[frozenset[int]] = [frozenset()] * len(program.avals)
    for index in range(len(program.eqns) - 1, -1, -1):
        eqn = program.eqns[index]
        reached = frozenset[int]().union(*(ends[v] for v in eqn.outputs))
        if _may_be_free(program, eqn):
            (value,) = eqn.outputs
            if value in learnt.stored and eqn.primitive not in primitives.STRUCTURAL:
                free[value] = False
            elif value in learnt.free:
                free[value] = _is_repeated(eqn) or len(reached) == 1
        is_free = all(free[v] for v in eqn.outputs) and not eqn.has_effects
        mine = reached if is_free else frozenset((index,))
        for value in eqn.reads:
            ends[value] |= mine


def _is_repeated(eqn: Eqn) -> bool:
    """Whether an eqn takes so little work that each reader may do it again."""
    cheap = primitives.FUSES_OPERANDS | primitives.SLICES
    return eqn.primitive in cheap or eqn.primitive.startswith(primitives.UPDATES_IN_PLACE)


def _may_be_free(program: Program, eqn: Eqn) -> bool:
    """Whether nothing but XLA's choice keeps an eqn from being part of its readers' fusions."""
    if len(eqn.outputs) != 1 or eqn.runs_once or eqn.nest is not None:
        return False
    (value,) = eqn.outputs
    handed_in = any(value in program.eqns[r].handed_in for r in program.consumers[value])
    return value not in program.result_values and not handed_in


def _could_fuse(program: Program, eqn: Eqn) -> bool:
    if len(eqn.outputs) != 1 or eqn.has_effects or eqn.primitive not in primitives.FUSIBLE:
        return False
    output = eqn.outputs[0]
    readers = program.consumers[output]
    fuses = all(program.eqns[r].primitive in primitives.FUSES_OPERANDS for r in readers)
    return fuses and output not in program.result_values


def _is_free(program: Program, eqn: Eqn, stored_reads: tuple[int, ...]) -> bool:
    if len(eqn.outputs) != 1 or eqn.has_effects:
        return False
    output = eqn.outputs[0]
    if output in program.result_values:
        return False
    if eqn.primitive not in primitives.FUSIBLE:
        return _is_short_reduction(program, eqn)
    size = program.value_bytes[output]
    if eqn.primitive not in primitives.ALIASES and _is_read_in_a_loop(
        program, output, stored_reads
    ):
        return size <= SCALAR_BYTES
    if eqn.primitive in primitives.STRUCTURAL or size <= SCALAR_BYTES:
        return True
    readers = program.consumers[output]
    if not all(program.eqns[r].primitive in primitives.FUSES_OPERANDS for r in readers):
        return False
    if len(readers) <= 1:
        return True
    large = [v for v in stored_reads if _is_large(program, v, size)]
    if eqn.primitive not in primitives.CHEAP or len(large) > 1:
        return False
    return not (is_spread_out(program, output) and len(_reduced_axes(program, output)) > 1)


def _is_short_reduction(program: Program, eqn: Eqn) -> bool:
    """Whether a reduction of few elements each is part of the fusion of its only reader."""
    if eqn.primitive not in primitives.REDUCTION or len(eqn.reads) != 1:
        return False
    (output,) = eqn.outputs
    readers = program.consumers[output]
    if LARGE * program.value_bytes[output] < program.value_bytes[eqn.reads[0]]:
        return False
    fusing = primitives.CHEAP | primitives.COSTLY
    return len(readers) == 1 and program.eqns[readers[0]].primitive in fusing


def _reduced_axes(program: Program, value: int) -> set[tuple[int, ...]]:
    """The axes over which reductions read a value that is spread out from smaller ones.

    Through elementwise eqns that read nothing of its size: those have it as part of a fusion.
    """
    found: set[tuple[int, ...]] = set()
    seen, stack = {value}, [value]
    while stack:
        for reader in program.consumers[stack.pop()]:
            eqn = program.eqns[reader]
            if eqn.primitive in primitives.REDUCTION:
                found.add(tuple(eqn.raw.params.get("axes", ())))
            elif eqn.primitive in primitives.FUSIBLE and eqn.outputs[0] not in seen:
                seen.add(eqn.outputs[0])
                if is_spread_out(program, eqn.outputs[0]):
                    stack.append(eqn.outputs[0])
    return found


def is_spread_out(program: Program, value: int) -> bool:
    """Whether a value is an elementwise function of nothing but smaller ones."""
    return 0 < LARGE * program.source_bytes[value] < program.value_bytes[value]


def _is_read_in_a_loop(program: Program, value: int, stored_reads: tuple[int, ...]) -> bool:
    """Whether a loop hands a value to each of its iterations, which XLA can do with buffers only.

    What is made of literals is made again in the body (`memjax.pricing.nests.with_bodies`).
    """
    if not stored_reads:
        return False
    return any(value in program.eqns[r].handed_in for r in program.consumers[value])


def _is_large(program: Program, value: int, size: int) -> bool:
    """Whether holding `value` weighs against storing a value of `size` bytes instead."""
    return program.producer[value] >= 0 and LARGE * program.value_bytes[value] >= size
