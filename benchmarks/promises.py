"""What memjax promises of every step, each as a check that returns what falls short, or None.

In: a `Subject`, that is a `RandomStep` and the budgets to be tried. Out: by check, a text.

- *plain*: plain `jax.jit`, the better of no donation and memjax's own; the smallest footprint
  of these is `plain_bytes`. No check, but what the others need.
- *at plain*, *above plain*: such budgets are never refused, and never hold more than plain.
- *blind*: budgets below it, of which nothing is known; a refusal states a footprint.
- *floor*: is at most every footprint stated so far.
- *floor as budget*, *stated as budget*, *between*: are never refused.
- *below floor*: a byte less than the floor may be refused, or hold.

Nothing is refused that is at least a footprint stated before; a later search may find less than
those. Whatever is not refused has to fit, hold no more than plain, and behave like plain: see
`differences`.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

import memjax
from benchmarks.random_layers import calls
from benchmarks.random_steps import RandomStep
from memjax.fitting.budgeted import loop_for
from memjax.planning.planners import AutoPlanner, Planner

QUICK = {"xla_backend_optimization_level": 0}
"""A third less time to compile, and the same buffers: XLA's own passes run all the same."""
KEEPS_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
SHORT = AutoPlanner(work=3_000, rounds=1, starts=1)
"""A planner that takes a tenth of the default one's time."""
SMALL = 1e-3
"""Where a result's largest element is below this, differences are relative to this: what is
zero but for rounding has no digits."""


@dataclass(frozen=True)
class Outcome:
    """What a call did.

    Attributes:
        results: as they came.
        host_calls: lines printed and callbacks run, sorted.
        deleted: by flat argument, whether its buffer is gone.
        changed: flat arguments that are there and hold other numbers than before.
    """

    results: Any
    host_calls: tuple[str, ...]
    deleted: tuple[bool, ...]
    changed: tuple[int, ...]


def run(function: Callable[..., Any], args: tuple[Any, ...]) -> Outcome:
    """Call a function on arguments of its own and watch what happens."""
    before = [_numbers(leaf) for leaf in jax.tree.leaves(args)]
    calls.clear()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        results = jax.block_until_ready(function(*args))
        jax.effects_barrier()
    deleted, changed = [], []
    for index, (leaf, old) in enumerate(zip(jax.tree.leaves(args), before, strict=True)):
        deleted.append(isinstance(leaf, jax.Array) and leaf.is_deleted())
        if not deleted[-1] and not np.array_equal(_numbers(leaf), old):
            changed.append(index)
    lines = ["print" for _ in printed.getvalue().splitlines()]
    return Outcome(results, tuple(sorted(calls + lines)), tuple(deleted), tuple(changed))


def _numbers(leaf: Any) -> np.ndarray:
    """The numbers of a leaf, copied."""
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf)


def differences(seen: Outcome, wanted: Outcome, tolerance: float) -> str | None:
    """How a call differs from plain's: structure, types, numbers, calls of the host."""
    if seen.host_calls != wanted.host_calls:
        return f"effects: {len(seen.host_calls)} calls of the host, {len(wanted.host_calls)} wanted"
    if seen.changed:
        return f"arguments {seen.changed} were modified"
    (ours, our_tree), (theirs, tree) = map(jax.tree.flatten, (seen.results, wanted.results))
    if our_tree != tree:
        return f"structure: {our_tree}, {tree} wanted"
    names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(seen.results)]
    for name, one, other in zip(names, ours, theirs, strict=True):
        text = _type_difference(one, other) or _number_difference(one, other, tolerance)
        if text:
            return f"{text} at {name}"
    return None


def _type_difference(one: Any, other: Any) -> str | None:
    parts = ("shape", "dtype", "weak_type", "committed", "sharding")
    for part in parts:
        ours, theirs = getattr(one, part, None), getattr(other, part, None)
        if ours != theirs:
            return f"{part}: {ours}, {theirs} wanted"
    return None if type(one) is type(other) else f"type: {type(one)}, {type(other)} wanted"


