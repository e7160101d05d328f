"""The command `memjax`.

In: a command line. Out: text or JSON on standard output, progress and errors on standard
error, and an exit code:

0. done
1. no plan fits the budget; `doctor`: something is wrong
2. wrong usage or bad input: one line that says what and where
3. failed in another way
130. interrupted

A command is a function under `click.command()` in a file of this folder, and one line in
`memjax.cli.program`.
"""

from memjax.cli.program import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_INFEASIBLE,
    EXIT_INTERRUPTED,
    main,
)

__all__ = ["EXIT_BAD_INPUT", "EXIT_FAILED", "EXIT_INFEASIBLE", "EXIT_INTERRUPTED", "main"]
