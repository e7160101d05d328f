"""memjax: fit a JAX train step into a memory budget, checked on the compiled program."""

from memjax import figures, page
from memjax.api import Floor, analyze, floor, frontier, memory_budget, plan
from memjax.batch import max_batch
from memjax.batch_result import BatchPoint, MaxBatch, Refusal
from memjax.budgeted import BudgetedStep
from memjax.closed_loop import BudgetInfeasible
from memjax.compile import Footprint, footprint
from memjax.curve import Frontier
from memjax.holders import Holder, Share
from memjax.plan import Plan
from memjax.problem import Node, Problem, Solution
from memjax.report import Analysis, Report
from memjax.simulate import InvalidPlan, Timeline, simulate
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
]