def _number_difference(one: Any, other: Any, tolerance: float) -> str | None:
    ours, theirs = _numbers(one), _numbers(other)
    if not np.issubdtype(theirs.dtype, np.inexact):
        return None if np.array_equal(ours, theirs) else "numbers: integers differ"
    if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        return "numbers: not finite in other places"
    finite = np.isfinite(theirs)
    ours, theirs = np.where(finite, ours, 0), np.where(finite, theirs, 0)
    scale = max(float(np.abs(theirs).max(initial=0.0)), SMALL)
    off = float(np.abs(ours - theirs).max(initial=0.0)) / scale
    return None if off <= tolerance else f"numbers: off by {off:.1e} of {scale:.1e}"


@dataclass
class Subject:
    """A step under test and what was seen so far.

    Attributes:
        drawn: the step.
        planner: what holds has to hold whatever a planner finds.
        shares: of `plain_bytes`, budgets of which nothing is known.
        between: a share of the way from the floor to `plain_bytes`.
    """

    drawn: RandomStep
    planner: str | Planner = "auto"
    shares: Sequence[float] = (0.9, 0.6)
    between: float = 0.5
    options: dict[str, Any] = field(default_factory=lambda: dict(QUICK))
    stated: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def budgeted(self, budget: int) -> memjax.BudgetedStep:
        """The step under a budget."""
        return memjax.memory_budget(
            budget,
            donate=self.drawn.recipe.donate,
            compiler_options=self.options,
            planner=self.planner,
        )(self.drawn.step)

    @cached_property
    def plain(self) -> tuple[Outcome, int]:
        """What plain `jax.jit` does, and the smallest footprint that it can have."""
        args = self.drawn.arguments()
        start = time.perf_counter()
        jitted = jax.jit(self.drawn.step, compiler_options=self.options)
        compiled = jitted.lower(*args).compile()
        self.seconds["plain"] = time.perf_counter() - start
        sizes = [memjax.footprint(compiled).total_bytes]
        _, donations = loop_for(self.budgeted(1), args, {})
        given_up = [d.index for d in donations if d.donated]
        for options in self._plain_options():
            for donated in ([], given_up) if given_up else ([],):
                if donated or options != self.options:
                    sizes.append(self._plain_bytes(args, donated, options))
        return run(jitted, args), min(sizes)

    def _plain_options(self) -> list[dict[str, Any]]:
        old = jax.__version_info__ < (0, 11, 1) and jax.default_backend() == "cpu"
        return [self.options, {**self.options, **KEEPS_BARRIERS}] if old else [self.options]

    def _plain_bytes(self, args: Any, donated: list[int], options: dict[str, Any]) -> int:
        leaves, tree = jax.tree.flatten(args)
        flat = lambda *leaves: self.drawn.step(*jax.tree.unflatten(tree, leaves))  # noqa: E731
        lowered = jax.jit(flat, donate_argnums=donated).lower(*leaves)
        return memjax.footprint(lowered.compile(compiler_options=options)).total_bytes

    @property
    def plain_bytes(self) -> int:
        """The smallest footprint of plain `jax.jit`."""
        return self.plain[1]

    @cached_property
    def floor_bytes(self) -> int:
        """What memjax says is the smallest footprint that it reaches."""
        start = time.perf_counter()
        found = memjax.floor(self.budgeted(1), *self.drawn.arguments())
        self.seconds["floor"] = time.perf_counter() - start
        return found.bytes

    def faults(self, budget: int, *, may_refuse: bool = False, name: str = "") -> str | None:
        """What is wrong under a budget."""
        wanted, plain_bytes = self.plain
        step, args = self.budgeted(budget), self.drawn.arguments()
        start = time.perf_counter()
        try:
            report = step.report(*args)
        except memjax.BudgetInfeasible as error:
            least = min(self.stated, default=budget + 1)
            self.stated.append(error.floor_bytes)
            if least <= budget:
                return f"refused {budget}, though {least} was stated before"
            if error.floor_bytes <= budget:
                return f"refused {budget}, and states {error.floor_bytes}"
            return None if may_refuse else f"refused: {budget} of {plain_bytes} plain"
        finally:
            self.seconds[name or str(budget)] = time.perf_counter() - start
        total = report.compiled.total_bytes
        self.stated.append(total)
        actual = memjax.footprint(step.compiled(*args)).total_bytes
        if actual != total:
            return f"report: {total} bytes, {actual} in truth"
        if total > budget:
            return f"over budget: {total} of {budget}"
        given_up = self._given_up(report, args)
        seen = run(step, args)
        text = differences(seen, wanted, self.drawn.recipe.tolerance)
        if text is None and seen.deleted != given_up:
            return f"donation: {_indices(seen.deleted)} deleted, {_indices(given_up)} reported"
        if text is None and total > plain_bytes:
            return f"above plain: {total} of {plain_bytes} plain, budget {budget}"
        return text

    @staticmethod
    def _given_up(report: memjax.Report, args: Any) -> tuple[bool, ...]:
        """By flat argument, whether its buffer should be gone; one passed twice is copied."""
        leaves = jax.tree.leaves(args)
        donated = {d.index for d in report.donations if d.donated}
        buffers = [_buffer(leaf) for leaf in leaves]
        return tuple(
            index in donated and buffers.count(_buffer(leaf)) == 1 and isinstance(leaf, jax.Array)
            for index, leaf in enumerate(leaves)
        )


