"""Splits: a wide region of a program, run in chunks along one of its axes.

In: a `Program` and what it holds at its peak. Out: `Split`s, and the `Program` that they make.

`axes` has the definitions and `rules` the table of what each primitive does to an axis (matmuls
and convolutions in `contractions`, gathers and scatters in `indexed`), `regions` grows a region
from a seed (`growth`) and divides it into loops (`phases`), and `transform` makes these of it, out
of `pieces`. They are planned like any others afterwards.
"""
