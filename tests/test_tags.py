"""Tags: one for each eqn, in the compiled program, unseen by people, at no cost."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings, strategies as st

from benchmarks.random_layers import Dice
from benchmarks.random_steps import draw_step
from memjax import _compat
from memjax.pricing.attribution import module_of_op_name, module_path
from memjax.pricing.nests import with_bodies
from memjax.program.prepare import prepare
from memjax.program.tags import is_tag, path_of, plain_name, tag_of
from memjax.program.trace import trace
from memjax.xla import buffers_pb2 as pb
from tests.programs import mlp, shape


@pytest.mark.parametrize(
    ("name", "path", "plain"),
    [
        ("jit(f)/eqn.3/sin", ("3",), "jit(f)/sin"),
        (
            "jit(f)/jvp(Net)/eqn.3/jit(relu)/eqn.41/max",
            ("3", "41"),
            "jit(f)/jvp(Net)/jit(relu)/max",
        ),
        ("jit(f)/transpose(jvp(eqn.12))/mul", ("12",), "jit(f)/transpose(jvp())/mul"),
        ("eqn.3/eqn.0", ("3", "0"), ""),
        ("jit(f)/my_eqn.3/eqn.3x/sin", (), "jit(f)/my_eqn.3/eqn.3x/sin"),
        ("jit(f)/a.eqn.3/sin", (), "jit(f)/a.eqn.3/sin"),
    ],
)
def test_names(name, path, plain):
    assert path_of(name) == path
    assert plain_name(name) == plain


def test_a_tag_is_no_module():
    assert is_tag(tag_of(7))
    assert not is_tag("eqn")
    assert module_of_op_name("jit(f)/jvp(Net)/eqn.3/Dense_0/eqn.4/dot_general") == "Net/Dense_0"
    step, weights, x = mlp(layers=1)
    assert all("eqn" not in module_path(e.name_stack) for e in trace(step, (weights, x)).eqns)


def nested(x):
    @jax.jit
    def inner(y):
        return jnp.sin(y) * 2

    return inner(inner(jax.nn.relu(x)))


def looped(x):
    y, _ = jax.lax.scan(lambda c, _: (jnp.cos(c), None), x, None, length=3)
    return jax.lax.cond(y[0, 0] > 0, jnp.sin, jnp.cos, y)


def all_paths(program, outer=()):
    for eqn in program.eqns:
        yield outer + eqn.path
        for body in eqn.nest.bodies if eqn.nest else ():
            yield from all_paths(body.program, outer + eqn.path)


@pytest.mark.parametrize("step", [nested, looped])
def test_every_eqn_has_a_path_of_its_own(step):
    paths = list(all_paths(with_bodies(trace(step, (shape(8, 8),)))))
    assert all(paths)
    assert len(set(paths)) == len(paths)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_paths_of_random_steps_stay_unique_when_prepared(seed):
    drawn = draw_step(Dice(seed))
    program = prepare(trace(drawn.step, drawn.arguments()))
    paths = [eqn.path for eqn in program.eqns]
    assert all(paths)
    assert len(set(paths)) == len(paths)


def test_a_body_that_is_called_twice_is_lowered_once():
    program = trace(nested, (shape(8, 8),))
    outer, _ = _compat.jaxpr_parts(program.jaxpr)
    bodies = [_compat.inlinable_body(e) for e in outer.eqns]
    calls = [id(_compat.jaxpr_parts(b)[0]) for b in bodies if b is not None]
    assert len(calls) == 3
    assert len(set(calls)) == 2


def compiled(function, types, **options):
    return jax.jit(function, **options).lower(*types).compile()


def test_tags_are_in_the_compiled_program_and_cost_nothing():
    step, weights, x = mlp(layers=3)
    program = trace(step, (weights, x))
    types = [_compat.struct(program.avals[v]) for v in program.arguments]
    tagged = compiled(_compat.as_function(program.jaxpr, program.name), types)
    plain = compiled(step, (weights, x))
    assert tagged.memory_analysis().temp_size_in_bytes == plain.memory_analysis().temp_size_in_bytes
    module = pb.Module.FromString(_compat.compiled_messages(tagged)[1])
    known = {eqn.path: eqn.primitive for eqn in program.eqns}
    dots = {
        known[path_of(i.metadata.op_name)]
        for c in module.computations
        for i in c.instructions
        if i.opcode == "dot"
    }
    assert "dot_general" in dots
    assert dots <= {"dot_general", "transpose"}  # of which some are made one
