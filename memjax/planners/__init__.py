"""Planners: `Problem` + budget → `Solution`. One algorithm a file."""
