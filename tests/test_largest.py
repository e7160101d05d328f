"""The search for the largest integer within a limit."""

from __future__ import annotations

from math import log2

import pytest
from hypothesis import given, strategies as st

from memjax.helpers.largest import largest_within


class Counted:
    """A function that may be asked for each integer once."""

    def __init__(self, function):
        self.function = function
        self.asked = []

    def __call__(self, i):
        assert i not in self.asked
        self.asked.append(i)
        return self.function(i)


@pytest.mark.parametrize(
    ("limit", "expected"), [(99, None), (100, 0), (109, 0), (110, 1), (1_000, 90), (10**9, 500)]
)
def test_a_line(limit, expected):
    bytes_at = Counted(lambda i: 100 + 10 * i)
    assert largest_within(bytes_at, limit, 0, 500) == expected
    assert len(bytes_at.asked) <= 8


def test_a_flat_function_reaches_the_end_in_few_guesses():
    bytes_at = Counted(lambda i: 7)
    assert largest_within(bytes_at, 7, 1, 2**20) == 2**20
    assert len(bytes_at.asked) <= 10


def test_what_is_known_is_not_asked_again():
    bytes_at = Counted(lambda i: 10 * i)
    known = {i: 10 * i for i in (50, 60)}
    assert largest_within(bytes_at, 555, 1, 1000, known) == 55
    assert all(i == 1 or 50 < i < 60 for i in bytes_at.asked)


@given(base=st.integers(0, 10**9), slope=st.integers(1, 10**6), limit=st.integers(0, 10**12))
def test_large_answers_on_a_line_are_exact(base, slope, limit):
    bytes_at = Counted(lambda i: base + slope * i)
    found = largest_within(bytes_at, limit, 1, 2**20)
    exact = min((limit - base) // slope, 2**20)
    if exact < 1:
        assert found is None
    else:
        assert found == exact
        assert len(bytes_at.asked) <= 12


@given(
    rises=st.lists(st.integers(0, 50) | st.integers(0, 10**6), min_size=1, max_size=300),
    limit=st.integers(0, 10**7),
    low=st.integers(0, 5),
)
def test_it_is_what_trying_all_of_them_finds(rises, limit, low):
    sums = [sum(rises[: i + 1]) for i in range(len(rises))]
    bytes_at = Counted(lambda i: sums[i - low])
    fitting = [low + i for i, count in enumerate(sums) if count <= limit]
    high = low + len(sums) - 1
    assert largest_within(bytes_at, limit, low, high) == (fitting[-1] if fitting else None)
    assert len(bytes_at.asked) <= 4 + 3 * log2(len(sums) + 1)


@given(counts=st.lists(st.integers(0, 100), min_size=1, max_size=60), limit=st.integers(0, 100))
def test_where_bytes_fall_the_successor_is_over(counts, limit):
    found = largest_within(lambda i: counts[i], limit, 0, len(counts) - 1)
    if found is None:
        assert counts[0] > limit
    else:
        assert counts[found] <= limit
        assert found == len(counts) - 1 or counts[found + 1] > limit


@pytest.mark.parametrize("rough", [0.0, 0.05, 0.3])
def test_a_rough_answer_is_not_too_large_and_little_too_small(rough):
    exact = largest_within(lambda size: size**2, 777_777, 1, 2**20)
    found = largest_within(lambda size: size**2, 777_777, 1, 2**20, rough=rough)
    assert found <= exact <= found * (1 + rough) + 1


def test_a_rough_answer_takes_fewer_guesses():
    asked = {0.0: [], 0.1: []}
    for rough, sizes in asked.items():
        largest_within(lambda i, s=sizes: s.append(i) or i**2, 777_777, 1, 2**20, rough=rough)
    assert len(asked[0.1]) < len(asked[0.0])
