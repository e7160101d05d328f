"""Devices by name: their figures, and plans for those that are not attached."""

import dataclasses
import json
import os
import re
import tomllib
from importlib.resources import files

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec as P

import memjax
from memjax import Plan, _compat
from memjax.cli import EXIT_BAD_INPUT, main
from memjax.pricing.cost import node_seconds
from memjax.pricing.liveness import liveness
from memjax.program.trace import trace
from memjax.targets import attach
from memjax.targets.figures import (
    FALLBACK,
    Cuda,
    DeviceRates,
    Figures,
    Tpu,
    all_figures,
    figures_of_kind,
    rates_of,
)
from memjax.targets.names import named
from tests.programs import shape, train_step

ALL = all_figures()


def can_compile_for(name):
    lacks = attach.missing(ALL[name])
    return pytest.mark.skipif(bool(lacks), reason=lacks)


WIDTH, ROWS = 256, 2**16  # 64 MiB an activation: too much for the VMEM of a TPU
WEIGHTS = [shape(WIDTH, WIDTH)] * 6
BATCH = shape(ROWS, WIDTH)


# Figures


@pytest.mark.parametrize("name", ALL)
def test_a_file_says_nothing_that_is_not_read(name):
    text = (files("memjax.targets") / "devices" / f"{name}.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    kinds = {"rates": DeviceRates, "cuda": Cuda, "tpu": Tpu}
    for table, kind in kinds.items():
        fields = {field.name for field in dataclasses.fields(kind)}
        assert set(content.pop(table, {})) <= fields
    assert set(content) <= {field.name for field in dataclasses.fields(Figures)} - {"name"}


@pytest.mark.parametrize("figures", ALL.values(), ids=lambda figures: figures.name)
def test_figures_are_complete_and_have_sources(figures):
    assert figures.sources
    assert figures.rates.flops_per_second > figures.rates.bytes_per_second > 0
    assert all(rate >= 1e12 for rate in figures.rates.matmul.values())
    assert (figures.cuda is not None) == (figures.platform == "cuda")
    assert (figures.tpu is not None) == (figures.platform == "tpu")
    assert figures.memory_bytes is None if figures.name == "cpu" else figures.memory_bytes > 2**33
    for kind in figures.kinds:
        assert figures_of_kind(kind) == figures


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("cpu", "cpu"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
    ],
)
def test_the_longest_beginning_of_a_kind_counts(kind, expected):
    assert figures_of_kind(kind) == ALL[expected]
    assert rates_of(kind) == ALL[expected].rates


def test_the_rates_of_what_nobody_knows():
    assert figures_of_kind("an abacus") is None
    assert rates_of("an abacus") == ALL[FALLBACK].rates


@pytest.mark.parametrize(
    ("dtype", "flops_per_second"),
    [(jnp.bfloat16, 200.0), (jnp.float32, 100.0), (jnp.float16, 10.0)],
)
def test_matmuls_run_at_the_rate_of_their_type(dtype, flops_per_second):
    rates = DeviceRates(10.0, float("inf"), {"bfloat16": 200.0, "float32": 100.0})
    x = jax.ShapeDtypeStruct((8, 8), dtype)
    graph = liveness(trace(lambda x: (x @ x, x + x), (x,)))
    assert node_seconds(graph, rates) == (2 * 8**3 / flops_per_second, 8**2 / 10.0)


# Names


