"""What reports say about loops, and plans with loops on disk."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import memjax
from memjax.emit.plan import Plan

LAYERS, ROWS, WIDTH = 16, 256, 32
SHAPES = (
    jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32),
    jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32),
)


def layer(x: Any, w: Any) -> Any:
    return jnp.tanh(x @ w) + jnp.sin(x)


def step(weights: Any, x: Any) -> Any:
    def loss(weights: Any) -> Any:
        return jnp.mean(lax.scan(lambda x, w: (layer(x, w), None), x, weights)[0] ** 2)

    return weights - 0.1 * jax.grad(loss)(weights)


def tight() -> int:
    plain = memjax.memory_budget("1GiB")(step).report(*SHAPES)
    return int(0.5 * plain.compiled.total_bytes)


def test_analysis_names_what_a_scan_stacks() -> None:
    (note,) = memjax.analyze(step, *SHAPES).loops
    assert (note.kind, note.length, note.decision) == ("scan", LAYERS, "as it is")
    assert note.stacked_bytes >= 2 * 4 * ROWS * WIDTH
    assert all("test_notes.py" in str(stack.source) for stack in note.stacked)
    assert "stacks" in str(memjax.analyze(step, *SHAPES))


def test_report_names_what_was_decided() -> None:
    report = memjax.memory_budget(tight())(step).report(*SHAPES)
    (note,) = report.loops
    assert "an iteration are stacked" in note.decision
    assert "loops:" in str(report)


def test_plan_with_loops_survives_json_and_compiles_to_the_same_bytes() -> None:
    budgeted = memjax.memory_budget(tight())(step)
    plan = Plan.from_json(budgeted.plan(*SHAPES).to_json())
    assert plan == budgeted.plan(*SHAPES)
    assert plan.loops
    again = memjax.memory_budget(tight(), plan=plan)(step).report(*SHAPES)
    assert again.compiled == budgeted.report(*SHAPES).compiled
    assert len(again.compilations) == 1


def test_plan_that_names_no_pair_is_refused() -> None:
    text = memjax.memory_budget(tight())(step).plan(*SHAPES).to_json()
    spoilt = text.replace('"loops":[{"scan":', '"loops":[{"scan":999')
    with pytest.raises(memjax.InvalidPlan, match="loops"):
        memjax.memory_budget(tight(), plan=Plan.from_json(spoilt))(step).report(*SHAPES)


def test_frontier_of_a_step_with_loops_is_monotone() -> None:
    points = memjax.frontier(step, *SHAPES, points=4).points
    overheads = [point.plan.overhead for point in points if point.met]
    assert overheads == sorted(overheads)
    assert overheads[0] < overheads[-1]
    assert any(point.plan.loops for point in points)


def test_effects_run_once_and_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    def talking(weights: Any, x: Any) -> Any:
        def loss(weights: Any) -> Any:
            def body(total: Any, w: Any) -> tuple[Any, None]:
                jax.debug.print("layer {}", total.astype(int), ordered=True)
                return total + 1.0 + 0.0 * jnp.sum(w), None

            count, _ = lax.scan(body, jnp.zeros(()), weights)
            last, _ = lax.scan(lambda x, w: (layer(x, w), None), x, weights)
            return jnp.mean(last**2) + count

        return weights - 0.1 * jax.grad(loss)(weights)

    args = jnp.ones((LAYERS, WIDTH, WIDTH)) / WIDTH, jnp.ones((ROWS, WIDTH))
    plain = memjax.memory_budget("1GiB")(talking).report(*args).compiled.total_bytes
    budgeted = memjax.memory_budget(int(0.5 * plain), donate=None)(talking)
    report = budgeted.report(*args)
    assert report.plan.loops
    assert any("effects" in note.decision for note in report.loops)
    result = jax.block_until_ready(budgeted(*args))
    jax.effects_barrier()
    said = [line for line in capfd.readouterr().out.splitlines() if "layer" in line]
    assert said == [f"layer {i}" for i in range(LAYERS)]
    np.testing.assert_allclose(result, jax.jit(talking)(*args), rtol=1e-5, atol=1e-6)


def test_a_stack_that_is_read_whole_is_named() -> None:
    def states(weights: Any, x: Any) -> Any:
        def loss(weights: Any) -> Any:
            _, ys = lax.scan(lambda x, w: (layer(x, w),) * 2, x, weights)
            return jnp.mean(ys**2)

        return loss(weights)

    (note,) = memjax.analyze(states, *SHAPES).loops
    assert "reads a stack of it whole" in note.decision
