"""`memjax doctor`: whether memjax can keep its promise here."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from memjax.cli.commands import as_json_option
from memjax.cli.progress import working

_MARKS = {"ok": "✓", "note": "·", "wrong": "✗"}


@click.command()
@as_json_option
def doctor(as_json: bool) -> int:
    """Versions, devices and their limits; whether barriers hold and donation works here.

    Exit code 1 if something is wrong.
    """
    from memjax.cli.examine import examine

    with working("examining"):
        findings = examine()
    wrong = any(finding.verdict == "wrong" for finding in findings)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
        return int(wrong)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        click.echo(f"{_MARKS[finding.verdict]} {finding.name:<{width}}  {finding.what}")
        if finding.meaning:
            click.echo(f"  {'':<{width}}  {finding.meaning}")
    return int(wrong)
