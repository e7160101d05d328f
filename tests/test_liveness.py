"""Which values are stored, and for how long."""

import jax
import jax.numpy as jnp
import pytest

from memjax.pricing.liveness import SCALAR_BYTES, Gap, liveness
from memjax.program.trace import trace
from tests.programs import shape

SQUARE = shape(16, 16)
WIDE = shape(64, 64)


def graph_of(step, *types):
    return liveness(trace(step, types))


def free_primitives(graph):
    return [e.primitive for e in graph.program.eqns if all(graph.free[v] for v in e.outputs)]


def test_three_stored_values():
    """
    0 ─ dot(2) ─ dot(3) ─ dot(4) ─▶      2 is read at 1 and 2, 3 at 2
    1 ───┴────────┘  │     │
             2 ──────┼─────┘
    """
    graph = graph_of(lambda x, a: (x @ a @ a) @ (x @ a), SQUARE, SQUARE)
    assert graph.free == (False,) * 6
    assert graph.stored_reads == ((0, 1), (2, 1), (0, 1), (3, 4))
    assert graph.readers == ((0, 2), (0, 1, 2), (1,), (3,), (3,), ())
    assert graph.sources == ((),) * 6
    assert graph.gaps(2) == ()
    assert graph.gaps(3) == (Gap(3, 2, 3),)
    assert graph.gaps(5) == ()


def test_one_elementwise_reader_fuses():
    """dot ─ mul ─ sub ─ sum: the two in the middle are never stored."""
    graph = graph_of(lambda x, a: jnp.sum((x @ a) * 2 - 1), SQUARE, SQUARE)
    assert free_primitives(graph) == ["mul", "sub"]
    assert graph.stored_reads == ((0, 1), (2,), (2,), (2,))
    assert graph.sources[3] == graph.sources[4] == (2,)
    assert graph.readers[2] == (3,)


def test_a_matmul_reads_what_is_stored():
    graph = graph_of(lambda x, a: (x @ a * 2) @ a, SQUARE, SQUARE)
    assert free_primitives(graph) == []


def test_costly_values_are_stored_for_several_readers():
    """XLA does not repeat a sin in each of its readers' fusions, but a mul it does."""

    def twice(f):
        def step(x, a):
            y = f(x @ a)
            return jnp.sum(y * 2), jnp.sum(y, axis=0)

        return step

    assert "sin" not in free_primitives(graph_of(twice(jnp.sin), WIDE, WIDE))
    assert "neg" in free_primitives(graph_of(twice(jnp.negative), WIDE, WIDE))


def test_a_cheap_function_of_two_large_values_is_stored_for_several_readers():
    def step(x, a, b):
        y = x @ a + x @ b
        return jnp.sum(y), jnp.sum(y, axis=0)

    assert "add" not in free_primitives(graph_of(step, WIDE, WIDE, WIDE))

    def with_bias(x, a, b):
        y = x @ a + b
        return jnp.sum(y), jnp.sum(y, axis=0)

    graph = graph_of(with_bias, WIDE, WIDE, shape(64))
    assert free_primitives(graph)[-1:] == ["add"]


def test_arguments_weigh_nothing():
    """They are held in any case: a function of two of them is free for all readers."""
    graph = graph_of(lambda x, y: (jnp.sum(x + y), jnp.sum(x + y, axis=0)), WIDE, WIDE)
    assert free_primitives(graph) == ["add", "add"]


@pytest.mark.parametrize(
    "structural",
    [
        lambda x: jnp.broadcast_to(x[:, None], (16, 16)),
        lambda x: jnp.reshape(x, (4, 4)) @ jnp.ones((4, 4)),
        lambda x: jnp.arange(16.0) + x,
    ],
)
def test_structure_is_free(structural):
    graph = graph_of(lambda x: structural(x) * 2, shape(16))
    structure = ("broadcast_in_dim", "iota", "reshape")
    found = [e.outputs[0] for e in graph.program.eqns if e.primitive in structure]
    assert found
    assert all(graph.free[value] for value in found)


