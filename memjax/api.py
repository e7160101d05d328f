"""The user's surface: `memory_budget`, `plan`, `analyze`, `floor`, `frontier`, `max_batch`.

This is the only module that sees every stage; what a decorated step does when it is called is in
`memjax.fitting.budgeted`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memjax.emit.compile import Footprint
from memjax.emit.plan import Plan
from memjax.fitting.batch import find_max_batch, sizes_between
from memjax.fitting.batch_result import MaxBatch
from memjax.fitting.batch_search import MakeArguments, OnProgress, Probe
from memjax.fitting.budgeted import BudgetedStep, loop_for
from memjax.fitting.curve import Frontier, default_budgets, make_frontier
from memjax.fitting.fit import find_floor
from memjax.fitting.report import (
    Analysis,
    Report,
    make_analysis,
    make_report,
)
from memjax.fitting.settings import Donate, Settings, check_donate, check_split
from memjax.fitting.setup import limit_of
from memjax.helpers.budget import budget_bytes, format_bytes
from memjax.planning.planners import Planner, get_planner
from memjax.targets.attach import devices_of
from memjax.targets.names import named


def memory_budget(
    budget: int | str,
    *,
    donate: Donate = "auto",
    donate_argnums: int | Sequence[int] | None = None,
    donate_argnames: str | Iterable[str] | None = None,
    static_argnums: int | Sequence[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
    device: Any = None,
    planner: str | Planner = "auto",
    compiler_options: dict[str, Any] | None = None,
    plan: Plan | None = None,
    plan_cache: str | Path | None = None,
    split: str | bool = "auto",
) -> Callable[[Callable[..., Any]], BudgetedStep]:
    """Fit a step into a memory budget, in place of `jax.jit`.

    The first call with new shapes traces the step, plans what to recompute, compiles, and
    checks the bytes that XLA assigned; later calls just run.

    Args:
        budget: bytes for one device, as an int, `"8GB"` (10⁹ bytes), `"8GiB"` (2³⁰) or
            `"80%"` of the device's own limit, or of its memory if it is not attached. It covers
            what XLA counts for the compiled program: argument + output - alias + temp.
        donate: `"auto"` gives up every argument of which some result is an update (see
            `memjax.program.donation`); `None` or `False` none; positions or names of arguments give
            up all of theirs that some result can take the place of.
        donate_argnums: positions of arguments to give up, as in `jax.jit`: whole, also what no
            result can take the place of. In place of `donate`.
        donate_argnames: names of such arguments, as in `jax.jit`.
        static_argnums: positions of static arguments, as in `jax.jit`.
        static_argnames: names of static arguments, as in `jax.jit`.
        in_shardings: as in `jax.jit`; `None` follows the arguments.
        out_shardings: as in `jax.jit`; `None` leaves them to XLA.
        device: where to run; `None` follows the arguments or JAX's default. A name such as
            `"h100"` or `"v5e:2x2"` (`memjax targets` lists them) stands for devices that are
            attached, or for ones to compile for: then everything can be asked but a call. Over
            several devices the step is spread as its shardings say, whose meshes are moved to them.
        planner: a planner's name, or a `Planner`.
        compiler_options: for XLA; they win over memjax's own.
        plan: a plan of an earlier run (`Plan.from_json`), tried first.
        plan_cache: a folder in which plans are kept between processes; off by default. A file
            in it that is damaged, or a folder that cannot be written, is a warning.
        split: `"auto"` lets plans run wide regions in chunks along an axis of their values
            (see `memjax.split`), where that is better than recomputation alone; `False` never.

    Returns:
        A decorator; what it makes is called like the step itself. It has `.plan`, `.report`,
        `.compiled`, `.trace` and `.lower`, which take the step's arguments
        (`jax.ShapeDtypeStruct` leaves will do) and run nothing on the device.

    Where JAX would not run a call as one compiled program, there is no budget, and the call is
    that of `jax.jit`: under transformations, `jax.disable_jit` and `jax.debug_nans`.

    As with `jax.jit`, positions of a method count the instance. One that is a pytree is an
    argument like others; another one is static, and each has plans of its own.

    Raises:
        ImportError: the compiler of a device that is not attached is not installed.
        ValueError: the budget or another setting is malformed. The first call raises
            `BudgetInfeasible` where no plan fits, and `InvalidPlan` where `plan` cannot be
            carried out.
        TypeError: `plan` is no plan.
    """
    if not (isinstance(budget, str) and budget.strip().endswith("%")):
        budget_bytes(budget)
    get_planner(planner)
    if not isinstance(plan, Plan | None):
        raise TypeError(f"plan is a memjax.Plan, as Plan.from_json gives, and not {type(plan)}")
    if isinstance(device, str):
        named(device)
    settings = Settings(
        budget=budget,
        donate=donate,
        donate_argnums=donate_argnums,
        donate_argnames=donate_argnames,
        static_argnums=static_argnums,
        static_argnames=static_argnames,
        in_shardings=in_shardings,
        out_shardings=out_shardings,
        device=device,
        planner=planner,
        compiler_options=compiler_options,
        plan=plan,
        plan_cache=plan_cache,
        split=split,
    )
    check_split(settings)
    check_donate(settings)
    return lambda step: BudgetedStep(step, settings)


def plan(step: Callable[..., Any], *args: Any, budget: int | str, **settings: Any) -> Plan:
    """The plan for a step under a budget, without a decorator; see `memory_budget`."""
    return memory_budget(budget, **settings)(step).plan(*args)


def target_devices(name: str) -> tuple[Any, ...]:
    """The devices that a name stands for, to make a mesh of: attached ones, if there are enough.

    Otherwise they are compile-only: programs are compiled for them, and nothing can be put there.

    Args:
        name: `"h100:8"`, `"v5e:2x2"` and the like; `memjax targets` lists the kinds.

    Raises:
        ImportError: their compiler is not installed.
        ValueError: it is no such name, or there is no such topology.
    """
    return devices_of(name)


def analyze(
    step: Callable[..., Any],
    *args: Any,
    compile: bool = False,
    device: Any = None,
    **kwargs: Any,
) -> Analysis:
    """What a step holds as it is: timeline, peak, and who holds it.

    Args:
        step: the step, undecorated.
        args: its arguments; `jax.ShapeDtypeStruct` leaves will do.
        compile: whether the step is compiled as it is, so that XLA's bytes stand beside the
            predicted ones. Nothing is compiled otherwise.
        device: as in `memory_budget`.
        kwargs: keyword arguments of the step; none that is called `compile` or `device`.
    """
    loop, donations = loop_for(step, args, kwargs, device)
    fitted = loop.result(loop.compile_as_it_is(0)) if compile else None
    residents = loop.residents(loop.program)
    return make_analysis(loop.as_it_is, donations, residents, fitted, loop.device)


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


def floor(step: Callable[..., Any], *args: Any, device: Any = None, **kwargs: Any) -> Floor:
    """The smallest footprint that memjax can reach for a step; compiles up to four programs.

    Args:
        step: the step.
        args: its arguments; `jax.ShapeDtypeStruct` leaves will do.
        device: as in `memory_budget`.
        kwargs: keyword arguments of the step; none that is called `device`.
    """
    loop, _ = loop_for(step, args, kwargs, device)
    fitted = find_floor(loop)
    compiled = fitted.chosen.measured.footprint
    report = make_report(fitted, compiled.total_bytes)
    return Floor(compiled.total_bytes, report, compiled)


def frontier(
    step: Callable[..., Any],
    *args: Any,
    budgets: Sequence[int | str] = (),
    points: int = 8,
    verify: bool = False,
    device: Any = None,
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
        device: as in `memory_budget`.
        kwargs: keyword arguments of the step; none that is called as one of these.
    """
    loop, _ = loop_for(step, args, kwargs, device)
    asked = (Settings(budget=budget, device=device) for budget in budgets)
    chosen = tuple(limit_of(settings, ()) for settings in asked) or default_budgets(loop, points)
    return make_frontier(loop, chosen, verify=verify)


