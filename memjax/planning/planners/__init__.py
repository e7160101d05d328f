"""Planners: `Problem` + budget → `Solution`. One algorithm a file."""

from __future__ import annotations

from memjax.planning.planners.auto import AutoPlanner
from memjax.planning.planners.base import Planner
from memjax.planning.planners.exact import ExactPlanner
from memjax.planning.planners.frontier import frontier
from memjax.planning.planners.reorder import ReorderPlanner

__all__ = [
    "AutoPlanner",
    "ExactPlanner",
    "Planner",
    "ReorderPlanner",
    "frontier",
    "get_planner",
]

_PLANNERS: dict[str, type[Planner]] = {
    cls.name: cls for cls in (AutoPlanner, ExactPlanner, ReorderPlanner)
}


def get_planner(planner: str | Planner) -> Planner:
    """A planner by its name; a `Planner` is handed through.

    Raises:
        ValueError: there is no planner of that name.
    """
    if isinstance(planner, Planner):
        return planner
    if planner not in _PLANNERS:
        known = ", ".join(repr(name) for name in _PLANNERS)
        raise ValueError(f"no planner is called {planner!r}; known are {known}")
    return _PLANNERS[planner]()
