"""`memjax demo`: what it measures, and how errors of its processes are told."""

import json

import pytest

from memjax import cli
from memjax.demo.variant import Variant, VariantError, run_variant


@pytest.mark.parametrize(
    "arguments", [["demo", "--steps", "0"], ["demo", "--nothing"], ["demo", "--budget", "lots"]]
)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("memjax demo: ")


@pytest.fixture
def fake_variants(monkeypatch):
    """Replace the processes by a list of what they would have measured, or an error."""

    def replace(outcome):
        def run(variant, on_progress):
            if isinstance(outcome, Exception):
                raise outcome
            on_progress("loaded")
            return outcome(variant)

        monkeypatch.setattr("memjax.demo.variant.run_variant", run)

    return replace


def test_an_error_is_one_line(fake_variants, capsys):
    fake_variants(VariantError("TypeError", "first line\nsecond line", "Traceback: here"))
    assert cli.main(["demo"]) == cli.EXIT_FAILED
    assert capsys.readouterr().err.splitlines()[-1].startswith("memjax: TypeError: first line")


def test_debug_shows_the_traceback_of_the_process(fake_variants, capsys):
    fake_variants(VariantError("TypeError", "it failed", "Traceback: here"))
    assert cli.main(["--debug", "demo"]) == cli.EXIT_FAILED
    assert "Traceback: here" in capsys.readouterr().err


def test_a_budget_below_the_floor_has_its_own_exit_code(fake_variants):
    fake_variants(VariantError("BudgetInfeasible", "no plan fits", ""))
    assert cli.main(["demo"]) == cli.EXIT_INFEASIBLE


def test_a_malformed_budget_is_an_error_of_one_line(capfd):
    """Through a real process, which fails before it compiles."""
    with pytest.raises(VariantError, match="lots") as caught:
        run_variant(Variant("malformed", budget="lots", layers=1), lambda reached: None)
    assert caught.value.kind == "ValueError"
    assert "Traceback" in caught.value.details


def test_demo_measures_plain_and_budgeted_steps(capsys):
    arguments = ["demo", "--layers", "1", "--steps", "3", "--budget", "80MiB", "--json"]
    assert cli.main(arguments) == 0
    plain, checkpointed, budgeted = json.loads(capsys.readouterr().out)
    assert (plain["budget"], checkpointed["budget"], budgeted["budget"]) == (None, None, "80MiB")
    for measured in (plain, checkpointed, budgeted):
        assert measured["compiled_bytes"] > 0
        assert measured["step_seconds"] > 0
        assert measured["last_loss"] < measured["first_loss"]
        assert measured["last_loss"] == pytest.approx(plain["last_loss"], rel=1e-5)
    assert budgeted["compiled_bytes"] <= 80 * 2**20
    # The state and the temporaries are there while the step runs, so the process holds them.
    assert plain["resident_bytes"] > 0.7 * plain["compiled_bytes"]
