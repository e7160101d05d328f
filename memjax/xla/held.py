"""What is held at the peak of XLA's own buffers.

In: a `BufferAssignment` and its `Flow`. Out: `HeldBuffers`: the buffers held at the position where
the temporaries take most, and the bytes that lie unused between them.

Definitions

1. Arguments, and results that take no argument's buffer, are held throughout.
2. All temporaries share an allocation or a few. At a position its bytes in use are those that
   some needed buffer covers; where two cover the same bytes, as when an update is made in
   place, the newer one has them.
3. What the allocations take beyond that at their peak is *fragmentation*.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax

from memjax import _compat
from memjax.xla.flow import Flow
from memjax.xla.shapes import DEVICE_MEMORY

_Piece = tuple[int, int, int, int]
"""(allocation, offset, end, buffer id)."""


@dataclass(frozen=True)
class HeldBuffer:
    """Bytes held for one buffer.

    Attributes:
        bytes: that no newer buffer covers.
        instruction: XLA's message of what defines it.
        role: argument, result or temporary.
        index: which part of the instruction's shape it is; empty for all of it.
    """

    bytes: int
    instruction: Any
    role: str
    index: tuple[int, ...] = ()


@dataclass(frozen=True)
class HeldBuffers:
    """What is held at the peak.

    Attributes:
        buffers: largest first.
        fragmentation_bytes: taken by temporaries' allocations, and unused at the peak.
        at: name of the instruction that runs at the peak; empty without temporaries.
        position: of that instruction in XLA's order.
    """

    buffers: tuple[HeldBuffer, ...]
    fragmentation_bytes: int
    at: str
    position: int = 0


def held_at_peak(assignment: Any, flow: Flow, temp_bytes: int | None = None) -> HeldBuffers:
    """Find XLA's peak and what is held there.

    Args:
        assignment: XLA's, or what `memjax.xla.assign` makes of the module.
        flow: of the module.
        temp_bytes: of the temporaries' allocations, where the assignment has not XLA's own.
    """
    instruction_of = _instructions(assignment, flow)
    index_of = {b.id: tuple(b.defined_at.shape_index) for b in assignment.logical_buffers}
    held = []
    temporary = []
    for allocation in assignment.buffer_allocations:
        elsewhere = allocation.color != DEVICE_MEMORY
        if allocation.is_thread_local or allocation.is_constant or elsewhere:
            continue
        if allocation.is_entry_computation_parameter or allocation.maybe_live_out:
            is_argument = allocation.is_entry_computation_parameter
            buffer = _first_in(allocation, instruction_of, flow)
            role = "argument" if is_argument else "result"
            index = index_of.get(buffer, ())
            held.append(HeldBuffer(allocation.size, instruction_of.get(buffer), role, index))
        else:
            temporary.append(allocation)
    pieces = [
        (a.index, p.offset, p.offset + p.size, p.logical_buffer_id)
        for a in temporary
        for p in a.assigned
        if p.logical_buffer_id in flow.start
    ]
    position, used = _peak(pieces, flow)
    total = sum(a.size for a in temporary) if temp_bytes is None else temp_bytes
    for buffer, count in used.items():
        index = index_of[buffer]
        held.append(HeldBuffer(count, instruction_of.get(buffer), "temporary", index))
    return HeldBuffers(
        buffers=tuple(sorted((h for h in held if h.bytes), key=lambda h: -h.bytes)),
        fragmentation_bytes=max(0, total - sum(used.values())),
        at=flow.order[position].name if used else "",
        position=position,
    )


@dataclass(frozen=True)
class Reading:
    """What was read of a compiled program.

    Attributes:
        module: XLA's message of it.
        assignment: its buffers: XLA's own, or made of the module where XLA does not state them.
        flow: when each is needed.
        temp_bytes: of the temporaries' allocations; None where the assignment says it.
    """

    module: Any
    assignment: Any
    flow: Flow
    temp_bytes: int | None

    @cached_property
    def held(self) -> HeldBuffers:
        """What is held at the peak."""
        return held_at_peak(self.assignment, self.flow, self.temp_bytes)


_read: list[tuple[weakref.ref[jax.stages.Compiled], Reading | None]] = []
"""The program that was read last, since much is asked of one before the next."""


def reading_of(compiled: jax.stages.Compiled) -> Reading | None:
    """Read a compiled program; None where the backend does not show it, or without protobuf."""
    last = _read[0] if _read else None
    if last is None or last[0]() is not compiled:
        last = weakref.ref(compiled), _read_anew(compiled)
        _read[:] = [last]
    return last[1]


def _read_anew(compiled: jax.stages.Compiled) -> Reading | None:
    messages = _compat.compiled_messages(compiled)
    if messages is None:
        return None
    try:
        from memjax.xla import buffers_pb2
        from memjax.xla.assign import assignment_of
    except ImportError:
        return None
    module = buffers_pb2.Module.FromString(messages[1])
    if messages[0]:
        assignment = buffers_pb2.BufferAssignment.FromString(messages[0])
        return Reading(module, assignment, Flow.of(module, assignment), None)
    assignment, flow = assignment_of(module)
    stats: Any = compiled.memory_analysis()
    return Reading(module, assignment, flow, int(stats.temp_size_in_bytes))


def fragmentation_bytes(compiled: jax.stages.Compiled) -> float:
    """What lies unused between a compiled program's temporaries at their peak; infinite where
    that cannot be known.
    """
    reading = reading_of(compiled)
    return math.inf if reading is None else reading.held.fragmentation_bytes


def sized_like(compiled: jax.stages.Compiled, sizes: Iterable[int]) -> int:
    """Bytes of the temporaries at a program's peak that are as large as one of some buffers, each
    of which stands for one of them at the most; 0 where that cannot be known.
    """
    reading = reading_of(compiled)
    if reading is None:
        return 0
    held = Counter(b.bytes for b in reading.held.buffers if b.role == "temporary")
    return sum(size * count for size, count in (held & Counter(sizes)).items())


def _instructions(assignment: Any, flow: Flow) -> dict[int, Any]:
    """The instruction that defines each logical buffer."""
    by_id = {i.id: i for c in flow.module.computations for i in c.instructions}
    return {b.id: by_id.get(b.defined_at.instruction_id) for b in assignment.logical_buffers}


def _first_in(allocation: Any, instruction_of: dict[int, Any], flow: Flow) -> int:
    """The buffer that an allocation is for: a parameter, or else what is written last."""
    ids: list[int] = [a.logical_buffer_id for a in allocation.assigned]
    for buffer in ids:
        instruction = instruction_of.get(buffer)
        if instruction is not None and instruction.opcode == "parameter":
            return buffer
    return max(ids, key=lambda b: flow.start.get(b, -1), default=-1)


def _peak(pieces: Sequence[_Piece], flow: Flow) -> tuple[int, dict[int, int]]:
    """The position with most bytes in use, and those bytes by buffer.

    Added sizes are never less than the bytes in use, so positions are tried by their added
    sizes, from the largest, until no position that is left can have more.
    """
    added = _added(pieces, flow)
    best_position, best_bytes, best = 0, 0, {}
    for position in sorted(range(len(added)), key=lambda p: (-added[p], p)):
        if added[position] <= best_bytes:
            break
        live = [p for p in pieces if flow.start[p[3]] <= position < flow.stop[p[3]]]
        used = _used(live, flow)
        count = sum(used.values())
        if count > best_bytes:
            best_position, best_bytes, best = position, count, used
    return best_position, best


def _added(pieces: Sequence[_Piece], flow: Flow) -> list[int]:
    changes = [0] * (len(flow.order) + 1)
    for _, offset, end, buffer in pieces:
        changes[flow.start[buffer]] += end - offset
        changes[flow.stop[buffer]] -= end - offset
    total, result = 0, []
    for change in changes[:-1]:
        total += change
        result.append(total)
    return result


def _used(live: Iterable[_Piece], flow: Flow) -> dict[int, int]:
    """Bytes by buffer; where buffers cover the same bytes, the newest has them."""
    by_allocation: dict[int, list[_Piece]] = {}
    for piece in live:
        by_allocation.setdefault(piece[0], []).append(piece)
    used: dict[int, int] = {}
    for pieces in by_allocation.values():
        edges = sorted({edge for _, offset, end, _ in pieces for edge in (offset, end)})
        owner: dict[int, int] = {}
        place = {edge: i for i, edge in enumerate(edges)}
        for _, offset, end, buffer in sorted(pieces, key=lambda p: flow.start[p[3]]):
            for index in range(place[offset], place[end]):
                owner[index] = buffer
        for index, buffer in owner.items():
            used[buffer] = used.get(buffer, 0) + edges[index + 1] - edges[index]
    return used
