"""Random decisions about a step, carried out: what a planner could ask for, without a planner.

In: a `Chooser` and a step with its arguments. Out: a function like the step. A variant of each
pair of scans, nodes that run again in the straight part and in the bodies of loops and
branches, and one of XLA's schedules are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from benchmarks.random_layers import Chooser, one_in
from memjax.emit.compile import compile_step
from memjax.emit.rewrite import rewrite
from memjax.fitting.budgeted import loop_for
from memjax.fitting.closed_loop import Loop
from memjax.loops.decisions import Decisions, Inside, with_insides
from memjax.loops.transform import transform
from memjax.planning.simulate import simulate
from memjax.pricing.coarsen import PricedProgram
from memjax.program.donation import without_shared_buffers
from memjax.program.eqns import Program

MOST_AGAIN = 3
INSIDE = 2
"""How deep bodies in bodies get schedules of their own."""


def random_order(c: Chooser, priced: PricedProgram, rarity: int = 4) -> tuple[int, ...]:
    """A valid schedule: nodes that have run run again before one in `rarity` first runs."""
    allowed = [i for i, node in enumerate(priced.problem.nodes) if node.recomputable]
    order: list[int] = []
    for node in range(len(priced.problem.nodes)):
        known = [i for i in allowed if i < node]
        if known and one_in(c, rarity):
            order += sorted({c.pick(known) for _ in range(c.integer(1, MOST_AGAIN))})
        order.append(node)
    simulate(priced.problem, order)
    return tuple(order)


def random_insides(
    c: Chooser, loop: Loop, program: Program, depth: int = INSIDE
) -> tuple[Inside, ...]:
    """Decisions for some of the bodies of a program."""
    insides = []
    for index, eqn in enumerate(program.eqns):
        if eqn.nest is None or not depth:
            continue
        for number, body in enumerate(eqn.nest.bodies):
            if one_in(c, 2):
                inner = random_insides(c, loop, body.program, depth - 1)
                planned = with_insides(body.program, inner)
                priced = loop.pricer.body(eqn.nest, planned, keeps_order=True)
                order = random_order(c, priced)
                insides.append(Inside(index, number, Decisions((), inner, order)))
    return tuple(insides)


def random_priced(c: Chooser, loop: Loop) -> PricedProgram:
    """The problem of the program that random decisions about loops make."""
    program = loop.prepared.graph.program
    if not loop.prepared.bodies:
        return loop.prepared
    plans = [c.pick(menu).plan for menu in loop.chooser.menus(program)]
    program = transform(program, [plan for plan in plans if plan is not None])
    return loop.coarsen(with_insides(program, random_insides(c, loop, program)), keeps_order=True)


def randomly_planned(
    c: Chooser, step: Callable[..., Any], args: tuple[Any, ...]
) -> Callable[..., Any]:
    """A step, a `BudgetedStep` for its settings, that runs random decisions."""
    loop, _ = loop_for(step, args, {})
    priced = random_priced(c, loop)
    order = random_order(c, priced)
    for_memory = c.pick((True, False))
    function = rewrite(priced, order)
    made = compile_step(function, loop.target, for_memory=for_memory, has_barriers=True)

    def planned(*args: Any) -> Any:
        leaves = without_shared_buffers(jax.tree.leaves(args), loop.target.donated)
        return jax.tree.unflatten(loop.program.out_tree, made.compiled(*leaves))

    return planned
