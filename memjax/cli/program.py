"""The group of commands, and the boundary at which errors become one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import click

import memjax
from memjax.cli.commands import analyze, frontier, max_batch, plan
from memjax.cli.demo import demo
from memjax.cli.doctor import doctor
from memjax.cli.inputs import first_line, no_backend, where_tracing_failed
from memjax.cli.plans import diff, show
from memjax.cli.targets import targets

EXIT_INFEASIBLE = 1
EXIT_BAD_INPUT = 2
EXIT_FAILED = 3
EXIT_INTERRUPTED = 130


@dataclass
class _Options:
    """What the options in front of the command said; `main` reads them after it failed."""

    debug: bool = False


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(memjax.__version__)
@click.pass_obj
def program(options: _Options, debug: bool) -> None:
    """Fit a JAX train step into a memory budget, checked on the compiled program.

    STEP and ARGUMENTS are written package.module:name; the current directory is searched
    first. ARGUMENTS is a tuple (a dict gives keyword arguments), or a function that returns one.
    Arrays that such a function makes are never allocated.
    """
    options.debug = debug


for _command in (analyze, plan, frontier, max_batch, show, diff, targets, doctor, demo):
    program.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the command line after the program's name; the process's own where None.
    """
    options = _Options()
    try:
        result = program.main(
            args=arguments, obj=options, standalone_mode=False, prog_name="memjax"
        )
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        if options.debug:
            click.echo(traceback.format_exc(), err=True)
        _show(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("memjax: interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever reads the result has seen enough of it, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  the boundary of the program: tell in one line
        return _failed(error, options.debug)
    return result if isinstance(result, int) else 0


def _show(error: click.ClickException) -> None:
    """Say in one line what is wrong with the command line; without a command, show the help."""
    text = error.format_message().rstrip(".")
    if isinstance(error, click.UsageError) and error.ctx is not None and "\n" not in text:
        where = error.ctx.command_path
        click.echo(f"{where}: {text}; see {where} --help", err=True)
    else:
        error.show()


def _failed(error: Exception, debug: bool) -> int:
    """Say what went wrong; the exit code."""
    kind = getattr(error, "kind", type(error).__name__)  # of an error in another process
    if debug:
        click.echo(getattr(error, "details", None) or traceback.format_exc(), err=True)
    if no_backend(error):
        asked = os.environ.get("JAX_PLATFORMS", "")
        why = first_line(error) if str(error) else f"JAX_PLATFORMS={asked} names none that is here"
        click.echo(f"memjax: JAX finds no backend: {why}; memjax doctor says more", err=True)
        return EXIT_BAD_INPUT
    where = where_tracing_failed(error)
    if where is not None:
        click.echo(
            f"memjax: the step cannot be traced with these arguments: {kind}: "
            f"{first_line(error)}{where}",
            err=True,
        )
        return EXIT_BAD_INPUT
    if kind == "BudgetInfeasible":
        whole = type(error).__name__ == kind  # not from the demo's other process
        click.echo(f"memjax: {error if whole else first_line(error)}", err=True)
        return EXIT_INFEASIBLE
    if isinstance(error, (ValueError, ImportError)) or kind in ("ValueError", "InvalidPlan"):
        click.echo(f"memjax: {first_line(error)}", err=True)
        return EXIT_BAD_INPUT
    hint = "" if debug else " (memjax --debug … shows where)"
    click.echo(f"memjax: {kind}: {first_line(error)}{hint}", err=True)
    return EXIT_FAILED
