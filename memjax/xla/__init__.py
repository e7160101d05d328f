"""What XLA made of a program: its buffers, their lives, its own peak, on every backend.

In: a compiled program, and where the values of its source come from. Out: an `XlaPeak`, and what
was learnt of the values (`memjax.pricing.learnt`).

`flow` reads the order in which the module runs. `assign` finds its buffers where XLA does not
state them, by `shapes` (bytes as laid out) and `in_place` (what is written over what). `held` says
what is held at the peak, `peak` puts names to it, and `learn` says what became of each value.
`copies` counts what donation makes XLA copy. `buffers_pb2` is generated from `buffers.proto`,
XLA's own messages.
"""
