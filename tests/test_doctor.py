"""`memjax doctor`: what it tries, and what it makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from memjax import cli
from memjax.cli import examine as doctor


@pytest.fixture(scope="module")
def found():
    return {finding.name: finding for finding in doctor.examine()}


def test_all_is_well_where_the_tests_run(found):
    wrong = [finding for finding in found.values() if finding.verdict == "wrong"]
    assert wrong == []
    assert {"Python", "memjax", "jax", "device 0", "barriers", "donation"} <= set(found)


def test_cpu_states_no_limit(found):
    assert "bytes" in found["device 0"].meaning


@pytest.mark.parametrize(
    ("held", "verdict", "word"),
    [
        (lambda options=(): True, "ok", "hold"),
        (lambda options=(): bool(options), "note", "xla_disable_hlo_passes=cse_barrier_expander"),
        (lambda options=(): False, "wrong", "removed"),
    ],
)
def test_barriers(monkeypatch, held, verdict, word):
    monkeypatch.setattr(doctor, "barriers_hold", held)
    finding = doctor.barriers()
    assert finding.verdict == verdict
    assert word in finding.what


def test_donation_that_does_not_happen(monkeypatch):
    jit = doctor.jax.jit
    monkeypatch.setattr(doctor.jax, "jit", lambda f, donate_argnums=(): jit(f))
    assert doctor.donation().verdict == "wrong"


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def fail():
        raise RuntimeError("no statistics\nmore")

    monkeypatch.setattr(doctor, "CHECKS", {"memory statistics": fail})
    last = [f for f in doctor.examine() if f.name == "memory statistics"]
    assert last == [doctor.Finding("memory statistics", "wrong", "RuntimeError: no statistics")]


def test_settings():
    environment = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_FLAGS": "--xla_cpu_scheduler_type=X --xla_dump_to=there",
        "MALLOC_ARENA_MAX": "1",
    }
    on_cpu = {f.name: f for f in doctor.settings(environment, "cpu")}
    assert on_cpu["XLA_PYTHON_CLIENT_PREALLOCATE"].meaning == "Has no effect on CPU."
    assert on_cpu["XLA_FLAGS xla_cpu_scheduler_type"].what == "X"
    assert "MALLOC_ARENA_MAX" in on_cpu
    on_gpu = {f.name: f for f in doctor.settings(environment, "gpu")}
    assert "start" in on_gpu["XLA_PYTHON_CLIENT_PREALLOCATE"].meaning
    assert "MALLOC_ARENA_MAX" not in on_gpu
    assert doctor.settings({}, "cpu") == [
        doctor.Finding("settings", "ok", "defaults of JAX and XLA")
    ]


@dataclass
class Device:
    """Stands for a device that is not here: what is tested is what doctor says of it, not that
    a real one behaves so.
    """

    id: int
    platform: str
    device_kind: str = "some kind"
    limit_bytes: int | None = None

    def memory_stats(self):
        return None if self.limit_bytes is None else {"bytes_limit": self.limit_bytes}


def test_devices_that_are_alike_share_a_finding():
    gpus = [Device(i, "gpu", "H100", 60 * 2**30) for i in range(3)]
    found = doctor.device_findings([*gpus, Device(3, "tpu"), Device(4, "abacus")])
    assert [(f.name, f.verdict) for f in found] == [
        ("devices 0, 1, 2", "ok"),
        ("device 3", "note"),
        ("device 4", "note"),
    ]
    assert found[0].what == "gpu, H100, limit 60.0 GiB"
    assert "bytes" in found[1].meaning
    assert "knows nothing" in found[2].meaning


@pytest.mark.parametrize(
    ("environment", "refused"),
    [
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": ".9"}, None),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "most"}, "write a number"),
        ({"XLA_CLIENT_MEM_FRACTION": "7"}, "unified memory"),
        ({"XLA_CLIENT_MEM_FRACTION": ".9", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".9"}, "both"),
        ({"XLA_PYTHON_CLIENT_ALLOCATOR": "PLATFORM"}, None),
        ({"XLA_PYTHON_CLIENT_ALLOCATOR": "malloc"}, "bfc, cuda_async"),
        ({"XLA_PYTHON_CLIENT_PREALLOCATE": "False"}, None),
        ({"XLA_PYTHON_CLIENT_PREALLOCATE": "no"}, "for true"),
        ({"TF_GPU_ALLOCATOR": "cuda_malloc_async"}, None),
    ],
)
def test_allocator_settings_on_a_gpu(environment, refused):
    """The platform is only named here; no GPU runs this test."""
    found = doctor.settings(environment, "gpu")
    assert [f.verdict for f in found] == [(refused and "wrong") or "note"] * len(environment)
    assert refused is None or refused in found[0].meaning
    for on in ("cpu", "tpu", None):
        assert all("no effect" in f.meaning for f in doctor.settings(environment, on))


@pytest.mark.parametrize("asked", ["cuda", "nonsense"])
def test_no_backend_is_a_finding(asked):
    command = [sys.executable, "-m", "memjax", "doctor"]
    environment = os.environ | {"JAX_PLATFORMS": asked}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"JAX_PLATFORMS={asked} asks for a backend that is not here" in done.stdout
    own = os.path.join("memjax", "cli")  # JAX shows the traceback of a plugin that fails
    assert own not in done.stderr


def test_something_wrong_is_exit_code_1(monkeypatch, capsys):
    findings = (doctor.Finding("a", "ok", "fine"), doctor.Finding("b", "wrong", "bad", "so what"))
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == ["✓ a  fine", "✗ b  bad", "     so what"]
    monkeypatch.setattr(doctor, "examine", lambda: findings[:1])
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == "ok"
