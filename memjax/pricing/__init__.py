"""What a program holds and costs on a device, by rules and by what was learnt.

In: a `Program`, a backend, and what compiled programs showed. Out: the `Problem` that planners
solve, as part of a `PricedProgram`, and where each of its values comes from.

`nests` makes programs of the bodies of eqns. `liveness` finds the values and their lives, `cost`
the FLOPs, bytes and seconds, `learnt` what overrules their rules value by value, `residents` what
is held throughout, `backends` what is known of devices. `coarsen` folds them into a problem;
`price` does all of this, bodies first. `segments` says how a schedule is carried out.
`attribution`, `holders`, `idle` and `doubts` explain.
"""
