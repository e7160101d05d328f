"""Rows of measurements with what they were measured on, as CSV files; child processes."""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib

import memjax
from benchmarks import provenance

os.environ["MEMJAX_CACHE_DIR"] = ""  # what earlier runs have found must not matter
RESULTS = Path(__file__).parent / "results"


def surroundings(module: str, device: Any = None) -> dict[str, str]:
    """Versions, device, date, commit and code, for every row.

    Args:
        module: of this folder, that measured.
        device: that programs were compiled for; the default one where None.
    """
    device = device or jax.devices()[0]
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "machine": f"{platform.system()} {platform.machine()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": provenance.commit(),
        "code": provenance.code_digest(f"benchmarks.{module}"),
    }


def result_path(name: str, kind: str) -> Path:
    """The file of a benchmark for a kind of device, with this version of JAX."""
    kind = re.sub(r"\W+", "-", kind.lower()).strip("-")
    return RESULTS / f"{name}-{kind}-jax{jax.__version__}.csv"


def write_csv(
    name: str, rows: Sequence[Mapping[str, Any]], module: str = "", target: str | None = None
) -> Path:
    """Write rows to `results/<name>-<device kind>-jax<version>.csv`, replacing older ones.

    Args:
        name: of the benchmark.
        rows: may differ in their columns; what a row lacks stays empty, and what it says of
            where it was measured stands.
        module: of this folder, that measured them; if not given, it is called like the benchmark.
        target: the name of the device that programs are compiled for; the default one where None.
    """
    RESULTS.mkdir(exist_ok=True)
    device = memjax.target_devices(target)[0] if target else None
    where = surroundings(module or name, device)
    path = result_path(name, target or where["device_kind"])
    full = [{**row, **{key: row.get(key) or where[key] for key in where}} for row in rows]
    columns = list(dict.fromkeys(column for row in full for column in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(full)
    print(f"wrote {path}")
    return path


def in_new_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m module arguments…` and parse the last line it prints as JSON."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
