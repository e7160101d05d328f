"""What fits: the closed loop of planning and compiling, and the searches on top of it.

In: a step, its arguments, a budget and other settings. Out: a compiled step that fits, with its
`Report`; or `BudgetInfeasible`, which says what would help.

`budgeted` is what a decorated step does at a call; `checks` refuses calls that cannot be made.
`setup` goes from `settings` to a `Loop` (`closed_loop`) that makes `attempts`, from `problems` over
`plans`; `fit` decides what the loop plans and compiles, `learning` takes from each program what it
shows, `stated` remembers what was found. `report` and `advice` explain the result. `curve` asks
about many budgets, `batch` about many sizes of the arguments.
"""
