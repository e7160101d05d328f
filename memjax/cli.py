"""The command `memjax`.

In: a command line. Out: text or JSON on standard output, progress and errors on standard
error, and an exit code: 0 done, 1 failed, 2 wrong usage, 3 no plan fits the budget.

An error is one line; `memjax --debug …` shows the traceback. A new command is a function
under `@program.command()`.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from memjax.demo.variant import Measurement, Variant

EXIT_FAILED = 1
EXIT_INFEASIBLE = 3
_INFEASIBLE = "BudgetInfeasible"
_MIB = 2**20
_CAPTION = (
    "jax.checkpoint: round each block. Compiled: what XLA assigned, and what a budget covers. "
    "Resident: growth of the process while it trains, with what the runtime takes for itself."
)


@dataclass
class _Options:
    """What the options in front of the command said; `main` reads them after it failed."""

    debug: bool = False


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="memjax")
@click.pass_obj
def program(options: _Options, debug: bool) -> None:
    """Fit a JAX train step into a memory budget, checked on the compiled program."""
    options.debug = debug


@program.command()
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="BYTES",
    default=("300MiB", "130MiB"),
    show_default=True,
    help='A budget for memjax, such as "300MiB". May be given several times.',
)
@click.option("--steps", type=click.IntRange(min=1), default=6, show_default=True)
@click.option("--layers", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def demo(budgets: Sequence[str], steps: int, layers: int, as_json: bool) -> None:
    """Train a small GPT on Python's own sources, plain, by jax.checkpoint and under budgets."""
    _need_demo_packages()
    from memjax.demo.variant import Variant

    variants = [
        Variant("jax.jit", steps=steps, layers=layers),
        Variant("jax.checkpoint", remat=True, steps=steps, layers=layers),
        *(Variant(f"memjax {b}", budget=b, steps=steps, layers=layers) for b in budgets),
    ]
    measurements = _measure_all(variants)
    if as_json:
        click.echo(json.dumps([asdict(measurement) for measurement in measurements], indent=2))
        return
    from rich.console import Console

    Console().print(_table(measurements))


def _need_demo_packages() -> None:
    try:
        import flax  # noqa: F401
        import optax  # noqa: F401
        import psutil  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        hint = "pip install 'memjax[demo]'"
        raise click.ClickException(f"the demo needs {error.name}: {hint}") from error


def _measure_all(variants: Sequence[Variant]) -> list[Measurement]:
    """Measure variants one after the other, each in its own process, under a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from memjax.demo.variant import STAGES_BEFORE_STEPS, run_variant

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    measurements = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        total = sum(STAGES_BEFORE_STEPS + variant.steps for variant in variants)
        bar = progress.add_task("", total=total)
        for variant in variants:
            progress.update(bar, description=f"{variant.name}: loading")

            def advance(reached: str, name: str = variant.name) -> None:
                doing = "compiling" if reached == "loaded" else "training"
                progress.update(bar, advance=1, description=f"{name}: {doing}")

            measurements.append(run_variant(variant, advance))
    return measurements


def _table(measurements: Sequence[Measurement]) -> Table:
    from rich.table import Table

    table = Table(caption=_CAPTION)
    table.add_column("train step", no_wrap=True)
    for header in ("compiled MiB", "resident MiB", "step s", "first loss", "last loss"):
        table.add_column(header, justify="right")
    for m in measurements:
        table.add_row(
            m.name,
            f"{m.compiled_bytes / _MIB:.1f}",
            f"{m.resident_bytes / _MIB:.1f}",
            f"{m.step_seconds:.2f}",
            f"{m.first_loss:.4f}",
            f"{m.last_loss:.4f}",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the command line after the program's name; the process's own where None.
    """
    options = _Options()
    try:
        program.main(args=arguments, obj=options, standalone_mode=False, prog_name="memjax")
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("memjax: interrupted", err=True)
        return 130
    except Exception as error:  # noqa: BLE001  the boundary of the program: tell in one line
        if options.debug:
            click.echo(getattr(error, "details", None) or traceback.format_exc(), err=True)
        kind = getattr(error, "kind", type(error).__name__)
        click.echo(f"memjax: {_first_line(error)}", err=True)
        return EXIT_INFEASIBLE if kind == _INFEASIBLE else EXIT_FAILED
    return 0


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
