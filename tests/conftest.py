"""Each test starts without footprints that others have stated, and leaves no files behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memjax.fitting import stated


@pytest.fixture(autouse=True)
def nothing_stated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MEMJAX_CACHE_DIR", "")
    stated.forget()
    yield
    stated.forget()
