"""Write the program that a schedule asks for, by re-tracing it under a fresh `jax.jit`.

In: a `PricedProgram` and a schedule. Out: a function of the flat arguments that binds eqn
after eqn, with names and source lines of the original.

Before each segment stands its barrier (see `memjax.pricing.segments`). Free values are computed
again behind it from their stored values, so that XLA can fuse them into each reader.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from memjax import _compat
from memjax.emit.bodies import emit
from memjax.pricing.coarsen import PricedProgram
from memjax.pricing.cost import free_closure
from memjax.pricing.segments import Segment, segments
from memjax.program.eqns import Constant, Eqn


def rewrite(
    priced: PricedProgram, order: Sequence[int], fences: Collection[int] | None = None
) -> Callable[..., list[Any]]:
    """The function of the flat arguments that runs a schedule; it returns the flat results.

    Args:
        priced: the problem.
        order: nodes in the order they run.
        fences: see `memjax.pricing.segments`.
    """
    parts = segments(priced, order, fences)

    def planned(*arguments: Any) -> list[Any]:
        return _Interpreter(priced).run(parts, arguments)

    planned.__name__ = planned.__qualname__ = priced.graph.program.name
    return planned


@dataclass
class _Interpreter:
    """Binds eqns under JAX's trace. `stored` and `free` are the newest copies by value id."""

    priced: PricedProgram
    stored: dict[int, Any] = field(default_factory=dict)
    free: dict[int, Any] = field(default_factory=dict)

    def run(self, parts: Sequence[Segment], arguments: Sequence[Any]) -> list[Any]:
        program = self.priced.graph.program
        self.stored.update(zip(program.arguments, arguments, strict=True))
        self.stored.update(program.constants)
        for part in parts:
            if part.barrier:
                self.pass_barrier(part.barrier)
            for node in part.nodes:
                self.run_node(node)
        return [self.read(result) for result in program.results]

    def pass_barrier(self, values: Sequence[int]) -> None:
        fenced = _compat.barrier([self.stored[v] for v in values])
        self.stored.update(zip(values, fenced, strict=True))
        self.free.clear()

    def run_node(self, node: int) -> None:
        graph, index = self.priced.graph, self.priced.eqn_of_node[node]
        for free in free_closure(graph, index):
            if graph.program.eqns[free].outputs[0] not in self.free:
                eqn = graph.program.eqns[free]
                self.free.update(zip(eqn.outputs, self.bind(eqn), strict=True))
        eqn = graph.program.eqns[index]
        written = self.run_bodies(index) if _runs_bodies(eqn) else self.bind(eqn)
        self.stored.update(zip(eqn.outputs, written, strict=True))

    def bind(self, eqn: Eqn) -> list[Any]:
        return _compat.bind(eqn.raw, eqn.name_stack, [self.read(v) for v in eqn.inputs])

    def run_bodies(self, index: int) -> Sequence[Any]:
        eqn = self.priced.graph.program.eqns[index]
        bodies = [rewrite(b.priced, b.order) for b in self.priced.bodies[index]]
        return emit(eqn, bodies, [self.read(v) for v in eqn.inputs])

    def read(self, operand: int | Constant) -> Any:
        if isinstance(operand, Constant):
            return operand.value
        values = self.free if self.priced.graph.free[operand] else self.stored
        return values[operand]


def _runs_bodies(eqn: Eqn) -> bool:
    """Whether an eqn's bodies are written anew: planned ones, and those of all scans, which are
    prepared like the program around them.
    """
    if eqn.nest is None:
        return False
    return eqn.nest.is_planned or (eqn.nest.kind == "scan" and not eqn.has_effects)
