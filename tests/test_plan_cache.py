"""Plans kept between processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memjax
from memjax.emit.fingerprint import fingerprint
from memjax.emit.plan import Plan
from memjax.emit.plan_cache import load_plan, plan_path, save_plan
from memjax.fitting.budgeted import loop_for
from memjax.fitting.setup import cached_path, describe
from memjax.planning.planners import AutoPlanner, Planner
from memjax.program.trace import trace
from tests.programs import mlp, shape

STEP, WEIGHTS, BATCH = mlp(width=32, batch=256, layers=4)


@dataclass(frozen=True)
class Counted(Planner):
    """The default planner in short; counts how often it is asked."""

    name: ClassVar[str] = "counted"
    calls: ClassVar[list[int]] = []

    def solve(self, problem, budget_bytes):
        self.calls.append(budget_bytes)
        return AutoPlanner(work=3000, rounds=1, starts=1).solve(problem, budget_bytes)


@pytest.fixture(scope="module")
def budget():
    """Too tight for any program that recomputes nothing."""
    plain = jax.jit(STEP).lower(WEIGHTS, BATCH).compile()
    return memjax.footprint(plain).total_bytes * 7 // 10


@pytest.fixture
def calls():
    Counted.calls.clear()
    return Counted.calls


def decorated(budget, folder, **settings):
    return memjax.memory_budget(
        budget, plan_cache=folder, planner=Counted(), donate=None, **settings
    )(STEP)


def run(budget, folder):
    return decorated(budget, folder).report(WEIGHTS, BATCH)


@pytest.fixture(scope="module")
def made(budget, tmp_path_factory):
    """The file of a plan, and the report of who made it."""
    folder = tmp_path_factory.mktemp("made")
    report = run(budget, folder)
    assert report.plan.recomputations
    (file,) = folder.iterdir()
    return file, report


@pytest.fixture
def filled(made, tmp_path):
    """A folder with one plan in it, the file, and the report of who made it."""
    file, report = made
    return tmp_path, Path(shutil.copy(file, tmp_path)), report


def test_a_second_decorator_needs_no_planner(budget, filled, calls):
    folder, file, report = filled
    again = run(budget, folder)
    assert calls == []
    assert again.plan == report.plan
    assert again.plan.recomputations
    assert again.compilations[0].purpose == "the given plan"
    assert len(again.compilations) == 1
    assert again.compiled == report.compiled
    assert list(folder.iterdir()) == [file]


def test_a_second_decorator_computes_the_same(budget, filled):
    folder, _, _ = filled
    loss = decorated(budget, folder)(WEIGHTS, BATCH)[1]
    np.testing.assert_allclose(loss, STEP(WEIGHTS, BATCH)[1], rtol=1e-6)


@pytest.mark.parametrize("change", ["budget", "shape", "donate"])
def test_other_settings_have_a_plan_of_their_own(budget, filled, calls, change):
    folder, file, _ = filled
    if change == "budget":
        run(budget + 1, folder)
    elif change == "shape":
        decorated(budget, folder).report(WEIGHTS, BATCH[:250])
    else:
        step = memjax.memory_budget(budget, plan_cache=folder, planner=Counted())(STEP)
        step.report(WEIGHTS, BATCH)
    assert calls
    assert file in folder.iterdir()


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "version", "digit"])
def test_a_damaged_file_is_ignored_and_written_anew(budget, filled, calls, damage):
    folder, file, report = filled
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "noise":
        file.write_bytes(b"\xff\xfe\x00" + whole)
    elif damage == "version":
        file.write_text(json.dumps({**json.loads(whole), "memjax_plan": 99}))
    else:
        content = json.loads(whole)
        content["recomputations"][0]["eqns"][0] += 1000
        file.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="ignoring the cached plan"):
        again = run(budget, folder)
    assert calls
    assert again.plan == report.plan
    assert Plan.from_json(file.read_text()) == report.plan


def test_another_programs_plan_in_the_file_is_ignored(budget, filled, calls):
    folder, file, report = filled
    content = json.loads(file.read_text())
    content["program"]["digest"] = "0" * 64
    file.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="ignoring the cached plan .* another program"):
        run(budget, folder)
    assert calls
    assert load_plan(file) == report.plan


def test_a_cached_plan_that_no_longer_fits_is_only_a_start(budget, filled, calls):
    """As after an update of the compiler; here it is the budget that is another."""
    _, file, report = filled
    tight = report.compiled.total_bytes - 1
    step = memjax.memory_budget(tight, plan=load_plan(file), planner=Counted(), donate=None)(STEP)
    purposes = purposes_of(step)
    assert purposes[0] == "the given plan"
    assert len(purposes) > 1
    assert calls


def purposes_of(step):
    """Of all compilations, whether or not one of them fitted."""
    try:
        return [c.purpose for c in step.report(WEIGHTS, BATCH).compilations]
    except memjax.BudgetInfeasible as error:
        return [a.purpose for a in error.fitted.attempts]


@pytest.mark.filterwarnings("ignore:ignoring")
def test_a_folder_that_cannot_be_written_is_a_warning(budget, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.warns(UserWarning, match="the plan was not cached"):
        report = run(budget, blocked / "folder")
    assert report.compiled.total_bytes <= budget
    assert blocked.read_text() == "in the way"


@pytest.mark.filterwarnings("ignore:ignoring")
@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_warning(budget, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.warns(UserWarning, match="the plan was not cached"):
            run(budget, tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_folders_are_made_and_nothing_else_is_left(budget, tmp_path):
    folder = tmp_path / "a" / "b"
    run(budget, folder)
    assert [p.suffixes for p in folder.iterdir()] == [[".plan", ".json"]]


def test_what_a_killed_process_left_is_taken_away(tmp_path):
    """But not what another one may be writing, nor what is not the cache's."""
    path = tmp_path / "x.plan.json"
    old, new, other = (tmp_path / n for n in ("a.plan.json.1.tmp", "b.plan.json.2.tmp", "c.tmp"))
    for file in (old, new, other):
        file.write_text("half")
    for file in (old, other):
        os.utime(file, (0, 0))
    save_plan(path, a_plan())
    assert sorted(tmp_path.iterdir()) == sorted([path, new, other])


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_files_have_the_users_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        save_plan(tmp_path / "x.plan.json", a_plan())
    finally:
        os.umask(before)
    assert (tmp_path / "x.plan.json").stat().st_mode & 0o777 == 0o640


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = plan_path("~/plans", a_plan().program, "a")
    assert path.parent == tmp_path / "plans"


