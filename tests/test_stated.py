"""What was stated is remembered: in a process, and in files for later ones."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

import memjax
from memjax.fitting import stated
from memjax.fitting.stated import MOST, Footing, Stated, stated_of
from tests.programs import mlp

STEP, WEIGHTS, BATCH = mlp(width=32, batch=256, layers=4)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMJAX_CACHE_DIR", str(tmp_path / "stated"))
    stated.forget()
    return tmp_path / "stated"


@pytest.fixture(scope="module")
def plan() -> memjax.Plan:
    return memjax.plan(STEP, WEIGHTS, BATCH, budget="1GB")


def total_bytes(budget: int) -> int:
    report = memjax.memory_budget(budget)(STEP).report(WEIGHTS, BATCH)
    return int(report.compiled.total_bytes)


def test_a_later_process_takes_up_what_was_found(folder):
    floor = memjax.floor(STEP, WEIGHTS, BATCH)
    stated.forget()  # as a new process
    report = memjax.memory_budget(floor.bytes)(STEP).report(WEIGHTS, BATCH)
    assert [c.purpose for c in report.compilations] == ["as it is", "found before"]
    assert report.compiled.total_bytes <= floor.bytes


def test_frontiers_and_refusals_state_what_works(folder):
    budgets = (200_000, 250_000)
    points = memjax.frontier(STEP, WEIGHTS, BATCH, budgets=budgets, verify=True).points
    with pytest.raises(memjax.BudgetInfeasible) as refused:
        total_bytes(100_000)
    for count in (*(p.compiled_bytes for p in points), refused.value.floor_bytes):
        stated.forget()
        assert total_bytes(count) <= count


def test_nothing_is_written_where_the_user_wants_no_files(folder, monkeypatch):
    monkeypatch.setenv("MEMJAX_CACHE_DIR", "")
    memjax.floor(STEP, WEIGHTS, BATCH)
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_no_error(folder, plan):
    folder.write_text("a file")
    memory = stated_of("key")
    memory.add(Footing(5, plan, True))
    assert memory.exactly(5)


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"bytes": 1}]', "[" * 100_000, "null"])
def test_a_damaged_file_is_ignored(folder, text):
    folder.mkdir()
    (folder / "key.stated.json").write_text(text)
    with pytest.warns(UserWarning, match="ignoring"):
        assert stated_of("key").least is None


def test_plans_of_another_format_are_left_out(folder, plan):
    folder.mkdir()
    item = {"bytes": 5, "for_memory": True, "plan": {**plan.to_dict(), "memjax_plan": 0}}
    (folder / "key.stated.json").write_text(json.dumps([item]))
    assert stated_of("key").footings == []


def test_files_stay_small_and_keep_the_least(folder, plan):
    memory = stated_of("key")
    for count in (7, 3, *range(10, 10 + 2 * MOST)):
        memory.add(Footing(count, plan, True))
    stated.forget()
    again = stated_of("key")
    assert len(again.footings) == MOST
    assert again.least is not None
    assert again.least.bytes == 3
    assert again.footings[-1].bytes == 9 + 2 * MOST


def test_several_processes_of_one_program_read_no_files(folder, plan, monkeypatch):
    stated_of("key").add(Footing(5, plan, True))
    stated.forget()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert stated_of("key").least is None


def test_the_same_footprint_is_kept_once(plan):
    memory = Stated()
    memory.add(Footing(5, plan, True))
    memory.add(Footing(5, plan, False))
    assert len(memory.footings) == 1
