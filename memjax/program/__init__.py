"""A step as a flat program: what it computes, from which lines, and what it may give up.

In: a step and its arguments, as `jax.jit` takes them. Out: a `Program`, eqns over integer value
ids.

`tags` names each eqn so that the compiled program can be read back. `signature` and `arguments`
take a call apart. `trace` makes the program, by `module_names`, `dead` and `source_lines`.
`prepare` brings it into an order that holds less. `updates`, `state` and `donation` find the
arguments that may be given up.
"""
