"""What a plan remembers of its program, to tell it from any other.

In: a `Program`. Out: a `Fingerprint`, the same in every process; two say in words what sets them
apart.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import jax

from memjax.helpers.checked import Index
from memjax.program.eqns import Program


@dataclass(frozen=True)
class Fingerprint:
    """What a plan remembers of its program.

    Attributes:
        name: of the step.
        arguments: `name: type` of each flat argument.
        eqns: how many there are.
        digest: of every primitive, type and operand.
        jax_version: what traced it; compared only to explain a difference.
    """

    name: str
    arguments: tuple[str, ...]
    eqns: Index
    digest: str
    jax_version: str = field(compare=False)

    def difference(self, other: Fingerprint) -> str | None:
        """What sets `other` apart from this one, in words; None where nothing does."""
        if self == other:
            return None
        for mine, its in zip(self.arguments, other.arguments, strict=False):
            if mine != its:
                return f"the plan's program takes {mine}, this one {its}"
        if len(self.arguments) != len(other.arguments):
            return (
                f"the plan's program takes {len(self.arguments)} arrays, "
                f"this one {len(other.arguments)}"
            )
        if self.jax_version != other.jax_version:
            return (
                f"the plan's program was traced by jax {self.jax_version}, "
                f"this one by {other.jax_version}, which traces it differently"
            )
        if self.eqns != other.eqns:
            return f"the plan's program has {self.eqns} eqns, this one {other.eqns}"
        return f"the plan is for {self.name!r}, this is {other.name!r} with other eqns"


def fingerprint(program: Program) -> Fingerprint:
    """The fingerprint of a program; the same in every process."""
    digest = hashlib.sha256()
    for eqn in program.eqns:
        types = ",".join(program.avals[v].str_short() for v in eqn.outputs)
        reads = ",".join(str(v) for v in eqn.inputs if isinstance(v, int))
        digest.update(f"{eqn.primitive}({reads})->{eqn.outputs}:{types};".encode())
    arguments = tuple(
        f"{name}: {program.avals[value].str_short()}"
        for name, value in zip(program.argument_names, program.arguments, strict=True)
    )
    return Fingerprint(
        name=program.name,
        arguments=arguments,
        eqns=len(program.eqns),
        digest=digest.hexdigest(),
        jax_version=jax.__version__,
    )
