"""What memjax knows of each backend: one entry a backend.

Everything here can be wrong for a new version without making a step wrong: compiled bytes
are checked in any case. Facts about CPU were measured with jaxlib 0.10.2 and 0.12.0.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
"""Keeps `optimization_barrier` until code is emitted, where it costs nothing. XLA:CPU of
jaxlib up to 0.11.0 removes barriers before fusion and scheduling, and with them every
recomputation. The value is a comma-separated list, to be merged with the user's."""


@dataclass(frozen=True)
class Backend:
    """Facts about a backend.

    Attributes:
        platform: as `jax.Device.platform` spells it.
        scheduler_options: compile options that make XLA schedule for memory, so that a
            planned order is kept.
        may_drop_barriers: whether some version removes barriers too early, to be probed.
        copies_matmul_operands: whether matmuls copy operands whose dimensions are not in the
            order that they want (`memjax.pricing.cost` knows which).
        stores_reduced_transposes: whether a reduction does not fuse what was transposed.
        random_workspace: bytes held while random bits are made, for each byte of them.
    """

    platform: str
    scheduler_options: dict[str, str] = field(default_factory=dict)
    may_drop_barriers: bool = False
    copies_matmul_operands: bool = False
    stores_reduced_transposes: bool = False
    random_workspace: int = 0


BACKENDS = {
    "cpu": Backend(
        "cpu",
        # Depth-first. Breadth-first, the default, starts everything as early as it can:
        # broadcasts, zeros and transposed copies for the backward pass in the forward pass.
        scheduler_options={"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
        may_drop_barriers=True,
        copies_matmul_operands=True,
        stores_reduced_transposes=True,
        random_workspace=3,  # threefry's loop carries both halves, and copies them
    ),
    # The default scheduler takes the best of three by memory; barriers are removed after
    # scheduling (read in XLA's sources, not measured).
    "gpu": Backend("gpu"),
    "tpu": Backend("tpu"),
}


def backend_of(platform: str) -> Backend:
    """The entry of a platform; one without quirks if it is unknown."""
    return BACKENDS.get({"cuda": "gpu", "rocm": "gpu"}.get(platform, platform), Backend(platform))
