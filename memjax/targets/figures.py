"""What is known of a kind of device: its memory, its rates, what its compiler has to be told.

In: the data files in `devices/`, named after the devices. Out: `Figures`.

Rates are the makers' published peaks. Plans depend on their ratios alone: how long a matmul takes
beside an elementwise operation of so many bytes. They are constants by kind of device and not
measured at run time, so that every host of a cluster makes the same plan. A file says where its
figures come from.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

FALLBACK = "a100"
"""Whose rates count for devices that no file knows."""


@dataclass(frozen=True)
class DeviceRates:
    """What a device does in a second.

    Attributes:
        flops_per_second: of whatever `matmul` does not name.
        bytes_per_second: to and from its memory.
        matmul: FLOPs of matmuls and convolutions, by the type of their operands.
    """

    flops_per_second: float
    bytes_per_second: float
    matmul: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Cuda:
    """What XLA has to be told of an NVIDIA GPU that is not there.

    Attributes:
        name: as the driver spells it.
        capability: compute capability; `"9.0a"` where code for this very architecture may be made.
        core_count: streaming multiprocessors.
        fpus_per_core: float32 units of each.
        clock_ghz: boost clock.
        l2_cache_bytes: of the whole device.
        shared_bytes_per_core: shared memory of a multiprocessor.
        shared_bytes_per_block: the most of it that a block may ask for.
        pcie_bytes_per_second: to and from the host.
    """

    name: str
    capability: str
    core_count: int
    fpus_per_core: int
    clock_ghz: float
    l2_cache_bytes: int
    shared_bytes_per_core: int
    shared_bytes_per_block: int
    pcie_bytes_per_second: int


@dataclass(frozen=True)
class Tpu:
    """What libtpu has to be told of a TPU that is not there.

    Attributes:
        topology: how it spells the kind.
        axes: dimensions of a topology: 2 as in `2x2`, or 3.
        devices_per_chip: that JAX sees.
    """

    topology: str
    axes: int
    devices_per_chip: int


@dataclass(frozen=True)
class Figures:
    """What is known of a kind of device.

    Attributes:
        title: for people.
        platform: cpu, cuda or tpu.
        kinds: beginnings of what `jax.Device.device_kind` says of it.
        sources: of the figures.
        rates: its speed.
        memory_bytes: of one device, as far as programs may use it; None where nobody says.
        cuda: for its compiler; None but for NVIDIA's.
        tpu: likewise.
        name: of its file, and what users write.
    """

    title: str
    platform: Literal["cpu", "cuda", "tpu"]
    kinds: tuple[str, ...]
    sources: tuple[str, ...]
    rates: DeviceRates
    memory_bytes: int | None = None
    cuda: Cuda | None = None
    tpu: Tpu | None = None
    name: str = ""


@cache
def all_figures() -> Mapping[str, Figures]:
    """Everything that is known, by name, in the order of the names."""
    folder = files("memjax.targets") / "devices"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        name, dot, ending = file.name.rpartition(".")
        if dot and ending == "toml":
            content = tomllib.loads(file.read_text(encoding="utf-8"))
            found[name] = msgspec.convert({**content, "name": name}, Figures)
    return found


@cache
def figures_of_kind(device_kind: str) -> Figures | None:
    """The figures of what `jax.Device.device_kind` names; None where no file knows it.

    The longest beginning that fits counts: a `TPU v5 lite` is no `TPU v5`.
    """
    fitting = [
        (len(kind), figures)
        for figures in all_figures().values()
        for kind in figures.kinds
        if device_kind.lower().startswith(kind.lower())
    ]
    return max(fitting, key=lambda found: found[0])[1] if fitting else None


def rates_of(device_kind: str) -> DeviceRates:
    """The rates of what `jax.Device.device_kind` names; those of `FALLBACK` if it is unknown."""
    return (figures_of_kind(device_kind) or all_figures()[FALLBACK]).rates
