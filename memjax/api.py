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

from memjax import _compat, cost
from memjax.backends import backend_of
from memjax.budget import budget_bytes, format_bytes
from memjax.compile import CompiledStep, Footprint, Target, flat_arguments
from memjax.donation import Donation, match_donations
from memjax.fit import AS_IT_IS, BudgetInfeasible, Fitted, Loop, find_floor, fit, with_device_scale
from memjax.plan import Plan, fingerprint
from memjax.plan_cache import load_plan, plan_path, save_plan
from memjax.planners import Planner, get_planner
from memjax.report import (
    Analysis,
    Report,
    fitted_holders,
    holder_lines,
    make_analysis,
    make_report,
)
from memjax.signature import Call, Statics, resolve_statics, weak_types
from memjax.trace import Program, trace

Donate = str | bool | int | None | Sequence[int | str]


@dataclass(frozen=True)
class Settings:
    """What a user can say about a step; see `memory_budget`."""

    budget: int | str
    donate: Donate = "auto"
    static_argnums: int | Sequence[int] = ()
    static_argnames: str | Sequence[str] = ()
    in_shardings: Any = None
    out_shardings: Any = None
    device: Any = None
    planner: str | Planner = "auto"
    compiler_options: dict[str, Any] | None = None
    plan: Plan | None = None
    plan_cache: str | Path | None = None


@dataclass(frozen=True)
class Entry:
    """What was made for one signature."""

    tree: Any
    static: tuple[tuple[int | str, Hashable], ...]
    weak: tuple[bool, ...] | None
    run: Callable[..., Any]
    out_tree: Any
    step: CompiledStep
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
    _check_donate(donate)
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


