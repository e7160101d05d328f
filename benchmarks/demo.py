"""The table of the README: what `memjax demo` prints.

Claim: the compiled bytes of each budget are within it, and losses are those of `jax.jit`.

    MALLOC_ARENA_MAX=1 python -m benchmarks.demo

glibc is told to keep one arena, or what it holds back would count as resident.
"""

from __future__ import annotations

import json

from click.testing import CliRunner

from benchmarks.record import write_csv
from memjax.cli.demo import demo


def main() -> None:
    """Run the demo and write its rows."""
    done = CliRunner().invoke(demo, ["--json"], catch_exceptions=False)
    write_csv("demo", json.loads(done.stdout))


if __name__ == "__main__":
    main()
