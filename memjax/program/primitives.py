"""What XLA does with each primitive, as far as memory is concerned.

One table, read by `liveness` (what is never stored) and `cost` (what it takes to run).

- *structural*: changes no numbers; XLA fuses or aliases it.
- *cheap*: elementwise, and cheap enough that XLA repeats it in each consumer's fusion.
- *costly*: elementwise, fused into a single consumer but not repeated for several.
- *reduction*: fuses what it reads, is stored itself.
- everything else is *opaque*: reads stored values and stores what it writes (matmuls,
  convolutions, gathers, scatters, sorts, random bits, loops, kernels).

Source: XLA's `InstructionFusion::IsExpensive` and the CPU and GPU fusion passes, which
agree on these classes in the main; where they do not, compiled bytes correct the plan.
"""

from __future__ import annotations

STRUCTURAL = frozenset(
    """broadcast_in_dim iota reshape squeeze expand_dims transpose copy copy_p stop_gradient
    bitcast_convert_type full empty pvary""".split()
)
ALIASES = frozenset({"reshape", "squeeze", "expand_dims", "bitcast_convert_type"})
"""Structural, and another view of the same bytes."""
CHEAP = frozenset(
    """add add_any sub mul neg abs sign max min select_n select_and_gather_add clamp eq ne lt le
    gt ge and or not xor shift_left shift_right_logical shift_right_arithmetic square
    convert_element_type integer_pow is_finite floor ceil round nextafter population_count
    real imag complex conj reduce_precision pad concatenate div sqrt rsqrt one_minus_square
    random_wrap random_unwrap slice dynamic_slice rev""".split()
)
COSTLY = frozenset(
    """exp exp2 expm1 log log1p tanh logistic erf erfc erf_inv sin cos tan asin acos atan sinh
    cosh asinh acosh atanh atan2 pow cbrt rem digamma lgamma""".split()
)
REDUCTION = frozenset(
    """reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin
    reduce""".split()
)
FUSIBLE = STRUCTURAL | CHEAP | COSTLY
FUSES_OPERANDS = FUSIBLE | REDUCTION
RANDOM = frozenset({"random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform"})
RUNS_ONCE = frozenset({"pure_callback", "rng_uniform"})
"""Without effects, but never run again: a call of the host is dear, and the generator of
`lax.rng_uniform` may keep a state, so that a second run would draw other numbers."""
SLICES = frozenset({"slice", "dynamic_slice", "gather"})
"""What reads no more of its operand than it writes."""

COSTLY_FLOPS = 10  # a guess: a polynomial or a table, some ten operations an element
UPDATES_IN_PLACE = ("scatter", "dynamic_update_slice")
"""Prefixes of the primitives that write into their first operand's buffer if it dies there."""
