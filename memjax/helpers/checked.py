"""Numbers that are checked where they are read from a file."""

from __future__ import annotations

from typing import Annotated

import msgspec

_MOST = 2**63 - 1

Index = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
"""Of an eqn, a value, a node; also a count of bytes."""

Count = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
"""Of iterations."""