def test_a_path_that_is_none_is_a_warning():
    path = plan_path("a\0b", a_plan().program, "a")
    with pytest.warns(UserWarning, match="ignoring the cached plan"):
        assert load_plan(path) is None
    with pytest.warns(UserWarning, match="the plan was not cached"):
        save_plan(path, a_plan())


def test_the_key_has_all_that_decides_what_is_compiled():
    """Types, donation, options, shardings, device, versions, flags: each makes another key."""

    def key(step=STEP, args=(WEIGHTS, BATCH), limit=10**6, **settings):
        budgeted = memjax.memory_budget(limit, plan_cache="plans", **settings)(step)
        loop, _ = loop_for(budgeted, args, {})
        return cached_path(loop, limit, budgeted._settings)

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    committed = (WEIGHTS, jax.device_put(BATCH, place))
    keys = [
        key(),
        key(limit=10**6 + 1),
        key(donate=None),
        key(compiler_options={"xla_cpu_enable_fast_math": True}),
        key(args=committed),
        key(in_shardings=place),
        key(out_shardings=place),
        key(planner="reorder"),
    ]
    with jax.default_matmul_precision("highest"):
        keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
    (device,) = jax.devices()
    described = describe(loop_for(STEP, (WEIGHTS, BATCH), {})[0].target, device)
    for part in (jax.__version__, device.device_kind, "float32"):
        assert repr(part)[1:-1] in described
    assert "0x" not in described  # the same in every process


def test_off_by_default(budget, tmp_path, monkeypatch, calls):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        memjax.memory_budget(budget, planner=Counted(), donate=None)(STEP).report(WEIGHTS, BATCH)
    assert len(calls) >= 2
    assert list(tmp_path.rglob("*")) == []


def a_plan():
    program = fingerprint(trace(jnp.sin, (shape(4),)))
    return Plan(program, 100, 90)


def test_saving_is_atomic(tmp_path, monkeypatch):
    """The old file is whole until the new one is, and no half of one is left behind."""
    path = tmp_path / "x.plan.json"
    save_plan(path, a_plan())
    before = path.read_text()

    def full_disk(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Plan, "to_json", full_disk)
    with pytest.warns(UserWarning, match="No space left"):
        save_plan(path, a_plan())
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_loading(tmp_path):
    path = tmp_path / "x.plan.json"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_plan(path) is None
        save_plan(path, a_plan())
        assert load_plan(path) == a_plan()
    with pytest.warns(UserWarning, match="ignoring the cached plan"):
        assert load_plan(tmp_path) is None  # a folder


def test_paths_differ_by_program_and_settings(tmp_path):
    one = fingerprint(trace(jnp.sin, (shape(4),)))
    other = fingerprint(trace(jnp.sin, (shape(5),)))
    paths = {plan_path(tmp_path, p, s) for p in (one, other) for s in ("a", "b")}
    assert len(paths) == 4
    assert plan_path(str(tmp_path), one, "a") in paths
    assert {p.parent for p in paths} == {tmp_path}


SCRIPT = """
import sys
from dataclasses import dataclass
from typing import ClassVar
import memjax
from memjax.planning.planners import Planner
from tests.programs import mlp

@dataclass(frozen=True)
class Counted(Planner):
    name: ClassVar[str] = "counted"

    def solve(self, problem, budget_bytes):
        raise RuntimeError("planned")

step, weights, x = mlp(width=32, batch=256, layers=4)
settings = dict(plan_cache=sys.argv[2], planner=Counted(), donate=None)
memjax.memory_budget(int(sys.argv[1]), **settings)(step).report(weights, x)
print("done")
"""


def test_another_process_needs_no_planner(budget, filled):
    folder, _, _ = filled
    env = {**os.environ, "PYTHONHASHSEED": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(budget), str(Path(folder))]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == ["done"]
