"""Plan a program with loops: which variant of each pair of scans, what inside of each body,
what of the straight part.

In: a `Program`, a target for its peak, a planner for straight programs.
Out: a `Choice`: decisions, the program that they make, its problem and schedule.

1. The variants of all pairs are put into one chain, from "as it is" to the fewest bytes: each
   link moves one pair to the variant that saves most bytes for its seconds.
2. By bisection the first link is found from which on the target is met without planning
   anything else. It and a few links before it compete: in these, what is still too high is
   planned inside of bodies, each for what its surroundings leave, and by recomputation of the
   straight part. The cheapest that meets the target wins.
3. Bodies are planned by the same rules, loops in them included.

What a body costs counts for every iteration. No link is taken that costs more than what was
found already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from memjax.loops.decisions import Decisions, Inside, with_insides
from memjax.loops.menu import Variant, variants
from memjax.loops.pairs import find_pairs
from memjax.loops.transform import LoopPlan, transform
from memjax.planning.planners import Planner
from memjax.planning.problem import Problem, Solution
from memjax.planning.simulate import Timeline
from memjax.pricing.coarsen import PricedProgram
from memjax.pricing.price import Pricer
from memjax.pricing.segments import emitted_timeline
from memjax.program.eqns import Nest, Program

EARLIER_LINKS = 2
"""How many cheaper links compete with the first that meets the target by itself."""
WORTH = 0.02
"""They do where they could save this part of the step's seconds; planning takes seconds, too."""
BOUND_SLACK = 0.002
"""What the variants' seconds may be too high by, in parts of the step's; seen: 0.0003."""
DEPTH = 0.75
"""A body is not planned for less than this part of what it comes to when as little as possible is
asked for: aiming between the two helps (16 % on a neural ODE), further down it does not."""
TIGHTEST_LINKS = 3
"""How many links with the lowest floors are tried where the target is not met."""


_Price = Callable[[Program, bool], PricedProgram]


@dataclass(frozen=True)
class Choice:
    """A planned program.

    Attributes:
        decisions: what was decided.
        priced: the problem of the program that the loops' changes make, bodies planned.
        solution: the straight part's schedule.
        peak_bytes: as it is carried out.
        seconds: predicted, all told.
        met: whether the target is met.
        bound_seconds: no choice among the pairs' variants that meets the target takes less.
    """

    decisions: Decisions
    priced: PricedProgram
    solution: Solution
    peak_bytes: int
    seconds: float
    met: bool
    bound_seconds: float = 0.0


@dataclass(frozen=True)
class Link:
    """One variant of each pair.

    Attributes:
        loops: the changes that they are.
        bytes: estimated, of all pairs.
        least_bytes: estimated for the pair that holds most, its bodies planned tightly.
        seconds: of running eqns of the pairs again, at least.
    """

    loops: tuple[LoopPlan, ...]
    bytes: int
    least_bytes: int
    seconds: float


