"""Copy an iteration of a scan into another loop, as much of it as is asked for.

In: a `Scan`, a level, where the iteration's values are already. Out: eqns on that level.

A value is copied with what it is computed from when it is asked for: the forward part of a
backward body so runs right before its first reader, and what nobody asks for does not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from memjax.loops.builder import Level, Ref, Source
from memjax.loops.pairs import Scan
from memjax.program.eqns import Eqn, Operand


@dataclass
class Iteration:
    """One iteration of a scan in the body of a new loop.

    Attributes:
        outside: the level of the scan's own operands.
        level: the new body.
        scan: whose body is copied.
        index: of the iteration.
        known: sources by value of the scan's body.
        stacks: values that are there in stacks, with the index into each.
        residuals: arguments that are values of `forward`'s body.
        forward: the same iteration of the forward scan.
    """

    outside: Level
    level: Level
    scan: Scan
    index: Ref
    known: dict[int, Source]
    stacks: dict[int, tuple[Ref, Source]] = field(default_factory=dict)
    residuals: dict[int, Operand] = field(default_factory=dict)
    forward: Iteration | None = None

    def source(self, operand: Operand) -> Source:
        """A value of the scan's body; what it is computed from is copied first."""
        if not isinstance(operand, int):
            return operand
        for eqn in self.missing(operand):
            inputs = [self.source(v) for v in eqn.inputs]
            outputs = self.level.copy(eqn, inputs, self.scan.body.avals)
            for value, ref in zip(eqn.outputs, outputs, strict=True):
                self.known.setdefault(value, ref)
        if operand not in self.known:
            self.known[operand] = self.leaf(operand)
        return self.known[operand]

    def missing(self, value: int) -> list[Eqn]:
        """The eqns that must run before a value is there, in order."""
        body = self.scan.body
        found: set[int] = set()
        stack = [value]
        while stack:
            value = stack.pop()
            producer = body.producer[value]
            if value in self.known or value in self.stacks or producer < 0 or producer in found:
                continue
            found.add(producer)
            stack += body.eqns[producer].reads
        return [body.eqns[i] for i in sorted(found)]

    def leaf(self, value: int) -> Source:
        """What no eqn of the body is run for."""
        scan = self.scan
        if value in self.stacks:
            return self.level.take(*self.stacks[value])
        if value in self.residuals:
            assert self.forward is not None
            return self.forward.source(self.residuals[value])
        for argument, operand in zip(scan.constant_arguments, scan.constant_operands, strict=True):
            if argument == value:
                return self.of_outside(operand)
        for argument, operand in zip(scan.slice_arguments, scan.slice_operands, strict=True):
            if argument == value and operand in scan.views:
                view = scan.views[operand]
                whole = self.of_outside(view.source)
                return self.level.take_transposed(whole, self.index, view.order)
            if argument == value:
                return self.level.take(self.of_outside(operand), self.index)
        for constant, array in scan.body.constants:
            if constant == value:
                return self.level.array(scan.body.avals[value], array)
        raise AssertionError("a carry of the forward scan is neither stacked nor handed on")

    def of_outside(self, operand: Operand) -> Source:
        """An operand of the scan."""
        return Ref(self.outside, operand) if isinstance(operand, int) else operand

    def stacked(
        self, values: Sequence[Operand], stacks: Sequence[Ref], where: Sequence[Source]
    ) -> list[Source]:
        """Compute values in the order of the body, and put each into its stack at once."""
        body = self.scan.body
        filled: dict[int, Source] = {}
        places = {id(eqn): number for number, eqn in enumerate(body.eqns)}

        def place(number: int) -> int:
            value = values[number]
            producer = body.producer[value] if isinstance(value, int) else -1
            return places[id(body.eqns[producer])] if producer >= 0 else -1

        for number in sorted(range(len(values)), key=place):
            value = self.source(values[number])
            filled[number] = self.level.put(stacks[number], where[number], value)
        return [filled[number] for number in range(len(values))]
