"""The commands that look at plan files: `show` and `diff`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from memjax.cli.commands import (
    as_json_option,
    echo,
    html_option,
    report_of,
    save_page,
    target_option,
)
from memjax.cli.inputs import BadInput, StepCall, load_call, load_plan_file, write_text
from memjax.cli.progress import working

if TYPE_CHECKING:
    from memjax.program.eqns import Program


@click.command()
@click.argument("plan_file", metavar="PLAN")
@click.argument("step", required=False)
@click.argument("arguments", required=False)
@target_option
@html_option
@as_json_option
def show(
    plan_file: str,
    step: str | None,
    arguments: str | None,
    target: str | None,
    html: str | None,
    as_json: bool,
) -> None:
    """Show a plan file as text, or as a page with --html.

    With STEP and ARGUMENTS the eqns have names and source lines, and the page is that of the
    full report, for which the plan is compiled (for --target, if it is given).
    """
    from memjax.view.plan_text import plan_lines, plan_page

    plan = load_plan_file(plan_file)
    call = _optional_call(step, arguments)
    if call is not None and html is not None:
        with working("compiling the plan"):
            report = report_of(call, plan.budget_bytes, target, plan)
        save_page(report, html)
        echo(report, as_json)
        return
    if html is not None:
        write_text(html, plan_page(plan))
        click.echo(f"wrote {html}", err=True)
    program = None if call is None else _program_of(call, plan)
    if as_json:
        click.echo(json.dumps(plan.to_dict(), indent=2))
    else:
        click.echo("\n".join(plan_lines(plan, program)))


@click.command()
@click.argument("first")
@click.argument("second")
@click.argument("step", required=False)
@click.argument("arguments", required=False)
@as_json_option
def diff(first: str, second: str, step: str | None, arguments: str | None, as_json: bool) -> None:
    """Compare two plan files. With STEP and ARGUMENTS the eqns have names and source lines."""
    from memjax.view.plan_text import difference, difference_lines

    one, two = load_plan_file(first), load_plan_file(second)
    call = _optional_call(step, arguments)
    found = difference(one, two)
    program = None if call is None or found.programs else _program_of(call, one)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo("\n".join(difference_lines(found, program)))


def _optional_call(step: str | None, arguments: str | None) -> StepCall | None:
    if step is None:
        return None
    if arguments is None:
        raise BadInput(f"{step} needs its ARGUMENTS as well: package.module:arguments")
    with working(f"loading {step}"):
        return load_call(step, arguments)


def _program_of(call: StepCall, plan: Any) -> Program:
    """The program whose eqns a plan names: that of the step, with its loops changed.

    Raises:
        InvalidPlan: the plan is for another program.
    """
    from memjax.fitting.budgeted import loop_for

    with working("tracing"):
        loop, _ = loop_for(call.step, call.args, call.kwargs)
        return loop.priced_of(plan).graph.program
