"""From a user's settings and a call to a closed loop that is ready to run.

In: `Settings`, a step, its arguments. Out: the traced `Program`, the verdict on donation, and
a `Loop` that knows the device, the shardings and the planner.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from memjax import _compat
from memjax.emit.compile import Target
from memjax.emit.fingerprint import fingerprint
from memjax.emit.plan_cache import load_plan, plan_path, save_plan
from memjax.fitting.attempts import AS_IT_IS, Fitted
from memjax.fitting.closed_loop import Loop
from memjax.fitting.fit import fit, with_device_scale
from memjax.fitting.settings import Settings
from memjax.fitting.stated import stated_of
from memjax.helpers.budget import budget_bytes
from memjax.planning.planners import get_planner
from memjax.planning.simulate import InvalidPlan
from memjax.pricing.backends import backend_of
from memjax.program.donation import Donation, match_donations
from memjax.program.eqns import Program
from memjax.program.signature import Call, Statics, as_tuple, flat_arguments, in_call
from memjax.program.trace import trace
from memjax.targets.attach import devices_of, is_attached, label, memory_bytes
from memjax.targets.figures import rates_of
from memjax.targets.placing import moved, placed


def trace_call(
    step: Callable[..., Any], statics: Statics, args: Sequence[Any], kwargs: dict[str, Any]
) -> Program:
    """The program of a call."""
    return trace(
        step, args, kwargs, static_argnums=statics.argnums, static_argnames=statics.argnames
    )


def device_of(settings: Settings, leaves: Sequence[Any]) -> Any:
    """The device whose limit and rates count: the settings', the arguments', or JAX's default."""
    if isinstance(settings.device, str):
        return devices_of(settings.device)[0]
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


def over_named_devices(
    settings: Settings, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """A call's arguments; where the settings name devices, those that are spread are over these."""
    if not isinstance(settings.device, str):
        return args, kwargs
    devices = devices_of(settings.device)
    found: tuple[Sequence[Any], dict[str, Any]] = jax.tree_util.tree_map(
        lambda leaf: moved(leaf, devices, str(settings.device)), (args, kwargs)
    )
    return found


def limit_of(settings: Settings, leaves: Sequence[Any]) -> int:
    """Bytes of the budget; a share is one of the device's own limit, attached or not."""
    device = device_of(settings, leaves)
    return budget_bytes(settings.budget, memory_bytes(device), label(device))


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
    target = _target(program, call, settings, donated, device)
    planner = get_planner(settings.planner)
    may_split = settings.split == "auto"
    described = f"{fingerprint(program)}|{describe(target, device)}|{may_split}"
    stated = stated_of(hashlib.sha256(described.encode(errors="replace")).hexdigest()[:32])
    asked = settings.donates_as_jit or settings.donate != "auto"
    return Loop(
        program,
        target,
        tuple(donations),
        rates_of(device.device_kind),
        planner=planner,
        stated=stated,
        donation_is_asked=asked,
        device=label(device, _most_devices(target)),
        may_split=may_split and _most_devices(target) == 1,
    )


def _target(
    program: Program, call: Call, settings: Settings, donated: Sequence[int], device: Any
) -> Target:
    """How a program is compiled for a call; named devices take the place of the call's own."""
    avals = [program.avals[value] for value in program.arguments]
    target = Target(
        backend=backend_of(device.platform),
        arguments=flat_arguments(avals, call.leaves),
        donated=tuple(donated),
        in_shardings=_flat_in_shardings(settings, call),
        out_shardings=_flat_out_shardings(settings, program),
        user_options=settings.compiler_options,
    )
    if not isinstance(settings.device, str):
        return target
    given = target.in_shardings or (None,) * len(target.arguments)
    shardings = [
        asked or struct.sharding for asked, struct in zip(given, target.arguments, strict=True)
    ]
    devices, results = devices_of(settings.device), target.out_shardings
    places = placed(shardings, devices, settings.device)
    return replace(
        target,
        arguments=tuple(map(_compat.struct_at, target.arguments, places)),
        in_shardings=None,
        out_shardings=None if results is None else list(placed(results, devices, settings.device)),
    )


def _flat_in_shardings(settings: Settings, call: Call) -> tuple[Any, ...] | None:
    if settings.in_shardings is not None:
        args, _ = jax.tree_util.tree_unflatten(call.tree, call.leaves)
        return tuple(_compat.broadcast_prefix(settings.in_shardings, args))
    if settings.device is not None and not isinstance(settings.device, str):
        return (jax.sharding.SingleDeviceSharding(settings.device),) * len(call.leaves)
    return None


def _flat_out_shardings(settings: Settings, program: Program) -> list[Any] | None:
    if settings.out_shardings is None:
        return None
    results = jax.tree_util.tree_unflatten(program.out_tree, program.results)
    return list(_compat.broadcast_prefix(settings.out_shardings, results))


def spreads(loop: Loop) -> bool:
    """Whether a program runs on several devices."""
    return _most_devices(loop.target) > 1


def _most_devices(target: Target) -> int:
    """Over how many devices a program is spread."""
    return max((len(getattr(s, "device_set", ())) for s in _shardings(target)), default=1) or 1


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
        is_attached(device),
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