def test_structure_is_free_even_under_a_matmul():
    graph = graph_of(lambda x, s: jnp.broadcast_to(s, (16, 16)) @ x, SQUARE, shape(16))
    assert free_primitives(graph) == ["broadcast_in_dim"]
    assert graph.stored_reads[-1] == (1, 0)


def test_small_values_are_free_up_to_a_size():
    count = SCALAR_BYTES // 4

    def free(size):
        graph = graph_of(lambda x: jnp.cumsum(jnp.sin(x)), shape(size))
        return "sin" in free_primitives(graph)

    assert free(count)
    assert not free(count + 1)


def test_small_values_of_opaque_eqns_are_stored():
    graph = graph_of(lambda x: jnp.sin(jnp.cumsum(x)) + 1, shape(4))
    assert "cumsum" not in free_primitives(graph)


def test_results_are_stored():
    graph = graph_of(lambda x: (x * 2, jnp.broadcast_to(x, (3, 4))), shape(4))
    assert free_primitives(graph) == []
    assert all(not graph.free[v] for v in graph.program.result_values)


def test_effects_are_nodes_and_their_results_are_stored():
    def step(x):
        jax.debug.callback(lambda _: None, x)
        return x + 1

    graph = graph_of(step, shape(4))
    assert [graph.is_node(e) for e in graph.program.eqns] == [True, True]


def test_several_outputs_are_stored():
    graph = graph_of(lambda x: sum(jax.lax.top_k(x, 2)[0]), shape(16))
    top = next(e for e in graph.program.eqns if e.primitive == "top_k")
    assert not any(graph.free[v] for v in top.outputs)


def test_gaps_look_through_free_values():
    """
    0: y = x a      ┐
    1: z = y a      │ y is read here
    2: w = z a      │ idle
    3: u = y * 2    │ free
    4: s = sum(u)   ┘ y is read here, through u
    5: z + s
    """

    def step(x, a):
        y = x @ a
        w = y @ a @ a
        return w + jnp.sum(y * 2)

    graph = graph_of(step, SQUARE, SQUARE)
    names = [e.primitive for e in graph.program.eqns]
    assert names == ["dot_general", "dot_general", "dot_general", "mul", "reduce_sum", "add"]
    y = graph.program.eqns[0].outputs[0]
    assert graph.readers[y] == (1, 4)
    assert graph.gaps(y) == (Gap(y, 2, 4),)


def test_the_last_gap_of_a_result_ends_with_the_program():
    def step(x, a):
        y = x @ a
        return y, jnp.cumsum(jnp.cumsum(a @ a))

    graph = graph_of(step, SQUARE, SQUARE)
    y = graph.program.eqns[0].outputs[0]
    assert graph.gaps(y) == (Gap(y, 1, len(graph.program.eqns)),)


def test_networkx():
    def step(x, a):
        y = x @ a
        return jnp.sum((y @ a) * 2 + y)

    graph = graph_of(step, SQUARE, SQUARE)
    explored = graph.to_networkx()
    y, z = (graph.program.eqns[i].outputs[0] for i in (0, 1))
    last = len(graph.program.eqns) - 1
    assert dict(explored.nodes(data="primitive")) == {
        0: "dot_general",
        1: "dot_general",
        last: "reduce_sum",
    }
    assert sorted(explored.edges(data=True)) == [
        (0, 1, {"value": y, "bytes": 1024, "gap": 0}),
        (0, last, {"value": y, "bytes": 1024, "gap": last - 1}),
        (1, last, {"value": z, "bytes": 1024, "gap": last - 2}),
    ]
    assert explored.nodes[0]["source"].split("/")[-1].startswith("test_liveness.py:")
    assert explored.nodes[0]["name_stack"] == ""