def _buffer(leaf: Any) -> int:
    """Which buffer a leaf is in."""
    if not isinstance(leaf, jax.Array) or not leaf.size:
        return id(leaf)
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return int(leaf.unsafe_buffer_pointer())


def _indices(flags: Sequence[bool]) -> list[int]:
    return [index for index, flag in enumerate(flags) if flag]


def at_plain(subject: Subject) -> str | None:
    """The footprint of plain works as a budget."""
    return subject.faults(subject.plain_bytes, name="at plain")


def above_plain(subject: Subject) -> str | None:
    """So does three times that, and holds no more for it."""
    return subject.faults(3 * subject.plain_bytes, name="above plain")


def blind(subject: Subject) -> str | None:
    """Budgets below plain fit or are refused with a footprint."""
    for share in subject.shares:
        text = subject.faults(int(share * subject.plain_bytes), may_refuse=True, name="blind")
        if text:
            return text
    return None


def floor(subject: Subject) -> str | None:
    """The floor is at most plain's footprint and all that were stated."""
    least = min(subject.stated, default=subject.plain_bytes)
    if subject.floor_bytes > subject.plain_bytes:
        return f"floor: {subject.floor_bytes} above plain's {subject.plain_bytes}"
    if subject.floor_bytes > least:
        return f"floor: {subject.floor_bytes} above {least}, which was reached"
    return None


def floor_as_budget(subject: Subject) -> str | None:
    """The floor works as a budget."""
    return subject.faults(subject.floor_bytes, name="floor as budget")


def stated_as_budget(subject: Subject) -> str | None:
    """So does the smallest footprint that was stated, and the largest below plain's."""
    stated = sorted({s for s in subject.stated if s < subject.plain_bytes})
    for budget in dict.fromkeys(stated[:1] + stated[-1:]):
        if text := subject.faults(budget, name="stated as budget"):
            return text
    return None


def between(subject: Subject) -> str | None:
    """And what lies between the floor and plain's footprint."""
    low, high = subject.floor_bytes, subject.plain_bytes
    return subject.faults(int(low + subject.between * max(0, high - low)), name="between")


def below_floor(subject: Subject) -> str | None:
    """A byte less is refused, with a footprint, or fits."""
    return subject.faults(subject.floor_bytes - 1, may_refuse=True, name="below floor")


CHECKS: dict[str, Callable[[Subject], str | None]] = {
    "at plain": at_plain,
    "above plain": above_plain,
    "blind": blind,
    "floor": floor,
    "floor as budget": floor_as_budget,
    "stated as budget": stated_as_budget,
    "between": between,
    "below floor": below_floor,
}


def failures(
    drawn: RandomStep, checks: Sequence[str] = tuple(CHECKS), **settings: Any
) -> tuple[dict[str, str], Subject]:
    """The checks that a step fails, with a text for each, and what was measured."""
    subject, found = Subject(drawn, **settings), {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        _ = subject.plain  # a step that plain cannot run is no step
        for name in checks:
            try:
                text = CHECKS[name](subject)
            except Exception as error:  # noqa: BLE001  whatever it is, it is the finding
                text = crash_text(error)
            if text is not None:
                found[name] = text
    return found, subject


def crash_text(error: Exception) -> str:
    """The type of an error, where memjax raised it or called what did, and its first line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}memjax{os.sep}" in frame.filename]
    place = f" in {Path(ours[-1].filename).stem}.{ours[-1].name}" if ours else ""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"crash: {type(error).__name__}{place}: {first[:300]}"
