"""Arguments that are objects of a framework: as pytrees of arrays for JAX, and back.

In: a call's arguments. Out: arguments of which JAX sees the arrays alone, and what puts the
results back to where the user expects them.

- Flax nnx (`nnx.py`): modules, optimizers, metrics and RNGs are split together, so that what they
  share stays shared, and what a step changes is written into the caller's own objects.
- Equinox (`equinox.py`): what is no array is static, as under `eqx.filter_jit`.

Read `packed.py` first. No framework is imported here that the user has not imported.
"""

from memjax.program.objects.calls import (
    Apart as Apart,
    Framework as Framework,
    among as among,
    as_function as as_function,
    taken_apart as taken_apart,
)
