"""A decided program: written down as a plan, written as a function, and compiled.

In: a `PricedProgram` and a `Solution` of it. Out: a `Plan`, and a `CompiledStep` with XLA's bytes.

`plan` names the decisions by the program's own eqns, and `plan_cache` keeps them in files.
`rewrite` makes the function of a schedule; `compile` compiles it and reads its bytes.
"""