def max_batch(
    make_arguments: MakeArguments,
    step: Callable[..., Any],
    budget: int | str,
    *,
    at_least: int = 1,
    at_most: int | None = None,
    multiple_of: int = 1,
    points: int = 6,
    on_progress: OnProgress | None = None,
    **settings: Any,
) -> MaxBatch:
    """The largest batch size with which a step fits into a budget.

    Any integer will do in place of a batch size: tokens, width, layers, the exponent of a power
    of two. Wide regions stay whole, also of a decorated step, unless `split="auto"` is among the
    settings: in chunks of the batch nearly every batch fits, and takes longer.

    Args:
        make_arguments: takes a size, and returns the step's arguments as a tuple (or the one
            argument). It is traced, so what it makes takes no memory;
            `jax.ShapeDtypeStruct` leaves will do, and arrays that exist already are used as
            they are.
        step: the step, decorated with `memory_budget` or not.
        budget: as in `memory_budget`.
        at_least: the smallest size worth knowing.
        at_most: the largest.
        multiple_of: sizes are multiples of it.
        points: how many sizes the curve of overheads has.
        on_progress: is told what is being done, in a few words.
        settings: as in `memory_budget`, for a step that is not decorated.

    Returns:
        The size, with its report, and the curve.

    Raises:
        BudgetInfeasible: not even the smallest size fits.
        TypeError: a size is not an integer.
        ValueError: there is no size in the range, the step does not trace at a size, or the
            footprint does not grow with the size and `at_most` is not given.
    """
    sizes = sizes_between(at_least, at_most, multiple_of)
    if points < 1:
        raise ValueError(f"points must be at least 1, not {points}")
    tell = on_progress or (lambda _: None)
    probe = Probe(make_arguments, _budgeted(step, budget, settings), sizes, tell)
    return find_max_batch(probe, points, may_end=at_most is not None)


def _budgeted(
    step: Callable[..., Any], budget: int | str, settings: dict[str, Any]
) -> BudgetedStep:
    """The step under the budget, with its own settings where it is decorated already."""
    if not isinstance(step, BudgetedStep):
        return memory_budget(budget, **{"split": False, **settings})(step)
    if settings:
        raise ValueError(
            f"{step!r} has its own settings; take {', '.join(sorted(settings))} to its decorator"
        )
    return step.changed(budget=budget, split=False)
