"""On devices that are not attached: memjax at the bytes of three `jax.checkpoint` policies.

Claims that these numbers could refute, on each target, for each model:

1. at the bytes of each policy the budget is met, and at most 0.8 × the policy's FLOPs are
   recomputed;
2. predicted and compiled bytes differ by less than 15 % for the plain step, and by less than 3 %
   for the plan that is chosen;
3. at most 3 compilations, the plain one included, each of at most 1.5 × the policy's time.

FLOPs are memjax's own count of the policy's step, less those of the plain one, as XLA:GPU states
none. A budget that is refused has the least bytes that were reached, and no FLOPs.

    python -m benchmarks.targets --target v5e small
    python -m benchmarks.targets --target h100 gpt2 vit resnet50 --scanned

The small GPT takes minutes, the others an hour or more on two cores.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

import memjax
from benchmarks import large_models
from benchmarks.record import result_path, write_csv
from memjax.demo.gpt import gpt_task
from memjax.demo.task import Task
from memjax.fitting.attempts import AS_IT_IS, Attempt
from memjax.fitting.budgeted import loop_for
from memjax.fitting.closed_loop import Loop

POLICIES = ("dots", "nobatch", "full")
SMALL_LAYERS = 8
"""As in the other benchmarks; with fewer, nearly all of it stays in the VMEM of a TPU."""
SAVED = {
    "dots": jax.checkpoint_policies.dots_saveable,
    "nobatch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": None,
}
SAVED_OF_RESNET = {
    "dots": large_models.convolutions,
    "nobatch": large_models.narrow_convolutions,
    "full": None,
}
BATCHES = {"gpt2": {"v5e": 8}, "vit": {}, "resnet50": {}}
"""Batch sizes at which a target has room for the plain step, where the usual one is too much."""


def small(policy: str | None, scanned: bool, target: str) -> Task:
    """The reference GPT, of 8 layers."""
    lengths = (SMALL_LAYERS,) if scanned else ()
    return gpt_task(layers=SMALL_LAYERS, remat=policy, lengths=lengths)


def gpt2(policy: str | None, scanned: bool, target: str) -> Task:
    """GPT-2 124M at batch 16."""
    batch = BATCHES["gpt2"].get(target, 16)
    return large_models.gpt2(_remat(policy, SAVED), scanned, batch)


def vit(policy: str | None, scanned: bool, target: str) -> Task:
    """ViT-B/16 at batch 128."""
    return large_models.vit(_remat(policy, SAVED), scanned, 128)


def resnet50(policy: str | None, scanned: bool, target: str) -> Task:
    """ResNet-50 at batch 256; the policies keep all convolutions, those that narrow, nothing."""
    return large_models.resnet50(_remat(policy, SAVED_OF_RESNET), scanned, 256)


def _remat(policy: str | None, saved: Mapping[str, Any]) -> tuple[Any, ...]:
    return () if policy is None else (saved[policy],)


MODELS: dict[str, Callable[[str | None, bool, str], Task]] = {
    "small": small,
    "gpt2": gpt2,
    "vit": vit,
    "resnet50": resnet50,
}


def compiled_as_it_is(task: Task, target: str) -> tuple[Loop, Attempt]:
    """A step as its author wrote it, compiled for a target."""
    loop, _ = loop_for(task.step, (task.state, task.batch), {}, target)
    return loop, loop.compile_as_it_is(0)


def plain_row(model: str, scanned: bool, target: str) -> dict[str, Any]:
    """The plain step: bytes, and how far the prediction is off before anything is learnt."""
    loop, plain = compiled_as_it_is(MODELS[model](None, scanned, target), target)
    return {
        "policy": "plain",
        "policy_bytes": plain.total_bytes,
        "predicted_bytes": plain.plan.predicted_bytes,
        "predicted_off": plain.plan.predicted_bytes / plain.total_bytes - 1,
        "flops": sum(loop.as_it_is.flops),
        "xla_flops": plain.measured.flops,
        "policy_compile_seconds": plain.measured.seconds,
    }


def policy_row(
    model: str, scanned: bool, target: str, policy: str, plain: Mapping[str, Any]
) -> dict[str, Any]:
    """A policy, and memjax at its bytes."""
    loop, theirs = compiled_as_it_is(MODELS[model](policy, scanned, target), target)
    task = MODELS[model](None, scanned, target)
    row = {
        "policy": policy,
        "policy_bytes": theirs.total_bytes,
        "flops": plain["flops"],
        "policy_recomputed_flops": sum(loop.as_it_is.flops) - plain["flops"],
        "policy_compile_seconds": theirs.measured.seconds,
    }
    start = time.perf_counter()
    budgeted = memjax.memory_budget(theirs.total_bytes, device=target)(task.step)
    try:
        report = budgeted.report(task.state, task.batch)
    except memjax.BudgetInfeasible as error:
        attempts = error.fitted.attempts
        found = {"met": False, "memjax_bytes": error.floor_bytes}
    else:
        attempts = budgeted._entry_of((task.state, task.batch), {}).fitted.attempts
        again = report.recomputed_flops
        found = {
            "met": True,
            "memjax_bytes": report.compiled.total_bytes,
            "predicted_bytes": report.predicted_bytes,
            "predicted_off": report.predicted_bytes / report.compiled.total_bytes - 1,
            "memjax_recomputed_flops": again,
            "flops_ratio": again / max(1, row["policy_recomputed_flops"]),
            "planning_seconds": report.planning_seconds,
        }
    slowest = max((a.measured.seconds for a in attempts if a.purpose != AS_IT_IS), default=0.0)
    return {
        **row,
        **found,
        "compilations": len(attempts),
        "slowest_compile_ratio": slowest / theirs.measured.seconds,
        "seconds": time.perf_counter() - start,
    }


def others(target: str, measured: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """Rows of a target's file about models that are not measured now."""
    path = result_path("targets", target)
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row["model"], row["layers"]) not in measured]


def main() -> None:
    """Measure the models that are named, and write the target's file after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=MODELS)
    parser.add_argument("--target", required=True)
    parser.add_argument("--scanned", action="store_true", help="layers in a scan")
    arguments = parser.parse_args()
    target, layers = arguments.target, "scanned" if arguments.scanned else "unrolled"
    rows = others(target, {(model, layers) for model in arguments.models})
    for model in arguments.models:
        name = {"target": target, "model": model, "layers": layers}
        plain = plain_row(model, arguments.scanned, target)
        rows.append({**name, **plain})
        for policy in POLICIES:
            rows.append({**name, **policy_row(model, arguments.scanned, target, policy, plain)})
            print(rows[-1], flush=True)
            write_csv("targets", rows, target=target)


if __name__ == "__main__":
    main()
