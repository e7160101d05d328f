"""Results as plain dicts, lists, numbers and texts, which `json.dumps` writes as they are.

In: the objects that users get. Out: dicts whose keys are the objects' own attributes. Timelines
are given in full; what is held at a peak is given by line, module and phase, and one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from memjax.fitting.batch_result import MaxBatch
from memjax.fitting.curve import Frontier
from memjax.fitting.report import Analysis, Report
from memjax.pricing.holders import Share
from memjax.xla.peak import XlaPeak


def analysis(found: Analysis) -> dict[str, Any]:
    """An analysis."""
    return {
        "name": found.name,
        "device": found.device,
        "eqns": found.eqns,
        "flops": found.flops,
        "peak_bytes": found.peak_bytes,
        "base_bytes": found.base_bytes,
        **_peak(found),
        "donations": [asdict(d) for d in found.donations],
        "timeline": found.timeline.to_dict(),
        "doubts": [asdict(d) for d in found.doubts],
        "compiled_bytes": None if found.compiled is None else found.compiled.total_bytes,
        "xla": xla_peak(found.xla),
    }


def report(found: Report) -> dict[str, Any]:
    """A report, with its plan."""
    kept = sum(made == "keep" for _, made in found.decisions)
    return {
        "name": found.name,
        "device": found.device,
        "budget_bytes": found.budget_bytes,
        "predicted_bytes": found.predicted_bytes,
        "plain_predicted_bytes": found.plain_predicted_bytes,
        "compiled_bytes": found.compiled.total_bytes,
        "compiled": asdict(found.compiled),
        "overhead": found.overhead,
        "bound_overhead": found.plan.bound_overhead,
        "recomputed_flops": found.recomputed_flops,
        "plain_flops": found.plain_flops,
        "compiled_flops": found.compiled_flops,
        "planner": found.plan.planner,
        "planning_seconds": found.planning_seconds,
        "gaps_kept": kept,
        "gaps_recomputed": len(found.decisions) - kept,
        "compilations": [asdict(c) for c in found.compilations],
        **_peak(found),
        "donations": [asdict(d) for d in found.donations],
        "timeline": found.timeline.to_dict(),
        "plain_timeline": found.plain_timeline.to_dict(),
        "xla": xla_peak(found.xla),
        "splits": [asdict(note) for note in found.splits],
        "plan": found.plan.to_dict(),
    }


def _peak(found: Analysis | Report) -> dict[str, Any]:
    return {
        "holders": [asdict(holder) for holder in found.holders],
        "by_line": _shares(found.by_line()),
        "by_module": _shares(found.by_module()),
        "by_phase": _shares(found.by_phase()),
    }


def _shares(found: Iterable[Share]) -> list[dict[str, Any]]:
    return [asdict(share) for share in found]


def frontier(found: Frontier) -> dict[str, Any]:
    """A frontier, a dict for each point; plans are left out."""
    return {
        "name": found.name,
        "device": found.device,
        "points": [
            {
                "budget_bytes": point.budget_bytes,
                "met": point.met,
                "predicted_bytes": point.plan.predicted_bytes,
                "compiled_bytes": point.compiled_bytes,
                "overhead": point.plan.overhead,
                "bound_overhead": point.plan.bound_overhead,
                "recomputed_flops": point.recomputed_flops,
            }
            for point in found.points
        ],
    }


def frontier_rows(found: Frontier) -> list[dict[str, Any]]:
    """A row for each budget."""
    return list(frontier(found)["points"])


def max_batch(found: MaxBatch) -> dict[str, Any]:
    """The largest size and the curve; of the report, bytes and overhead."""
    return {
        "name": found.name,
        "device": found.report.device,
        "size": found.size,
        "budget_bytes": found.budget_bytes,
        "compiled_bytes": found.report.compiled.total_bytes,
        "overhead": found.report.overhead,
        "compilations": found.compilations,
        "at_end": found.at_end,
        "refused": [vars(refusal).copy() for refusal in found.refused],
        "points": [vars(point).copy() for point in found.points],
    }


def max_batch_rows(found: MaxBatch) -> list[dict[str, Any]]:
    """A row for each size."""
    return [vars(point).copy() for point in found.points]


def value_rows(found: Analysis | Report) -> list[dict[str, Any]]:
    """A row for each stored value, for tables.

    `start` and `stop` are of the first copy's live range, `copies` says how often it is
    written, `decision` what is done in its idle gaps (recompute, if it is in any).
    """
    spans: dict[int, list[int]] = {}
    for copy in found.timeline.held:
        spans.setdefault(copy.value, [copy.start, copy.stop, 0])[2] += 1
    decisions = decisions_of(found)
    return [
        {
            **asdict(holder),
            "start": spans[value][0],
            "stop": spans[value][1],
            "copies": spans[value][2],
            "decision": decisions[value],
        }
        for value, holder in enumerate(found.values)
        if value in spans
    ]


NO_GAP = "no idle gap"


def decisions_of(found: Analysis | Report) -> list[str]:
    """What is done in the idle gaps of each value: recompute if in any, keep, or no gap."""
    decisions = [NO_GAP] * len(found.values)
    for gap in found.idle:
        if decisions[gap.value] != "recompute":
            decisions[gap.value] = gap.decision
    return decisions


def xla_peak(found: XlaPeak | None) -> dict[str, Any] | None:
    """XLA's own peak; None where it is not known."""
    if found is None:
        return None
    return {
        "total_bytes": found.total_bytes,
        "at": found.at,
        "holders": [asdict(holder) for holder in found.holders],
        "differences": [{**asdict(d), "bytes": d.bytes} for d in found.differences],
    }
