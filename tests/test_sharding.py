"""Steps over two devices, each in a process of its own that has two."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAD = """
import json
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import memjax
from memjax.planning.planners import AutoPlanner
from tests.programs import mlp

assert len(jax.devices()) == 2
mesh = Mesh(np.array(jax.devices()), ("data",))
split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
QUICK = AutoPlanner(work=3000, rounds=1, starts=1)
step, weights, x = mlp(width=32, batch=1024, layers=4)

def total(compiled):
    return memjax.footprint(compiled).total_bytes

def report_of(budgeted, args):
    report = budgeted.report(*args)
    return {
        "budget": report.budget_bytes,
        "compiled": total(budgeted.compiled(*args)),
        "predicted": report.predicted_bytes,
        "recomputations": len(report.plan.recomputations),
        "compilations": len(report.compilations),
    }

def difference(ours, theirs):
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in pairs)

def spread(tree):
    return [len(leaf.sharding.device_set) for leaf in jax.tree.leaves(tree)]

def say(**values):
    print(json.dumps(values))
"""


def run(script: str) -> dict:
    """The last line that a script prints, as JSON, where the CPU poses as two devices."""
    env = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    command = [sys.executable, "-c", HEAD + script]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_data_parallel_with_a_sharded_batch():
    """The budget holds for one device, which has half of the activations."""
    found = run("""
args = jax.device_put(weights, whole), jax.device_put(x, split)
plain = jax.jit(step, donate_argnums=0).lower(*args).compile()
budgeted = memjax.memory_budget(int(0.7 * total(plain)), planner=QUICK)(step)
report = report_of(budgeted, args)
theirs = jax.jit(step)(*args)
ours = budgeted(*args)
say(plain=total(plain), difference=difference(ours, theirs), spread=spread(ours[0]),
    single=total(jax.jit(step, donate_argnums=0).lower(weights, x).compile()), **report)
""")
    assert found["compiled"] <= found["budget"] < found["plain"] < 0.7 * found["single"]
    assert found["recomputations"] > 0
    assert found["difference"] < 1e-5
    assert found["predicted"] == pytest.approx(found["compiled"], rel=0.25)


def test_in_and_out_shardings():
    """Arrays of the host, spread by the settings."""
    found = run("""
hosted = [np.asarray(w) for w in weights], np.asarray(x)
shardings = dict(in_shardings=(whole, split), out_shardings=(whole, None))
plain = jax.jit(step, donate_argnums=0, **shardings).lower(*hosted).compile()
budget = int(0.7 * total(plain))
budgeted = memjax.memory_budget(budget, planner=QUICK, **shardings)(step)
report = report_of(budgeted, hosted)
theirs = jax.jit(step, **shardings)(*hosted)
ours = budgeted(*hosted)
first, devices = difference(ours, theirs), spread(ours[0])
again = budgeted(ours[0], jax.device_put(x, split))
say(plain=total(plain), difference=first, spread=devices,
    again=difference(again, jax.jit(step)(*jax.device_get((theirs[0], x)))), **report)
""")
    assert found["compiled"] <= found["budget"]
    assert found["recomputations"] > 0
    assert found["difference"] < 1e-5
    assert found["again"] < 1e-5
    assert found["spread"] == [2] * 4


def test_sharded_parameters():
    found = run("""
columns = NamedSharding(mesh, P(None, "data"))
args = jax.device_put(weights, columns), jax.device_put(x, whole)
plain = jax.jit(step, donate_argnums=0).lower(*args).compile()
budgeted = memjax.memory_budget(int(0.8 * total(plain)), planner=QUICK)(step)
theirs = jax.jit(step)(*args)
report = report_of(budgeted, args)
ours = budgeted(*args)
say(plain=total(plain), difference=difference(ours, theirs), **report)
""")
    assert found["compiled"] <= found["budget"]
    assert found["difference"] < 1e-5


def test_shard_map():
    """A step whose loss is one eqn that runs on both devices."""
    found = run("""
def mapped(weights, x):
    def local(weights, x):
        h = x
        for w in weights:
            h = jnp.tanh(h @ w) + h
        return jax.lax.pmean(jnp.mean(h**2), "data")

    loss = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    value, gradients = jax.value_and_grad(loss)(weights, x)
    return [w - 0.1 * g for w, g in zip(weights, gradients, strict=True)], value

args = jax.device_put(weights, whole), jax.device_put(x, split)
plain = jax.jit(mapped, donate_argnums=0).lower(*args).compile()
budgeted = memjax.memory_budget(total(plain), planner=QUICK)(mapped)
theirs, reference = jax.jit(mapped)(*args), jax.jit(step)(weights, x)
report = report_of(budgeted, args)
ours = budgeted(*args)
say(plain=total(plain), difference=difference(ours, theirs),
    reference=difference(theirs, reference), **report)
""")
    assert found["compiled"] <= found["budget"]
    assert found["difference"] < 1e-6
    assert found["reference"] < 1e-5


def test_an_infeasible_budget_for_one_device():
    found = run("""
args = jax.device_put(weights, whole), jax.device_put(x, split)
try:
    memjax.memory_budget(1000, planner=QUICK)(step).plan(*args)
except memjax.BudgetInfeasible as error:
    floor = error.floor_bytes
budgeted = memjax.memory_budget(floor, planner=QUICK)(step)
say(**report_of(budgeted, args), deleted=any(w.is_deleted() for w in args[0]))
""")
    assert found["compiled"] <= found["budget"]
    assert not found["deleted"]


def test_the_largest_batch_of_two_devices():
    """Split over two devices, the batch may be larger than on one."""
    found = run("""
def make_arguments(size, weights_on=whole, batch_on=split):
    struct = jax.ShapeDtypeStruct
    kept = [struct(w.shape, w.dtype, sharding=weights_on) for w in weights]
    return kept, struct((size, 32), x.dtype, sharding=batch_on)

on_two = memjax.max_batch(make_arguments, step, "150KiB", multiple_of=2, points=2, planner=QUICK)
on_one = memjax.max_batch(
    lambda n: make_arguments(n, None, None), step, "150KiB", points=1, planner=QUICK
)
say(two=on_two.size, one=on_one.size, compiled=on_two.report.compiled.total_bytes,
    plain=on_two.points[-1].plain_bytes)
""")
    assert found["two"] > found["one"]
    assert found["compiled"] <= 150 * 2**10
