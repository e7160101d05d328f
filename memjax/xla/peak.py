"""XLA's own peak, in the user's lines, beside what was predicted.

In: a compiled program, and the `Ledger` of the program that it was compiled from. Out: `XlaPeak`.

An instruction names its eqn by the tag in its `op_name` (`memjax.program.tags`). Where that is
inside of a body, the source line among the instruction's stack frames and the marks of the
name stack say the rest. What XLA made without a name of its own (copies between memories, some
fusions) has the origin of what it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax

from memjax.helpers import looks
from memjax.helpers.budget import format_bytes
from memjax.pricing.attribution import Origin, argument_origins, module_of_op_name, phase_of_op_name
from memjax.pricing.holders import Holder, Ledger, Share, by_line, by_module, by_phase
from memjax.program.source_lines import is_own_file, is_package_file, is_user_file, line_text
from memjax.program.tags import Path, path_of, plain_name
from memjax.xla.flow import Index, Names, behind
from memjax.xla.held import HeldBuffer, HeldBuffers, reading_of

FRAGMENTATION = "between buffers (fragmentation)"
EXPLAIN_FROM = 0.05
"""Above this part of the prediction, the report says what makes XLA's peak differ from it."""
_BARRIER = "/optimization_barrier"
"""The end of the names of memjax's own barriers, which are nobody's eqns."""
_VAGUE = ("/while", "/dynamic_update_slice", "/broadcast_in_dim", _BARRIER)
"""The ends of names that say how a loop is run, and not what it computes."""
_ARGUMENT = re.compile(r"arguments\[(\d+)\]")


@dataclass(frozen=True)
class Difference:
    """Bytes at XLA's peak beyond those at the predicted peak, for one line and phase."""

    label: str
    xla_bytes: int
    predicted_bytes: int

    @property
    def bytes(self) -> int:
        """XLA's bytes beyond the predicted ones; negative where XLA holds less."""
        return self.xla_bytes - self.predicted_bytes


@dataclass(frozen=True)
class XlaPeak:
    """What is held at the peak of the compiled program.

    Attributes:
        total_bytes: of all holders; what the program's footprint says.
        holders: largest first, with fragmentation as one of them.
        at: XLA's name of the instruction that runs there.
        differences: from the predicted peak, by line and phase, largest first.
    """

    total_bytes: int
    holders: tuple[Holder, ...]
    at: str
    differences: tuple[Difference, ...]

    def __repr__(self) -> str:
        return f"<XlaPeak: {format_bytes(self.total_bytes)} at {self.at or 'the start'}>"

    def __str__(self) -> str:
        return self.text(6)

    def text(self, most: int | None = None) -> str:
        """What is held, with at most so many rows; None for all."""
        return looks.text(self, most)

    def by_line(self) -> tuple[Share, ...]:
        """Bytes by the user's line, largest first."""
        return by_line(self.holders)

    def by_module(self, depth: int | None = None) -> tuple[Share, ...]:
        """Bytes by module path, cut to `depth` names, largest first."""
        return by_module(self.holders, depth)

    def by_phase(self) -> tuple[Share, ...]:
        """Bytes by phase, largest first."""
        return by_phase(self.holders)


def xla_peak(
    compiled: jax.stages.Compiled, ledger: Ledger, predicted: Sequence[Holder]
) -> XlaPeak | None:
    """What is held at XLA's peak; None where XLA does not say, or protobuf is not installed.

    Args:
        compiled: made from the ledger's program by `memjax.emit.rewrite`.
        ledger: where the program's values come from.
        predicted: what is held at the predicted peak.
    """
    reading = reading_of(compiled)
    if reading is None:
        return None
    found = reading.held
    holders = _holders(found, _Locator(ledger, reading.module))
    return XlaPeak(
        total_bytes=sum(h.bytes for h in holders),
        holders=holders,
        at=found.at,
        differences=differences(holders, predicted),
    )


def _holders(found: HeldBuffers, locator: _Locator) -> tuple[Holder, ...]:
    holders = [locator.holder(buffer) for buffer in found.buffers]
    if found.fragmentation_bytes > 0:
        holders.append(Holder(found.fragmentation_bytes, FRAGMENTATION, None, ""))
    return tuple(sorted(holders, key=lambda h: -h.bytes))


def differences(xla: Iterable[Holder], predicted: Iterable[Holder]) -> tuple[Difference, ...]:
    """Where two peaks differ, by line and phase, the largest difference first."""
    sums: dict[str, list[int]] = {}
    for side, holders in enumerate((xla, predicted)):
        for holder in holders:
            place = f"{holder.source or holder.what}, {holder.phase}".rstrip(", ")
            sums.setdefault(place, [0, 0])[side] += holder.bytes
    found = [Difference(label, *sides) for label, sides in sums.items()]
    return tuple(sorted((d for d in found if d.bytes), key=lambda d: -abs(d.bytes)))


