"""What a command is doing, on standard error, and only on a terminal.

Meanwhile the user's code runs: what it prints goes to standard error as well, so that
standard output is the result alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner, a text and the time since the start while the block runs.

    Gives:
        a function that changes the text.
    """
    if not sys.stderr.isatty():
        with redirect_stdout(sys.stderr):
            yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    with progress, redirect_stdout(sys.stderr):
        task = progress.add_task(text, total=None)
        yield lambda new: progress.update(task, description=new)
