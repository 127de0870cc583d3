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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (5e-9, "5 ns"),
        (0.00025, "250 us"),
        (0.005, "5 ms"),
        (0.25, "250 ms"),
        (1.5, "1.5 s"),
        (119.0, "119 s"),
        (150.0, "2 min"),
        (7_200.0, "2 h"),
        (172_800.0, "2 days"),
        (9_000 * 365.25 * 86_400.0, "9000 years"),
    ],
)
def test_a_span_is_never_shown_as_nothing(seconds: float, text: str) -> None:
    """Each duration is shown in a unit in which it has digits."""
    assert amounts.span(seconds) == text
