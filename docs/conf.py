"""How Sphinx builds these pages: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import memjax  # noqa: E402
from docs import comparison_tables  # noqa: E402

project = "memjax"
author = "the memjax authors"
version = release = memjax.__version__
copyright = author

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "myst_nb"]
html_theme = "furo"
html_title = "memjax"
exclude_patterns = ["_build", "_generated"]

default_role = "code"  # docstrings write `code` with single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Gives", "returns_style")]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks' outputs are committed; CI executes them apart

shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks", dirs_exist_ok=True)
comparison_tables.write(HERE / "_generated")
