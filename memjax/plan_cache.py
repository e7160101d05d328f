"""Plans on disk, one file each: off unless a folder is given.

Files are written to a temporary name and moved into place, so that a reader never sees half
of one. A file that is damaged is ignored with a warning and written anew.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from pathlib import Path

from memjax.plan import PLAN_VERSION, Fingerprint, Plan
from memjax.simulate import InvalidPlan


def plan_path(folder: str | Path, program: Fingerprint, settings: str) -> Path:
    """Where the plan of a program under some settings (budget, device, planner) is kept."""
    text = f"{PLAN_VERSION}|{program}|{program.jax_version}|{settings}"
    return Path(folder) / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.plan.json"


def load_plan(path: Path) -> Plan | None:
    """The plan in a file; None where there is none that can be read."""
    try:
        return Plan.from_json(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, InvalidPlan) as error:
        warnings.warn(f"ignoring the cached plan {path}: {error}", stacklevel=2)
        return None


def save_plan(path: Path, plan: Plan) -> None:
    """Write a plan atomically; a folder that cannot be written is a warning."""
    try:
        write_atomically(path, plan.to_json())
    except OSError as error:
        warnings.warn(f"the plan was not cached at {path}: {error}", stacklevel=2)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that nobody ever reads half of it.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
