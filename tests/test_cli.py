"""The command `memjax`: output, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import memjax
from memjax import cli
from memjax.cli.program import program

MODULE = """
import jax
import jax.numpy as jnp
import memjax

KIB = 2**10

def step(weights, x):
    def loss(weights):
        h = x
        for w in weights:
            h = jnp.tanh(h @ w)
        return jnp.mean(h**2)

    value, gradients = jax.value_and_grad(loss)(weights)
    return [w - 0.1 * g for w, g in zip(weights, gradients)], value

@memjax.memory_budget("1MB", donate=None)
def decorated(weights, x):
    return step(weights, x)

def scanned(weights, x):
    def loss(weights):
        body = lambda h, w: (jnp.tanh(h @ w) + h, None)
        return jnp.mean(jax.lax.scan(body, x, weights)[0] ** 2)

    value, gradients = jax.value_and_grad(loss)(weights)
    return weights - 0.1 * gradients, value

def stacked():
    return jnp.ones((16, 64, 64)), jnp.ones((256, 64))

def arguments(size=256):
    return [jnp.ones((64, 64))] * 6, jnp.ones((size, 64))

def looks():
    weights, x = arguments()
    return (weights, x) if float(x.sum()) else None

named = {"weights": [jax.ShapeDtypeStruct((64, 64), jnp.float32)] * 6,
         "x": jax.ShapeDtypeStruct((256, 64), jnp.float32)}
one = (1,)
number = 3

def narrow():
    return [jnp.ones((64, 64))] * 6, jnp.ones((256, 3))

def talking():
    print("making arguments")
    return arguments()

def failing():
    raise KeyError("nothing here")
