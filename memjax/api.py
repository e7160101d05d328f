"""The user's surface: `memory_budget`, `plan`, `analyze`, `floor`.

This is the only module that sees every stage. A decorated step keeps one `Entry` for each
signature of its arguments: the compiled program, its plan and its report.
"""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from memjax import _compat
from memjax.advice import helps
from memjax.budget import budget_bytes, format_bytes
from memjax.closed_loop import BudgetInfeasible, Fitted, Loop
from memjax.compile import Footprint
from memjax.curve import Frontier, default_budgets, make_frontier
from memjax.donation import Donation, without_shared_buffers
from memjax.fit import find_floor
from memjax.plan import Plan
from memjax.planners import Planner, get_planner
from memjax.report import (
    Analysis,
    Report,
    make_analysis,
    make_report,
)
from memjax.setup import (
    Donate,
    Settings,
    check_donate,
    decide_donations,
    device_of,
    fit_with_cache,
    make_loop,
    trace_call,
)
from memjax.signature import Call, resolve_statics, weak_types
from memjax.text import holder_lines
from memjax.trace import step_name


@dataclass(frozen=True)
class Entry:
    """What was made for one signature."""

    tree: Any
    static: tuple[tuple[int | str, Hashable], ...]
    weak: tuple[bool, ...] | None
    run: Callable[..., Any]
    out_tree: Any
    donations: tuple[Donation, ...]
    fitted: Fitted
    budget_bytes: int


def memory_budget(
    budget: int | str,
    *,
    donate: Donate = "auto",
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    in_shardings: Any = None,
    out_shardings: Any = None,
    device: Any = None,
    planner: str | Planner = "auto",
    compiler_options: dict[str, Any] | None = None,
    plan: Plan | None = None,
    plan_cache: str | Path | None = None,
) -> Callable[[Callable[..., Any]], BudgetedStep]:
    """Fit a step into a memory budget, in place of `jax.jit`.

    The first call with new shapes traces the step, plans what to recompute, compiles, and
    checks the bytes that XLA assigned; later calls just run.

    Args:
        budget: bytes for one device, as an int, `"8GB"` (10⁹ bytes), `"8GiB"` (2³⁰) or
            `"80%"` of the device's own limit. It covers what XLA counts for the compiled
            program: argument + output - alias + temp.
        donate: `"auto"` gives up every argument of which some result is an update (see
            `memjax.donation`); `None` or `False` none; positions or names of arguments give
            up all of theirs that some result can take the place of.
        static_argnums: positions of static arguments, as in `jax.jit`.
        static_argnames: names of static arguments, as in `jax.jit`.
        in_shardings: as in `jax.jit`; `None` follows the arguments.
        out_shardings: as in `jax.jit`; `None` leaves them to XLA.
        device: where to run; `None` follows the arguments or JAX's default.
        planner: a planner's name, or a `Planner`.
        compiler_options: for XLA; they win over memjax's own.
        plan: a plan of an earlier run (`Plan.from_json`), tried first.
        plan_cache: a folder in which plans are kept between processes; off by default.

    Returns:
        A decorator; what it makes is called like the step itself. It has `.plan`, `.report`,
        `.compiled` and `.lower`, which take the step's arguments (`jax.ShapeDtypeStruct` leaves
        will do) and run nothing on the device.

    Raises:
        ValueError: the budget or another setting is malformed. The first call raises
            `BudgetInfeasible` where no plan fits.
    """
    if not (isinstance(budget, str) and budget.strip().endswith("%")):
        budget_bytes(budget)
    get_planner(planner)
    check_donate(donate)
    settings = Settings(
        budget=budget,
        donate=donate,
        static_argnums=static_argnums,
        static_argnames=static_argnames,
        in_shardings=in_shardings,
        out_shardings=out_shardings,
        device=device,
        planner=planner,
        compiler_options=compiler_options,
        plan=plan,
        plan_cache=plan_cache,
    )
    return lambda step: BudgetedStep(step, settings)


