"""What instructions are made of, across the computations that they run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from memjax.xla.flow import Names, behind
from memjax.xla.held import reading_of
from memjax.xla.shapes import arrays
from tests.programs import shape


def compute(x, y, flag):
    """Branches and loops whose operands and results are tuples of different lengths."""

    def branch(scale):
        return lambda a, b, c: (jnp.tanh(a @ b) * scale, jnp.sum(c))

    def body(state):
        number, a, total = state
        a, part = jax.lax.cond(a[0, 0] > 0, branch(2.0), branch(3.0), a, y, x)
        return number + 1, a, total + part

    _, a, total = jax.lax.while_loop(lambda state: state[0] < 4, body, (0, x, 0.0))
    picked = jax.lax.switch(flag, [jnp.sin, jax.lax.sort, jnp.cos], a)
    return picked @ x, total


@pytest.fixture(scope="module")
def names():
    types = shape(64, 64), shape(64, 64), jax.ShapeDtypeStruct((), jnp.int32)
    return Names.of(reading_of(jax.jit(compute).lower(*types).compile()).module)


def test_parts_are_parts_of_what_they_are_said_to_be_of(names):
    conditionals = [i for i in names.instructions.values() if i.opcode == "conditional"]
    assert conditionals
    for instruction in names.instructions.values():
        for index, _ in arrays(instruction.shape):
            for made_of, part in behind(names, instruction, index):
                shape = made_of.shape
                for number in part:
                    assert number < len(shape.tuple_shapes), (instruction.name, made_of.name)
                    shape = shape.tuple_shapes[number]


def test_a_branch_gets_the_operand_of_its_own(names):
    seen = 0
    for conditional in (i for i in names.instructions.values() if i.opcode == "conditional"):
        for number, called in enumerate(conditional.called_computation_ids):
            for instruction in names.computations[called].instructions:
                if instruction.opcode == "parameter":
                    sources = [i.id for i, _ in list(behind(names, instruction))[1:2]]
                    assert sources == [conditional.operand_ids[1 + number]]
                    seen += 1
    assert seen >= 3


def test_a_loop_is_made_of_what_its_body_returns_first(names):
    loops = [i for i in names.instructions.values() if i.opcode == "while"]
    assert loops
    for loop in loops:
        for root in names.results_of(loop):
            assert len(root.shape.tuple_shapes) == len(loop.shape.tuple_shapes)
