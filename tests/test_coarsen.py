"""From liveness to the problem that planners see."""

import jax
import jax.numpy as jnp
from jax.experimental import io_callback

from memjax.planning.problem import Node
from memjax.planning.simulate import simulate
from memjax.pricing.coarsen import SMALL_FRACTION, coarsen
from memjax.pricing.cost import node_flops, node_seconds
from memjax.pricing.liveness import liveness
from memjax.program.trace import trace
from memjax.targets.figures import DeviceRates
from tests.programs import PLAIN_BACKEND, mlp, priced_of, shape

SQUARE = shape(16, 16)
SIZE = 16 * 16 * 4
MATMUL = 2.0 * 16**3


def test_drawn():
    """
    x ─ dot 0 ─(*2)─ sin 1 ─ dot 2 ─ sum ─▶     (*2) is folded into its reader
          └───────────────────┘                  the sum takes part as node 3
    """

    def step(x, a):
        y = x @ a
        return jnp.sum(jnp.sin(y * 2) @ y)

    priced = priced_of(step, SQUARE, SQUARE)
    nodes = priced.problem.nodes
    assert nodes == (
        Node(MATMUL, (), (0,), name="dot_general"),
        Node(256.0 + 10 * 256, (0,), (1,), name="sin"),
        Node(MATMUL, (1, 0), (2,), name="dot_general"),
        Node(256.0, (2,), (3,), recomputable=False, name="reduce_sum"),
    )
    assert priced.problem.value_bytes == (SIZE, SIZE, SIZE, 0)  # the result is base bytes
    assert priced.problem.outputs == (3,)
    assert priced.eqn_of_node == (0, 2, 3, 4)
    assert priced.node_of_eqn == {0: 0, 2: 1, 3: 2, 4: 3}
    assert simulate(priced.problem, priced.problem.identity).bytes_at == (
        SIZE,
        2 * SIZE,
        3 * SIZE,
        SIZE,
    )


def test_base_bytes_and_scale():
    program = trace(lambda x, a: jnp.sum(x @ a), (SQUARE, SQUARE))
    graph = liveness(program)
    priced = coarsen(graph, [1.0] * len(program.eqns), PLAIN_BACKEND, base_bytes=100, scale=0.25)
    assert priced.problem.base_bytes == 100
    assert priced.problem.value_bytes == (SIZE // 4, 0)
    assert [n.cost for n in priced.problem.nodes] == [1.0, 1.0]


def test_effects_and_small_nodes_are_never_run_again():
    def step(x, a):
        y = x @ a
        jax.debug.callback(lambda _: None, y[0, 0])
        total = jnp.cumsum(y[0, :4])  # 16 bytes, less than a part of the largest
        return jnp.sum(y * total[0])

    priced = priced_of(step, shape(256, 256), shape(256, 256))
    small = max(priced.problem.value_bytes) * SMALL_FRACTION
    recomputable = {n.name: n.recomputable for n in priced.problem.nodes}
    assert recomputable["dot_general"]
    assert not recomputable["cumsum"]
    assert not recomputable["debug_callback"]
    assert 16 <= small < 256 * 256 * 4


def test_effects_with_large_results_are_never_run_again():
    def step(x, a):
        y = io_callback(lambda x: x, SQUARE, x, ordered=True)
        return jnp.sum((y @ a) @ y)

    recomputable = {n.name: n.recomputable for n in priced_of(step, SQUARE, SQUARE).problem.nodes}
    assert not recomputable["io_callback"]
    assert recomputable["dot_general"]


def test_updates_in_place_name_their_target():
    def step(x, a, i):
        y = x @ a
        y = y.at[i].add(1.0)
        return jnp.sum(jax.lax.dynamic_update_slice(y, a[:1], (0, 0)))

    priced = priced_of(step, SQUARE, SQUARE, shape(dtype=jnp.int32))
    by_name = {n.name: n for n in priced.problem.nodes}
    dot = by_name["dot_general"].outputs[0]
    assert by_name["scatter-add"].in_place == (dot,)
    assert by_name["dynamic_update_slice"].in_place == by_name["scatter-add"].outputs
    assert by_name["dot_general"].in_place == ()


def test_updates_of_arguments_are_not_in_place():
    """An argument is no value of the problem."""
    priced = priced_of(lambda x, i: jnp.sum(x.at[i].add(1.0)), SQUARE, shape(dtype=jnp.int32))
    assert {n.in_place for n in priced.problem.nodes} == {()}


def test_updates_are_what_only_results_need():
    """Each new parameter is one; the loss's own sum is another, of four bytes."""
    step, weights, x = mlp(width=16, batch=64, layers=2)
    priced = priced_of(step, weights, x)
    program = priced.graph.program
    updated = {program.eqns[priced.eqn_of_node[n]].outputs[0]: b for n, b in priced.updates.items()}
    assert dict.fromkeys(program.results[:2], 1024).items() <= updated.items()
    assert set(updated) <= program.result_values
    for node in priced.updates:
        readers = {
            priced.node_of_eqn[r]
            for v in program.eqns[priced.eqn_of_node[node]].outputs
            for r in priced.graph.readers[v]
        }
        assert readers <= priced.updates.keys()


def test_a_result_that_something_heavy_reads_is_no_update():
    def step(x, a):
        y = x @ a
        return y, jnp.sum(y @ a)

    priced = priced_of(step, SQUARE, SQUARE)
    assert 0 not in priced.updates
    assert len(priced.problem.nodes) - 1 in priced.updates


def test_nodes_cost_what_is_fused_into_them():
    def step(x, a):
        return jnp.sum((x @ a) * 2 + 1)

    program = trace(step, (SQUARE, SQUARE))
    graph = liveness(program)
    assert node_flops(graph) == (2 * 16**3, 0, 0, 3 * 256)
    seconds = node_seconds(graph, DeviceRates(flops_per_second=256.0, bytes_per_second=1024.0))
    assert seconds == (32.0 + 3.0, 0.0, 0.0, 3.0 + 1.0 + 4 / 1024)
