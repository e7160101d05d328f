"""What importing memjax must not cost."""

import subprocess
import sys

import pytest

HEAVY = ("click", "rich", "flax", "optax", "matplotlib", "psutil", "pandas", "equinox")

SCRIPT = """
import sys
import memjax
print(sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[1:])))
"""


@pytest.fixture(scope="module")
def imported():
    command = [sys.executable, "-c", SCRIPT, *HEAVY]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_import_loads_no_optional_package(imported):
    assert imported == "[]"
