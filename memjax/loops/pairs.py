"""Find the loops whose memory is worth planning: a scan that stacks, and those that read it.

In: a `Program`. Out: `Pair`s.

The forward pass of a differentiated scan stacks residuals, and one or more scans of the
backward pass take them slice by slice. Index `t` of a stack is written by iteration `t` of
the one and read by iteration `t` of the others, whichever way each of them runs; so whatever
iteration `t` of the forward scan computed from its carry, its slices and its constants can
be computed again in iteration `t` of the backward scan.

A *residual* is a stack that only such scans read. What else reads a stack (the user, a
matmul over all states) keeps it whole.

Slices of a transposed value (the batch of a Flax `nn.RNN`, which comes batch first) are taken
from the value itself, so that no loop needs the transposed copy. XLA:CPU makes two.

Not handled: a scan that is unrolled by `unroll` greater than its length stays so; stacks that
are reshaped on their way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from memjax.pricing.nests import nest_of
from memjax.program.eqns import Eqn, Operand, Program


@dataclass(frozen=True)
class View:
    """A value of a program that is another one with its dimensions in another order.

    Attributes:
        source: the other value.
        order: its dimensions, in the order of the view's.
    """

    source: Operand
    order: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan eqn taken apart.

    Attributes:
        index: of the eqn in its program.
        eqn: itself.
        body: takes constants, carries, slices; returns carries and what is stacked.
        constants: how many operands are constants.
        carries: how many are carries.
        length: iterations.
        reverse: whether the last slice comes first.
        views: transposed values whose slices can be taken from what they are views of.
    """

    index: int
    eqn: Eqn
    body: Program
    constants: int
    carries: int
    length: int
    reverse: bool
    views: Mapping[Operand, View] = field(default_factory=dict)

    @property
    def constant_operands(self) -> tuple[Operand, ...]:
        """What every iteration reads whole."""
        return self.eqn.inputs[: self.constants]

    @property
    def carry_operands(self) -> tuple[Operand, ...]:
        """What the first iteration starts from."""
        return self.eqn.inputs[self.constants : self.constants + self.carries]

    @property
    def slice_operands(self) -> tuple[Operand, ...]:
        """What is taken apart along its first dimension."""
        return self.eqn.inputs[self.constants + self.carries :]

    @property
    def constant_arguments(self) -> tuple[int, ...]:
        """The body's arguments for the constants."""
        return self.body.arguments[: self.constants]

    @property
    def carry_arguments(self) -> tuple[int, ...]:
        """The body's arguments for the carries."""
        return self.body.arguments[self.constants : self.constants + self.carries]

    @property
    def slice_arguments(self) -> tuple[int, ...]:
        """The body's arguments for the slices."""
        return self.body.arguments[self.constants + self.carries :]

    @property
    def carry_results(self) -> tuple[Operand, ...]:
        """The body's results that the next iteration starts from."""
        return self.body.results[: self.carries]

    @property
    def stacked_results(self) -> tuple[Operand, ...]:
        """The body's results that are stacked."""
        return self.body.results[self.carries :]

    @property
    def stacks(self) -> tuple[int, ...]:
        """The program's values that hold the stacked results."""
        return self.eqn.outputs[self.carries :]

    @cached_property
    def runs_once(self) -> bool:
        """Whether an iteration prints, calls back, or must not run again otherwise."""
        return self.eqn.runs_once or any(e.runs_once for e in self.body.eqns)


@dataclass(frozen=True, eq=False)
class Pair:
    """A scan that stacks residuals and the scans that read them.

    Attributes:
        forward: writes them.
        backward: read them, in the program's order.
        residuals: numbers of the forward scan's stacks that only these read.
    """

    forward: Scan
    backward: tuple[Scan, ...]
    residuals: tuple[int, ...]

    def links(self, scan: Scan) -> dict[int, int]:
        """For a backward scan: its body's arguments with the number of the stack they come from."""
        number = {stack: n for n, stack in enumerate(self.forward.stacks)}
        return {
            argument: number[operand]
            for argument, operand in zip(scan.slice_arguments, scan.slice_operands, strict=True)
            if isinstance(operand, int) and operand in number
        }


def find_pairs(program: Program) -> tuple[Pair, ...]:
    """The pairs of a program; no eqn is part of two."""
    scans = {i: _scan(i, eqn) for i, eqn in enumerate(program.eqns) if _is_readable(eqn)}
    taken: set[int] = set()
    pairs = []
    for index, scan in scans.items():
        if index in taken or scan.runs_once:
            continue
        pair = _pair_of(program, scan, {i: s for i, s in scans.items() if i not in taken})
        if pair is not None:
            taken.update((index, *(s.index for s in pair.backward)))
            pairs.append(_with_views(program, pair))
    return tuple(pairs)


def _is_readable(eqn: Eqn) -> bool:
    return eqn.primitive == "scan" and (eqn.nest is None or eqn.nest.kind == "scan")


def _scan(index: int, eqn: Eqn) -> Scan:
    nest = eqn.nest or nest_of(eqn)
    assert nest is not None
    return Scan(
        index, eqn, nest.bodies[0].program, nest.constants, nest.carries, nest.length, nest.reverse
    )


def _with_views(program: Program, pair: Pair) -> Pair:
    """The pair, with the transposed values that only it reads, or that are made of arguments."""
    scans = (pair.forward, *pair.backward)
    members = {scan.index for scan in scans}
    views: dict[Operand, View] = {}
    for operand in dict.fromkeys(o for scan in scans for o in scan.slice_operands):
        producer = program.producer[operand] if isinstance(operand, int) else -1
        if producer < 0 or program.eqns[producer].primitive != "transpose":
            continue
        assert isinstance(operand, int)
        eqn = program.eqns[producer]
        of_arguments = all(program.producer[v] < 0 for v in eqn.reads)
        if of_arguments or members.issuperset(program.consumers[operand]):
            views[operand] = View(eqn.inputs[0], tuple(eqn.raw.params["permutation"]))
    forward, *backward = (replace(scan, views=views) for scan in scans)
    return replace(pair, forward=forward, backward=tuple(backward))


def _pair_of(program: Program, forward: Scan, scans: dict[int, Scan]) -> Pair | None:
    """The pair that a scan is the forward pass of, if it is one."""
    if not forward.length:
        return None
    residuals = []
    readers: dict[int, None] = {}
    for number, stack in enumerate(forward.stacks):
        consumers = program.consumers[stack]
        if not consumers or stack in program.result_values:
            continue
        if all(_reads_slices(scans.get(c), forward, stack) for c in consumers):
            residuals.append(number)
            readers.update(dict.fromkeys(consumers))
    if not residuals:
        return None
    return Pair(forward, tuple(scans[r] for r in sorted(readers)), tuple(residuals))


def _reads_slices(scan: Scan | None, forward: Scan, stack: int) -> bool:
    """Whether a scan reads a stack of another one slice by slice, and in no other way."""
    if scan is None or scan.index == forward.index or scan.runs_once:
        return False
    elsewhere = (*scan.constant_operands, *scan.carry_operands)
    return scan.length == forward.length and stack not in elsewhere
