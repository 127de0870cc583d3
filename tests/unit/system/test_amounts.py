"""Amounts for people: short, with their unit, never wrong by rounding up."""

import pytest

from relayd.system import amounts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (359, "5 min"),
        (3600, "1 h"),
        (7_500, "2 h 5 min"),
        (36_060, "10 h"),
        (183_600, "2 d 3 h"),
        (1e9, "11,574 d"),
    ],
)
def test_age(seconds: float, text: str) -> None:
    """Two units at most, rounded down."""
    assert amounts.age(seconds) == text


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (612_345, "612 kB"),
        (9_960_000, "10 MB"),
        (25e11, "2,500 GB"),
    ],
)
def test_size(octets: int, text: str) -> None:
    """Two digits or more."""
    assert amounts.size(int(octets)) == text
