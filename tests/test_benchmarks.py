"""The benchmark scripts run, on small models, and their comparisons are right."""

import csv
import math

import jax
import pytest

from benchmarks import (
    budgets_are_met,
    calls_add_microseconds,
    large_models,
    losses_are_equal,
    models,
    pages_stay_quick,
    peaks_have_lines,
    provenance,
    record,
    targets,
)
from memjax.demo.gpt import gpt_task


@pytest.fixture
def results(monkeypatch, tmp_path):
    """A folder for result files other than the repository's."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    return tmp_path


def test_results_carry_what_they_were_measured_on(results):
    path = record.write_csv("things", [{"a": 1}, {"a": 2, "b": 3}], module="losses_are_equal")
    assert path.parent == results
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert [(row["a"], row["b"]) for row in rows] == [("1", ""), ("2", "3")]
    assert all(
        row[key] for row in rows for key in ("jax", "jaxlib", "python", "device_kind", "code")
    )


def test_comments_docstrings_and_empty_lines_are_no_code():
    head = '"""Of a module,\nover two lines."""\n\n# a comment\nx = 1  # why\n\n'
    source = head + 'def f():\n    "What."\n    return 2\n'
    assert list(provenance.code_lines(source)) == ["x = 1  # why", "def f():", "    return 2"]


def test_code_of_a_benchmark_is_what_it_imports(monkeypatch):
    """Plans of graphs do not depend on JAX's side of memjax; budgets do."""
    names = ("plans_are_near_optimal", "budgets_are_met")
    before = {name: provenance.code_digest(f"benchmarks.{name}") for name in names}
    read = provenance._source
    changed = lambda m: read(m) + ("x = 1" if m == "memjax.emit.rewrite" else "")  # noqa: E731
    monkeypatch.setattr(provenance, "_source", changed)
    provenance.code_digest.cache_clear()
    after = {name: provenance.code_digest(f"benchmarks.{name}") for name in names}
    provenance.code_digest.cache_clear()
    assert after["plans_are_near_optimal"] == before["plans_are_near_optimal"]
    assert after["budgets_are_met"] != before["budgets_are_met"]


def test_comparisons_are_with_the_plain_row():
    plain = {"variant": "plain", "flops": 10.0, "first_call_seconds": 2.0}
    budgeted = {
        "variant": "50MiB", "flops": 12.0, "first_call_seconds": 3.0,
        "predicted_bytes": 99, "compiled_bytes": 100, "budget_bytes": 100,
    }  # fmt: skip
    compared, row = budgets_are_met.with_comparisons([plain, budgeted])
    assert compared["recomputed_flops_xla"] == 0
    assert row["recomputed_flops_xla"] == 2
    assert row["first_call_ratio"] == 1.5
    assert row["predicted_off"] == pytest.approx(-0.01)
    assert row["within_budget"]


@pytest.mark.parametrize("variant", ["checkpoint full", "110MiB"])
def test_first_call_of_a_small_gpt(variant):
    row = budgets_are_met.first_call(variant, layers=0)
    assert row["first_call_seconds"] > 0
    assert row["flops"] > 0
    in_use = row["argument_bytes"] + row["output_bytes"] - row["alias_bytes"] + row["temp_bytes"]
    assert row["compiled_bytes"] == in_use
    assert row["compiled_bytes"] <= row.get("budget_bytes", row["compiled_bytes"])


def test_losses_of_a_model_that_cannot_reach_its_share(monkeypatch):
    """Its budget is then its floor."""
    monkeypatch.setitem(losses_are_equal.TASKS, "dropout", lambda: models.dropout(layers=3))
    monkeypatch.setattr(losses_are_equal, "SHARE", 0.01)
    monkeypatch.setattr(losses_are_equal, "STEPS", 3)
    row = losses_are_equal.compare("dropout")
    assert row["compiled_bytes"] <= row["budget_bytes"] < row["plain_bytes"]
    assert row["largest_relative_difference"] < 1e-5


def test_call_overhead_measures_both(monkeypatch):
    monkeypatch.setattr(calls_add_microseconds, "CALLS", 2)
    monkeypatch.setattr(calls_add_microseconds, "BLOCKS", 2)
    row = calls_add_microseconds.measure(leaves=2)
    assert row["jit_seconds"] > 0
    assert row["memjax_seconds"] - row["jit_seconds"] == row["overhead_seconds"]


def test_seeing_counts_the_attributed_part_of_both_peaks():
    rows = peaks_have_lines.attributed(
        ["64MiB"], layers=1, width=32, heads=2, tokens=32, batch=2, vocab=64
    )
    assert [(row["program"], row["peak"]) for row in rows] == [
        ("plain", "predicted"),
        ("64MiB", "predicted"),
        ("64MiB", "xla"),
    ]
    predicted, xla = rows[1:]
    assert xla["explained_bytes"] == xla["peak_bytes"] - predicted["peak_bytes"]
    assert all(0.9 <= row["attributed"] <= 1 for row in rows)


def test_analysis_times_are_of_the_same_step():
    times = peaks_have_lines.analysis_times(layers=1)
    assert times["eqns"] > 500
    assert times["analyze_seconds"] > 0


def test_the_chain_of_the_page_benchmark():
    shown = pages_stay_quick.chain(100)
    timeline = shown.views[0].timeline
    assert len(timeline.bytes_at) == 100
    assert timeline.peak_bytes == 51 * 2**20
    assert len(shown.values) == 100


@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize(
    ("make", "millions"),
    [(large_models.gpt2, 124), (large_models.vit, 86), (large_models.resnet50, 25.6)],
)
def test_large_models_have_the_published_number_of_parameters(make, millions, scanned):
    task = make((), scanned, 1)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(task.state[0]))
    assert count == pytest.approx(1e6 * millions, rel=0.01)


def test_rows_of_a_target_stay_when_another_model_is_measured(results, monkeypatch):
    def tiny(policy, scanned, target):
        sizes = {"layers": 2, "width": 32, "heads": 2, "tokens": 32, "batch": 2, "vocab": 64}
        return gpt_task(**sizes, remat=policy)

    monkeypatch.setitem(targets.MODELS, "small", tiny)
    plain = targets.plain_row("small", False, "cpu")
    row = targets.policy_row("small", False, "cpu", "full", plain)
    assert row["policy_bytes"] < plain["policy_bytes"]
    assert row["policy_recomputed_flops"] > 0
    assert row["met"] == (row["memjax_bytes"] <= row["policy_bytes"])
    named = {"model": "small", "layers": "unrolled"}
    record.write_csv("targets", [{**named, **row}], target="cpu")
    assert targets.others("cpu", {("small", "unrolled")}) == []
    (kept,) = targets.others("cpu", {("gpt2", "unrolled")})
    assert kept["device_kind"] == "cpu"
    assert int(kept["policy_bytes"]) == row["policy_bytes"]