@dataclass(frozen=True)
class _Locator:
    """Finds the eqn, and so the origin, behind an instruction."""

    ledger: Ledger
    module: Any

    @cached_property
    def eqns(self) -> dict[Path, list[int]]:
        """Eqns by their tags."""
        found: dict[Path, list[int]] = {}
        for index, eqn in enumerate(self.ledger.priced.graph.program.eqns):
            found.setdefault(eqn.path, []).append(index)
        return found

    @cached_property
    def scopes(self) -> dict[str, list[Origin]]:
        """Origins of the eqns by their name stacks."""
        found: dict[str, list[Origin]] = {}
        program = self.ledger.priced.graph.program
        for eqn, origin in zip(program.eqns, self.ledger.origins, strict=True):
            found.setdefault(plain_name(str(eqn.name_stack)), []).append(origin)
        return found

    @cached_property
    def arguments(self) -> tuple[Origin, ...]:
        """Origins of the flat arguments."""
        return argument_origins(self.ledger.priced.graph.program, self.ledger.origins)

    @cached_property
    def names(self) -> Names:
        """Instructions and computations by id."""
        return Names.of(self.module)

    def holder(self, held: HeldBuffer) -> Holder:
        """The holder of one buffer."""
        if held.instruction is None:
            return Holder(held.bytes, held.role, None, "")
        named = self._named(held.instruction, held.index)
        name = named.metadata.op_name if named is not None else ""
        argument = _ARGUMENT.search(name)
        if argument is not None:
            return self._of_argument(held, int(argument[1]), name)
        origin = self._origin(named) if named is not None else Origin(None, "", "forward")
        what = f"{held.instruction.opcode} {name.rpartition('/')[2]}".rstrip()
        phase: str = "result" if held.role == "result" else origin.phase
        known = origin.line is not None or named is not None
        module, phase = origin.module, phase if known else ""
        return Holder(held.bytes, what, origin.line, plain_name(name), module, phase)

    def _of_argument(self, held: HeldBuffer, index: int, name: str) -> Holder:
        program = self.ledger.priced.graph.program
        own = program.argument_names[index] if index < len(program.argument_names) else name
        origin = self.arguments[index] if index < len(self.arguments) else None
        root = re.split(r"\[(?=['\"])", own, maxsplit=1)[0]
        is_argument = held.role == "argument"
        what = f"argument {root}" if is_argument else f"{held.instruction.opcode} of {root}"
        line, module = (origin.line, origin.module) if origin else (None, "")
        return Holder(held.bytes, what, line, own, module, "argument")

    def _named(self, instruction: Any, index: Index = ()) -> Any:
        """The nearest instruction with a telling name: itself, what it fuses, what it reads."""
        vague = None
        for candidate, _ in behind(self.names, instruction, index):
            name = candidate.metadata.op_name
            if name and (not name.endswith(_VAGUE) or self._eqns_named(name)):
                return candidate
            if name and vague is None and not name.endswith(_BARRIER):
                vague = candidate
        return vague

    def _origin(self, instruction: Any) -> Origin:
        """Line, module and phase of a named instruction."""
        name = instruction.metadata.op_name
        line = self._line(instruction.metadata)
        named = self._eqns_named(name)
        candidates: Sequence[Origin] = [self.ledger.origins[e] for e in named]
        if not candidates and line is not None:
            phase = phase_of_op_name(name)
            same_line = (o for o in self.ledger.origins if o.line == line)
            default = Origin(line, module_of_op_name(name), phase or "forward")
            return default if phase else next(same_line, default)
        candidates = candidates or self._eqns_under(name)
        default = Origin(None, "", "forward")
        return next((o for o in candidates if o.line == line), next(iter(candidates), default))

    def _eqns_under(self, op_name: str) -> Sequence[Origin]:
        """Origins of the eqns in the innermost scope of a name that has any.

        What a primitive is lowered to, such as the loop of random bits, has no eqn of its name.
        """
        scope = plain_name(op_name).partition("/")[2]
        while scope:
            scope = scope.rpartition("/")[0]
            if scope in self.scopes:
                return self.scopes[scope]
        return ()

    def _eqns_named(self, op_name: str) -> Sequence[int]:
        """The eqns that an instruction is of; none where it is inside of an eqn's body."""
        return self.eqns.get(path_of(op_name), ())

    def _line(self, metadata: Any) -> str | None:
        """The user's line among the stack frames of an instruction, innermost first."""
        index = self.module.stack_frame_index
        package = None
        frame_id = metadata.stack_frame_id
        while frame_id:
            frame = index.stack_frames[frame_id - 1]
            place = index.file_locations[frame.file_location_id - 1]
            file_name = index.file_names[place.file_name_id - 1]
            function = index.function_names[place.function_name_id - 1]
            if is_own_file(file_name):
                break
            if is_user_file(file_name):
                return line_text(file_name, place.line, function)
            if package is None and is_package_file(file_name):
                package = line_text(file_name, place.line, function)
            frame_id = frame.parent_frame_id
        return package
