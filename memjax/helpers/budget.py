"""Read a budget as users write it."""

from __future__ import annotations

import re

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(%|[a-z]*)\s*", re.IGNORECASE)


def budget_bytes(
    budget: int | str, whole_bytes: int | None = None, device: str = "the device"
) -> int:
    """Bytes of a budget.

    Args:
        budget: bytes, `"8GB"` (10⁹), `"8GiB"` (2³⁰), or `"80%"` of the device's own limit.
        whole_bytes: that limit; None where the device states none.
        device: its name, for messages.

    Raises:
        ValueError: it is none of these, not positive, or the device states no limit.
        TypeError: it is neither an int nor a string.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, str)):
        raise TypeError(f'a budget is an int of bytes or a text like "8GB", not {budget!r}')
    if isinstance(budget, int):
        return _positive(budget, budget)
    match = _FORM.fullmatch(budget)
    unit = match[2].lower() if match else None
    if match is None or (unit != "%" and unit not in _UNITS):
        raise ValueError(
            f'{budget!r} is no budget; write bytes as an int, or a text like "8GB" (10⁹ bytes), '
            '"8GiB" (2³⁰ bytes) or "80%" (of the device\'s own limit)'
        )
    if unit == "%":
        if not whole_bytes:
            raise ValueError(
                f"the budget is {budget!r} of the device's limit, but {device} states no limit; "
                'give the budget in bytes, as in "8GB"'
            )
        return _positive(int(float(match[1]) / 100 * whole_bytes), budget)
    return _positive(int(float(match[1]) * _UNITS[str(unit)]), budget)


def _positive(value: int, budget: int | str) -> int:
    if value <= 0:
        raise ValueError(f"a budget must be more than 0 bytes, not {budget!r}")
    return value


def format_bytes(count: float) -> str:
    """Bytes for people, in binary units: `format_bytes(3 * 2**20) == "3.0 MiB"`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
