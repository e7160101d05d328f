"""Budgets as users write them."""

import pytest

from memjax.helpers.budget import budget_bytes, format_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (1, 1),
        (123456789, 123456789),
        ("1", 1),
        ("17B", 17),
        ("8GB", 8 * 10**9),
        ("8GiB", 8 * 2**30),
        ("8gb", 8 * 10**9),
        ("8gib", 8 * 2**30),
        (" 1.5 GB ", 1_500_000_000),
        ("1.5MiB", 3 * 2**19),
        (".5kB", 500),
        ("0.25 KiB", 256),
        ("2TB", 2 * 10**12),
        ("1TiB", 2**40),
        ("300MB", 300_000_000),
    ],
)
def test_good(text, expected):
    result = budget_bytes(text)
    assert result == expected
    assert type(result) is int


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GB",
        "8 parsecs",
        "-1GB",
        "1,5GB",
        "1e9",
        "8G B",
        "8GBs",
        "1.GB",
        "0x10",
        "nan",
        "%",
        "٪",
    ],
)
def test_malformed_texts_show_what_is_right(text):
    with pytest.raises(ValueError, match=r"8GB.*8GiB.*80%"):
        budget_bytes(text)


@pytest.mark.parametrize("budget", [0, -1, "0", "0GB", "0.0 MiB", "0.1B"])
def test_nothing_is_no_budget(budget):
    with pytest.raises(ValueError, match="more than 0 bytes"):
        budget_bytes(budget)


@pytest.mark.parametrize("budget", [None, 1.5, True, b"8GB", [8]])
def test_other_types(budget):
    with pytest.raises(TypeError, match="int of bytes or a text"):
        budget_bytes(budget)


@pytest.mark.parametrize(("text", "expected"), [("80%", 800), ("100 %", 1000), ("12.5%", 125)])
def test_shares_of_a_devices_limit(text, expected):
    assert budget_bytes(text, 1000) == expected


@pytest.mark.parametrize("whole_bytes", [None, 0])
def test_a_share_needs_a_limit(whole_bytes):
    with pytest.raises(ValueError, match="an abacus states no limit; give the budget in bytes"):
        budget_bytes("80%", whole_bytes, "an abacus")


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (3 * 2**20, "3.0 MiB"),
        (-(2**20), "-1.0 MiB"),
        (2**30, "1.0 GiB"),
        (5 * 2**40, "5.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_format(count, expected):
    assert format_bytes(count) == expected
