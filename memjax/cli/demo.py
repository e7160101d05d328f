"""`memjax demo`: train a small GPT plain, by `jax.checkpoint` and under budgets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from memjax.cli.inputs import Budget

if TYPE_CHECKING:
    from rich.table import Table

    from memjax.demo.variant import Measurement, Variant

_MIB = 2**20
_CAPTION = (
    "jax.checkpoint: round each block. Compiled: what XLA assigned, and what a budget covers. "
    "Resident: growth of the process while it trains, with what the runtime takes for itself."
)


@click.command()
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    type=Budget(),
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
