"""Compilations: options, the probe for barriers, and the bytes that XLA states."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.emit import compile as compiling
from memjax.emit.compile import (
    Footprint,
    Target,
    barriers_hold,
    compile_step,
    compiler_options,
    footprint,
)
from memjax.pricing.backends import BACKENDS, KEEP_BARRIERS, Backend, backend_of
from memjax.program.signature import flat_arguments, leaf_placement
from tests.programs import CPU, shape

SQUARE = shape(64, 64)
PASSES = "xla_disable_hlo_passes"


# Bytes


def test_total_bytes():
    assert Footprint(100, 50, 20, 7).total_bytes == 100 + 50 - 20 + 7


def test_footprint_reads_xlas_statistics():
    stats = SimpleNamespace(
        argument_size_in_bytes=1,
        output_size_in_bytes=2,
        alias_size_in_bytes=3,
        temp_size_in_bytes=4,
        peak_memory_in_bytes=1000,
    )
    assert footprint(SimpleNamespace(memory_analysis=lambda: stats)) == Footprint(1, 2, 3, 4)


def test_a_backend_without_statistics():
    with pytest.raises(RuntimeError, match="no budget can be checked"):
        footprint(SimpleNamespace(memory_analysis=lambda: None))


@pytest.mark.parametrize("donated", [(), (0,), (0, 1)])
def test_footprint_of_a_real_program(donated):
    """Two arguments and two results of 16 KiB; each donation is one buffer less."""
    target = Target(CPU, (SQUARE, SQUARE), donated=donated)
    step = compile_step(lambda x, y: [x + 1, y * 2], target, for_memory=False, has_barriers=False)
    size = 64 * 64 * 4
    found = step.measured.footprint
    assert (found.argument_bytes, found.alias_bytes) == (2 * size, len(donated) * size)
    assert found.output_bytes == pytest.approx(2 * size, abs=64)
    assert found.total_bytes == pytest.approx((4 - len(donated)) * size, abs=256)
    assert found == footprint(step.compiled)
    assert step.measured.seconds > 0


def test_flops_are_xlas():
    target = Target(CPU, (SQUARE, SQUARE))
    step = compile_step(lambda x, y: [x @ y], target, for_memory=True, has_barriers=True)
    assert step.measured.flops == pytest.approx(2 * 64**3, rel=0.01)


def test_flops_that_nobody_states():
    def refuse():
        raise NotImplementedError

    assert compiling._flops(SimpleNamespace(cost_analysis=refuse)) == 0.0
    assert compiling._flops(SimpleNamespace(cost_analysis=lambda: None)) == 0.0
    assert compiling._flops(SimpleNamespace(cost_analysis=dict)) == 0.0


# Options


BARRIER_DROPPER = Backend("test", {"order": "by memory"}, may_drop_barriers=True)


def options_of(backend, user=None, *, for_memory=True, has_barriers=True):
    target = Target(backend, (), user_options=user)
    return compiler_options(target, for_memory=for_memory, has_barriers=has_barriers)


@pytest.fixture
def dropped(monkeypatch):
    monkeypatch.setattr(compiling, "barriers_hold", lambda: False)


@pytest.fixture
def held(monkeypatch):
    monkeypatch.setattr(compiling, "barriers_hold", lambda: True)


@pytest.mark.usefixtures("dropped")
def test_options_where_barriers_are_dropped():
    assert options_of(BARRIER_DROPPER) == {"order": "by memory", **KEEP_BARRIERS}
    assert options_of(BARRIER_DROPPER, has_barriers=False) == {"order": "by memory"}
    assert options_of(BARRIER_DROPPER, for_memory=False) == KEEP_BARRIERS
    assert options_of(Backend("test")) == {}


@pytest.mark.usefixtures("held")
def test_options_where_barriers_hold():
    assert options_of(BARRIER_DROPPER) == {"order": "by memory"}
    assert options_of(BARRIER_DROPPER, for_memory=False) == {}


def test_no_probe_where_nothing_drops_barriers(monkeypatch):
    monkeypatch.setattr(compiling, "barriers_hold", lambda: pytest.fail("probed"))
    assert options_of(Backend("test")) == {}
    assert options_of(BARRIER_DROPPER, has_barriers=False) == {"order": "by memory"}


@pytest.mark.usefixtures("dropped")
def test_the_users_options_win():
    assert options_of(BARRIER_DROPPER, {"order": "mine", "level": 3}) == {
        "order": "mine",
        "level": 3,
        **KEEP_BARRIERS,
    }


@pytest.mark.usefixtures("dropped")
@pytest.mark.parametrize(
    ("mine", "joined"),
    [
        ("algsimp", "cse_barrier_expander,algsimp"),
        ("", "cse_barrier_expander"),
        ("cse_barrier_expander", "cse_barrier_expander"),
        ("a,cse_barrier_expander,b", "cse_barrier_expander,a,b"),
    ],
)
def test_lists_of_disabled_passes_are_joined(mine, joined):
    assert options_of(BARRIER_DROPPER, {PASSES: mine})[PASSES] == joined


@pytest.mark.usefixtures("held")
def test_the_users_own_list_stays_as_it_is():
    assert options_of(BARRIER_DROPPER, {PASSES: "a,b"})[PASSES] == "a,b"


def test_the_table_of_backends_is_not_changed():
    before = dict(CPU.scheduler_options)
    options_of(CPU, {"xla_cpu_scheduler_type": "other"})
    assert CPU.scheduler_options == before
    assert KEEP_BARRIERS == {PASSES: "cse_barrier_expander"}


def test_options_reach_xla():
    target = Target(CPU, (SQUARE,), user_options={"xla_cpu_enable_fast_math": True})
    step = compile_step(lambda x: [x], target, for_memory=True, has_barriers=False)
    assert step.measured.options == {**CPU.scheduler_options, "xla_cpu_enable_fast_math": True}
    wrong = Target(CPU, (SQUARE,), user_options={"no_such_option": 1})
    with pytest.raises(Exception, match="no_such_option"):
        compile_step(lambda x: [x], wrong, for_memory=True, has_barriers=False)


@pytest.mark.parametrize(
    ("platform", "expected"), [("cpu", "cpu"), ("cuda", "gpu"), ("rocm", "gpu"), ("tpu", "tpu")]
)
def test_backends(platform, expected):
    assert backend_of(platform) is BACKENDS[expected]


def test_an_unknown_backend_has_no_quirks():
    assert backend_of("abacus") == Backend("abacus")


# Barriers


def recompute(x, w):
    first = jnp.sin(x @ w)
    again, _ = jax.lax.optimization_barrier((x, jnp.exp(first @ w)))
    return [jnp.exp(first @ w) @ jnp.sin(again @ w)]


def count_matmuls(options):
    compiled = jax.jit(recompute).lower(SQUARE, SQUARE).compile(compiler_options=options or None)
    return round(compiled.cost_analysis()["flops"] / (2 * 64**3))


def test_the_probe_agrees_with_what_xla_does():
    """Four matmuls where the barrier holds, three where the two `x w` are merged."""
    assert count_matmuls({}) == (4 if barriers_hold() else 3)


def test_barriers_hold_with_memjaxs_options():
    assert count_matmuls(options_of(backend_of(jax.default_backend()))) == 4


@pytest.mark.skipif(
    jax.default_backend() != "cpu" or jax.__version__ != "0.10.2", reason="measured there"
)
def test_barriers_are_dropped_by_jax_0_10_2_on_cpu():
    assert not barriers_hold()


def test_the_probe_is_compiled_once(monkeypatch):
    barriers_hold()
    monkeypatch.setattr(jax, "jit", lambda *args, **kwargs: pytest.fail("compiled again"))
    barriers_hold()


# Types


def test_flat_arguments():
    avals = [jax.typeof(1.0), jax.typeof(np.ones((2, 3), np.float16))]
    weak, half = flat_arguments(avals, [1.0, np.ones((2, 3), np.float16)])
    assert (weak.shape, weak.dtype, weak.weak_type, weak.sharding) == ((), jnp.float32, True, None)
    assert (half.shape, half.dtype, half.weak_type) == ((2, 3), jnp.float16, False)


def test_only_committed_arrays_insist_on_their_device():
    device = jax.devices()[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    assert leaf_placement(jnp.ones(3)) is None
    assert leaf_placement(np.ones(3)) is None
    assert leaf_placement(1.0) is None
    assert leaf_placement(jax.device_put(1.0, device)) == sharding
    assert leaf_placement(jax.ShapeDtypeStruct((3,), jnp.float32, sharding=sharding)) == sharding
