"""Devices by name, whether they are attached or not.

In: a name such as `"h100"`, `"h100:8"` or `"v5e:2x2"`. Out: JAX's devices, attached or
compile-only, with the figures of their kind: memory, rates, what their compiler asks for.

`figures` reads what is known of a kind of device, one data file a kind in `devices/`: a new device
is a new file. `names` reads what users write. `attach` goes from a name to devices, and says what
has to be installed where their compiler is missing.
"""