"""
BUDGET = ["--budget", "480KiB"]
ON_STEP = ["training:step", "training:arguments"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a module of a user."""
    (tmp_path / "training.py").write_text(MODULE.lstrip())
    (tmp_path / "broken.py").write_text("import jax\n\nvalue = {}['key']\n")
    (tmp_path / "unfinished.py").write_text("def step(:\n")
    (tmp_path / "needy.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("training", "broken", "unfinished", "needy"):
        sys.modules.pop(name, None)


@pytest.fixture
def plans(folder, capsys):
    """Two plan files of one step."""
    for name, budget in (("loose.json", "500KiB"), ("tight.json", "440KiB")):
        arguments = ["plan", *ON_STEP, "--budget", budget, "-o", name, "--json"]
        assert cli.main(arguments) == 0
    capsys.readouterr()
    return "loose.json", "tight.json"


def printed(capsys, *arguments):
    assert cli.main(arguments) == 0
    return capsys.readouterr().out


def test_every_command_has_help():
    for name, command in program.commands.items():
        result = CliRunner().invoke(command, ["--help"])
        assert result.exit_code == 0, name
        assert command.help.split()[0] in result.output
    expected = "analyze plan frontier max-batch show diff targets doctor demo"
    assert set(program.commands) == set(expected.split())


def test_the_version(capsys):
    assert memjax.__version__ in printed(capsys, "--version")


def test_analyze(capsys):
    text = printed(capsys, "analyze", *ON_STEP)
    assert "predicted peak" in text
    assert "training.py:11" in text
    assert len(printed(capsys, "analyze", *ON_STEP, "--full").splitlines()) > len(text.splitlines())
    found = json.loads(printed(capsys, "analyze", *ON_STEP, "--json"))
    assert found["peak_bytes"] == memjax.analyze(*step_and_arguments()).peak_bytes


def step_and_arguments():
    import training

    return training.step, *training.arguments()


@pytest.mark.parametrize("arguments", ["training:named", "training:looks"])
def test_arguments_may_be_named_or_made_for_real(arguments, capsys):
    plain = json.loads(printed(capsys, "analyze", *ON_STEP, "--json"))
    found = json.loads(printed(capsys, "analyze", "training:step", arguments, "--json"))
    assert found["peak_bytes"] == plain["peak_bytes"]


def test_plan_writes_a_plan_that_works(capsys):
    text = printed(capsys, "plan", *ON_STEP, *BUDGET, "-o", "a.json")
    assert "of 480.0 KiB budgeted" in text
    with open("a.json") as file:
        plan = memjax.Plan.from_json(file.read())
    step, *arguments = step_and_arguments()
    report = memjax.memory_budget("480KiB", plan=plan)(step).report(*arguments)
    assert report.compilations[0].purpose == "the given plan"
    assert report.compiled.total_bytes <= 480 * 2**10


def test_plan_keeps_the_settings_of_a_decorated_step(capsys):
    arguments = ["training:decorated", "training:arguments", "--budget", "600KiB", "--json"]
    found = json.loads(printed(capsys, "plan", *arguments))
    assert found["budget_bytes"] == 600 * 2**10
    assert found["compiled"]["alias_bytes"] == 0


def test_frontier(capsys):
    found = json.loads(printed(capsys, "frontier", *ON_STEP, "--points", "3", "--json"))
    assert len(found["points"]) == 3
    text = printed(capsys, "frontier", *ON_STEP, "--budget", "500KiB", "--budget", "600KiB")
    assert text.count("KiB") >= 4


def test_frontier_draws(folder, capsys):
    printed(capsys, "frontier", *ON_STEP, "--points", "3", "--figure", "curve.svg")
    assert "<svg" in (folder / "curve.svg").read_text()
    arguments = ["frontier", *ON_STEP, "--points", "2", "--figure", "curve.nonsense"]
    assert cli.main(arguments) == cli.EXIT_BAD_INPUT


def test_max_batch(capsys):
    arguments = [*ON_STEP, "--budget", "400KiB", "--points", "2", "--multiple-of", "16"]
    found = json.loads(printed(capsys, "max-batch", *arguments, "--json"))
    assert found["size"] % 16 == 0
    assert found["compiled_bytes"] <= 400 * 2**10
    assert len(found["points"]) == 2


def test_show(plans, capsys):
    _, tight = plans
    alone = printed(capsys, "show", tight)
    assert "before eqn" in alone
    named = printed(capsys, "show", tight, *ON_STEP)
    assert "training.py:11" in named
    assert "dot_general float32[256,64]" in named
    plan = memjax.Plan.from_json(json.dumps(json.loads(printed(capsys, "show", tight, "--json"))))
    assert plan.budget_bytes == 440 * 2**10


def test_show_writes_a_page(plans, folder, capsys):
    _, tight = plans
    printed(capsys, "show", tight, "--html", "alone.html")
    page = (folder / "alone.html").read_text()
    assert page.startswith("<!doctype html>")
    assert '<td style="text-align:left">weights[0]</td>' in page
    assert "http" not in page


def test_diff(plans, capsys):
    loose, tight = plans
    assert "the same schedule" in printed(capsys, "diff", loose, loose)
    alone = printed(capsys, "diff", loose, tight)
    assert re.search(r"≠ +budget +500.0 KiB +440.0 KiB", alone)
    assert "training.py:11" in printed(capsys, "diff", loose, tight, *ON_STEP)
    found = json.loads(printed(capsys, "diff", loose, tight, "--json"))
    assert not found["same"]
    assert found["only_first"] or found["only_second"]


def test_plans_with_loops(capsys):
    on_scan = ["training:scanned", "training:stacked"]
    for name, budget in (("loose.json", "2200KiB"), ("tight.json", "1500KiB")):
        printed(capsys, "plan", *on_scan, "--budget", budget, "-o", name)
    for more in ([], on_scan):
        assert "values stacked" in printed(capsys, "show", "tight.json", *more)
        text = printed(capsys, "diff", "loose.json", "tight.json", *more)
        assert "loops are changed in other ways" in text
    assert "the same schedule" in printed(capsys, "diff", "tight.json", "tight.json", *on_scan)
    printed(capsys, "show", "tight.json", "--html", "loops.html")
    assert "values stacked" in Path("loops.html").read_text()


def test_diff_of_plans_for_different_programs(plans, capsys):
    arguments = ["plan", "training:decorated", "training:named", "--budget", "1MB", "-o", "c.json"]
    printed(capsys, *arguments)
    assert "for different programs: the plan" in printed(capsys, "diff", plans[0], "c.json")
    assert cli.main(["show", "c.json", *ON_STEP]) == cli.EXIT_BAD_INPUT
    assert "made for another program" in capsys.readouterr().err


BAD = {
    "training:stepp training:arguments": "did you mean step?",
    "trainin:step training:arguments": "no module 'trainin'",
    "training.py:step training:arguments": "write the module, as in training:step",
    "step training:arguments": "write package.module:function",
    "training:number training:arguments": "is no function; it is of type int",
    "training:step training:one": "missing a required argument: 'x'",
    "training:step training:narrow": "cannot be traced with these arguments: TypeError",
    "training:step training:failing": "training:failing failed: KeyError: 'nothing here' (tra",
    "broken:step training:arguments": "does not import: KeyError: 'key' (broken.py:3)",
    "unfinished:step training:arguments": "unfinished.py:1",
    "needy:step training:arguments": "'needy' needs 'a_module_that_nobody_has'",
}


@pytest.mark.parametrize(("targets", "expected"), BAD.items())
def test_bad_input_is_one_line_and_exit_code_2(targets, expected, capsys):
    assert cli.main(["analyze", *targets.split()]) == cli.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert expected in error
    assert error.startswith("memjax: ")
    assert error.count("\n") == 1


def test_a_step_that_cannot_be_traced_names_the_users_line(capsys):
    assert cli.main(["analyze", "training:step", "training:narrow"]) == cli.EXIT_BAD_INPUT
    assert "(training.py:11)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show", "training.py"], "is no plan file, as memjax plan --output writes: "),
        (["show", "nothing.json"], "cannot be read: No such file"),
        (["diff", "training.py", "training.py"], "training.py is no plan file"),
        (["show", "."], "cannot be read"),
        (["max-batch", "training:step", "training:one", "--budget", "1MB"], "no function of the"),
        (["plan", *ON_STEP, "--budget", "80%"], "states no limit"),
        (["plan", *ON_STEP, "--budget", "1GB", "-o", "a" * 300], "cannot be written"),
        (["analyze", *ON_STEP, "--html", "a" * 300], "cannot be written"),
    ],
)
def test_other_bad_input(arguments, expected, capsys):
    assert cli.main(arguments) == cli.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


