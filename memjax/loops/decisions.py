"""What was decided about a program's loops and the bodies in them, and the program that it makes.

In: a `Program` and `Decisions`. Out: a `Program` with the same results. Decisions name eqns
and values by number, so that they print, compare and are saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memjax.helpers.checked import Index
from memjax.loops.transform import LoopPlan, transform
from memjax.program.eqns import Body, Program


@dataclass(frozen=True)
class Inside:
    """Decisions for one body of one eqn.

    Attributes:
        eqn: index in the program after its loops were changed.
        body: number of the body among the eqn's.
        decisions: for the body.
    """

    eqn: Index
    body: Index
    decisions: Decisions


@dataclass(frozen=True)
class Decisions:
    """What happens to a program, loops first.

    Attributes:
        loops: changes of its pairs of scans.
        insides: decisions for bodies, of the program that these changes make.
        order: schedule of that program's nodes; None for each once.
    """

    loops: tuple[LoopPlan, ...] = ()
    insides: tuple[Inside, ...] = ()
    order: tuple[Index, ...] | None = None


def carry_out(program: Program, decisions: Decisions) -> Program:
    """The program that decisions about loops make; the schedule is not part of it."""
    return with_insides(transform(program, decisions.loops), decisions.insides)


def with_insides(program: Program, insides: Sequence[Inside]) -> Program:
    """Put planned bodies in the place of those that eqns have.

    Raises:
        IndexError: there is no such eqn or body.
        ValueError: an eqn has no bodies.
    """
    eqns = list(program.eqns)
    for inside in insides:
        nest = eqns[inside.eqn].nest
        if nest is None:
            raise ValueError(f"eqn {inside.eqn} has no bodies")
        bodies = list(nest.bodies)
        planned = carry_out(bodies[inside.body].program, inside.decisions)
        bodies[inside.body] = Body(planned, inside.decisions.order, keeps_order=True)
        eqns[inside.eqn] = replace(eqns[inside.eqn], nest=replace(nest, bodies=tuple(bodies)))
    return replace(program, eqns=tuple(eqns))
