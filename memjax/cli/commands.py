"""The commands that look at a step: `analyze`, `plan`, `frontier`, `max-batch`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from memjax.cli.inputs import (
    BadInput,
    Budget,
    Device,
    OutputFile,
    StepCall,
    load,
    load_call,
    load_step,
    write_text,
)
from memjax.cli.progress import working

Command = TypeVar("Command", bound=Callable[..., Any])

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, not text.")
full_option = click.option("--full", is_flag=True, help="All rows, not a screen of them.")
html_option = click.option(
    "--html",
    type=OutputFile(),
    metavar="FILE",
    help="Write a page that stands alone, to open in a browser.",
)
budget_option = click.option(
    "--budget",
    type=Budget(),
    required=True,
    metavar="BYTES",
    help='For one device: "8GB", "8GiB", bytes, or "80%" of the device\'s limit.',
)
target_option = click.option(
    "--target",
    type=Device(),
    metavar="DEVICE",
    help='What to plan for, attached or not: "h100", "v5e:2x2"; memjax targets lists them.',
)


def on_a_step(command: Command) -> Command:
    """Give a command the arguments STEP and ARGUMENTS."""
    return click.argument("step")(click.argument("arguments")(command))


def echo(found: Any, as_json: bool, full: bool = False) -> None:
    """Print a result; with all rows of its tables if it is asked for in full."""
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(found.text(None) if full else str(found))


def save_page(found: Any, path: str | None) -> None:
    """Write a result's page, if one is asked for."""
    if path is None:
        return
    try:
        found.save_html(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from error
    click.echo(f"wrote {path}", err=True)


@click.command()
@on_a_step
@target_option
@click.option("--compiled", is_flag=True, help="Compile it as well, and state XLA's bytes.")
@html_option
@full_option
@as_json_option
def analyze(
    step: str,
    arguments: str,
    target: str | None,
    compiled: bool,
    html: str | None,
    full: bool,
    as_json: bool,
) -> None:
    """What a step holds as it is, and who holds it; predicted, unless --compiled."""
    with working(f"loading {step}") as tell:
        call = load_call(step, arguments)
        import memjax

        tell("compiling" if compiled else "tracing and counting")
        found = memjax.analyze(
            call.step, *call.args, compile=compiled, device=target, **call.kwargs
        )
        save_page(found, html)
    echo(found, as_json, full)


@click.command()
@on_a_step
@budget_option
@target_option
@click.option(
    "-o",
    "--output",
    type=OutputFile(),
    metavar="FILE",
    help="Write the plan, for `plan=` and `show`.",
)
@html_option
@full_option
@as_json_option
def plan(
    step: str,
    arguments: str,
    budget: str,
    target: str | None,
    output: str | None,
    html: str | None,
    full: bool,
    as_json: bool,
) -> None:
    """Plan a step for a budget, compile it, and report on it."""
    with working(f"loading {step}") as tell:
        call = load_call(step, arguments)
        tell(f"planning and compiling for {budget}")
        found = report_of(call, budget, target)
        if output is not None:
            write_text(output, found.plan.to_json())
        save_page(found, html)
    echo(found, as_json, full)


def budgeted(step: Any, budget: int | str, target: str | None, given: Any = None) -> Any:
    """A step under a budget, with the settings of its own decorator if it has one.

    Args:
        step: decorated or not.
        budget: in the place of the decorator's own.
        target: likewise, if it is given.
        given: a plan to try first.
    """
    from memjax.api import memory_budget
    from memjax.fitting.budgeted import BudgetedStep

    if not isinstance(step, BudgetedStep):
        return memory_budget(budget, device=target, plan=given)(step)
    own = step._settings
    return step.changed(budget=budget, device=target or own.device, plan=given or own.plan)


def report_of(call: StepCall, budget: int | str, target: str | None, given: Any = None) -> Any:
    """The report of a step under a budget."""
    return budgeted(call.step, budget, target, given).report(*call.args, **call.kwargs)


@click.command()
@on_a_step
@target_option
@click.option(
    "--budget",
    "budgets",
    type=Budget(),
    multiple=True,
    metavar="BYTES",
    help="A budget to plan for; may be given several times. Evenly spread by default.",
)
@click.option("--points", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--verify", is_flag=True, help="Compile each point, and state its bytes.")
@click.option("--figure", type=OutputFile(), metavar="FILE", help="Draw it (.png, .pdf, .svg).")
@as_json_option
def frontier(
    step: str,
    arguments: str,
    target: str | None,
    budgets: tuple[str, ...],
    points: int,
    verify: bool,
    figure: str | None,
    as_json: bool,
) -> None:
    """The curve of bytes against overhead."""
    with working(f"loading {step}") as tell:
        call = load_call(step, arguments)
        import memjax

        tell("planning and compiling" if verify else "planning")
        found = memjax.frontier(
            call.step, *call.args, budgets=budgets, points=points, verify=verify,
            device=target, **call.kwargs,
        )  # fmt: skip
        if figure is not None:
            _save_frontier(found, figure)
    echo(found, as_json)


def _save_frontier(found: Any, path: str) -> None:
    try:
        from memjax.view import figures
    except ImportError as error:
        hint = "pip install 'memjax[viz]'"
        raise BadInput(f"figures need {error.name}: {hint}") from error
    try:
        figures.save(figures.frontier(found), path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be written: {error}") from error
    click.echo(f"wrote {path}", err=True)


@click.command("max-batch")
@on_a_step
@budget_option
@target_option
@click.option("--at-least", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--at-most", type=click.IntRange(min=1), help="Where to stop.")
@click.option("--multiple-of", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--points", type=click.IntRange(min=1), default=6, show_default=True)
@as_json_option
def max_batch(
    step: str,
    arguments: str,
    budget: str,
    target: str | None,
    at_least: int,
    at_most: int | None,
    multiple_of: int,
    points: int,
    as_json: bool,
) -> None:
    """The largest batch that fits a budget. ARGUMENTS is a function of the batch size."""
    with working(f"loading {step}") as tell:
        function, make = load_step(step), load(arguments)
        if not callable(make):
            raise BadInput(f"{arguments} is no function of the batch size")
        import memjax

        found = memjax.max_batch(
            make, budgeted(function, budget, target), budget, at_least=at_least, at_most=at_most,
            multiple_of=multiple_of, points=points, on_progress=tell,
        )  # fmt: skip
    echo(found, as_json)
