"""What is learnt from a compiled program, on a device that is not attached.

Claims: the buffers in use at the peak explain XLA's temporaries; what the program as it is shows
predicts it within 3 %; at the bytes of each `jax.checkpoint` policy the budget is met, with fewer
FLOPs recomputed than without learning; XLA's own peak has a user's line and a phase for 95 % of
its bytes.

A row for the program as it is and one for each policy, with and without learning.

    python -m benchmarks.learning cpu
    python -m benchmarks.learning v5e
    python -m benchmarks.learning h100 text-of-the-device.txtpb
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax

import memjax
from benchmarks.record import write_csv
from memjax.demo.gpt import gpt_task
from memjax.fitting import fit
from memjax.pricing.cost import jaxpr_flops
from memjax.pricing.holders import attributed_fraction
from memjax.program.trace import trace
from memjax.xla.held import reading_of

SIZES: dict[str, int] = {"layers": 8}
POLICIES = ("nobatch", "dots", "full")
TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def device_of(target: str, text: str) -> Any:
    """A device to compile for; its compiler has to be installed."""
    from jax.experimental import topologies

    if target == "cpu":
        return jax.devices("cpu")[0]
    if target == "v5e":
        os.environ.update(TPU)
        found = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    else:
        os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0"
        found = topologies.get_topology_desc(
            "NVIDIA H100", platform="cuda", target_config=Path(text).read_text(), topology="1x1x1"
        )
    return found.devices[0]


def compiled(task: Any, device: Any) -> Any:
    """A task's step under plain `jax.jit`, its state given up."""
    sharding = jax.sharding.SingleDeviceSharding(device)

    def placed(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state, batch = jax.tree.map(placed, (task.state, task.batch))
    return jax.jit(task.step, donate_argnums=0).lower(state, batch).compile()


def flops_of(task: Any) -> int:
    """FLOPs of a task's step by memjax's count."""
    return jaxpr_flops(trace(task.step, (task.state, task.batch)).jaxpr)


def as_it_is(device: Any) -> dict[str, Any]:
    """What was read of the plain program."""
    found = compiled(gpt_task(**SIZES), device)
    reading = reading_of(found)
    assert reading is not None
    used = sum(b.bytes for b in reading.held.buffers if b.role == "temporary")
    temp_bytes = memjax.footprint(found).temp_bytes
    return {
        "compiled_bytes": memjax.footprint(found).total_bytes,
        "temp_bytes": temp_bytes,
        "temp_bytes_in_use": used,
    }


def at_policy(device: Any, policy: str, *, learning: bool) -> dict[str, Any]:
    """memjax at the bytes of a policy."""
    task, checkpointed = gpt_task(**SIZES), gpt_task(remat=policy, **SIZES)  # type: ignore[arg-type]
    budget = memjax.footprint(compiled(checkpointed, device)).total_bytes
    row: dict[str, Any] = {
        "policy": policy,
        "learning": learning,
        "budget_bytes": budget,
        "policy_recomputed_flops": flops_of(checkpointed) - flops_of(task),
    }
    step = memjax.memory_budget(budget, device=device)(task.step)
    rules_only = patch.object(fit, "learn_from", lambda loop, attempt: False)
    try:
        if learning:
            report = step.report(task.state, task.batch)
        else:
            with rules_only:
                report = step.report(task.state, task.batch)
    except memjax.BudgetInfeasible as error:
        return {**row, "floor_bytes": error.floor_bytes}
    assert report.xla is not None
    return {
        **row,
        "compiled_bytes": report.compiled.total_bytes,
        "predicted_bytes": report.predicted_bytes,
        "recomputed_flops": report.recomputed_flops,
        "compilations": len(report.compilations),
        "attributed": round(attributed_fraction(report.xla.holders), 4),
    }


def main() -> None:
    """Measure, and write the rows."""
    target, *text = sys.argv[1:]
    device = device_of(target, *text or [""])
    rows = [{"target": target, **as_it_is(device)}]
    for policy in POLICIES:
        for learning in (True, False):
            rows.append({"target": target, **at_policy(device, policy, learning=learning)})
            print(rows[-1], flush=True)
    write_csv(f"learning_{target}", rows)


if __name__ == "__main__":
    main()
