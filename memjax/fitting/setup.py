"""From a user's settings and a call to a closed loop that is ready to run.

In: `Settings`, a step, its arguments. Out: the traced `Program`, the verdict on donation, and
a `Loop` that knows the device, the shardings and the planner.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from memjax import _compat
from memjax.emit.compile import Target
from memjax.emit.plan import Plan, fingerprint
from memjax.emit.plan_cache import load_plan, plan_path, save_plan
from memjax.fitting.closed_loop import AS_IT_IS, Fitted, Loop
from memjax.fitting.fit import fit, with_device_scale
from memjax.fitting.stated import stated_of
from memjax.planning.planners import Planner, get_planner
from memjax.planning.simulate import InvalidPlan
from memjax.pricing import cost
from memjax.pricing.backends import backend_of
from memjax.program.donation import Donation, match_donations
from memjax.program.eqns import Program
from memjax.program.signature import Call, Statics, as_tuple, flat_arguments, in_call, resolve
from memjax.program.trace import trace

Donate = str | bool | int | None | Sequence[int | str]


@dataclass(frozen=True)
class Settings:
    """What a user can say about a step; see `memory_budget`."""

    budget: int | str
    donate: Donate = "auto"
    donate_argnums: int | Sequence[int] | None = None
    donate_argnames: str | Iterable[str] | None = None
    static_argnums: int | Sequence[int] | None = None
    static_argnames: str | Iterable[str] | None = None
    in_shardings: Any = None
    out_shardings: Any = None
    device: Any = None
    planner: str | Planner = "auto"
    compiler_options: dict[str, Any] | None = None
    plan: Plan | None = None
    plan_cache: str | Path | None = None
    split: str | bool = "auto"

    @property
    def donates_as_jit(self) -> bool:
        """Whether the user says what is donated in the words of `jax.jit`."""
        return self.donate_argnums is not None or self.donate_argnames is not None

    def given_shardings(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Those that the user set, for `jax.jit`; it takes none of arguments beside keywords."""
        given = {
            "in_shardings": None if kwargs else self.in_shardings,
            "out_shardings": self.out_shardings,
        }
        return {name: value for name, value in given.items() if value is not None}


def check_donate(settings: Settings) -> None:
    """Refuse what `donate` cannot be.

    Raises:
        ValueError: it is a text other than `"auto"`, or beside `donate_argnums` or
            `donate_argnames`.
    """
    donate = settings.donate
    if isinstance(donate, str) and donate != "auto":
        raise ValueError(
            f'donate is "auto", None, or positions and names of arguments, not {donate!r}; '
            f"for one argument by its name write donate=({donate!r},)"
        )
    if donate != "auto" and settings.donates_as_jit:
        raise ValueError(
            "give either donate or, as for jax.jit, donate_argnums and donate_argnames"
        )


def check_split(settings: Settings) -> None:
    """Refuse what `split` cannot be.

    Raises:
        ValueError: it is neither `"auto"` nor `False`.
    """
    if settings.split is not False and settings.split != "auto":
        raise ValueError(f'split is "auto" or False, not {settings.split!r}')


def resolved(settings: Settings, step: Callable[..., Any]) -> Settings:
    """The settings with positions and names of a step's arguments, each found from the other.

    As in `jax.jit`, names of donated arguments are found from positions, or positions from
    names, only where the user gives no others.

    Raises:
        ValueError: the step has no such arguments, or an argument is both static and donated.
    """
    static_nums, static_names = resolve(
        step, as_tuple(settings.static_argnums), as_tuple(settings.static_argnames), "static"
    )
    changed = replace(settings, static_argnums=static_nums, static_argnames=static_names)
    if not settings.donates_as_jit:
        return changed
    nums, names = as_tuple(settings.donate_argnums), as_tuple(settings.donate_argnames)
    found_nums, found_names = resolve(step, nums, names, "donate")
    if settings.donate_argnums is not None and settings.donate_argnames is not None:
        found_nums, found_names = resolve(step, nums, (), "donate")[0], names
    both = {*static_nums, *static_names} & {*found_nums, *found_names}
    if both:
        raise ValueError(f"arguments cannot be both static and donated: {sorted(map(str, both))}")
    return replace(changed, donate_argnums=found_nums, donate_argnames=found_names)


def trace_call(
    step: Callable[..., Any], statics: Statics, args: Sequence[Any], kwargs: dict[str, Any]
) -> Program:
    """The program of a call."""
    return trace(
        step, args, kwargs, static_argnums=statics.argnums, static_argnames=statics.argnames
    )


def device_of(settings: Settings, leaves: Sequence[Any]) -> Any:
    """The device whose limit and rates count: the settings', the arguments', or JAX's default."""
    if settings.device is not None:
        return settings.device
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and leaf.committed:
            return _first_device(leaf.sharding)
    for sharding in jax.tree_util.tree_leaves((settings.in_shardings, settings.out_shardings)):
        if hasattr(sharding, "device_set"):
            return _first_device(sharding)
    return _compat.default_device()


def _first_device(sharding: Any) -> Any:
    return min(sharding.device_set, key=lambda device: device.id)


def decide_donations(
    program: Program, settings: Settings, call: Call, step: Callable[..., Any]
) -> tuple[Donation, ...]:
    """Which leaves are given up for some result.

    Raises:
        ValueError: `donate` names arguments that the step does not have.
    """
    asked, donate = asked_for(settings, call, step), settings.donate
    names_some = donate != () and not isinstance(donate, (str, bool, type(None)))
    if names_some and not asked:
        raise ValueError(f"donate names {donate!r}, but {program.name!r} has no such arrays")
    return match_donations(program, asked)


