"""Module paths of Flax nnx, which has no scopes of its own."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import memjax
from memjax.pricing.attribution import origins
from memjax.program.module_names import nnx_scopes
from memjax.program.trace import trace
from tests.programs import shape

X = shape(4, 8)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.down = nnx.Linear(16, 8, rngs=rngs)

    def __call__(self, x):
        return x + self.down(jnp.tanh(self.up(x)))


class Louder(Block):
    def __call__(self, x):
        return 2 * super().__call__(x)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([Block(rngs), Louder(rngs)])
        self.heads = nnx.Dict(left=nnx.Linear(8, 2, rngs=rngs))

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.heads["left"](x)


def train_step(model):
    graph, weights = nnx.split(model, nnx.Param)

    def step(weights, x):
        def loss_of(weights):
            return jnp.mean(nnx.merge(graph, weights)(x) ** 2)

        gradients = jax.grad(loss_of)(weights)
        return jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradients)

    return step, weights


def modules_of(program, primitive="dot_general"):
    """Module paths and phases of the eqns of a primitive, each once, in order."""
    found = zip(program.eqns, origins(program), strict=True)
    return list(dict.fromkeys((o.module, o.phase) for e, o in found if e.primitive == primitive))


def test_paths_forward_and_backward():
    step, weights = train_step(Net(nnx.Rngs(0)))
    forward = [
        "Net/blocks_0/up",
        "Net/blocks_0/down",
        "Net/blocks_1/up",
        "Net/blocks_1/down",
        "Net/heads_left",
    ]
    found = modules_of(trace(step, (weights, X)))
    assert [m for m, phase in found if phase == "forward"] == forward
    assert [m for m, phase in found if phase == "backward"] == forward[::-1]


def test_lines_are_the_users_as_without_scopes():
    lines, first = inspect.getsourcelines(Block.__call__)
    expected = first + next(i for i, line in enumerate(lines) if "tanh" in line)
    step, weights = train_step(Net(nnx.Rngs(0)))
    program = trace(step, (weights, X))
    found = [o.line for e, o in zip(program.eqns, origins(program), strict=True) if o.module]
    assert any(line.endswith(f"test_module_names.py:{expected} (__call__)") for line in found)
    assert all("test_module_names.py" in line for line in found)


def test_both_peaks_carry_modules():
    step, weights = train_step(Net(nnx.Rngs(0)))
    report = memjax.memory_budget("1GB")(step).report(weights, shape(512, 8))
    for shares in (report.by_module(), report.xla.by_module()):
        assert any(share.label.startswith("Net/blocks_") for share in shares)


def test_modules_made_in_a_loops_body_are_named_by_class():
    make = nnx.split_rngs(splits=3)(nnx.vmap(Block, in_axes=(0,), out_axes=0))
    graph, weights = nnx.split(make(nnx.Rngs(0)))

    def step(weights, x):
        run = nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return jax.grad(lambda w: jnp.mean(run(nnx.merge(graph, w), x)))(weights)

    analysis = memjax.analyze(step, weights, shape(512, 8))
    assert any(share.label.startswith("Block") for share in analysis.by_module())


def test_classes_are_as_before_also_after_an_error():
    before = vars(Block)["__call__"], vars(nnx.Linear)["__call__"]
    with nnx_scopes():
        with pytest.raises(ZeroDivisionError), nnx_scopes():
            raise ZeroDivisionError
        assert vars(Block)["__call__"] is not before[0]
        assert vars(nnx.Linear)["__call__"] is not before[1]
    assert (vars(Block)["__call__"], vars(nnx.Linear)["__call__"]) == before


def test_a_call_that_fails_leaves_no_module_behind():
    def wrong(x):
        with pytest.raises(TypeError):
            Block(nnx.Rngs(0))(x[:, :3])
        return nnx.Linear(8, 2, rngs=nnx.Rngs(0))(x)

    assert modules_of(trace(wrong, (X,))) == [("Linear", "forward")]


def test_numbers_are_the_same():
    model, x = Net(nnx.Rngs(0)), jnp.ones((4, 8))
    with nnx_scopes():
        named = model(x)
    assert (named == model(x)).all()
