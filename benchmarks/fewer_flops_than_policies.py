"""At the footprint of each `jax.checkpoint` policy: what memjax recomputes instead.

Claims that these numbers could refute, on the reference GPT:

1. at each footprint that a policy reaches, memjax recomputes no more FLOPs than the policy;
2. at two of them or more, at most 0.7 × as many.

FLOPs are XLA's count of the compiled program minus that of the plain one, for both. The bound
is the proven least overhead in predicted seconds at this order.

    python -m benchmarks.fewer_flops_than_policies
"""

from __future__ import annotations

import argparse
from typing import Any

import memjax
from benchmarks.record import write_csv
from memjax.demo import measure
from memjax.demo.gpt import gpt_task

POLICIES = ("dots", "nobatch", "full")


def main() -> None:
    """Compile each policy, then plan for its bytes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    layers = parser.parse_args().layers
    plain = gpt_task(layers=layers)
    compiled = measure.compile_plain(plain.step, plain.state, plain.batch, keep_barriers=False)
    plain_flops = compiled.cost_analysis()["flops"]
    rows: list[dict[str, Any]] = []
    for policy in POLICIES:
        task = gpt_task(layers=layers, remat=policy)
        theirs = measure.compile_plain(task.step, task.state, task.batch, keep_barriers=True)
        budget_bytes = memjax.footprint(theirs).total_bytes
        their_flops = theirs.cost_analysis()["flops"] - plain_flops
        report = memjax.memory_budget(budget_bytes)(plain.step).report(plain.state, plain.batch)
        our_flops = report.compiled_flops - plain_flops
        rows.append(
            {
                "policy": policy,
                "policy_bytes": budget_bytes,
                "policy_recomputed_flops": their_flops,
                "memjax_bytes": report.compiled.total_bytes,
                "memjax_predicted_bytes": report.predicted_bytes,
                "memjax_recomputed_flops": our_flops,
                "flops_ratio": our_flops / their_flops,
                "overhead_percent": 100 * report.overhead,
                "bound_percent": 100 * (report.plan.bound_overhead or 0.0),
                "compilations": len(report.compilations),
            }
        )
        print(rows[-1])
    write_csv("fewer_flops_than_policies", rows)


if __name__ == "__main__":
    main()
