"""The largest integer whose bytes are within a limit.

In: a function from an integer to bytes, which is costly and nearly linear. Out: an integer.
Knows nothing of JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

GROWTH = 16
"""While nothing too large is known, no guess is more than this times the largest that fits: a
line through two small sizes may be nearly flat."""


def largest_within(
    bytes_at: Callable[[int], int],
    limit_bytes: int,
    low: int,
    high: int,
    known: Mapping[int, int] | None = None,
    rough: float = 0.0,
) -> int | None:
    """The largest `i` of `low … high` with `bytes_at(i) <= limit_bytes`.

    Regula falsi: the next guess is where the line through the two nearest known points meets
    the limit. Every guess that did not halve the bracket is followed by one in its middle, so
    there are at most some 2 log₂(high - low) guesses, and 4 or 5 where `bytes_at` is linear.

    Args:
        bytes_at: is asked for each integer once at the most; does not fall.
        limit_bytes: what is allowed.
        low: the smallest integer.
        high: the largest, included.
        known: bytes of some integers from `low` to `high`, from an earlier search.
        rough: the answer may be too small by this part of it.

    Returns:
        The largest integer within the limit; None where not even `low` is. Where `bytes_at`
        falls somewhere, it is an integer whose successor is over the limit, or `high`.
    """
    known = dict(known or {})
    known[low] = bytes_at(low)
    if known[low] > limit_bytes:
        return None
    over = min((i for i in known if known[i] > limit_bytes), default=high + 1)
    fits = max(i for i in known if i < over)
    middle = False
    while over - fits > 1 + int(rough * fits):
        before = over - fits
        guess = (fits + over) // 2 if middle else _on_the_line(known, limit_bytes, fits, over)
        known[guess] = bytes_at(guess)
        if known[guess] <= limit_bytes:
            fits = guess
        else:
            over = guess
        middle = over in known and not middle and 2 * (over - fits) > before
    return fits


def _on_the_line(known: dict[int, int], limit_bytes: int, fits: int, over: int) -> int:
    """Where the line through `fits` and its nearest known neighbour meets the limit."""
    smaller = max((i for i in known if i < fits), default=None)
    other = over if over in known else smaller
    farthest = over - 1 if over in known else min(over - 1, GROWTH * max(fits, 1))
    if other is None:
        return min(max(fits + 1, 2 * fits), farthest)
    rise = (known[other] - known[fits]) * (1 if other > fits else -1)
    if rise <= 0:
        return farthest
    steps = (limit_bytes - known[fits]) * abs(other - fits) // rise
    return min(fits + max(steps, 1), max(farthest, fits + 1))