WRITING = {
    "plan -o": ["plan", *ON_STEP, *BUDGET, "-o"],
    "plan --html": ["plan", *ON_STEP, *BUDGET, "--html"],
    "analyze --html": ["analyze", *ON_STEP, "--html"],
    "frontier --figure": ["frontier", *ON_STEP, "--figure"],
    "show --html": ["show", "nothing.json", *ON_STEP, "--html"],
}


@pytest.fixture
def nothing_loads(monkeypatch):
    """A command that gets as far as loading a step or a plan fails with another exit code."""
    from memjax.cli import commands, plans

    def fail(*_):
        raise AssertionError("loaded")

    for module, name in ((commands, "load_call"), (plans, "load_plan_file")):
        monkeypatch.setattr(module, name, fail)


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("arguments", WRITING.values(), ids=WRITING)
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("no/such/folder/out", "no/such/folder/out cannot be written: No such file or directory"),
        ("training.py/out", "training.py/out cannot be written: Not a directory"),
        ("kept", "kept cannot be written: Is a directory"),
        ("", "cannot be written: Is a directory"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_at_once(
    arguments, path, expected, folder, capsys
):
    (folder / "kept").mkdir()
    assert cli.main([*arguments, path]) == cli.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("arguments", WRITING.values(), ids=WRITING)
def test_what_may_not_be_written_is_refused_at_once(arguments, folder, capsys, monkeypatch):
    """By the rights that the system states, which root may pass over."""
    (folder / "old").write_text("as it was")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for path in ("old", "new"):
        assert cli.main([*arguments, path]) == cli.EXIT_BAD_INPUT
        error = capsys.readouterr().err
        assert error == f"memjax: {path} cannot be written: Permission denied\n"


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("arguments", WRITING.values(), ids=WRITING)
def test_looking_whether_a_path_can_be_written_changes_nothing(arguments, folder):
    (folder / "old").write_text("as it was")
    for path in ("old", "new"):
        assert cli.main([*arguments, path]) == cli.EXIT_FAILED
    assert (folder / "old").read_text() == "as it was"
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    "arguments", [["plan", *ON_STEP], ["plan", *ON_STEP, "--budget", "lots"], ["no"], ["diff"]]
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, capsys):
    assert cli.main(arguments) == cli.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith("memjax")
    assert error.endswith(" --help\n")
    assert error.count("\n") == 1


