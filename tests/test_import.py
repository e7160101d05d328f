"""What importing memjax must not cost."""

import subprocess
import sys

import pytest

HEAVY = (
    "click rich flax optax matplotlib psutil pandas equinox google playwright networkx"
).split()
LAZY = "memjax.xla.buffers_pb2 memjax.cli memjax.demo".split()

SCRIPT = """
import sys
import memjax
loaded = {name.partition(".")[0] for name in sys.modules} | set(sys.modules)
print(sorted(loaded & set(sys.argv[1:])))
"""


@pytest.fixture(scope="module")
def imported():
    command = [sys.executable, "-c", SCRIPT, *HEAVY, *LAZY]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_import_loads_no_optional_package(imported):
    assert imported == "[]"
