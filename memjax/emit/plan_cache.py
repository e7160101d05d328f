"""Plans on disk, one file each: off unless a folder is given.

Files are written to a temporary name and moved into place, so that a reader never sees half
of one. A file that is damaged is ignored with a warning and written anew, and what a killed
process left half written is taken away by the next that writes. Nothing here is fatal.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
import warnings
from pathlib import Path

from memjax.emit.fingerprint import Fingerprint
from memjax.emit.plan import MOST_CHARACTERS, PLAN_VERSION, Plan
from memjax.planning.simulate import InvalidPlan

SUFFIX = ".plan.json"
TEMPORARY_SECONDS = 60.0
"""A temporary file that is older was left by a process that was killed: to write one takes
milliseconds. A process that was only stopped finds its own gone, and warns."""


def plan_path(folder: str | Path, program: Fingerprint, settings: str) -> Path:
    """Where the plan of a program under some settings (budget, device, planner) is kept."""
    text = f"{PLAN_VERSION}|{program}|{program.jax_version}|{settings}"
    name = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:32]
    return Path(folder).expanduser() / f"{name}{SUFFIX}"


def load_plan(path: Path) -> Plan | None:
    """The plan in a file; None where there is none that can be read."""
    try:
        if path.stat().st_size > MOST_CHARACTERS:
            raise InvalidPlan("it is larger than any plan")
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # the latter also for what is no text, and no path
        warnings.warn(f"ignoring the cached plan {path}: {error}", stacklevel=2)
        return None


def save_plan(path: Path, plan: Plan) -> None:
    """Write a plan atomically; a folder that cannot be written is a warning."""
    try:
        write_atomically(path, plan.to_json())
    except (OSError, ValueError) as error:
        warnings.warn(f"the plan was not cached at {path}: {error}", stacklevel=2)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that nobody ever reads half of it.

    Raises:
        OSError: it cannot be written.
        ValueError: the path cannot be one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_leftovers(folder: Path) -> None:
    oldest = time.time() - TEMPORARY_SECONDS
    for path in folder.glob("*.json.*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # another process may be as quick
            if path.stat().st_mtime < oldest:
                path.unlink()