@dataclass
class Chooser:
    """Plans programs and the bodies in them.

    Attributes:
        pricer: of the device.
        planner: of straight programs.
    """

    pricer: Pricer
    planner: Planner
    _menus: dict[int, tuple[Program, list[list[Variant]]]] = field(default_factory=dict)
    _known: dict[tuple[int, tuple[LoopPlan, ...]], PricedProgram] = field(default_factory=dict)
    _bodies: dict[tuple[int, int, int, Planner], tuple[Nest, Choice]] = field(default_factory=dict)
    _solved: dict[tuple[Problem, int, Planner], Solution] = field(default_factory=dict)

    def choose(self, program: Program, target_bytes: int, price: _Price) -> Choice:
        """Plan a program for a target.

        Args:
            program: with its eqns' bodies looked into.
            target_bytes: for its peak; 0 for as low as it goes.
            price: the problem of a program that took this one's place.
        """
        menus = self.menus(program)
        chain = _chain(menus)
        first = self._first_that_meets(program, chain, target_bytes, price)
        best = self._at(program, chain[first], target_bytes, price)
        rival = replace(self, planner=self.planner.quick())
        plain = self._priced(program, (), price).problem
        worth = best.seconds - (1 + WORTH) * plain.total_cost
        rivals = [
            link for link in chain[max(0, first - EARLIER_LINKS) : first] if link.seconds < worth
        ]
        if not best.met:
            tightest = sorted(chain, key=lambda link: link.least_bytes)
            rivals = list(dict.fromkeys([*rivals, *tightest[:TIGHTEST_LINKS]]))
        for link in rivals:
            choice = rival._at(program, link, target_bytes, price)
            if _key(choice) < _key(best):
                best = choice
        least = _least_seconds(menus, target_bytes - plain.base_bytes)
        bound = (1 - BOUND_SLACK) * plain.total_cost + least - self._spared_inside(program)
        return replace(best, bound_seconds=bound)

    def menus(self, program: Program) -> list[list[Variant]]:
        """The variants of each pair of a program."""
        if id(program) not in self._menus:
            menus = [variants(program, pair, self.pricer) for pair in find_pairs(program)]
            self._menus[id(program)] = program, menus
        return self._menus[id(program)][1]

    def _spared_inside(self, program: Program) -> float:
        """Seconds that the loops in a program's bodies could spare at the most, if changed."""
        spared = 0.0
        for nest in (eqn.nest for eqn in program.eqns if eqn.nest is not None):
            for body in nest.bodies:
                own = sum(min(v.seconds for v in menu) for menu in self.menus(body.program))
                spared += nest.length * (self._spared_inside(body.program) - min(0.0, own))
        return spared

    def _priced(
        self, program: Program, loops: tuple[LoopPlan, ...], price: _Price
    ) -> PricedProgram:
        """The problem of a program with its loops changed; `_menus` keeps the program alive."""
        key = id(program), loops
        if key not in self._known:
            self._known[key] = price(transform(program, loops), bool(loops))
        return self._known[key]

    def _first_that_meets(
        self, program: Program, chain: Sequence[Link], target_bytes: int, price: _Price
    ) -> int:
        """The first link that meets the target without further decisions; the last if none.

        Links that only planned bodies make smaller than those before are passed over.
        """
        falling: list[int] = []
        for number, link in enumerate(chain):
            if not falling or link.bytes < chain[falling[-1]].bytes:
                falling.append(number)
        low, high = 0, len(falling) - 1
        while low < high:
            middle = (low + high) // 2
            priced = self._priced(program, chain[falling[middle]].loops, price)
            peak_bytes = emitted_timeline(priced, priced.problem.identity).peak_bytes
            if peak_bytes <= target_bytes:
                high = middle
            else:
                low = middle + 1
        return falling[low]

    def _at(
        self,
        program: Program,
        link: Link,
        target_bytes: int,
        price: _Price,
    ) -> Choice:
        """Plan with given changes of the loops."""
        loops = link.loops
        priced = self._priced(program, loops, price)
        timeline = emitted_timeline(priced, priced.problem.identity)
        insides: tuple[Inside, ...] = ()
        if timeline.peak_bytes > target_bytes:
            insides = self._inside(priced, timeline, target_bytes)
            if insides:
                priced = price(with_insides(priced.graph.program, insides), True)
        solution = self._solve(priced.problem, target_bytes)
        return self._choice(Decisions(loops, insides), priced, solution, target_bytes)

    def _solve(self, problem: Problem, target_bytes: int) -> Solution:
        """The planner's answer; a body may be the same in several links."""
        key = problem, target_bytes, self.planner
        if key not in self._solved:
            self._solved[key] = self.planner.solve(problem, target_bytes)
        return self._solved[key]

    def _choice(
        self, decisions: Decisions, priced: PricedProgram, solution: Solution, target_bytes: int
    ) -> Choice:
        timeline = emitted_timeline(priced, solution.order)
        order = None if solution.order == priced.problem.identity else solution.order
        return Choice(
            replace(decisions, order=order),
            priced,
            solution,
            max(timeline.peak_bytes, priced.problem.base_bytes),
            timeline.cost,
            max(timeline.peak_bytes, priced.problem.base_bytes) <= target_bytes,
        )

    def _inside(
        self, priced: PricedProgram, timeline: Timeline, target_bytes: int
    ) -> tuple[Inside, ...]:
        """Decisions for the bodies that are over the target where they stand."""
        found: list[Inside] = []
        for index, bodies in priced.bodies.items():
            nest = priced.graph.program.eqns[index].nest
            assert nest is not None
            position = priced.node_of_eqn[index]
            around = timeline.bytes_at[position] - priced.inner[index].peak_bytes
            left = max(0, target_bytes - around)
            if priced.inner[index].peak_bytes <= left:
                continue
            for number, body in enumerate(bodies):
                decisions = self._body(nest, number, body.priced, left)
                if decisions != Decisions():
                    found.append(Inside(index, number, decisions))
        return tuple(found)

    def _body(self, nest: Nest, number: int, priced: PricedProgram, target_bytes: int) -> Decisions:
        """Decisions for a body: its lowest, where the target is far below that."""
        choice = self._planned(nest, number, 0)
        if DEPTH * choice.peak_bytes < target_bytes:
            choice = self._planned(nest, number, target_bytes)
        plain = emitted_timeline(priced, priced.problem.identity)
        better = choice.peak_bytes < max(plain.peak_bytes, priced.problem.base_bytes)
        return choice.decisions if better else Decisions()

    def _planned(self, nest: Nest, number: int, target_bytes: int) -> Choice:
        """A planned body, which stands in many a link; its nest is kept alive."""

        def price(program: Program, keeps_order: bool) -> PricedProgram:
            return self.pricer.body(nest, program, keeps_order=keeps_order)

        key = id(nest), number, target_bytes, self.planner
        if key not in self._bodies:
            choice = self.choose(nest.bodies[number].program, target_bytes, price)
            self._bodies[key] = nest, choice
        return self._bodies[key][1]


