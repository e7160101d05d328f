"""What CI runs: both ends of the supported range, each in its own virtual environment.

`nox` alone runs everything. Interpreters are looked for by running them, as a name on PATH
may be a shim that fails. An end that is missing fails the run, loudly.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.error_on_missing_interpreters = True

OLDEST = ("3.11", "jax==0.10.2")
"""The lower end: the newest jax for the oldest Python."""
TESTED_ONCE = tuple(
    f"--ignore=tests/{name}"
    for name in ("planners", "test_benchmarks.py", "test_cli_demo.py", "test_figures.py")
)
"""Planners know nothing of JAX, benchmarks are run by hand, and the demo and figures show what is
tested elsewhere: one end will do for their tests."""
NEWEST_FIRST = ("3.15", "3.14", "3.13", "3.12")
COMPILED_ONCE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
"""Three quarters of the time of the tests is XLA's; what two of them compile is compiled once."""
VERSIONS = "import jax, sys; print('Python', sys.version, 'jax', jax.__version__)"
PROBE = "import sys; print(sys.executable, '%d.%d' % sys.version_info[:2])"


def run_quietly(*command: str) -> str | None:
    """The standard output of a command, or None where it does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def show_pyenv_versions() -> None:
    """Make every interpreter of pyenv visible as `python3.x`, where pyenv is installed."""
    if "PYENV_VERSION" in os.environ or shutil.which("pyenv") is None:
        return
    versions = (run_quietly("pyenv", "versions", "--bare") or "").split()
    if versions:
        os.environ["PYENV_VERSION"] = ":".join(reversed(versions))


@functools.cache
def interpreter(version: str) -> str | None:
    """The path of a Python of this version that runs and can make an environment, or None."""
    for name in (f"python{version}", "python3", "python", sys.executable):
        path = shutil.which(name)
        found = (run_quietly(path, "-c", PROBE) or "").rsplit(maxsplit=1) if path else []
        if len(found) == 2 and found[1] == version:
            return found[0]
    return None


show_pyenv_versions()
NEWEST = next((version for version in NEWEST_FIRST if interpreter(version)), None)


def install_browser(session: nox.Session) -> None:
    """Chromium for the tests of the HTML page, which are skipped where none can be had."""
    if any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        return
    patience = {"PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT": "10000"}
    command = ("playwright", "install", "chromium")
    session.run(*command, env=patience, success_codes=[0, 1], silent=True)


def install_compilers(session: nox.Session, *extras: str) -> None:
    """Compilers of devices that are not attached; where they cannot be had, their tests are
    skipped. JAX is told of the CPU alone, as none of them comes with a device.
    """
    session.env["JAX_PLATFORMS"] = "cpu"
    for extra in extras:
        command = ("python", "-m", "pip", "install", "-q", "-e", f".[{extra}]")
        session.run(*command, success_codes=[0, 1])


def check(session: nox.Session, *folders: str) -> None:
    """The tests of some folders, types, and what imports what, in the environment of a session."""
    session.run("python", "-c", VERSIONS)
    install_browser(session)
    session.env["MEMJAX_CACHE_DIR"] = ""  # what other runs have found must not matter
    compiled = Path(session.create_tmp()) / "compiled"
    shutil.rmtree(compiled, ignore_errors=True)
    session.env.update(COMPILED_ONCE, JAX_COMPILATION_CACHE_DIR=str(compiled))
    paths = session.posargs or folders
    session.run(
        "pytest", "--numprocesses=2", "--dist=worksteal", "--nbmake", "--nbmake-timeout=600", *paths
    )
    session.run("mypy")
    session.run("lint-imports", "--no-cache")


@nox.session(python=interpreter(OLDEST[0]) or OLDEST[0])
def oldest(session: nox.Session) -> None:
    """Python 3.11 with the oldest jax that memjax supports."""
    session.install("-e", ".[test]", OLDEST[1])
    install_compilers(session, "tpu")
    check(session, "tests", *TESTED_ONCE)


@nox.session(python=interpreter(NEWEST) if NEWEST else NEWEST_FIRST[-1])
def newest(session: nox.Session) -> None:
    """The newest Python on this machine with the newest jax; documentation; lint."""
    session.install("--upgrade", "-e", ".[test,docs]")
    install_compilers(session, "tpu", "cuda")
    check(session, "tests", "notebooks")
    # The code blocks of a page build on one another, so a page stays on one worker.
    session.run("pytest", "--numprocesses=2", "--dist=loadfile", "docs")
    session.run("sphinx-build", "-q", "-W", "--keep-going", "docs", "docs/_build/html")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
