"""From the name of a device to JAX's devices: attached ones where there are, else compile-only.

In: a name. Out: devices that programs can be compiled for. Of those that are not attached nothing
can be run, and nothing is allocated: XLA's compilers for TPU and CUDA run on any machine.

What their compilers ask for (jax 0.10.2 and 0.12, libtpu 0.0.42 to 0.0.52):

1. libtpu looks for a TPU's environment when it is loaded, and asks the network for it; variables
   that answer are set while it loads. `ALLOW_MULTIPLE_LIBTPU_LOAD` among them lifts a lock that
   keeps processes from sharing a TPU: here there is none. The process's environment is as before
   afterwards, and what the user has set stays in force.
2. The CUDA plugin does not register itself where the libraries that run programs are missing. It
   is asked again with that check off, after JAX has looked for its backends, so that it does not
   become one. For this jax 0.12 is needed.
3. Without the device XLA:GPU tunes nothing by measuring, so that bytes may differ a little from
   those on the device.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

from memjax import _compat
from memjax.targets.figures import Cuda, Figures, figures_of_kind
from memjax.targets.names import Named, named

LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any will do; topologies of all kinds are to be had
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
CUDA_ENVIRONMENT = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
CUDA_PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
CUDA_FROM = (0, 12)
"""Older versions of JAX have no topologies of GPUs that are described by a text."""
CUDNN = (9, 10, 0)
"""The version that compiled programs would find; XLA chooses among its algorithms by it."""


def devices_of(name: str) -> tuple[Any, ...]:
    """The devices that a name stands for: attached, if there are enough, else compile-only.

    Raises:
        ValueError: it is no name, or there is no such topology.
        ImportError: their compiler is not installed.
    """
    wanted = named(name)
    attached = _compat.attached_devices(wanted.figures.platform)
    fitting = [d for d in attached if figures_of_kind(d.device_kind) == wanted.figures]
    if len(fitting) >= wanted.count:
        return tuple(fitting[: wanted.count])
    if wanted.figures.platform == "cpu":
        raise ValueError(
            f"there are {len(fitting)} devices of the CPU, not {wanted.count}; the XLA flag "
            "xla_force_host_platform_device_count makes more"
        )
    return _compile_only(wanted)


def is_attached(device: Any) -> bool:
    """Whether a device can run programs, or is only there to compile for."""
    return not _compat.is_compile_only(device)


def memory_bytes(device: Any) -> int | None:
    """Memory that programs may use: an attached device's own limit, or the figure of its kind."""
    if is_attached(device):
        limit = (device.memory_stats() or {}).get("bytes_limit")
        return int(limit) if limit else None
    figures = figures_of_kind(device.device_kind)
    return figures.memory_bytes if figures else None


def label(device: Any, count: int = 1) -> str:
    """Devices in words: their kind, and that they are not attached if that is so."""
    figures = figures_of_kind(device.device_kind)
    kind = device.device_kind if figures is None or is_attached(device) else figures.title
    several = f"{count} × " if count > 1 else ""
    return f"{several}{kind}{'' if is_attached(device) else ', not attached'}"


def missing(figures: Figures) -> str:
    """What has to be installed to compile for a kind of device; empty where nothing is missing."""
    if figures.platform == "tpu" and find_spec("libtpu") is None:
        return "libtpu is not installed: pip install 'memjax[tpu]'"
    if figures.platform != "cuda":
        return ""
    if _compat.JAX_VERSION < CUDA_FROM:
        return (
            "jax 0.12 or newer is needed to compile for GPUs that are not attached: with Python "
            "3.12 or newer, pip install 'memjax[cuda]'"
        )
    if not any(map(_is_there, CUDA_PLUGINS)):
        return "JAX's CUDA plugin is not installed: pip install 'memjax[cuda]'"
    if not _has_ptxas():
        return "ptxas, of CUDA's toolkit, is not installed: pip install 'memjax[cuda]'"
    return ""


def _is_there(module: str) -> bool:
    return find_spec(module.partition(".")[0]) is not None and find_spec(module) is not None


def _has_ptxas() -> bool:
    wheels = ("nvidia.cuda_nvcc", "nvidia.cu13")
    return shutil.which("ptxas") is not None or any(map(_is_there, wheels))


@cache
def _compile_only(wanted: Named) -> tuple[Any, ...]:
    """Devices to compile for; the same objects each time, so that programs can share them."""
    figures = wanted.figures
    lacks = missing(figures)
    if lacks:
        raise ImportError(f"to compile for {figures.title}, which is not attached: {lacks}")
    try:
        found = _cuda(wanted, figures.cuda) if figures.cuda is not None else _tpu(wanted)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"there is no {figures.name}:{wanted.extent} to compile for: {error}"
        ) from error
    return found[: wanted.count]


def _tpu(wanted: Named) -> tuple[Any, ...]:
    assert wanted.figures.tpu is not None
    options: dict[str, Any] = {}
    if set(wanted.shape) == {1}:
        options["chips_per_host_bounds"] = (1, 1, 1)  # the default is four chips a host
    environment = {} if _compat.attached_devices("tpu") else LIBTPU_ENVIRONMENT
    with _environment(environment):
        topology = f"{wanted.figures.tpu.topology}:{wanted.extent}"
        return _compat.compile_only_devices("tpu", topology, **options)


def _cuda(wanted: Named, cuda: Cuda) -> tuple[Any, ...]:
    options = {
        "target_config": target_config(wanted.figures),
        "topology": f"1x1x{wanted.count}",  # slices, hosts, devices of a host
    }
    with _environment(CUDA_ENVIRONMENT):
        _compat.register_plugins("cuda", CUDA_PLUGINS)
        return _compat.compile_only_devices("cuda", cuda.name, **options)


def target_config(figures: Figures) -> str:
    """A GPU in the words of XLA's `GpuTargetConfigProto`, as text.

    Limits of blocks, threads and registers are those of all architectures since 7.0, by the CUDA
    C++ Programming Guide.
    """
    cuda = figures.cuda
    assert cuda is not None
    major, minor = cuda.capability.removesuffix("a").split(".")
    feature = "ACCELERATED_FEATURES" if cuda.capability.endswith("a") else "NONE"
    version = f"dnn_version_info {{ major: {CUDNN[0]} minor: {CUDNN[1]} patch: {CUDNN[2]} }}"
    device = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": cuda.shared_bytes_per_core,
        "shared_memory_per_block_optin": cuda.shared_bytes_per_block,
        "threads_per_core_limit": 2048,
        "core_count": cuda.core_count,
        "fpus_per_core": cuda.fpus_per_core,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "memory_bandwidth": int(figures.rates.bytes_per_second),
        "l2_cache_size": cuda.l2_cache_bytes,
        "clock_rate_ghz": cuda.clock_ghz,
        "device_memory_size": figures.memory_bytes,
        "device_address_bits": 64,
        "pcie_bandwidth": cuda.pcie_bytes_per_second,
        "device_vendor": '"NVIDIA Corporation"',
        "name": f'"{cuda.name}"',
    }
    lines = "\n".join(f"  {name}: {value}" for name, value in device.items())
    capability = f"major: {major} minor: {minor} feature_extension: {feature}"
    return (
        f"gpu_device_info {{\n{lines}\n  cuda_compute_capability {{ {capability} }}\n}}\n"
        f'platform_name: "CUDA"\n{version}\ndevice_description_str: "{cuda.name}"\n'
    )


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The environment with these variables, where the user has not set them; then as before."""
    added = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
