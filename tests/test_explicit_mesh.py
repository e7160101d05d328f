"""Steps on a mesh of four devices, whose axes are explicit or automatic.

With explicit axes every type says how its values are spread, and a program that memjax writes
anew must say the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAD = """
import json
import sys
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import memjax
from memjax.planning.planners import AutoPlanner

kind, case = getattr(AxisType, sys.argv[1]), sys.argv[2]
mesh = jax.make_mesh((4,), ("d",), axis_types=(kind,))
QUICK = AutoPlanner(work=2000, rounds=1, starts=1)
LAYERS, WIDTH, BATCH = 6, 32, 4096
keys = jax.random.split(jax.random.key(0), LAYERS)
W = np.stack([np.asarray(jax.random.normal(k, (WIDTH, WIDTH))) / WIDTH**0.5 for k in keys])
X = np.asarray(jax.random.normal(jax.random.key(1), (BATCH, WIDTH)))

def total(compiled):
    return memjax.footprint(compiled).total_bytes

def layers(h, ws):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w) + h, None), h, ws)[0]

def gathered(h, ws):
    # weights are spread over the devices, and gathered where they are read
    def layer(h, w):
        return jnp.tanh(h @ jax.sharding.reshard(w, P())) + h, None
    return jax.lax.scan(layer, h, ws)[0]

def nested(h, ws):
    # a jit with shardings of its own stays a call
    @jax.jit
    def plain(h, w):
        return jnp.tanh(h @ w) + h
    placed = jax.jit(plain, out_shardings=NamedSharding(mesh, P("d")))
    for n in range(LAYERS):
        h = placed(h, ws[n])
    return h

def branches(h, ws):
    def layer(h, w):
        return jax.lax.cond(jnp.sum(w) > 0, lambda h: jnp.tanh(h @ w) + h, lambda h: h * 2, h), None
    return jax.lax.scan(layer, h, ws)[0]

def sequences(h, ws):
    # the gradient of w contracts two dimensions, one of them spread
    h = jnp.reshape(h, (BATCH // 8, 8, WIDTH), out_sharding=P("d"))
    for n in range(LAYERS):
        h = jnp.tanh(jnp.einsum("bsi,io->bso", h, ws[n])) + h
    return h

def with_keys(h, ws):
    # the carry is a random key
    def layer(carry, w):
        h, key = carry
        key, own = jax.random.split(key)
        return (jnp.tanh(h @ w) * jax.random.uniform(own, ()) + h, key), None
    return jax.lax.scan(layer, (h, jax.random.key(3)), ws)[0][0]

CASES = {
    # model, how weights are spread, how the batch is, share of plain bytes
    "data": (layers, P(), P("d"), 0.7),
    "weights": (gathered, P(None, "d"), P("d"), 0.7),
    "columns": (gathered, P(None, None, "d"), P(), 0.7),
    "nested": (nested, P(), P("d"), 0.8),
    "cond": (branches, P(), P("d"), 0.8),
    "sequences": (sequences, P(), P("d"), 0.8),
    "keys": (with_keys, P(), P("d"), 0.7),
    "shard_map": (layers, P(), P("d"), 0.7),
}
model, of_weights, of_batch, share = CASES[case]

def step(ws, x):
    loss, gradient = jax.value_and_grad(lambda ws: jnp.mean(model(x, ws) ** 2))(ws)
    return ws - 0.1 * gradient, loss

def local_step(ws, x):
    # both passes in one shard_map: the loops' values vary over the devices
    own = jax.lax.pcast(ws, "d", to="varying")
    loss, gradient = jax.value_and_grad(lambda ws: jnp.mean(layers(x, ws) ** 2))(own)
    return ws - 0.1 * jax.lax.pmean(gradient, "d"), jax.lax.pmean(loss, "d")

if case == "shard_map":
    step = jax.shard_map(
        local_step, mesh=mesh, in_specs=(of_weights, of_batch), out_specs=(of_weights, P())
    )

with jax.set_mesh(mesh):
    def put():
        return tuple(
            jax.device_put(a, NamedSharding(mesh, s)) for a, s in ((W, of_weights), (X, of_batch))
        )
    plain = total(jax.jit(step, donate_argnums=0).lower(*put()).compile())
    theirs = jax.jit(step)(*put())
    budget = int(share * plain)
    budgeted = memjax.memory_budget(budget, planner=QUICK)(step)
    try:
        report = budgeted.report(*put())
    except memjax.BudgetInfeasible as error:
        budget = error.floor_bytes
        budgeted = memjax.memory_budget(budget, planner=QUICK)(step)
        report = budgeted.report(*put())
    ours = budgeted(*put())
    pairs = list(zip(ours, theirs, strict=True))
    difference = [float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in pairs]
    print(json.dumps({
        "plain": plain, "budget": budget, "compiled": total(budgeted.compiled(*put())),
        "changed": report.plan.changes_anything, "difference": max(difference),
        "same_sharding": [a.sharding.is_equivalent_to(b.sharding, a.ndim) for a, b in pairs],
    }))
"""


def run(kind: str, case: str) -> dict:
    env = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    command = [sys.executable, "-c", HEAD, kind, case]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        ("Explicit", "data"),
        ("Explicit", "weights"),
        ("Explicit", "columns"),
        ("Explicit", "nested"),
        ("Explicit", "cond"),
        ("Explicit", "sequences"),
        ("Explicit", "keys"),
        ("Explicit", "shard_map"),
        ("Auto", "data"),
        ("Auto", "nested"),
        ("Auto", "shard_map"),
    ],
)
def test_layouts(kind, case):
    found = run(kind, case)
    assert found["compiled"] <= found["budget"] <= found["plain"]
    assert found["changed"]
    assert found["difference"] < 1e-5
    assert all(found["same_sharding"])
