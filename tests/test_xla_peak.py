"""XLA's own peak: hand-made modules, and compiled programs against their footprints."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import memjax
from benchmarks import models
from memjax import _compat
from memjax.emit.compile import footprint
from memjax.pricing.holders import Holder, attributed_fraction
from memjax.xla import buffers_pb2 as pb
from memjax.xla.flow import Flow
from memjax.xla.held import held_at_peak
from memjax.xla.peak import FRAGMENTATION, Difference, differences
from tests.programs import mlp, shape
from tests.seen import BUDGET, ROOMY, report


def instruction(number, opcode, operands=(), **fields):
    return pb.Instruction(
        id=number, name=f"{opcode}.{number}", opcode=opcode, operand_ids=operands, **fields
    )


def buffer(number, size, of, index=()):
    place = pb.LogicalBuffer.Location(instruction_id=of, shape_index=index)
    return pb.LogicalBuffer(id=number, size=size, defined_at=place)


def allocation(index, size, *assigned, **fields):
    """`assigned`: (buffer, offset, size)."""
    parts = [
        pb.BufferAllocation.Assigned(logical_buffer_id=b, offset=o, size=s) for b, o, s in assigned
    ]
    return pb.BufferAllocation(index=index, size=size, assigned=parts, **fields)


def chain():
    """p(100) ─ exp(a) ─ bitcast ─ dot(b) ─ sin(c, in place of b) ─ add(result)
    └─────────────────────────────────────────────────┘
    """
    entry = pb.Computation(
        id=1,
        root_id=6,
        instructions=[  # not in the order of the schedule
            instruction(6, "add", (2, 5)),
            instruction(1, "parameter"),
            instruction(2, "exponential", (1,)),
            instruction(3, "bitcast", (2,)),
            instruction(4, "dot", (3,)),
            instruction(5, "sine", (4,)),
        ],
    )
    module = pb.Module(entry_computation_id=1, computations=[entry])
    module.schedule.sequences[1].instruction_ids.extend((1, 2, 3, 4, 5, 6))
    assignment = pb.BufferAssignment(
        logical_buffers=[
            buffer(11, 100, 1),
            buffer(12, 40, 2),
            buffer(14, 30, 4),
            buffer(15, 30, 5),
            buffer(16, 100, 6),
        ],
        buffer_allocations=[
            allocation(0, 100, (11, 0, 100), is_entry_computation_parameter=True),
            allocation(1, 100, (16, 0, 100), maybe_live_out=True),
            allocation(2, 80, (12, 0, 40), (14, 50, 30), (15, 50, 30)),
            allocation(3, 999, is_thread_local=True),
        ],
    )
    return module, assignment


def test_flow_of_a_chain():
    module, assignment = chain()
    flow = Flow.of(module, assignment)
    assert [i.id for i in flow.order] == [1, 2, 3, 4, 5, 6]
    assert flow.start == {11: 0, 12: 1, 14: 3, 15: 4, 16: 5}
    assert flow.stop == {11: 2, 12: 6, 14: 5, 15: 6, 16: 6}


def test_held_at_the_peak_of_a_chain():
    """At sin both b and c are needed, on the same bytes: c has them; 10 lie between."""
    module, assignment = chain()
    found = held_at_peak(assignment, Flow.of(module, assignment))
    held = [(h.instruction.opcode, h.bytes, h.role) for h in found.buffers]
    assert held == [
        ("parameter", 100, "argument"),
        ("add", 100, "result"),
        ("exponential", 40, "temporary"),
        ("sine", 30, "temporary"),
    ]
    assert found.fragmentation_bytes == 10
    assert found.at == "sine.5"


def test_flow_through_tuples_barriers_and_loops():
    """A loop whose body reads one element of its tuple and replaces the other.

    a, b ─ tuple ─ barrier ─ while(body: t → (t.0, sin(t.1))) ─ .1 ─ exp
    """
    body = pb.Computation(
        id=2,
        root_id=24,
        instructions=[
            instruction(21, "parameter"),
            instruction(22, "get-tuple-element", (21,), tuple_index=1),
            instruction(23, "sine", (22,)),
            instruction(25, "get-tuple-element", (21,), tuple_index=0),
            instruction(24, "tuple", (25, 23)),
        ],
    )
    entry = pb.Computation(
        id=1,
        root_id=16,
        instructions=[
            instruction(10, "parameter"),
            instruction(11, "exponential", (10,)),
            instruction(12, "tuple", (10, 11)),
            instruction(13, "opt-barrier", (12,)),
            instruction(14, "while", (13,), called_computation_ids=(2,)),
            instruction(15, "get-tuple-element", (14,), tuple_index=1),
            instruction(16, "exponential", (15,)),
        ],
    )
    module = pb.Module(entry_computation_id=1, computations=[body, entry])
    assignment = pb.BufferAssignment(
        logical_buffers=[
            buffer(1, 4, 10),
            buffer(2, 4, 11),
            buffer(3, 4, 23),
            buffer(4, 4, 14, (1,)),
            buffer(5, 4, 16),
        ]
    )
    flow = Flow.of(module, assignment)
    # Computations without a schedule run in the order given; the body stands before `while`.
    assert [i.id for i in flow.order] == [10, 11, 12, 13, 21, 22, 23, 25, 24, 14, 15, 16]
    assert flow.stop[1] == 10  # passed through the loop, up to `while` itself
    assert flow.stop[2] == 10
    assert (flow.start[3], flow.stop[3]) == (6, 9)
    assert (flow.start[4], flow.stop[4]) == (9, 12)


def compiled_programs():
    step, weights, x = mlp(layers=3)

    def scanned(w, x):
        def body(h, w):
            return jnp.tanh(h @ w), None

        loss = lambda w: jnp.sum(jax.lax.scan(body, x, w)[0] ** 2)  # noqa: E731
        return w - 0.1 * jax.grad(loss)(w)

    def branching(x):
        return jax.lax.cond(jnp.sum(x) > 0, lambda y: jnp.sin(y @ y) @ y, lambda y: y, x)

    big = shape(256, 256)
    return {
        "mlp": (step, (weights, x)),
        "scan": (scanned, (shape(6, 64, 64), shape(128, 64))),
        "cond": (branching, (big,)),
        "while": (lambda x: jax.lax.while_loop(lambda y: jnp.sum(y) < 9, jnp.exp, x), (big,)),
    }


@pytest.mark.parametrize("name", ["mlp", "scan", "cond", "while"])
def test_held_bytes_add_up_to_the_footprint(name):
    step, args = compiled_programs()[name]
    compiled = jax.jit(step).lower(*args).compile()
    messages = _compat.compiled_messages(compiled)
    assignment = pb.BufferAssignment.FromString(messages[0])
    flow = Flow.of(pb.Module.FromString(messages[1]), assignment)
    found = held_at_peak(assignment, flow)
    total = sum(h.bytes for h in found.buffers) + found.fragmentation_bytes
    assert total == footprint(compiled).total_bytes
    assert found.fragmentation_bytes <= 0.1 * total


@pytest.mark.parametrize("budget", [BUDGET, ROOMY])
def test_xlas_peak_of_a_gpt_is_its_footprint_in_the_users_lines(budget):
    found = report(budget)
    assert found.xla.total_bytes == found.compiled.total_bytes
    assert attributed_fraction(found.xla.holders) >= 0.90
    assert any("gpt.py" in (h.source or "") for h in found.xla.holders)
    lines = {s.label.split(" ")[0].rsplit("/")[-1] for s in found.xla.by_line()}
    assert lines <= {s.label.split(" ")[0].rsplit("/")[-1] for s in _all_lines(found)} | {"no"}


def _all_lines(found):
    from memjax.pricing.holders import by_line

    return by_line((*found.values, *found.holders))


@pytest.mark.parametrize("scan", [False, True])
def test_xlas_peak_of_a_recurrence_is_attributed(scan):
    """As a scan, most buffers are of its body, which memjax has as one eqn."""
    task = models.lstm(scan=scan)
    found = memjax.memory_budget("256MiB")(task.step).report(task.state, task.batch)
    assert found.xla.total_bytes == found.compiled.total_bytes
    assert attributed_fraction(found.xla.holders) >= 0.9
    assert attributed_fraction(found.holders) >= 0.95
    assert {"forward", "argument"} <= {h.phase for h in found.xla.holders}
    assert any("OptimizedLSTMCell" in h.module for h in found.xla.holders)


def test_what_a_primitive_is_lowered_to_has_the_line_of_its_scope():
    """Random bits are a loop in XLA; its buffers are of the dropout layers."""
    task = models.dropout()
    found = memjax.memory_budget("256MiB")(task.step).report(task.state, task.batch)
    assert attributed_fraction(found.xla.holders) >= 0.9
    sources = {h.source.split(":")[0] for h in found.xla.holders if h.source}
    assert sources == {"benchmarks/models.py"}


def test_the_report_says_what_makes_the_peaks_differ():
    found = report(ROOMY)
    off = found.xla.total_bytes - found.predicted_bytes
    assert abs(off) > 0.05 * found.predicted_bytes  # else this test needs another program
    text = str(found)
    assert "what differs from what is held at the predicted peak" in text
    assert sum(d.bytes for d in found.xla.differences) == off
    largest = found.xla.differences[0]
    assert largest.label in text


def test_differences_by_line_and_phase():
    xla = [Holder(8, "a", "x.py:1 (f)", "", "", "forward"), Holder(3, FRAGMENTATION, None, "")]
    predicted = [Holder(6, "b", "x.py:1 (f)", "", "", "forward"), Holder(9, "c", None, "", "", "r")]
    assert differences(xla, predicted) == (
        Difference("c, r", 0, 9),
        Difference(FRAGMENTATION, 3, 0),
        Difference("x.py:1 (f), forward", 8, 6),
    )


def test_copies_of_donated_arguments_are_named():
    """Both arguments swap places: XLA copies at least one."""

    def swap(a, b):
        return jnp.sin(b), jnp.sin(a) @ b

    found = memjax.memory_budget("64MiB", donate=(0, 1))(swap).report(
        shape(128, 128), shape(128, 128)
    )
    assert found.xla is not None
    assert attributed_fraction(found.xla.holders) >= 0.9


def test_a_backend_that_does_not_say_is_no_error(monkeypatch):
    monkeypatch.setattr(_compat, "compiled_messages", lambda compiled: None)
    step, weights, x = mlp(layers=1)
    found = memjax.memory_budget("64MiB")(step).report(weights, x)
    assert found.xla is None
    assert "not stated by this backend" in str(found)
    assert found.to_dict()["xla"] is None


class Silent:
    """A compiled program of a backend without statistics."""

    def memory_analysis(self):
        return None

    def runtime_executable(self):
        raise NotImplementedError


def test_messages_of_a_silent_backend():
    assert _compat.compiled_messages(Silent()) is None
