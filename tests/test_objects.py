"""Steps of Flax nnx and Equinox as their users write them: objects as arguments."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import memjax

X, Y = jax.random.normal(jax.random.key(0), (256, 16)), jnp.ones((256, 4))


class Net(nnx.Module):
    """Batch norm and dropout: statistics and RNGs change in the forward pass."""

    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(16, 64, rngs=rngs), nnx.Linear(64, 4, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(64, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.second(self.dropout(nnx.gelu(self.norm(self.first(x)))))


def nnx_step(model, optimizer, metrics, x, y):
    def loss_of(model):
        return jnp.mean((model(x) - y) ** 2)

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    metrics.update(values=loss)
    return loss


def nnx_objects(model=Net):
    model = model(nnx.Rngs(0))
    return model, nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param), nnx.metrics.Average()


def trained(step, steps=5):
    model, optimizer, metrics = nnx_objects()
    losses = [float(step(model, optimizer, metrics, X, Y)) for _ in range(steps)]
    return losses, float(metrics.compute()), jax.tree.leaves(nnx.state((model, optimizer)))


def assert_close(ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if jnp.issubdtype(getattr(one, "dtype", float), jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("budget", ["1GiB", "400KiB"])
def test_an_nnx_step_trains_as_under_nnx_jit(budget):
    """Parameters, moments, statistics, counts of RNGs and metrics: all that the step changes."""
    step = memjax.memory_budget(budget)(nnx_step)
    assert_close(trained(step), trained(nnx.jit(nnx_step)))
    assert len(step._made.entries) == 1
    report = step.report(*nnx_objects(), X, Y)
    assert report.compiled.total_bytes <= report.budget_bytes


def test_state_that_is_updated_is_given_up_under_names_of_the_model():
    report = memjax.memory_budget("1GiB")(nnx_step).report(*nnx_objects(), X, Y)
    donated = {d.name for d in report.donations if d.donated}
    assert {"model.first.kernel", "optimizer.opt_state[0].mu.first.kernel"} <= donated
    kept = {d.name for d in report.donations} - donated
    assert kept == {"x", "y", "model.dropout.rngs.key"}  # the key is read alone; its count changes


def test_what_is_read_alone_is_no_result():
    """Else the program would copy the model."""

    def evaluate(model, x):
        return jnp.sum(model(x))

    model = nnx.Linear(16, 64, rngs=nnx.Rngs(0))
    step = memjax.memory_budget("1GiB")(evaluate)
    assert float(step(model, X)) == pytest.approx(float(evaluate(model, X)), rel=1e-5)
    assert step.report(model, X).compiled.output_bytes <= 64
    assert float(step(model, X)) == pytest.approx(float(evaluate(model, X)), rel=1e-5)


def test_references_that_are_shared_stay_shared():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(16, 16, rngs=rngs)
            self.again = self.first

        def __call__(self, x):
            return self.again(self.first(x))

    def double(models):
        one, other = models["one"], models["other"]
        one.first.kernel[...] = 2 * one.first.kernel[...]
        return jnp.sum(other(X))

    def run(wrap):
        model = Tied(nnx.Rngs(0))
        step = wrap(double)
        sums = [float(step({"one": model, "other": model})) for _ in range(2)]
        assert model.again is model.first
        return sums, model.first.kernel[...]

    assert_close(run(memjax.memory_budget("1GiB")), run(nnx.jit))


def test_an_object_that_gains_a_variable_is_planned_anew():
    class Growing(nnx.Module):
        def __init__(self):
            self.count = nnx.Variable(jnp.zeros(()))

    def grow(model, x):
        model.count[...] += 1
        if not hasattr(model, "seen"):
            model.seen = nnx.Variable(x)
        return model.count[...]

    step, model = memjax.memory_budget("1MiB")(grow), Growing()
    assert [float(step(model, X)) for _ in range(3)] == [1, 2, 3]
    np.testing.assert_array_equal(model.seen[...], X)
    assert len(step._made.entries) == 2


def test_an_object_that_is_returned_is_the_callers_own():
    def updated(model):
        model.kernel[...] = model.kernel[...] + 1
        return model, {"norm": jnp.sum(model.kernel[...] ** 2)}

    model = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    wanted = model.kernel[...] + 1
    returned, found = memjax.memory_budget("1MiB")(updated)(model)
    assert returned is model
    np.testing.assert_allclose(model.kernel[...], wanted)
    assert float(found["norm"]) == pytest.approx(float(jnp.sum(wanted**2)))


def test_a_step_that_fails_leaves_the_objects_as_they_were():
    def fails(model):
        model.kernel[...] = model.kernel[...] + 1
        raise KeyError("of the user")

    model = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    before = model.kernel[...]
    with pytest.raises(KeyError, match="of the user"):
        memjax.memory_budget("1MiB")(fails)(model)
    np.testing.assert_array_equal(model.kernel[...], before)
    with pytest.raises(memjax.BudgetInfeasible):
        memjax.memory_budget(8)(nnx_step)(*nnx_objects(), X, Y)


class Module(eqx.Module):
    """With a dropout, whose rate and mode are no arrays, and a function."""

    first: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    second: eqx.nn.Linear
    activation: object

    def __init__(self, key):
        one, other = jax.random.split(key)
        self.first, self.second = eqx.nn.Linear(16, 64, key=one), eqx.nn.Linear(64, 4, key=other)
        self.dropout, self.activation = eqx.nn.Dropout(0.1), jax.nn.gelu

    def __call__(self, x, key):
        return self.second(self.dropout(self.activation(self.first(x)), key=key))


OPTIMIZER = optax.adam(1e-2)


def equinox_step(model, state, x, y, key, kind="mean"):
    def loss_of(model):
        errors = (jax.vmap(model)(x, jax.random.split(key, len(x))) - y) ** 2
        return jnp.mean(errors) if kind == "mean" else jnp.sum(errors)

    loss, gradients = eqx.filter_value_and_grad(loss_of)(model)
    updates, state = OPTIMIZER.update(gradients, state, eqx.filter(model, eqx.is_array))
    return eqx.apply_updates(model, updates), state, loss


@pytest.mark.parametrize("budget", ["1GiB", "400KiB"])
def test_an_equinox_step_trains_as_under_filter_jit(budget):
    def losses(step):
        model = Module(jax.random.key(0))
        state = OPTIMIZER.init(eqx.filter(model, eqx.is_array))
        found = []
        for number in range(4):
            model, state, loss = step(model, state, X, Y, jax.random.key(number), "mean")
            found.append(float(loss))
        return found, eqx.filter(model, eqx.is_array), model.activation

    step = memjax.memory_budget(budget)(equinox_step)
    (ours, model, function), (theirs, wanted, _) = (
        losses(step),
        losses(eqx.filter_jit(equinox_step)),
    )
    assert_close((ours, model), (theirs, wanted))
    assert function is jax.nn.gelu
    assert len(step._made.entries) == 1


def test_statics_of_a_module_are_told_apart():
    def scaled(module, flag):
        return module.p * X if flag is True else X

    step = memjax.memory_budget("1MiB")(scaled)
    for rate in (0.5, 0.25):
        np.testing.assert_allclose(step(eqx.nn.Dropout(rate), True), rate * X)
    np.testing.assert_allclose(step(eqx.nn.Dropout(0.5), 1), X)


def test_a_module_that_cannot_be_static_is_named():
    class Odd(eqx.Module):
        table: object

    with pytest.raises(ValueError, match=r"argument 0\.table is a set.*static=True"):
        memjax.memory_budget("1MiB")(lambda module: X)(Odd({1, 2}))


def test_objects_that_are_static_stay_static_whatever_is_asked():
    """`jax.jit` does not look into them, so neither do calls, plans and reports."""
    linear = nnx.Linear(16, 4, rngs=nnx.Rngs(0))
    step = memjax.memory_budget("1MiB", static_argnums=0)(lambda model, x: jnp.sum(model(x)))
    assert float(step(linear, X)) == pytest.approx(float(jnp.sum(linear(X))), rel=1e-4)
    assert [d.name for d in step.report(linear, X).donations] == ["x"]
    assert len(step._made.entries) == 1


def test_objects_beside_static_ones():
    def step(kind, model, x):
        model.bias[...] = model.bias[...] + (1 if kind == "up" else -1)
        return jnp.sum(model(x))

    model = nnx.Linear(16, 4, rngs=nnx.Rngs(0))
    budgeted = memjax.memory_budget("1MiB", static_argnums=0)(step)
    first, second, third = (float(budgeted(kind, model, X)) for kind in ("up", "up", "down"))
    assert second == pytest.approx(first + 4 * len(X), rel=1e-4)
    assert third == pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize("ask", [memjax.analyze, memjax.floor])
def test_questions_take_objects_as_well(ask):
    model, optimizer, metrics = nnx_objects()
    found = ask(nnx_step, model, optimizer, metrics, X, Y)
    assert found
    assert float(nnx.jit(nnx_step)(model, optimizer, metrics, X, Y)) > 0  # nothing was given up


def test_under_a_transformation_the_step_is_that_of_jit():
    def value(module, x):
        return jnp.sum(jax.vmap(module)(x))

    step, module = memjax.memory_budget("1MiB")(value), eqx.nn.Linear(16, 4, key=jax.random.key(0))
    assert_close(jax.grad(lambda x: step(module, x))(X), jax.grad(lambda x: value(module, x))(X))


def test_what_is_jitted_already_is_planned_as_the_function_in_it():
    """`jax.jit`'s own settings are taken over; what memory_budget is given wins."""

    def step(kind, state, batch):
        return state + (jnp.sum(batch) if kind == "sum" else jnp.mean(batch))

    jitted = jax.jit(step, static_argnums=0, donate_argnums=1)
    made = memjax.memory_budget("1MiB")(jitted)
    assert float(made("sum", jnp.zeros(()), X)) == pytest.approx(float(jnp.sum(X)), rel=1e-5)
    assert made._settings.static_argnums == (0,)
    assert made._settings.donate_argnums == (1,)
    kept = memjax.memory_budget("1MiB", donate=None)(jitted)._settings
    assert (kept.donate, kept.donate_argnums) == (None, None)
    assert memjax.memory_budget("1MiB", donate_argnums=2)(jitted)._settings.donate_argnums == (2,)


@pytest.mark.parametrize("wrap", [nnx.jit, lambda step: nnx.jit(step, donate_argnums=(0, 1))])
def test_nnx_jit_in_a_budget(wrap):
    assert_close(trained(memjax.memory_budget("1GiB")(wrap(nnx_step))), trained(nnx.jit(nnx_step)))


def test_filter_jit_in_a_budget():
    step = memjax.memory_budget("1GiB")(eqx.filter_jit(lambda module, x: jax.vmap(module)(x)))
    module = eqx.nn.MLP(16, 4, 32, 2, key=jax.random.key(0))
    assert_close(step(module, X), jax.vmap(module)(X))


def test_objects_that_are_given_up_whole_keep_what_the_step_leaves_as_it_is():
    def read(model, x):
        model.bias[...] = model.bias[...] + 1
        return jnp.sum(model(x))

    model = nnx.Linear(16, 4, rngs=nnx.Rngs(0))
    step = memjax.memory_budget("1MiB", donate_argnums=0)(read)
    first, second = float(step(model, X)), float(step(model, X))
    assert second == pytest.approx(first + 4 * len(X), rel=1e-4)
