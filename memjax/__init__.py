"""memjax: fit a JAX train step into a memory budget, checked on the compiled program."""

from memjax.api import (
    Floor,
    analyze,
    floor,
    frontier,
    max_batch,
    memory_budget,
    plan,
    target_devices,
)
from memjax.emit.compile import Footprint, footprint
from memjax.emit.plan import Plan
from memjax.fitting.attempts import BudgetInfeasible
from memjax.fitting.batch_result import BatchPoint, MaxBatch, Refusal
from memjax.fitting.budgeted import BudgetedStep
from memjax.fitting.curve import Frontier
from memjax.fitting.report import Analysis, Report
from memjax.planning.problem import Node, Problem, Solution
from memjax.planning.simulate import InvalidPlan, Timeline, simulate
from memjax.pricing.holders import Holder, Share
from memjax.view import figures, page
from memjax.xla.peak import XlaPeak

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "BatchPoint",
    "BudgetInfeasible",
    "BudgetedStep",
    "Floor",
    "Footprint",
    "Frontier",
    "Holder",
    "InvalidPlan",
    "MaxBatch",
    "Node",
    "Plan",
    "Problem",
    "Refusal",
    "Report",
    "Share",
    "Solution",
    "Timeline",
    "XlaPeak",
    "analyze",
    "figures",
    "floor",
    "footprint",
    "frontier",
    "max_batch",
    "memory_budget",
    "page",
    "plan",
    "simulate",
    "target_devices",
]