def asked_for(settings: Settings, call: Call, step: Callable[..., Any]) -> frozenset[int] | None:
    """Indices of the leaves that the user asks to be given up; None leaves that to memjax."""
    donate = settings.donate
    chosen: Collection[int | str]
    if settings.donates_as_jit:
        nums, names = as_tuple(settings.donate_argnums), as_tuple(settings.donate_argnames)
        chosen = {*in_call(nums, call.count), *names}
    elif donate is None or isinstance(donate, (bool, str)):
        return None if donate else frozenset()
    else:
        chosen = _both_ways(as_tuple(donate), step, call.count)
    return frozenset(index for index, root in enumerate(call.roots()) if root in chosen)


def _both_ways(chosen: Iterable[int | str], step: Callable[..., Any], count: int) -> set[int | str]:
    """Positions with the names of their parameters, and names with their positions."""
    parameters = _compat.parameter_names(step, ())
    found: set[int | str] = set()
    for choice in chosen:
        if isinstance(choice, int):
            position = choice + max(count, len(parameters)) if choice < 0 else choice
            found.update((position, *parameters[position : position + 1]))
        else:
            found.add(choice)
            found.update(n for n, name in enumerate(parameters) if name == choice)
    return found


def given_up(
    donations: Sequence[Donation], settings: Settings, call: Call, step: Callable[..., Any]
) -> tuple[int, ...]:
    """Indices of the leaves whose buffers a call takes: those that some result takes over, and
    as in `jax.jit` all that `donate_argnums` and `donate_argnames` name.
    """
    asked = asked_for(settings, call, step) if settings.donates_as_jit else None
    return tuple(d.index for d in donations if (d.donated if asked is None else d.index in asked))


def make_loop(
    program: Program,
    call: Call,
    settings: Settings,
    donations: Sequence[Donation],
    donated: Sequence[int],
    device: Any,
) -> Loop:
    """A fresh closed loop for a call.

    Args:
        program: of the call.
        call: its arguments.
        settings: the user's.
        donations: what results take over.
        donated: indices of the leaves that are given up.
        device: where it runs.
    """
    avals = [program.avals[value] for value in program.arguments]
    target = Target(
        backend=backend_of(device.platform),
        arguments=flat_arguments(avals, call.leaves),
        donated=tuple(donated),
        in_shardings=_flat_in_shardings(settings, call),
        out_shardings=_flat_out_shardings(settings, program),
        user_options=settings.compiler_options,
    )
    rates = cost.rates_of(device.platform if device.platform == "cpu" else device.device_kind)
    planner = get_planner(settings.planner)
    may_split = settings.split == "auto"
    described = f"{fingerprint(program)}|{describe(target, device)}|{may_split}"
    stated = stated_of(hashlib.sha256(described.encode(errors="replace")).hexdigest()[:32])
    asked = settings.donates_as_jit or settings.donate != "auto"
    return Loop(
        program,
        target,
        tuple(donations),
        planner,
        rates,
        stated=stated,
        donation_is_asked=asked,
        may_split=may_split and not _spreads(target),
    )


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


def spreads(loop: Loop) -> bool:
    """Whether a program runs on several devices."""
    return _spreads(loop.target)


def _spreads(target: Target) -> bool:
    return any(len(getattr(s, "device_set", ())) > 1 for s in _shardings(target))


def fit_with_cache(loop: Loop, limit: int, settings: Settings) -> Fitted:
    """Run the closed loop; a plan that the settings give or a folder holds is tried first.

    A plan of the folder is never fatal: one that cannot be carried out is ignored with a warning.

    Raises:
        BudgetInfeasible: nothing fits.
        InvalidPlan: the plan that the settings give cannot be carried out.
    """
    if spreads(loop):
        loop = with_device_scale(loop, limit)
    if settings.plan_cache is None:
        return fit(loop, limit, settings.plan)
    path = cached_path(loop, limit, settings)
    given = settings.plan
    fitted = _fit_cached(loop, limit, path) if given is None else fit(loop, limit, given)
    if fitted.chosen.purpose != AS_IT_IS:
        save_plan(path, fitted.chosen.plan)
    return fitted


def cached_path(loop: Loop, limit: int, settings: Settings) -> Path:
    """Where the plan for a program, its target, a budget and a planner is kept."""
    assert settings.plan_cache is not None
    program = fingerprint(loop.prepared.graph.program)
    described = describe(loop.target, device_of(settings, loop.target.arguments))
    chosen = f"{limit}|{loop.planner}|{loop.may_split}|{described}"
    return plan_path(settings.plan_cache, program, chosen)


def _fit_cached(loop: Loop, limit: int, path: Path) -> Fitted:
    plan = load_plan(path)
    try:
        return fit(loop, limit, plan)
    except InvalidPlan as error:
        if plan is None:
            raise
        warnings.warn(f"ignoring the cached plan {path}: {error}", stacklevel=2)
        return fit(loop, limit)


def describe(target: Target, device: Any) -> str:
    """All that decides, beside a program, what is compiled of it and to how many bytes.

    Args:
        target: what it is compiled for.
        device: where it runs, or the first of the devices.
    """
    parts = (
        target,
        [_device_kinds(sharding) for sharding in _shardings(target)],
        device.device_kind,
        jax.__version__,
        version("jaxlib"),
        os.environ.get("XLA_FLAGS", ""),
        _compat.config.jax_enable_x64,
        _compat.config.jax_default_matmul_precision,
    )
    return "|".join(map(repr, parts))


def _device_kinds(sharding: Any) -> list[str]:
    return sorted({device.device_kind for device in getattr(sharding, "device_set", ())})


def _shardings(target: Target) -> list[Any]:
    """Of the arguments and the results, where any are asked for."""
    return [
        *(getattr(struct, "sharding", None) for struct in target.arguments),
        *(target.in_shardings or ()),
        *(target.out_shardings or ()),
    ]