def test_without_a_command_there_is_help(capsys):
    assert cli.main([]) == cli.EXIT_BAD_INPUT
    assert "max-batch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "it is empty"),
        (b"\xff\xfe\x00", "it is not text"),
        (b"[1]", "no field `memjax_plan`"),
        (b'{"memjax_plan": 1}', "version 1"),
        (b'{"memjax_plan": 2, ', "breaks off or is damaged"),
    ],
)
def test_files_that_are_no_plans(content, expected, capsys, tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    assert cli.main(["show", str(path)]) == cli.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith(f"memjax: {path} is no plan file")
    assert expected in error
    assert error.count("\n") == 1


def test_debug_shows_the_traceback(capsys):
    assert cli.main(["--debug", "analyze", "training:step", "training:narrow"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    assert cli.main(["--debug", "analyze", "training:step", "training:failing"]) == 2
    assert "in failing" in capsys.readouterr().err


def test_an_infeasible_budget_has_its_own_exit_code_and_says_what_holds_it(capsys):
    for command in ("plan", "max-batch"):
        assert cli.main([command, *ON_STEP, "--budget", "1KiB"]) == cli.EXIT_INFEASIBLE
        error = capsys.readouterr().err
        assert "no plan fits 1.0 KiB" in error
        assert "own peak" in error


def test_interrupted(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(memjax, "analyze", interrupt)
    assert cli.main(["analyze", *ON_STEP]) == cli.EXIT_INTERRUPTED


def test_other_failures_have_another_exit_code(monkeypatch, capsys):
    def fail(*_, **__):
        raise AssertionError("a bug of memjax")

    monkeypatch.setattr(memjax, "analyze", fail)
    assert cli.main(["analyze", *ON_STEP]) == cli.EXIT_FAILED
    assert "AssertionError: a bug of memjax" in capsys.readouterr().err


def command(*arguments):
    return [sys.executable, "-m", "memjax", *arguments]


def run(*arguments):
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture
def importable(monkeypatch):
    """Processes find memjax where these tests do."""
    monkeypatch.setenv("PYTHONPATH", str(Path(memjax.__file__).parent.parent))


@pytest.mark.usefixtures("importable")
def test_in_a_process_of_its_own():
    """The current directory is importable; nothing but the result is on standard output."""
    analyzed = run("analyze", "training:step", "training:talking", "--json")
    assert json.loads(analyzed.stdout)["name"] == "step"
    assert (analyzed.returncode, analyzed.stderr) == (0, "making arguments\n")
    refused = run("plan", *ON_STEP, "--budget", "1KiB")
    assert (refused.returncode, refused.stdout) == (1, "")
    wrong = run("analyze", "training:no", "training:arguments")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "Traceback" not in wrong.stderr


@pytest.mark.usefixtures("importable")
@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_progress_is_shown_on_a_terminal_alone():
    """Standard error is a terminal here, standard output is not."""
    import pty

    ours, theirs = pty.openpty()
    arguments = command("max-batch", *ON_STEP, "--budget", "150KiB", "--multiple-of", "32")
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment
    ) as process:
        os.close(theirs)
        shown = read_all(ours)
        printed = process.stdout.read()
    assert "size 32: " in shown
    assert "\x1b[" not in printed
    assert "is the largest size" in printed


def read_all(descriptor):
    """What is written to a terminal until the last writer closes it."""
    parts = []
    while True:
        try:
            part = os.read(descriptor, 4096)
        except OSError:  # how Linux says that nobody writes any more
            part = b""
        if not part:
            return b"".join(parts).decode(errors="replace")
        parts.append(part)


@pytest.mark.parametrize("asked", ["cuda", "nonsense"])
def test_without_a_backend_doctor_is_named(asked, importable, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    done = run("analyze", *ON_STEP)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("memjax: JAX finds no backend: ")
    assert asked in done.stderr
    assert "memjax doctor" in done.stderr


def test_the_home_folder_in_paths(tmp_path, monkeypatch):
    from memjax.cli.inputs import BadInput, OutputFile, expanded, write_text

    monkeypatch.setenv("HOME", str(tmp_path))
    written = OutputFile().convert("~/plan.json", None, None)
    write_text("~/plan.json", "text")
    assert written == str(expanded("~/plan.json")) == str(tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_text() == "text"
    with pytest.raises(BadInput, match="null byte"):
        OutputFile().convert("a\0b", None, None)
