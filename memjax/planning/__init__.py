"""Which values to compute again, and when. Knows nothing of JAX.

In: a `Problem` and a budget. Out: a `Solution`, a schedule of the problem's nodes.

`problem` has the definitions, `planners` one algorithm a file, and `simulate` judges what they
find: the bytes at each position. To try a new planner, read `problem`, `planners.base` and
`planners.exact`, in this order.
"""
