"""Under a tight budget, models of every kind train to the numbers of plain `jax.jit`."""

import jax
import numpy as np
import pytest

import memjax
from benchmarks import models
from memjax.demo.gpt import gpt_task
from memjax.demo.measure import compile_plain, footprint_bytes

STEPS = 5

# name: (task, budget as a share of the plain footprint)
TASKS = {
    "gpt": (lambda: gpt_task(layers=3, width=32, heads=4, tokens=32, batch=8, vocab=64), 0.6),
    "resnet": (models.resnet, 0.75),
    "dropout": (models.dropout, 0.75),
    "lstm loop": (models.lstm, 0.75),
    "lstm scan": (lambda: models.lstm(scan=True), 1.0),
    "raw jax": (models.mlp, 0.75),
    "equinox": (models.equinox_mlp, 0.75),
    "nnx": (models.nnx_mlp, 0.75),
}


def losses_of(step, task):
    state, losses = jax.jit(task.init)(jax.random.key(0)), []
    for seed in range(STEPS):
        state, loss = step(state, task.random_batch(seed))
        losses.append(float(loss))
    return losses, state


@pytest.fixture(scope="module", params=TASKS)
def trained(request):
    """A task with its plain and its budgeted step, both trained."""
    make, share = TASKS[request.param]
    task = make()
    plain = compile_plain(task.step, task.state, task.batch)
    budget = int(share * footprint_bytes(plain))
    step = memjax.memory_budget(budget)(task.step)
    return task, budget, step, losses_of(plain, task), losses_of(step, task)


def test_compiled_program_is_within_the_budget(trained):
    task, budget, step, _, _ = trained
    assert footprint_bytes(step.compiled(task.state, task.batch)) <= budget


def test_losses_are_those_of_plain_jit(trained):
    *_, (expected, _), (losses, _) = trained
    np.testing.assert_allclose(losses, expected, rtol=2e-6)


def test_losses_change(trained):
    """Else the test above could not fail."""
    *_, (losses, _) = trained
    assert len(set(losses)) == STEPS


def test_states_are_those_of_plain_jit(trained, request):
    if "gpt" in request.node.callspec.id:
        pytest.skip("key biases have no gradient but rounding, of which Adam makes full steps")
    *_, (_, expected), (_, state) = trained
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, wanted = jax.random.key_data(leaf), jax.random.key_data(wanted)
        np.testing.assert_allclose(leaf, wanted, rtol=1e-4, atol=1e-5)
