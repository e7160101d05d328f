"""Which buffers are given up, and what XLA makes of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import memjax
from memjax.program.donation import match_donations, without_shared_buffers
from memjax.program.trace import trace
from tests.programs import mlp, shape

SQUARE = shape(8, 8)


def verdicts(step, *args, candidates=None, **kwargs):
    """Name of each donated leaf, with the name of the result that takes it."""
    program = trace(step, args, kwargs)
    donations = match_donations(program, candidates)
    assert [d.index for d in donations] == list(range(len(donations)))
    assert [d.name for d in donations] == list(program.argument_names)
    assert all(bool(d.reason) != d.donated for d in donations)
    return {d.name: program.result_names[d.result] for d in donations if d.donated}, {
        d.name: d.reason for d in donations if not d.donated
    }


def sgd(w, x):
    return w - jax.grad(lambda w: jnp.sum(jnp.sin(x @ w)))(w)


def test_a_parameter_is_given_up_and_the_batch_is_not():
    given, kept = verdicts(lambda w, x: (sgd(w, x), jnp.sum(x)), SQUARE, SQUARE)
    assert given == {"w": "result[0]"}
    assert kept == {"x": "nothing of x is updated from other arguments"}


@pytest.mark.parametrize(
    "returned",
    [lambda x: x, lambda x: 2 * x, lambda x: (x - jnp.mean(x)) / jnp.std(x), jnp.tanh],
)
def test_a_batch_that_comes_back_is_kept(returned):
    given, kept = verdicts(lambda w, x: (sgd(w, x), returned(x)), SQUARE, SQUARE)
    assert given == {"w": "result[0]"}
    assert "updated from other arguments" in kept["x"]


def test_order_does_not_matter():
    given, _ = verdicts(lambda x, w: (2 * x, sgd(w, x)), SQUARE, SQUARE)
    assert given == {"w": "result[1]"}


def test_what_comes_through_a_matmul_is_no_update():
    given, kept = verdicts(lambda w, x: (x @ w, jnp.sum(x)), SQUARE, SQUARE)
    assert given == {}
    assert set(kept) == {"w", "x"}


def test_other_shapes_and_dtypes():
    def step(state, x):
        wide = state["a"].astype(jnp.float32) + x[0]
        return {"a": wide, "b": state["b"][:4] + x[:4, 0], "c": state["c"] + x[0]}

    state = {"a": shape(8, 8, dtype=jnp.bfloat16), "b": shape(16), "c": shape(8)}
    given, kept = verdicts(step, state, SQUARE)
    assert given == {"state['c']": "result['c']"}
    assert "no result of type" in kept["state['a']"]
    assert "no result of type" in kept["state['b']"]


def test_a_leaf_without_an_update_of_its_own():
    def step(state, x):
        w = sgd(state["w"], x)
        return {"w": w}, x @ state["frozen"]

    given, kept = verdicts(step, {"w": SQUARE, "frozen": SQUARE}, SQUARE)
    assert given == {"state['w']": "result[0]['w']"}
    assert "no result is an update of it" in kept["state['frozen']"]


def test_a_state_that_comes_back_as_a_whole_is_given_up_as_a_whole():
    """Whatever made its new leaves: `jit` with this argument donated writes over all of it."""

    def step(state, x):
        return {"w": sgd(state["w"], x), "other": x @ state["other"]}

    given, _ = verdicts(step, {"w": SQUARE, "other": SQUARE}, SQUARE)
    assert given == {f"state['{k}']": f"result['{k}']" for k in ("w", "other")}


def test_leaves_of_the_state_that_pass_through():
    """The whole state is new; what is unchanged in it goes along."""

    def step(state, x):
        return {**state, "w": sgd(state["w"], x)}

    given, _ = verdicts(step, {"w": SQUARE, "frozen": SQUARE}, SQUARE)
    assert given == {f"state['{k}']": f"result['{k}']" for k in ("w", "frozen")}


def test_each_result_takes_one_buffer():
    def step(a, b, x):
        return a + b + x @ x

    given, kept = verdicts(step, SQUARE, SQUARE, SQUARE)
    assert given == {"a": "result"}
    assert "is left to take its buffer" in kept["b"]


def test_two_leaves_take_two_results():
    def step(state, x):
        a, b = state
        g = x @ x
        return (b + g, a + g), jnp.sum(g)

    given, _ = verdicts(step, (SQUARE, SQUARE), SQUARE)
    assert sorted(given) == ["state[0]", "state[1]"]
    assert sorted(given.values()) == ["result[0][0]", "result[0][1]"]
    assert given == {"state[0]": "result[0][1]", "state[1]": "result[0][0]"}


def adam_step():
    step, weights, x = mlp(width=16, batch=32, layers=2)
    del step
    optimizer = optax.adamw(1e-2)

    def loss(params, x):
        return jnp.mean(jnp.tanh(jnp.tanh(x @ params["w"][0]) @ params["w"][1]) ** 2)

    def train_step(state, batch):
        value, gradients = jax.value_and_grad(loss)(state["params"], batch["x"])
        updates, moments = optimizer.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "optimizer": moments}, {"loss": value}

    params = {"w": weights}
    return train_step, {"params": params, "optimizer": optimizer.init(params)}, {"x": x}


def test_a_real_optimizer_gives_up_all_its_state():
    step, state, batch = adam_step()
    given, kept = verdicts(step, state, batch)
    names = trace(step, (state, batch)).argument_names
    assert sorted(given) == sorted(n for n in names if n.startswith("state"))
    for name, result in given.items():
        assert result == name.replace("state", "result[0]", 1)
    assert list(kept) == ["batch['x']"]


def test_xla_aliases_all_that_was_given_up():
    step, state, batch = adam_step()
    report = memjax.memory_budget("1GB")(step).report(state, batch)
    donated = sum(d.bytes for d in report.donations if d.donated)
    assert donated == sum(leaf.nbytes for leaf in jax.tree_util.tree_leaves(state))
    assert report.compiled.alias_bytes == donated


def test_xla_aliases_under_a_plan_as_well():
    step, weights, x = mlp(width=32, batch=256)
    plain = memjax.footprint(jax.jit(step, donate_argnums=0).lower(weights, x).compile())
    report = memjax.memory_budget(int(0.75 * plain.total_bytes))(step).report(weights, x)
    assert report.plan.recomputations
    donated = sum(d.bytes for d in report.donations if d.donated)
    assert report.compiled.alias_bytes == donated == sum(w.nbytes for w in weights)


def test_keyword_arguments_are_given_up_too():
    given, _ = verdicts(lambda x, *, w: sgd(w, x), SQUARE, w=SQUARE)
    assert given == {"w": "result"}


def test_parameters_without_names():
    given, _ = verdicts(lambda *args: [sgd(args[0]["w"], args[1])], {"w": SQUARE}, SQUARE)
    assert given == {"args[0]['w']": "result[0]"}


def test_a_single_argument_is_state():
    given, _ = verdicts(lambda state: [s + 1 for s in state], [SQUARE, SQUARE])
    assert given == {"state[0]": "result[0]", "state[1]": "result[1]"}


def test_results_that_are_constants():
    given, _ = verdicts(lambda w, x: (1.0, sgd(w, x)), SQUARE, SQUARE)
    assert given == {"w": "result[1]"}


# Asked for


def test_candidates_need_only_a_result_of_their_type():
    def step(w, x):
        return x @ w, jnp.sum(x)

    given, kept = verdicts(step, SQUARE, SQUARE, candidates={1})
    assert given == {"x": "result[0]"}
    assert kept == {"w": "kept as asked"}


def test_candidates_prefer_their_own_update():
    def step(a, b):
        return b + 1, a + 1

    given, _ = verdicts(step, SQUARE, SQUARE, candidates={0, 1})
    assert given == {"a": "result[1]", "b": "result[0]"}


def test_candidates_that_nothing_can_take():
    given, kept = verdicts(lambda w, x: jnp.sum(w @ x), SQUARE, SQUARE, candidates={0, 1})
    assert given == {}
    assert all("no result of type" in reason for reason in kept.values())


def test_no_candidates():
    given, kept = verdicts(sgd, SQUARE, SQUARE, candidates=())
    assert given == {}
    assert set(kept.values()) == {"kept as asked"}


# The same buffer twice


def test_shared_buffers_are_copied():
    x, y = jnp.ones((8, 8)), jnp.zeros((8, 8))
    same = without_shared_buffers((x, y, x), (0, 1))
    assert same[0] is not x
    assert same[1] is y
    assert same[2] is x
    np.testing.assert_array_equal(same[0], x)
    assert without_shared_buffers((x, y, y), (0,))[0] is x


def test_numpy_arrays_are_not_copied():
    x = np.ones((8, 8), np.float32)
    leaves = without_shared_buffers((x, x), (0, 1))
    assert leaves[0] is x
