"""The user's own source line behind an eqn.

In: an eqn of JAX's, and the call that it was inlined from. Out: `file:line (function)`.

Definitions

1. A frame is a *library's* if its file is JAX's, Python's, memjax's own, or in an installed
   package. All others are the user's.
2. The line of an eqn is its innermost user frame. Where there is none, it is the innermost
   frame of an installed package.
3. JAX traces the body of a nested `jit` once, and uses it again wherever it is called with the
   same types: tracebacks inside of it end in whoever called it first. So an eqn of a body has
   a line of its own only among the frames inside of the body's function; else it has the
   line of the call.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

from memjax import _compat

_PACKAGES = ("site-packages", "dist-packages")
_OWN = str(Path(__file__).parents[1]) + os.sep
_DEMO = _OWN + "demo" + os.sep
_BETWEEN = str(Path(__file__).with_name("module_names.py"))
_STANDARD = sysconfig.get_path("stdlib") + os.sep

Frame = tuple[CodeType, int]


def user_line(eqn: Any, call: Any = None) -> str | None:
    """The user's line behind an eqn of JAX's.

    Args:
        eqn: what runs.
        call: the outermost call that it was inlined from; None without one.
    """
    frames = _compat.raw_frames(eqn.source_info.traceback)
    if call is None:
        return best_line(frames)
    inside = _inside(frames, _compat.body_function(call))
    own = next((_text(f) for f in inside if is_user_file(f[0].co_filename)), None)
    return own or best_line(_compat.raw_frames(call.source_info.traceback))


def best_line(frames: Iterable[Frame]) -> str | None:
    """The innermost frame of the user inside of the step, or else of an installed package."""
    package = None
    for frame in frames:
        file_name = frame[0].co_filename
        if is_own_file(file_name):
            break  # outside of the step is who called memjax
        if is_user_file(file_name):
            return _text(frame)
        if package is None and is_package_file(file_name):
            package = frame
    return None if package is None else _text(package)


def _inside(frames: Iterable[Frame], function: tuple[str, int] | None) -> Iterator[Frame]:
    """The frames from the innermost to that of a function; none where it is not among them."""
    inner = []
    for code, offset in frames:
        inner.append((code, offset))
        if function is not None and (code.co_filename, code.co_firstlineno) == function:
            return iter(inner)
    return iter(())


@cache
def is_own_file(file_name: str) -> bool:
    """Whether a file is memjax's own; the demo's model stands for a user's, and the scopes of
    nnx modules stand between a user's frames.
    """
    return file_name.startswith(_OWN) and not file_name.startswith((_DEMO, _BETWEEN))


@cache
def is_user_file(file_name: str) -> bool:
    """Whether a frame of this file is the user's own."""
    if is_own_file(file_name) or file_name == _BETWEEN:
        return False
    if _compat.is_jax_file(file_name) or file_name.startswith((_STANDARD, "<frozen")):
        return False
    return not any(folder in file_name for folder in _PACKAGES)


@cache
def is_package_file(file_name: str) -> bool:
    """Whether a file belongs to an installed package other than JAX."""
    if _compat.is_jax_file(file_name) or file_name.startswith(_OWN):
        return False
    return any(folder in file_name for folder in _PACKAGES)


def _text(frame: Frame) -> str:
    code, offset = frame
    return line_text(code.co_filename, _compat.line_number(code, offset), code.co_name)


def line_text(file_name: str, line: int, function: str) -> str:
    """How a line is written everywhere: `file:line (function)`."""
    return f"{short_name(file_name)}:{line} ({function.split('.')[-1]})"


@cache
def short_name(file_name: str) -> str:
    """A file named from the working directory or, in a package, from where it is installed."""
    for folder in _PACKAGES:
        _, found, rest = file_name.partition(f"{os.sep}{folder}{os.sep}")
        if found:
            return rest
    inside = file_name.startswith(os.getcwd() + os.sep)
    return os.path.relpath(file_name) if inside else file_name