def _key(choice: Choice) -> tuple[bool, float, int]:
    if choice.met:
        return False, choice.seconds, choice.peak_bytes
    return True, choice.peak_bytes, 0


def _chain(menus: Sequence[Sequence[Variant]]) -> list[Link]:
    """Move one pair at a time, always the one that saves most bytes for its seconds."""
    if len(menus) == 1:
        return [_link([variant]) for variant in menus[0]]
    at = [0] * len(menus)
    links = [_link([menu[0] for menu in menus])]
    while True:
        moves = [
            (_ratio(menus[i][at[i]], menus[i][to]), i, to)
            for i in range(len(menus))
            for to in range(at[i] + 1, len(menus[i]))
            if menus[i][to].bytes < menus[i][at[i]].bytes
        ]
        if not moves:
            return links
        _, which, to = min(moves)
        at[which] = to
        links.append(_link([menu[i] for menu, i in zip(menus, at, strict=True)]))


def _least_seconds(menus: Sequence[Sequence[Variant]], left_bytes: int) -> float:
    """What the pairs' variants take again at least: each holds its stacks and one body's eqn."""
    return sum(
        min((v.seconds for v in menu if v.least_bytes <= left_bytes), default=math.inf)
        for menu in menus
    )


def _ratio(now: Variant, then: Variant) -> float:
    return (then.seconds - now.seconds) / (now.bytes - then.bytes)


def _link(chosen: Sequence[Variant]) -> Link:
    plans = tuple(variant.plan for variant in chosen if variant.plan is not None)
    return Link(
        plans,
        sum(variant.bytes for variant in chosen),
        max((variant.least_bytes for variant in chosen), default=0),
        sum(variant.seconds for variant in chosen),
    )