@pytest.mark.parametrize(
    ("name", "kind", "extent", "count"),
    [
        ("h100", "h100", (1,), 1),
        ("H100:8", "h100", (8,), 8),
        ("v5e", "v5e", (1, 1), 1),
        ("v5e:2x2", "v5e", (2, 2), 4),
        ("v5p:2x2x1", "v5p", (2, 2, 1), 4),
        ("tpu7x", "tpu7x", (1, 1, 1), 1),
        ("tpu7x:1x1x1", "tpu7x", (1, 1, 1), 2),
        ("a100-40gb:2", "a100-40gb", (2,), 2),
    ],
)
def test_names(name, kind, extent, count):
    found = named(name)
    assert (found.figures.name, found.shape, found.count) == (kind, extent, count)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h10", "'h10' names no device that memjax knows; did you mean 'h100'"),
        ("", "there are a100"),
        ("h100:0", "write as in 'h100:8'"),
        ("h100:2x2", "write as in 'h100:8'"),
        ("v5e:4", "write as in 'v5e:2x2'"),
        ("v5p:2x2", "write as in 'v5p:2x2x1'"),
        ("v5e:2x", "names no device"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        memjax.memory_budget("1GB", device=name)


def test_what_is_attached_is_taken():
    (device,) = memjax.target_devices("cpu")
    assert device == jax.devices("cpu")[0]
    with pytest.raises(ValueError, match="not 4096; the XLA flag"):
        memjax.target_devices("cpu:4096")


def test_a_step_for_an_attached_device_is_called():
    step = memjax.memory_budget("1GB", device="cpu")(lambda x: x + 1)
    assert step(jnp.float32(1)) == 2
    assert step.report(jnp.float32(1)).device == "cpu"


# What is missing


@pytest.mark.parametrize(
    ("name", "extra"), [("v5e", "tpu"), ("h100", "cuda" if _compat.JAX_VERSION >= (0, 12) else "")]
)
def test_without_a_compiler_one_sentence_says_what_to_install(name, extra, monkeypatch, capsys):
    monkeypatch.setattr(attach, "find_spec", lambda module: None)
    monkeypatch.setattr(attach.shutil, "which", lambda program: None)
    attach._compile_only.cache_clear()
    with pytest.raises(ImportError, match=rf"pip install 'memjax\[{extra}") as raised:
        memjax.analyze(train_step, WEIGHTS, BATCH, device=name)
    assert "\n" not in str(raised.value)
    command = ["analyze", f"{__name__}:train_step", f"{__name__}:ARGUMENTS", "--target", name]
    assert main(command) == EXIT_BAD_INPUT
    assert capsys.readouterr().err.strip() == f"memjax: {raised.value}"


ARGUMENTS = (WEIGHTS, BATCH)


# Plans for what is not attached


@can_compile_for("v5e")
def test_the_environment_is_left_as_it_was():
    before = dict(os.environ)
    attach._compile_only.cache_clear()
    (device,) = memjax.target_devices("v5e")
    assert not attach.is_attached(device)
    assert dict(os.environ) == before


@can_compile_for("v5e")
def test_the_same_devices_each_time():
    assert memjax.target_devices("v5e:2x2") == memjax.target_devices("v5e:2x2")
    assert len(memjax.target_devices("v5e:2x2")) == 4
    assert len(memjax.target_devices("tpu7x")) == 1


@can_compile_for("v5e")
def test_there_is_no_such_topology():
    with pytest.raises(ValueError, match=r"there is no v5e:3x7 to compile for: .*"):
        memjax.target_devices("v5e:3x7")


TPUS = [name for name, figures in ALL.items() if figures.platform == "tpu"]


@can_compile_for("v5e")
@pytest.mark.parametrize("name", TPUS)
def test_libtpu_has_as_much_memory_as_a_file_says(name):
    (device,) = memjax.target_devices(name)
    sharding = jax.sharding.SingleDeviceSharding(device)
    x = jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32, sharding=sharding)
    with pytest.raises(jax.errors.JaxRuntimeError, match="exceeds available HBM") as raised:
        jax.jit(lambda x: x.T @ x).trace(x).lower().compile()
    stated = re.search(r"exceeds available HBM \((\d+\.\d+)G\)", str(raised.value))
    assert abs(ALL[name].memory_bytes / 2**30 - float(stated[1])) < 0.02  # versions differ


GPUS = [name for name, figures in ALL.items() if figures.platform == "cuda"]


@can_compile_for("h100")
@pytest.mark.parametrize("name", GPUS)
def test_xla_takes_the_figures_of_a_gpu(name):
    (device,) = memjax.target_devices(name)
    assert device.device_kind == ALL[name].cuda.name
    assert figures_of_kind(device.device_kind) == ALL[name]
    sharding = jax.sharding.SingleDeviceSharding(device)
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=sharding)
    compiled = jax.jit(jnp.sin).trace(x).lower().compile()
    assert memjax.footprint(compiled).argument_bytes == 4 * 256**2


@can_compile_for("v5e")
def test_a_share_is_one_of_the_devices_memory():
    step = memjax.memory_budget("50%", device="v5e")(lambda x: x + 1)
    assert step.report(shape(8)).budget_bytes == ALL["v5e"].memory_bytes // 2