class BudgetedStep:
    """A step under a memory budget; made by `memory_budget`."""

    def __init__(self, step: Callable[..., Any], settings: Settings) -> None:
        if not callable(step):
            raise TypeError(f"memory_budget decorates a function, not {step!r}")
        if isinstance(step, (staticmethod, classmethod)):
            raise TypeError("put @staticmethod or @classmethod above @memory_budget, not below")
        functools.update_wrapper(self, step)
        self._step = step
        self._settings = settings
        self._statics = resolve_statics(step, settings.static_argnums, settings.static_argnames)
        self._entries: dict[Hashable, Entry] = {}
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()
        self._newest: Entry | None = None
        self._bound: dict[int, BudgetedStep] = {}

    def __repr__(self) -> str:
        return f"<{self._name!r} within {self._settings.budget!r}>"

    def __get__(self, instance: Any, owner: type | None = None) -> BudgetedStep:
        """Bind to an instance, as a method; each instance has its own plans."""
        if instance is None:
            return self
        key = id(instance)  # not its hash: modules that hold arrays have none
        with self._lock:
            if key not in self._bound:
                weakref.finalize(instance, self._bound.pop, key, None)
                method = types.MethodType(self._step, weakref.proxy(instance))
                self._bound[key] = BudgetedStep(method, self._settings)
            return self._bound[key]

    @property
    def _name(self) -> str:
        return step_name(self._step)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step. Arguments that were donated are gone afterwards.

        Raises:
            BudgetInfeasible: at the first call with these shapes, if no plan fits.
            RuntimeError: an argument was given up to an earlier call.
        """
        call = self._statics.split(args, kwargs)
        entry = self._newest
        if entry is None or call.tree != entry.tree or call.static != entry.static:
            return self._slow_call(call, args, kwargs)
        if entry.weak is not None and weak_types(call.leaves) != entry.weak:
            return self._slow_call(call, args, kwargs)
        try:
            flat = entry.run(*call.leaves)
        except (TypeError, ValueError, RuntimeError) as error:
            return self._retry(call, args, kwargs, entry, error)
        return jax.tree_util.tree_unflatten(entry.out_tree, flat)

    def _slow_call(self, call: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if any(_compat.is_tracer(leaf) for leaf in call.leaves):
            return self._under_transformation(*args, **kwargs)
        self._check_alive(call)
        entry = self._entry(call, args, kwargs)
        self._newest = entry
        leaves = without_shared_buffers(call.leaves, entry.donations)
        return jax.tree_util.tree_unflatten(entry.out_tree, entry.run(*leaves))

    def _retry(
        self,
        call: Call,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        entry: Entry,
        error: Exception,
    ) -> Any:
        """The newest program refused the arguments, or failed: find out why."""
        if isinstance(error, RuntimeError) and not _is_about_buffers(error):
            raise error
        if any(_compat.is_tracer(leaf) for leaf in call.leaves):
            return self._under_transformation(*args, **kwargs)
        self._check_alive(call)
        leaves = without_shared_buffers(call.leaves, entry.donations)
        same_program = self._entries.get(call.key()) is entry
        if same_program and all(a is b for a, b in zip(leaves, call.leaves, strict=True)):
            raise error
        return self._slow_call(call, args, kwargs)

    @functools.cached_property
    def _under_transformation(self) -> Callable[..., Any]:
        """The plain step, for calls inside of `jit`, `grad` or `vmap`: their budget, not ours."""
        return jax.jit(
            self._step,
            static_argnums=self._statics.argnums or None,
            static_argnames=self._statics.argnames or None,
        )

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """The plan that calls with such arguments use."""
        return self._entry_of(args, kwargs).fitted.chosen.plan

    def report(self, *args: Any, **kwargs: Any) -> Report:
        """What was decided for such arguments, with predicted and compiled bytes."""
        entry = self._entry_of(args, kwargs)
        return make_report(entry.fitted, entry.budget_bytes, entry.donations)

    def compiled(self, *args: Any, **kwargs: Any) -> jax.stages.Compiled:
        """The compiled program that calls use. It takes and returns flat lists of leaves."""
        return self._entry_of(args, kwargs).fitted.step.compiled

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """The lowered program that calls use, as `jax.jit(...).lower` gives the plain one's."""
        return self._entry_of(args, kwargs).fitted.step.lowered

    def jaxpr(self, *args: Any, **kwargs: Any) -> Any:
        """The jaxpr of the program that calls use, to see what was planned; flat like it."""
        return self._entry_of(args, kwargs).fitted.step.jaxpr

    def _entry_of(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Entry:
        return self._entry(self._statics.split(args, kwargs), args, kwargs)

    def _entry(self, call: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Entry:
        key = call.key()
        with self._lock:
            if key in self._entries:
                return self._entries[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            if key not in self._entries:
                self._entries[key] = self._make_entry(call, args, kwargs)
            return self._entries[key]

    def _make_entry(self, call: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Entry:
        settings = self._settings
        program = trace_call(self._step, self._statics, args, kwargs)
        device = device_of(settings, call.leaves)
        limit = budget_bytes(settings.budget, device)
        donations = decide_donations(program, settings, self._step)
        loop = make_loop(program, call, settings, donations, device)
        try:
            fitted = fit_with_cache(loop, limit, settings)
        except BudgetInfeasible as error:
            raise explained(error, donations) from None
        return Entry(
            tree=call.tree,
            static=call.static,
            weak=None if _compat.calls_check_weak_types() else weak_types(call.leaves),
            run=fitted.step.compiled,
            out_tree=program.out_tree,
            donations=donations,
            fitted=fitted,
            budget_bytes=limit,
        )

    def _check_alive(self, call: Call) -> None:
        paths = jax.tree_util.tree_flatten_with_path(
            jax.tree_util.tree_unflatten(call.tree, call.leaves)
        )[0]
        for path, leaf in paths:
            if isinstance(leaf, jax.Array) and not _compat.is_tracer(leaf) and leaf.is_deleted():
                name = _compat.argument_name(path, self._parameter_names)
                raise RuntimeError(
                    f"{name} was given up to an earlier call of {self._name!r}: its buffer now "
                    "belongs to that call's result. Use the returned value instead, or keep "
                    "the argument with memory_budget(..., donate=None) or donate=(the "
                    "arguments that may go,)"
                )

    @functools.cached_property
    def _parameter_names(self) -> tuple[str, ...]:
        return _compat.parameter_names(self._step, self._statics.argnums)


def _is_about_buffers(error: RuntimeError) -> bool:
    """Whether a buffer was deleted or would be given up twice, in the words of JAX and XLA."""
    return any(word in str(error).lower() for word in ("delete", "donate"))


def explained(
    error: BudgetInfeasible, donations: Sequence[Donation], lead: str = ""
) -> BudgetInfeasible:
    """Say what fills the floor and what would help, after `lead`."""
    report = make_report(error.fitted, error.budget_bytes, donations)
    held = report.holders if report.xla is None else report.xla.holders
    whose = "the predicted" if report.xla is None else "XLA's own"
    message = "\n".join(
        [
            f"{lead}{error}.",
            f"Held at {whose} peak of that program:",
            *holder_lines(held),
            "What helps:",
            *(f"  - {help}" for help in helps(error.fitted, donations, error.budget_bytes)),
        ]
    )
    return BudgetInfeasible(message, error.budget_bytes, error.floor_bytes, error.fitted)


def plan(step: Callable[..., Any], *args: Any, budget: int | str, **settings: Any) -> Plan:
    """The plan for a step under a budget, without a decorator; see `memory_budget`."""
    return memory_budget(budget, **settings)(step).plan(*args)


def analyze(step: Callable[..., Any], *args: Any, compile: bool = False, **kwargs: Any) -> Analysis:
    """What a step holds as it is: timeline, peak, and who holds it.

    Args:
        step: the step, undecorated.
        args: its arguments; `jax.ShapeDtypeStruct` leaves will do.
        compile: whether the step is compiled as it is, so that XLA's bytes stand beside the
            predicted ones. Nothing is compiled otherwise. A keyword argument of the step that
            is called `compile` cannot be given here.
        kwargs: keyword arguments of the step.
    """
    loop, donations = loop_for(step, args, kwargs)
    fitted = loop.result(loop.compile_as_it_is(0)) if compile else None
    return make_analysis(loop.as_it_is, donations, loop.residents(loop.program), fitted)


@dataclass(frozen=True)
class Floor:
    """The smallest footprint that memjax reached for a step, verified by compiling.

    Attributes:
        bytes: the compiled footprint.
        report: of the program that has it.
    """

    bytes: int
    report: Report
    compiled: Footprint

    def __str__(self) -> str:
        return f"floor {format_bytes(self.bytes)}\n{self.report}"


def floor(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Floor:
    """The smallest footprint that memjax can reach for a step; compiles up to four programs.

    Args:
        step: the step.
        args: its arguments; `jax.ShapeDtypeStruct` leaves will do.
        kwargs: likewise.
    """
    loop, donations = loop_for(step, args, kwargs)
    fitted = find_floor(loop)
    compiled = fitted.chosen.measured.footprint
    report = make_report(fitted, compiled.total_bytes, donations)
    return Floor(compiled.total_bytes, report, compiled)


def frontier(
    step: Callable[..., Any],
    *args: Any,
    budgets: Sequence[int | str] = (),
    points: int = 8,
    verify: bool = False,
    **kwargs: Any,
) -> Frontier:
    """The curve of bytes against overhead for a step.

    Args:
        step: the step.
        args: its arguments; `jax.ShapeDtypeStruct` leaves will do.
        budgets: as in `memory_budget`; by default spread evenly from the plain footprint to
            the smallest predicted one.
        points: how many budgets there are by default.
        verify: compile the program of each point, and state its bytes.
        kwargs: keyword arguments of the step.
    """
    loop, _ = loop_for(step, args, kwargs)
    device = device_of(Settings(budget=1), ())
    chosen = tuple(budget_bytes(b, device) for b in budgets) or default_budgets(loop, points)
    return make_frontier(loop, chosen, verify=verify)


def loop_for(
    step: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Loop, tuple[Donation, ...]]:
    """A closed loop that is ready to run, and the verdict on donation, for a call of a step."""
    settings = Settings(budget=1)
    if isinstance(step, BudgetedStep):
        settings, step = step._settings, step._step
    statics = resolve_statics(step, settings.static_argnums, settings.static_argnames)
    call = statics.split(args, kwargs)
    program = trace_call(step, statics, args, kwargs)
    donations = decide_donations(program, settings, step)
    device = device_of(settings, call.leaves)
    return make_loop(program, call, settings, donations, device), donations
