"""What a program holds and costs on a device, before anything is compiled.

In: a `Program` and a backend. Out: the `Problem` that planners solve, as part of a `Coarse`, and
where each of its values comes from.

`nests` makes programs of the bodies of eqns. `liveness` finds the values and their lives, `cost`
the FLOPs, bytes and seconds, `residents` what is held throughout, `backends` what is known of
devices. `coarsen` folds them into a problem; `price` does all of this, bodies first. `segments`
says how a schedule is carried out. `attribution`, `holders`, `idle` and `doubts` explain.
"""
