"""memjax: fit a JAX train step into a memory budget, checked on the compiled program."""

from memjax.api import BudgetedStep, Floor, analyze, floor, frontier, memory_budget, plan
from memjax.compile import Footprint, footprint
from memjax.curve import Frontier
from memjax.fit import BudgetInfeasible
from memjax.plan import Plan
from memjax.problem import Node, Problem, Solution
from memjax.report import Analysis, Report
from memjax.simulate import InvalidPlan, Timeline, simulate

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "BudgetInfeasible",
    "BudgetedStep",
    "Floor",
    "Footprint",
    "Frontier",
    "InvalidPlan",
    "Node",
    "Plan",
    "Problem",
    "Report",
    "Solution",
    "Timeline",
    "analyze",
    "floor",
    "footprint",
    "frontier",
    "memory_budget",
    "plan",
    "simulate",
]
