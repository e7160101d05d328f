"""What a command line names: functions, arguments, budgets, plan files.

In: texts. Out: the objects, or `BadInput`, one line that says what and where.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


class BadInput(click.ClickException):
    """Something on the command line is not what it should be; exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print one line on standard error."""
        click.echo(f"memjax: {self.format_message()}", err=True, file=file)


class Budget(click.ParamType):  # type: ignore[type-arg]
    """A budget as users write it."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is no budget; a percentage needs a device, and is read later."""
        from memjax.helpers.budget import budget_bytes

        text = str(value).strip()
        try:
            if not text.endswith("%"):
                budget_bytes(text)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return text


class Device(click.ParamType):  # type: ignore[type-arg]
    """A device as `memjax targets` names it."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what names none."""
        from memjax.targets.names import named

        try:
            named(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class OutputFile(click.ParamType):  # type: ignore[type-arg]
    """A file that a command writes at its end."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what cannot be written, before a command spends its time. Writes nothing."""
        path = expanded(value)
        why = _why_not_written(path)
        if why is not None:
            raise BadInput(f"{value} cannot be written: {os.strerror(why)}")
        return str(path)


def _why_not_written(path: Path) -> int | None:
    """The error number that writing a file would fail with; None where none is foreseen."""
    if os.path.isdir(path):
        return errno.EISDIR
    if os.path.exists(path):
        return None if os.access(path, os.W_OK) else errno.EACCES
    if not os.path.isdir(path.parent):
        return errno.ENOTDIR if os.path.exists(path.parent) else errno.ENOENT
    return None if os.access(path.parent, os.W_OK | os.X_OK) else errno.EACCES


@dataclass(frozen=True)
class StepCall:
    """A step and its example arguments, as the command line names them."""

    step: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def load(spec: str) -> Any:
    """The object that `package.module:name` names; dots in the name are attributes.

    Raises:
        BadInput: there is none.
    """
    module_name, colon, path = spec.partition(":")
    if not colon or not module_name or not path:
        raise BadInput(f"{spec!r} names no function; write package.module:function")
    if module_name.endswith(".py") or os.sep in module_name:
        dotted = module_name.removesuffix(".py").replace(os.sep, ".").strip(".")
        raise BadInput(f"{spec!r} names a file; write the module, as in {dotted}:{path}")
    found = _import(module_name)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            close = difflib.get_close_matches(name, [n for n in dir(found) if n[0] != "_"])
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise BadInput(f"{spec}: {_called(found)} has no {name!r}{hint}") from None
    return found


def _called(found: Any) -> str:
    if inspect.ismodule(found):
        return f"the module {found.__name__} ({getattr(found, '__file__', None) or 'built in'})"
    return repr(getattr(found, "__name__", type(found).__name__))


def _import(name: str) -> Any:
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise BadInput(
                f"there is no module {missing!r}, neither in {os.getcwd()} nor installed"
            ) from error
        raise BadInput(f"the module {name!r} needs {missing!r}, which is missing") from error
    except Exception as error:  # whatever the user's module does when it is run
        kind = type(error).__name__
        raise BadInput(
            f"the module {name!r} does not import: {kind}: {first_line(error)}{_where(error)}"
        ) from error


def load_step(spec: str) -> Callable[..., Any]:
    """The function that `package.module:function` names."""
    step = load(spec)
    if not callable(step):
        raise BadInput(f"{spec} is no function; it is of type {type(step).__name__}")
    return step  # type: ignore[no-any-return]


def load_call(step_spec: str, arguments_spec: str) -> StepCall:
    """A step and its example arguments; nothing is allocated if a function makes them.

    Raises:
        BadInput: they cannot be loaded, or do not fit together.
    """
    from memjax.program.arguments import as_arguments

    step = load_step(step_spec)
    args, kwargs = as_arguments(_made(arguments_spec))
    try:
        inspect.signature(step).bind(*args, **kwargs)
    except TypeError as error:
        given = ", ".join([*(_kind(a) for a in args), *(f"{k}=…" for k in kwargs)])
        raise BadInput(
            f"{step_spec} does not take what {arguments_spec} gives, ({given}): {error}"
        ) from error
    except ValueError:  # no signature to be had
        pass
    return StepCall(step, args, kwargs)


def _kind(argument: Any) -> str:
    short = getattr(argument, "shape", None)
    dtype = getattr(argument, "dtype", None)
    return type(argument).__name__ if short is None else f"{dtype}{list(short)}"


def _made(spec: str) -> Any:
    import jax

    from memjax.program.arguments import shapes_of

    made = load(spec)
    if not callable(made) or isinstance(made, (tuple, dict)):
        return made
    try:
        try:
            return shapes_of(made)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
            return made()  # it looks at the numbers, so they must be there
    except Exception as error:  # whatever the user's function does
        kind = type(error).__name__
        raise BadInput(f"{spec} failed: {kind}: {first_line(error)}{_where(error)}") from error


def expanded(path: str) -> Path:
    """A path as the user means it: `~` is the home folder.

    Raises:
        BadInput: it is no path.
    """
    if "\0" in path:
        raise BadInput("a path cannot contain a null byte")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise BadInput(f"{path}: {error}") from error


def load_plan_file(path: str) -> Any:
    """The plan in a file.

    Raises:
        BadInput: there is none that can be read.
    """
    from memjax.emit.plan import Plan
    from memjax.planning.simulate import InvalidPlan

    wrong = f"{path} is no plan file, as memjax plan --output writes: "
    try:
        text = expanded(path).read_text(encoding="utf-8")
        if not text.strip():
            raise BadInput(f"{wrong}it is empty")
        return Plan.from_json(text)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{wrong}it is not text") from error
    except InvalidPlan as error:
        raise BadInput(f"{wrong}{first_line(error).removeprefix('not a plan: ')}") from error


def write_text(path: str, text: str) -> None:
    """Write a file that the user asked for.

    Raises:
        BadInput: it cannot be written.
    """
    try:
        expanded(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or f"{type(error).__name__} without a message").splitlines()[0]


_NOT_THE_USERS = (
    f"{os.sep}site-packages{os.sep}",
    f"{os.sep}dist-packages{os.sep}",
    f"{os.sep}lib{os.sep}python3.",
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
    "<frozen",
)
"""Parts of the paths of libraries, Python's own modules and memjax."""


def _where(error: BaseException) -> str:
    """` (file:line)` of the user's own frame that is nearest to an error; empty where none is."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}:{error.lineno})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(part in frame.filename for part in _NOT_THE_USERS):
            return f" ({_relative(frame.filename)}:{frame.lineno})"
    return ""


def _relative(path: str) -> str:
    return os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path


def where_tracing_failed(error: BaseException) -> str | None:
    """The user's line, as ` (file:line)`, if an error came up while the step was traced.

    Returns:
        None where it came up elsewhere; an empty text where no line is the user's.
    """
    from memjax.program import trace

    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == trace.__file__ and frame.name == "trace":
            return _where(error)
    return None


def no_backend(error: BaseException) -> bool:
    """Whether JAX had no backend to run on, which it may tell by an `AssertionError` alone."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.endswith(f"{os.sep}xla_bridge.py")
