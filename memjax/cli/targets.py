"""`memjax targets`: devices that can be planned for by name."""

from __future__ import annotations

import json
from typing import Any

import click

from memjax.cli.commands import as_json_option


@click.command()
@as_json_option
def targets(as_json: bool) -> None:
    """Devices to plan for, attached or not: memory, rates, and what is missing to compile."""
    from memjax.targets.figures import all_figures

    rows = [_row(figures) for figures in all_figures().values()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from memjax.helpers.brief import table

    header = ("name", "device", "memory", "TFLOP/s", "GB/s", "")
    for line in table(header, [_cells(row) for row in rows], right=(2, 3, 4)):
        click.echo(line.rstrip())
    for problem in dict.fromkeys(row["missing"] for row in rows if row["missing"]):
        click.echo(f"to plan for others: {problem}")
    click.echo('several of them: "h100:8" on a host, "v5e:2x2" in a topology')


def _row(figures: Any) -> dict[str, Any]:
    from memjax import _compat
    from memjax.targets.attach import missing
    from memjax.targets.figures import figures_of_kind

    devices = _compat.attached_devices(figures.platform)
    attached = sum(figures_of_kind(device.device_kind) == figures for device in devices)
    rates = figures.rates
    return {
        "name": figures.name,
        "title": figures.title,
        "memory_bytes": figures.memory_bytes,
        "bfloat16_flops_per_second": rates.matmul.get("bfloat16", rates.flops_per_second),
        "bytes_per_second": rates.bytes_per_second,
        "attached": attached,
        "missing": "" if attached else missing(figures),
        "sources": figures.sources,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    from memjax.helpers.budget import format_bytes

    state = "its compiler is not installed" if row["missing"] else "can be planned for"
    return (
        row["name"],
        row["title"],
        "" if row["memory_bytes"] is None else format_bytes(row["memory_bytes"]),
        f"{row['bfloat16_flops_per_second'] / 1e12:.1f}",
        f"{row['bytes_per_second'] / 1e9:.0f}",
        f"{row['attached']} attached" if row["attached"] else state,
    )
