"""The curve of a step: monotone, and verified where asked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import memjax
from tests.programs import train_step as step

WEIGHTS = [jax.ShapeDtypeStruct((32, 32), jnp.float32)] * 8
X = jax.ShapeDtypeStruct((512, 32), jnp.float32)


@pytest.fixture(scope="module")
def frontier() -> memjax.Frontier:
    whole = memjax.memory_budget(1, split=False)(step)
    return memjax.frontier(whole, WEIGHTS, X, points=5, verify=True)


def test_with_splits_it_reaches_further(frontier: memjax.Frontier) -> None:
    split = memjax.frontier(step, WEIGHTS, X, points=5)
    assert split.points[-1].budget_bytes < frontier.points[-1].budget_bytes
    assert any(point.plan.splits for point in split.points)
    assert all(point.plan.bound_overhead is None for point in split.points if point.plan.splits)


def test_a_smaller_budget_never_costs_less(frontier: memjax.Frontier) -> None:
    budgets = [point.budget_bytes for point in frontier.points]
    overheads = [point.plan.overhead for point in frontier.points]
    assert budgets == sorted(budgets, reverse=True)
    assert overheads == sorted(overheads)
    assert overheads[0] == 0 < overheads[-1]


def test_points_meet_their_budgets_and_lie_above_their_bounds(frontier: memjax.Frontier) -> None:
    for point in frontier.points:
        assert point.met
        # Updates settle behind a barrier, a little later than the planner has them.
        assert point.plan.predicted_bytes <= 1.02 * point.budget_bytes
        assert point.plan.bound_overhead is not None
        assert point.plan.bound_overhead <= point.plan.overhead + 1e-12


def test_verified_bytes_shrink_with_the_budget(frontier: memjax.Frontier) -> None:
    compiled = [point.compiled_bytes or 0 for point in frontier.points]
    assert compiled[-1] < 0.7 * compiled[0]
    assert "compiled" in str(frontier)
    assert len(str(frontier).splitlines()) == 2 + len(frontier.points)


def test_budgets_as_users_write_them() -> None:
    points = memjax.frontier(step, WEIGHTS, X, budgets=["1MB", "600KiB"]).points
    assert [p.budget_bytes for p in points] == [10**6, 600 * 1024]
    assert all(p.compiled_bytes is None for p in points)
