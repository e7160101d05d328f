"""The README says what is true of the repository."""

import re
import runpy
import warnings
from pathlib import Path

import pytest

import memjax
from benchmarks import provenance
from docs import benchmark_tables
from memjax import cli
from memjax.cli.program import program

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def commands(readme):
    return [block.strip() for block in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)]


def test_there_are_two_set_up_commands_of_one_line(commands):
    assert len(commands) == 2
    assert all("\n" not in command for command in commands)


def test_ci_runs_the_second_command(commands):
    assert commands[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", [name for name in memjax.__all__ if name != "figures"])
def test_the_api_reference_has_every_public_name(name):
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    entry = "page.write" if name == "page" else name
    assert re.search(rf"^.. auto\w+:: memjax\.{re.escape(entry)}$", reference, re.MULTILINE)


def test_the_tables_are_those_of_the_result_files(readme):
    """Marks apart: they follow the code, and are made anew with the tables."""
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    unmarked = benchmark_tables.demo().replace(benchmark_tables.STALE, "")
    assert unmarked in readme.replace(benchmark_tables.STALE, "")
    unmarked = benchmark_tables.page().replace(benchmark_tables.STALE, "")
    assert unmarked == page.replace(benchmark_tables.STALE, "")


def test_results_of_older_code_are_reported():
    """A warning, as measuring again may take hours."""
    if stale := benchmark_tables.stale():
        warnings.warn(f"older than their code: {', '.join(stale)}", stacklevel=1)


def test_a_result_is_stale_once_its_code_has_changed(monkeypatch):
    row = dict.fromkeys(("jax", "jaxlib", "python", "device_kind", "machine", "date"), "")
    row["code"] = provenance.code_digest("benchmarks.losses_are_equal")
    assert benchmark_tables.STALE not in benchmark_tables.where([row], "losses_are_equal")
    monkeypatch.setattr(provenance, "code_digest", lambda module: "another")
    assert benchmark_tables.STALE in benchmark_tables.where([row], "losses_are_equal")


def test_the_script_and_the_commands_run_as_they_are(readme, tmp_path, monkeypatch, capsys):
    """What a newcomer does: paste it, run it, open the page."""
    scripts = [b for b in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "..." not in b]
    assert len(scripts) == 1
    path = tmp_path / "train.py"
    path.write_text(scripts[0])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert "of 8.0 MiB budgeted" in printed
    assert "train.py:14 (__call__)" in printed
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")

    commands = re.findall(r"^\$ memjax (.*)", readme, re.MULTILINE)
    assert {command.split()[0] for command in commands} >= {"analyze", "plan", "max-batch"}
    monkeypatch.syspath_prepend(str(tmp_path))
    quick = ["--at-most", "256", "--points", "1"]
    for command in commands:
        more = quick if command.startswith("max-batch") else []
        assert cli.main([*command.split(), *more]) == 0, command


def test_the_command_line_page_names_every_command_and_exit_code():
    page = (ROOT / "docs" / "howto" / "command_line.md").read_text(encoding="utf-8")
    assert {c for c in program.commands if f"| `memjax {c}" not in page} == set()
    codes = (0, cli.EXIT_INFEASIBLE, cli.EXIT_BAD_INPUT, cli.EXIT_FAILED, cli.EXIT_INTERRUPTED)
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == list(codes)


def test_links_lead_to_files(readme):
    links = re.findall(r"\]\(([^)#]+)\)", readme)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
