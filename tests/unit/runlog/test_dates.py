"""Dates of run logs in the form that PostgreSQL accepts."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.runlog.dates import instant, read_date, read_start

OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@pytest.mark.fault("P11")
@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("2026-03-01T12:00:05+00:00", "2026-03-01T12:00:05+00:00"),
        ("2026-03-01T12:00:05Z", "2026-03-01T12:00:05+00:00"),
        ("2026-03-01t12:00:05z", "2026-03-01T12:00:05+00:00"),
        ("2026-03-01T12:00:05-00:00", "2026-03-01T12:00:05+00:00"),
        ("2026-03-01T12:00:05-03:30", "2026-03-01T12:00:05-03:30"),
        ("2026-03-01T12:00:05+15:59", "2026-03-01T12:00:05+15:59"),
        ("2026-03-01T12:00:05.5+02:00", "2026-03-01T12:00:05.5+02:00"),
        ("2026-03-01T12:00:05.123456789Z", "2026-03-01T12:00:05.123456+00:00"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00+00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59+00:00"),
        # A leap second is the instant that follows, in whatever minute it is claimed.
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
        ("2017-01-01T08:59:60+09:00", "2017-01-01T09:00:00+09:00"),
        ("2016-12-31T23:59:60.75Z", "2017-01-01T00:00:00.75+00:00"),
        # PostgreSQL reads no such offset.
        ("2026-03-01T12:00:05+23:59", "2026-02-28T12:01:05+00:00"),
        ("2026-03-01T12:00:05-16:00", "2026-03-02T04:00:05+00:00"),
    ],
)
def test_date_is_converted_to_normal_form(text: str, normal: str) -> None:
    """A date of RFC 3339 in any spelling is read as the same instant."""
    assert read_date(text.encode()) == normal.encode()


@pytest.mark.fault("P11", "P14")
@pytest.mark.parametrize(
    "text",
    [
        "10000-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "+2026-03-01T12:00:05Z",
        "2026-3-1T12:00:05Z",
        "2026-02-29T12:00:05Z",
        "2026-13-01T12:00:05Z",
        "2026-W09-7T12:00:05Z",
        "20260301T120005Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T12:60:00Z",
        "2026-03-01T12:00:61Z",
        "2026-03-01T12:00Z",
        "2026-03-01T12:00:05",
        "2026-03-01T12:00:05.Z",
        "2026-03-01T12:00:05,5Z",
        "2026-03-01T12:00:05+",
        "2026-03-01T12:00:05+0",
        "2026-03-01T12:00:05+000",
        "2026-03-01T12:00:05+00:",
        "2026-03-01T12:00:05+00000",
        "2026-03-01T12:00:05+24:00",
        "2026-03-01T12:00:05+00:60",
        "2026-03-01T12:00:05+00:00:30",
        "2026-03-01T12:00:05 +00:00",
        "2026-03-01 12:00:05Z",
        "2026-03-01T12:00:05Z\n",
        "٢٠٢٦-03-01T12:00:05Z",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59-16:00",
        "0001-01-01T00:00:00+23:00",
        "",
    ],
)
def test_other_text_is_no_date(text: str) -> None:
    """Text that RFC 3339 does not allow, or without a four-digit year, is no date."""
    assert read_date(text.encode()) is None


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("2026-03-01 12:00:00+00:00", b"2026-03-01T12:00:00+00:00"),
        ("2026-03-01 12:00:00 +00:00", b"2026-03-01T12:00:00+00:00"),
        ("2026-03-01 12:00:00-05:00", b"2026-03-01T12:00:00-05:00"),
        ("2016-12-31 23:59:60+00:00", b"2017-01-01T00:00:00+00:00"),
        ("2026-03-01T12:00:00+00:00", None),
        ("2026-03-01 12:00:00", None),
        ("2026-03-01 12:00:00+0", None),
        ("2026-03-01 12:00:00+000", None),
        ("2026-03-01 12:00:00+00:60", None),
        ("2026-03-01 12:00:00+24", None),
        ("2026-03-01 12:00+00:00", None),
        ("2026-03-01 12:00:00.5+00:00", None),
        ("2026-02-30 12:00:00+00:00", None),
        ("2026-03-01 12:00:00+00:00\n", None),
    ],
)
def test_start_has_a_form_of_its_own(text: str, normal: bytes | None) -> None:
    """START has a blank before its time, and may have one before its offset."""
    assert read_start(text.encode()) == normal


@pytest.mark.fault("F16")
@pytest.mark.parametrize(
    ("offset", "east"),
    [
        *((f"{sign}0230", f"{sign}02:30") for sign in "+-"),
        *((f"{sign}02:30", f"{sign}02:30") for sign in "+-"),
        *((f"{sign}02", f"{sign}02:00") for sign in "+-"),
        ("Z", "+00:00"),
        ("z", "+00:00"),
        ("-0000", "+00:00"),
        ("+1545", "+15:45"),
    ],
)
def test_offset_has_every_form_of_strftime_and_chrono(offset: str, east: str) -> None:
    """Dates with an offset in any form that `%z` writes or reads are read, START and stamps."""
    expected = f"2026-03-01T12:00:00{east}".encode()
    start = f"2026-03-01 12:00:00{offset}".encode()
    assert read_date(start.replace(b" ", b"T")) == expected
    for blanks in (b"", b" ", b"   "):
        assert read_start(start[:19] + blanks + start[19:]) == expected
    assert read_start(start + b" ") == expected
    if len(offset) > 3:
        hours, minutes = start[:22], start[22:].removeprefix(b":")
        for between in (b":", b" ", b" : "):
            assert read_start(hours + between + minutes) == expected
    assert read_start(start.replace(b"-03-01 12:00", b"-3-1  12:0")) == expected
    if offset.startswith("-"):
        assert read_start(start[:19] + "\u2212".encode() + start[20:]) == expected


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=OFFSETS))  # noqa: DTZ001
def test_instant_is_kept(moment: datetime) -> None:
    """With any offset, the normal form is the same point in time."""
    moment = moment.replace(fold=0)
    normal = read_date(moment.isoformat().encode())
    assert normal is not None
    assert instant(normal) == moment
    assert abs(instant(normal).utcoffset() or timedelta()) < timedelta(hours=16)


@given(st.datetimes(timezones=OFFSETS), st.text("0123456789-:.+TtZz ", max_size=3), st.data())
def test_damaged_date_is_no_other_date(moment: datetime, junk: str, data: st.DataObject) -> None:
    """A date with inserted text is refused, or read as the date it has become."""
    text = moment.isoformat(timespec="seconds")
    at = data.draw(st.integers(0, len(text)))
    damaged = text[:at] + junk + text[at:]
    normal = read_date(damaged.encode())
    if normal is not None:
        spelled = damaged.upper().replace("Z", "+00:00").replace(":60", ":59")
        said = datetime.fromisoformat(spelled)
        assert timedelta() <= instant(normal) - said <= timedelta(seconds=1)


def test_dates_far_apart_compare() -> None:
    """Instants at the ends of the calendar compare without overflow."""
    first, last = b"0001-01-01T00:00:00+14:00", b"9999-12-31T23:59:59-14:00"
    assert instant(first) < datetime(2, 1, 1, tzinfo=UTC) < instant(last)
    assert instant(first) != instant(last)