def _check_donate(donate: Donate) -> None:
    if isinstance(donate, str) and donate != "auto":
        raise ValueError(
            f'donate is "auto", None, or positions and names of arguments, not {donate!r}; '
            f"for one argument by its name write donate=({donate!r},)"
        )


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
        self._bound: weakref.WeakKeyDictionary[Any, BudgetedStep] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<{self._name!r} within {self._settings.budget!r}>"

    def __get__(self, instance: Any, owner: type | None = None) -> BudgetedStep:
        """Bind to an instance, as a method; each instance has its own plans."""
        if instance is None:
            return self
        with self._lock:
            bound = self._bound.get(instance)
            if bound is None:
                method = types.MethodType(self._step, weakref.proxy(instance))
                bound = self._bound[instance] = BudgetedStep(method, self._settings)
        return bound

    @property
    def _name(self) -> str:
        return str(getattr(self._step, "__name__", "step"))

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
        leaves = _without_shared_buffers(call.leaves, entry.donations)
        return jax.tree_util.tree_unflatten(entry.out_tree, entry.run(*leaves))

    def _retry(
        self,
        call: Call,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        entry: Entry,
        error: Exception,
    ) -> Any:
        """The newest program refused the arguments: find out why."""
        if any(_compat.is_tracer(leaf) for leaf in call.leaves):
            return self._under_transformation(*args, **kwargs)
        self._check_alive(call)
        leaves = _without_shared_buffers(call.leaves, entry.donations)
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
        return self._entry_of(args, kwargs).step.compiled

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """The lowered program that calls use, as `jax.jit(...).lower` gives the plain one's."""
        return self._entry_of(args, kwargs).step.lowered

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
        program = _trace(self._step, self._statics, args, kwargs)
        device = _device_of(settings, call.leaves)
        limit = budget_bytes(settings.budget, device)
        donations = _decide_donations(program, settings, self._step)
        loop = _make_loop(program, call, settings, donations, device)
        try:
            fitted = _fit_with_cache(loop, limit, settings)
        except BudgetInfeasible as error:
            raise _explained(error, donations) from None
        return Entry(
            tree=call.tree,
            static=call.static,
            weak=None if _compat.calls_check_weak_types() else weak_types(call.leaves),
            run=fitted.chosen.step.compiled,
            out_tree=program.out_tree,
            step=fitted.chosen.step,
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


def _trace(
    step: Callable[..., Any], statics: Statics, args: Sequence[Any], kwargs: dict[str, Any]
) -> Program:
    return trace(
        step, args, kwargs, static_argnums=statics.argnums, static_argnames=statics.argnames
    )


def _device_of(settings: Settings, leaves: Sequence[Any]) -> Any:
    if settings.device is not None:
        return settings.device
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and leaf.committed:
            return _first_device(leaf.sharding)
    for sharding in jax.tree_util.tree_leaves((settings.in_shardings, settings.out_shardings)):
        if hasattr(sharding, "device_set"):
            return _first_device(sharding)
    return jax.config.jax_default_device or jax.devices()[0]


def _first_device(sharding: Any) -> Any:
    return min(sharding.device_set, key=lambda device: device.id)


def _decide_donations(
    program: Program, settings: Settings, step: Callable[..., Any]
) -> tuple[Donation, ...]:
    donate = settings.donate
    if isinstance(donate, str):
        return match_donations(program)
    if donate is None or isinstance(donate, bool):
        return match_donations(program, None if donate else ())
    chosen = (donate,) if isinstance(donate, int) else tuple(donate)
    names = _compat.parameter_names(step, ())
    roots = {names[c] if isinstance(c, int) and c < len(names) else str(c) for c in chosen}
    indices = [
        index
        for index, name in enumerate(program.argument_names)
        if name.split(".")[0].split("[")[0] in roots
    ]
    if chosen and not indices:
        raise ValueError(f"donate names {chosen!r}, but {program.name!r} has no such arrays")
    return match_donations(program, frozenset(indices))


def _make_loop(
    program: Program,
    call: Call,
    settings: Settings,
    donations: Sequence[Donation],
    device: Any,
) -> Loop:
    avals = [program.avals[value] for value in program.arguments]
    target = Target(
        backend=backend_of(device.platform),
        arguments=flat_arguments(avals, call.leaves),
        donated=tuple(d.index for d in donations if d.donated),
        in_shardings=_flat_in_shardings(settings, call),
        out_shardings=_flat_out_shardings(settings, program),
        user_options=settings.compiler_options,
    )
    rates = cost.rates_of(device.platform if device.platform == "cpu" else device.device_kind)
    return Loop(program, target, tuple(donations), get_planner(settings.planner), rates)


def _flat_in_shardings(settings: Settings, call: Call) -> tuple[Any, ...] | None:
    if settings.in_shardings is not None:
        args, _ = jax.tree_util.tree_unflatten(call.tree, call.leaves)
        return tuple(_compat.broadcast_prefix(settings.in_shardings, args))
    if settings.device is not None:
        return (jax.sharding.SingleDeviceSharding(settings.device),) * len(call.leaves)
    return None


def _flat_out_shardings(settings: Settings, program: Program) -> list[Any] | None:
    if settings.out_shardings is None:
        return None
    results = jax.tree_util.tree_unflatten(program.out_tree, program.results)
    return list(_compat.broadcast_prefix(settings.out_shardings, results))


def _spreads(loop: Loop) -> bool:
    shardings = [getattr(struct, "sharding", None) for struct in loop.target.arguments]
    shardings += [*(loop.target.in_shardings or ()), *(loop.target.out_shardings or ())]
    return any(len(getattr(s, "device_set", ())) > 1 for s in shardings)


def _fit_with_cache(loop: Loop, limit: int, settings: Settings) -> Fitted:
    if _spreads(loop):
        loop = with_device_scale(loop, limit)
    given, path = settings.plan, None
    if settings.plan_cache is not None:
        described = f"{limit}|{loop.target.backend.platform}|{loop.planner}|{loop.target.donated}"
        program = fingerprint(loop.prepared.graph.program)
        path = plan_path(settings.plan_cache, program, described)
        given = given or load_plan(path)
    fitted = fit(loop, limit, given)
    if path is not None and fitted.chosen.purpose != AS_IT_IS:
        save_plan(path, fitted.chosen.plan)
    return fitted


def _explained(error: BudgetInfeasible, donations: Sequence[Donation]) -> BudgetInfeasible:
    """Say what fills the floor and what would help."""
    holders = fitted_holders(error.fitted)
    refused = sum(d.bytes for d in donations if not d.donated)
    helps = [f"a budget of at least {error.floor_bytes} bytes", "a smaller batch"]
    if refused:
        helps.append(f"donation of what was kept ({format_bytes(refused)}; see the report)")
    message = "\n".join(
        [
            f"{error}.",
            "Held at its peak:",
            *holder_lines(holders),
            f"What helps: {', '.join(helps)}.",
        ]
    )
    return BudgetInfeasible(message, error.budget_bytes, error.floor_bytes, error.fitted)


def _without_shared_buffers(
    leaves: Sequence[Any], donations: Sequence[Donation]
) -> tuple[Any, ...]:
    """Copy donated arrays that are passed twice, so that none is given up under another."""
    donated = {d.index for d in donations if d.donated}
    counts: dict[int, int] = {}
    for leaf in leaves:
        counts[id(leaf)] = counts.get(id(leaf), 0) + 1
    return tuple(
        leaf.copy()
        if i in donated and isinstance(leaf, jax.Array) and counts[id(leaf)] > 1
        else leaf
        for i, leaf in enumerate(leaves)
    )


def plan(step: Callable[..., Any], *args: Any, budget: int | str, **settings: Any) -> Plan:
    """The plan for a step under a budget, without a decorator; see `memory_budget`."""
    return memory_budget(budget, **settings)(step).plan(*args)


def analyze(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Analysis:
    """What a step holds as it is: timeline, peak, and who holds it. Compiles nothing.

    Args:
        step: the step, undecorated.
        args: its arguments; `jax.ShapeDtypeStruct` leaves will do.
        kwargs: likewise.
    """
    step, settings = _unwrapped(step)
    loop, donations = _loop_for(step, settings, args, kwargs)
    return make_analysis(loop.prepared, donations)


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
    step, settings = _unwrapped(step)
    loop, donations = _loop_for(step, settings, args, kwargs)
    fitted = find_floor(loop)
    compiled = fitted.chosen.step.footprint
    report = make_report(fitted, compiled.total_bytes, donations)
    return Floor(compiled.total_bytes, report, compiled)


def _unwrapped(step: Callable[..., Any]) -> tuple[Callable[..., Any], Settings]:
    if isinstance(step, BudgetedStep):
        return step._step, step._settings
    return step, Settings(budget=1)


def _loop_for(
    step: Callable[..., Any], settings: Settings, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Loop, tuple[Donation, ...]]:
    statics = resolve_statics(step, settings.static_argnums, settings.static_argnames)
    call = statics.split(args, kwargs)
    program = _trace(step, statics, args, kwargs)
    donations = _decide_donations(program, settings, step)
    loop = _make_loop(program, call, settings, donations, _device_of(settings, call.leaves))
    return loop, donations
