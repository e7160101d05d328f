"""From a user's settings and a call to a closed loop that is ready to run.

In: `Settings`, a step, its arguments. Out: the traced `Program`, the verdict on donation, and
a `Loop` that knows the device, the shardings and the planner.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from memjax import _compat, cost
from memjax.backends import backend_of
from memjax.closed_loop import AS_IT_IS, Fitted, Loop
from memjax.compile import Target, flat_arguments
from memjax.donation import Donation, match_donations
from memjax.fit import fit, with_device_scale
from memjax.plan import Plan, fingerprint, schedule_of_plan
from memjax.plan_cache import load_plan, plan_path, save_plan
from memjax.planners import Planner, get_planner
from memjax.signature import Call, Statics
from memjax.simulate import InvalidPlan
from memjax.stated import stated_of
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


def check_donate(donate: Donate) -> None:
    """Refuse what `donate` cannot be.

    Raises:
        ValueError: it is a text other than `"auto"`.
    """
    if isinstance(donate, str) and donate != "auto":
        raise ValueError(
            f'donate is "auto", None, or positions and names of arguments, not {donate!r}; '
            f"for one argument by its name write donate=({donate!r},)"
        )


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
    program: Program, settings: Settings, step: Callable[..., Any]
) -> tuple[Donation, ...]:
    """Which leaves are given up.

    Raises:
        ValueError: `donate` names arguments that the step does not have.
    """
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


def make_loop(
    program: Program,
    call: Call,
    settings: Settings,
    donations: Sequence[Donation],
    device: Any,
) -> Loop:
    """A fresh closed loop for a call."""
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
    planner = get_planner(settings.planner)
    stated = stated_of(_key(program, target, device))
    return Loop(program, target, tuple(donations), planner, rates, stated=stated)


def _key(program: Program, target: Target, device: Any) -> str:
    """What decides, beside a plan, which bytes XLA assigns, as part of a file's name."""
    parts = (fingerprint(program), _compat.versions(), device.device_kind, target)
    return hashlib.sha256("|".join(map(repr, parts)).encode()).hexdigest()[:32]


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
    shardings = [getattr(struct, "sharding", None) for struct in loop.target.arguments]
    shardings += [*(loop.target.in_shardings or ()), *(loop.target.out_shardings or ())]
    return any(len(getattr(s, "device_set", ())) > 1 for s in shardings)


def _cached_plan(loop: Loop, path: Path) -> Plan | None:
    """The plan in a file, if it can be carried out; a damaged one is never fatal."""
    plan = load_plan(path)
    if plan is None:
        return None
    try:
        schedule_of_plan(loop.coarse_of(plan), plan)
    except InvalidPlan as error:
        warnings.warn(f"ignoring the cached plan {path}: {error}", stacklevel=2)
        return None
    return plan


def fit_with_cache(loop: Loop, limit: int, settings: Settings) -> Fitted:
    """Run the closed loop; a plan that the settings give or a folder holds is tried first."""
    if spreads(loop):
        loop = with_device_scale(loop, limit)
    given, path = settings.plan, None
    if settings.plan_cache is not None:
        described = f"{limit}|{loop.target.backend.platform}|{loop.planner}|{loop.target.donated}"
        program = fingerprint(loop.prepared.graph.program)
        path = plan_path(settings.plan_cache, program, described)
        given = given or _cached_plan(loop, path)
    fitted = fit(loop, limit, given)
    if path is not None and fitted.chosen.purpose != AS_IT_IS:
        save_plan(path, fitted.chosen.plan)
    return fitted
