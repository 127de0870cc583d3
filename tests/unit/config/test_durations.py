"""Durations of the configuration files."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.config.durations import parse_duration

DAY = 86_400.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10.0),
        ("30min 20s", 1820.0),
        ("1day", DAY),
        ("1h 7s", 3607.0),
        ("2s", 2.0),
        ("1h7s", 3607.0),
        (" 5 minutes ", 300.0),
        ("7days", 7 * DAY),
        ("1s 1s", 2.0),
        ("1ns", 1e-9),
        ("1500us", 0.0015),
        ("250ms", 0.25),
        ("3seconds", 3.0),
        ("1hr 1hour 2hours", 4 * 3600.0),
        ("1d 2days", 3 * DAY),
        ("1w 1week 2weeks", 28 * DAY),
        ("1M", 30.44 * DAY),
        ("2months", 2 * 30.44 * DAY),
        ("1m", 60.0),
        ("1y", 365.25 * DAY),
        ("2years", 2 * 365.25 * DAY),
        ("0s", 0.0),
        (0, 0.0),
        (90, 90.0),
        *(
            pytest.param(text, seconds, marks=pytest.mark.fault("F56"))
            for text, seconds in [
                ("0", 0.0),
                ("000", 0.0),
                ("1.5h", 5400.0),
                ("0.25 days 1.5\u00a0min", DAY / 4 + 90.0),
                ("1.000000001s", 1.000000001),
                ("163\u00b5s 1\u03bcs 1micros", 165e-6),
                ("5nanos 5millis", 0.005000005),
                ("1wk 2wks", 21 * DAY),
                ("1yr 2yrs", 3 * 365.25 * DAY),
                ("1 0s", 10.0),
                ("0" * 5000 + "1s", 1.0),
            ]
        ),
    ],
)
def test_duration_in_each_unit(text: str | int, seconds: float) -> None:
    """Every unit has its length, parts are added up, and an integer is a number of seconds."""
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "10",
        "s",
        "10 parsecs",
        "-1s",
        "1.s",
        ".5s",
        "1..5s",
        "1,5h",
        "1e3s",
        "1s,2s",
        "10S",
        "1s\x00",
        "٣s",
        "1s 2",
        "9" * 21 + "s",
        "18446744073709551616s",
        "9" * 5000 + "s",
        -1,
        2**64,
        True,
    ],
)
def test_anything_else_is_refused(text: str | int) -> None:
    """Anything but a duration is a ValueError that says what was expected."""
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration(text)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=8))
def test_parts_are_added(numbers: list[int]) -> None:
    """A duration of many parts is the sum of them."""
    text = " ".join(f"{number}ms" for number in numbers)
    assert parse_duration(text) == pytest.approx(sum(numbers) / 1000)


@given(st.text(max_size=30))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    """No text raises anything but ValueError."""
    with suppress(ValueError):
        assert parse_duration(text) >= 0
