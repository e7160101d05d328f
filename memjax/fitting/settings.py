"""What a user says about a step, and what follows of it from the step itself.

In: the arguments of `memory_budget`, a step. Out: `Settings`, with positions and names of the
step's arguments, and with those of a `jit` that is round the step already.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memjax import _compat
from memjax.emit.plan import Plan
from memjax.planning.planners import Planner
from memjax.program.signature import as_tuple, resolve

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


FRAMEWORK_JITS = frozenset({"flax.nnx.transforms.compilation", "equinox._jit"})
"""The modules in which frameworks have what their own `jit` makes of a function."""


def without_jit(
    step: Callable[..., Any], settings: Settings
) -> tuple[Callable[..., Any], Settings]:
    """The function that a user has jitted already, and the settings with those of that jit.

    Of `jax.jit` its static and donated arguments and shardings are taken over, of `nnx.jit` the
    static ones; what memory_budget is given itself wins. What `nnx.jit` and `eqx.filter_jit`
    do for the objects of their frameworks is done for any step.
    """
    of_jit = _compat.jit_settings(step)
    is_framework = type(step).__module__ in FRAMEWORK_JITS
    if of_jit is None and not is_framework:
        return step, settings
    if of_jit is None:
        static = as_tuple(getattr(step, "static_argnums", None))
        of_jit = {"static_argnums": static} if static else {}
    given = {name for name in of_jit if getattr(settings, name) is not None}
    if settings.donate != "auto":
        given |= {"donate_argnums", "donate_argnames"}
    taken = {name: value for name, value in of_jit.items() if name not in given}
    return inspect.unwrap(step), replace(settings, **taken)