PLANNED = [
    pytest.param("v5e", marks=can_compile_for("v5e")),
    pytest.param("h100", marks=can_compile_for("h100")),
]


@pytest.mark.parametrize("name", PLANNED)
def test_a_step_is_planned_for_a_device_that_is_not_attached(name):
    as_it_is = memjax.analyze(train_step, WEIGHTS, BATCH, device=name)
    budget = as_it_is.peak_bytes * 7 // 10
    step = memjax.memory_budget(budget, device=name, split=False)(train_step)
    report = step.report(WEIGHTS, BATCH)
    assert report.compiled.total_bytes <= budget
    assert report.recomputed_flops > 0
    where = f"{ALL[name].title}, not attached"
    assert as_it_is.device == report.device == where
    assert f"device             {where}" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["device"] == where

    small = [jnp.zeros(4)]  # nothing is planned for a call that cannot be made
    with pytest.raises(RuntimeError, match=rf"'train_step' is planned for {where}.*plan=Plan"):
        step(small, small)

    read = Plan.from_json(report.plan.to_json())
    here = memjax.memory_budget(budget, plan=read)(train_step).report(WEIGHTS, BATCH)
    assert here.compilations[0].purpose == "the given plan"
    assert here.device == "cpu"


@can_compile_for("v5e")
def test_a_plan_from_elsewhere_keeps_the_numbers():
    weights = [shape(128, 128)] * 3
    batch = shape(64, 128)
    plan = memjax.plan(train_step, weights, batch, budget="1MiB", device="v5e")
    assert not plan.changes_anything
    key = jax.random.key(0)
    real = [0.1 * jax.random.normal(key, w.shape) for w in weights]
    rows = jax.random.normal(key, batch.shape)
    expected, _ = train_step(real, rows)
    step = memjax.memory_budget("1GB", plan=plan, donate=None)(train_step)
    found, _ = step(real, rows)
    assert len(step.report(real, rows).compilations) == 1
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@can_compile_for("v5e")
def test_meshes_are_moved_to_the_named_devices():
    mesh = AbstractMesh((4,), ("data",))
    batch = jax.ShapeDtypeStruct(BATCH.shape, BATCH.dtype, sharding=NamedSharding(mesh, P("data")))
    weights = [
        jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=NamedSharding(mesh, P())) for w in WEIGHTS
    ]
    found = memjax.analyze(train_step, weights, batch, compile=True, device="v5e:2x2")
    state = 4 * WIDTH**2 * len(WEIGHTS)
    assert found.compiled.argument_bytes == state + 4 * ROWS * WIDTH // 4
    assert found.device == "4 × TPU v5e, not attached"


@can_compile_for("v5e")
def test_several_devices_need_shardings():
    with pytest.raises(ValueError, match=r"device='v5e:2x2' are 4 devices, and nothing says how"):
        memjax.analyze(train_step, WEIGHTS, BATCH, device="v5e:2x2")
    spread = NamedSharding(AbstractMesh((2,), ("data",)), P("data"))
    batch = jax.ShapeDtypeStruct(BATCH.shape, BATCH.dtype, sharding=spread)
    with pytest.raises(ValueError, match="has 4 devices, and a mesh of the step's arguments 2"):
        memjax.analyze(train_step, WEIGHTS, batch, device="v5e:2x2")


# The command line


def test_targets_are_listed(capsys):
    assert main(["targets", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(ALL)
    assert rows["cpu"]["attached"] == jax.device_count("cpu")
    assert rows["h100"]["memory_bytes"] == ALL["h100"].memory_bytes
    assert rows["v5e"]["missing"] == attach.missing(ALL["v5e"])
    assert main(["targets"]) == 0
    assert "NVIDIA H100 SXM 80 GB    79.1 GiB    989.4  3350" in capsys.readouterr().out


@can_compile_for("v5e")
@pytest.mark.parametrize("command", [["analyze"], ["frontier", "--points", "2"]])
def test_commands_name_the_target(command, capsys):
    steps = [f"{__name__}:train_step", f"{__name__}:ARGUMENTS"]
    assert main([*command[:1], *steps, *command[1:], "--target", "v5e"]) == 0
    assert "TPU v5e, not attached" in capsys.readouterr().out
