"""The README says what is true of the repository."""

import re
from pathlib import Path

import pytest

from docs import readme_numbers

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


def test_the_numbers_are_those_of_the_result_files(readme):
    assert readme_numbers.numbers() in readme


def test_links_lead_to_files(readme):
    links = re.findall(r"\]\(([^)#]+)\)", readme)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
