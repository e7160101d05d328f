"""What is held at a peak adds up to it, and carries lines, modules and phases."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import pytest

import memjax
from memjax.demo.gpt import Sizes, gpt_task
from memjax.planning.planners import AutoPlanner
from memjax.planning.problem import Node, Problem
from memjax.planning.simulate import simulate
from memjax.pricing.holders import (
    Holder,
    Ledger,
    Share,
    attributed_fraction,
    by_line,
    by_module,
    by_phase,
)
from memjax.pricing.idle import IdleGap, idle_gaps
from memjax.pricing.residents import Resident
from tests.programs import mlp, priced_of, shape
from tests.seen import BUDGET, ROOMY, analysis, report

QUICK = AutoPlanner().quick()
HELD = (
    Holder(8, "dot f32", "a.py:1 (f)", "jvp(M)/block_0/Dense_0", "M/block_0/Dense_0", "forward"),
    Holder(4, "dot f32", "a.py:1 (f)", "jvp(M)/block_1/Dense_0", "M/block_1/Dense_0", "forward"),
    Holder(5, "argument w", None, "w", "", "argument"),
)


def test_shares_are_added_up_and_ranked():
    assert by_line(HELD) == (Share("a.py:1 (f)", 12, 2), Share("no line", 5, 1))
    assert by_phase(HELD) == (Share("forward", 12, 2), Share("argument", 5, 1))
    assert by_module(HELD, 2) == (
        Share("M/block_0", 8, 1),
        Share("outside of modules", 5, 1),
        Share("M/block_1", 4, 1),
    )
    assert by_module(HELD, 1)[0] == Share("M", 12, 2)


def test_the_attributed_fraction_counts_bytes_with_a_line_and_a_phase():
    assert attributed_fraction(HELD) == 12 / 17
    assert attributed_fraction(()) == 1.0


def scatter_step(x, i, u):
    """The scatter writes over `y`, which dies there."""
    y = jnp.tanh(x)
    return jnp.sum(jnp.sin(y.at[i].add(u) @ x))


def mlp_step():
    step, weights, x = mlp(layers=3)
    return step, (weights, x)


@pytest.mark.parametrize(
    ("step", "args"),
    [mlp_step(), (scatter_step, (shape(64, 64), shape(8, dtype=jnp.int32), shape(8, 64)))],
    ids=["mlp", "scatter"],
)
def test_what_is_held_at_any_position_adds_up_to_its_bytes(step, args):
    priced = priced_of(step, *args)
    order = priced.problem.identity
    timeline = simulate(priced.problem, order)
    ledger = Ledger(priced, ())
    for position, count in enumerate(timeline.bytes_at):
        assert sum(h.bytes for h in ledger._at(timeline, order, position)) == count


@pytest.mark.parametrize(
    "found",
    [analysis, lambda: report(BUDGET), lambda: report(ROOMY)],
    ids=("analysis", "planned", "as it is"),
)
def test_the_predicted_peak_is_held_by_what_is_named(found):
    found = found()
    assert sum(h.bytes for h in found.holders) == found.timeline.peak_bytes
    assert sum(s.bytes for s in found.by_line()) == found.timeline.peak_bytes
    assert attributed_fraction(found.holders) >= 0.95
    temporaries = [h for h in found.holders if h.phase not in ("argument", "result")]
    assert attributed_fraction(temporaries) >= 0.95
    assert {"forward", "argument"} <= {s.label for s in found.by_phase()}
    assert {"GPT/block_0", "GPT/block_1"} <= {s.label for s in found.by_module(2)}


def test_arguments_are_held_by_name_with_the_line_that_reads_them():
    held = {h.name_stack: h for h in analysis().holders if h.phase == "argument"}
    kernel = held["state.params['block_0']['Dense_0']['kernel']"]
    assert kernel.what == "argument state.params"
    assert kernel.bytes == 64 * 256 * 4
    assert kernel.module == "GPT/block_0/Dense_0"
    assert "gpt.py" in kernel.source


def test_a_result_of_its_own_has_the_line_that_writes_it():
    priced = priced_of(lambda x: {"y": jnp.sin(x)}, shape(16, 16))
    program = priced.graph.program
    resident = Resident(program.results[0], "result['y']", 1024, is_argument=False)
    (held,) = Ledger(priced, (resident,)).throughout
    assert (held.what, held.phase) == ("result result", "result")
    assert "test_holders.py" in held.source


def test_phases_of_positions_name_what_runs_again():
    priced = priced_of(*mlp_step()[:1], *mlp_step()[1])
    order = (*priced.problem.identity[:3], 1, *priced.problem.identity[3:])
    phases = Ledger(priced, ()).phases(order)
    assert phases[:4] == ("forward", "forward", "forward", "recompute")
    assert phases[-1] in ("optimizer", "forward")


def test_idle_gaps_in_positions():
    """0 writes a; 1 reads a; 2, 3 do not; 4 reads it.   Then: 1 again before 4.

    a ─ 1(b) ─ 2(c) ─ 3(d) ─ 4(a, d, b)
    """
    problem = Problem(
        nodes=(
            Node(1.0, (), (0,)),
            Node(1.0, (0,), (1,)),
            Node(1.0, (1,), (2,)),
            Node(1.0, (2,), (3,)),
            Node(1.0, (0, 1, 3), (4,)),
        ),
        value_bytes=(8, 8, 8, 8, 0),
        outputs=(4,),
    )
    assert idle_gaps(problem, range(5)) == (
        IdleGap(0, 2, 4, "keep"),
        IdleGap(1, 3, 4, "keep"),
    )
    assert idle_gaps(problem, (0, 1, 2, 3, 1, 4)) == (
        IdleGap(0, 2, 4, "keep"),
        IdleGap(1, 3, 4, "recompute"),
        IdleGap(3, 4, 5, "keep"),
    )


def test_an_analysis_names_its_arguments():
    found = memjax.analyze(lambda w, x: (w - x, jnp.sum(w)), shape(8, 8), shape(8, 8))
    whats = sorted(h.what for h in found.holders)
    assert whats[:2] == ["argument w", "argument x"]
    assert isinstance(found.holders[0].bytes, int)
    assert jax.tree_util.tree_leaves(found.to_dict())


def scan_step(w, xs):
    """The body writes a product, its sine, and the new state."""

    def body(h, x):
        with jax.named_scope("inner"):
            y = x @ w
        return h + jnp.sin(y), None

    with jax.named_scope("outer"):
        return jax.lax.scan(body, jnp.zeros((64, 64)), xs)[0]


def _line_with(text):
    lines, first = inspect.getsourcelines(scan_step)
    return first + next(i for i, line in enumerate(lines) if text in line)


def test_what_a_loops_body_holds_at_its_peak_has_lines_and_modules_of_its_own():
    """In an iteration: a slice of `xs`, and the product. XLA fuses the sine into the sum, which is
    written over the old state.
    """
    found = memjax.analyze(scan_step, shape(64, 64), shape(100, 64, 64))
    inside = [h for h in found.holders if h.phase == "forward"]
    assert sum(h.bytes for h in found.holders) == found.peak_bytes
    assert not any(h.what.startswith("workspace") for h in inside)
    product = next(h for h in inside if h.what.startswith("dot_general"))
    assert (product.bytes, product.module) == (64 * 64 * 4, "outer/inner")
    assert product.source.endswith(f":{_line_with('x @ w')} (body)")
    piece = next(h for h in inside if h.what == "slice float32[64,64]")
    assert (piece.bytes, piece.source) == (64 * 64 * 4, product.source)
    assert len(inside) == 2


def test_a_body_in_a_body_is_broken_down_too():
    def outer(w, xs):
        return jax.lax.map(lambda x: scan_step(w, x), xs)

    found = memjax.analyze(outer, shape(64, 64), shape(3, 5, 64, 64))
    assert sum(h.bytes for h in found.holders) == found.peak_bytes
    assert any(h.module == "outer/inner" for h in found.holders)
    assert not any(h.what.startswith("workspace") for h in found.holders)


SMALL = Sizes(layers=2, width=64, heads=2, tokens=64, batch=16, vocab=256)


@pytest.mark.parametrize(
    ("how", "share"),
    [("unrolled", 0.6), ("scanned", 1.7), ("scanned", 0.6), ("accumulating", 0.6)],
)
def test_both_peaks_of_a_gpt_are_attributed_within_loops_too(how, share):
    """Issue: at least 95 % of the bytes at the predicted peak, and 90 % of those at XLA's, have
    a line and a phase; here neither counts that is said of a whole loop's workspace.
    """
    changes = {"unrolled": {}, "scanned": {"lengths": (2,)}, "accumulating": {"microbatches": 2}}
    task = gpt_task(SMALL, **changes[how])
    plain = memjax.analyze(task.step, task.state, task.batch)
    budget = int(share * plain.peak_bytes)
    found = memjax.memory_budget(budget, planner=QUICK)(task.step).report(task.state, task.batch)
    for holders, least in ((plain.holders, 0.95), (found.holders, 0.95), (found.xla.holders, 0.9)):
        own = [h for h in holders if not h.what.startswith("workspace of")]
        known = attributed_fraction(own) * sum(h.bytes for h in own)
        assert known >= least * sum(h.bytes for h in holders)
    assert sum(h.bytes for h in plain.holders) == plain.peak_bytes
    assert sum(h.bytes for h in found.holders) == found.predicted_bytes
