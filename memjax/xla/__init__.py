"""What XLA's compiled program holds at its own peak, from its buffer assignment and schedule.

In: a compiled program, and where the values of its source come from. Out: an `XlaPeak`.

`flow` reads the order in which the module runs, `held` what is held at its peak, and `peak` puts
names to it. `copies` counts what donation makes XLA copy. `buffers_pb2` is generated from
`buffers.proto`, XLA's own messages.
"""
