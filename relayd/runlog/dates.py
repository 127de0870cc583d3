"""Dates of run logs, as agents write them, brought into one form that PostgreSQL always accepts."""

import re
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

#: RFC 3339, 5.6, without the blank between date and time that it tolerates: here a blank ends
#: the date.
_RFC_3339: Final = re.compile(
    rb"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:)(\d\d)(\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))"
)

#: The start date of a run as it stands in each of its reports.
_START: Final = re.compile(rb"(\d{4}-\d\d-\d\d) (\d\d:\d\d:)(\d\d)() ?([+-])(\d\d):(\d\d)")

#: The normal form, except that a number may be too large for a month, day, minute or second.
_NORMAL: Final = re.compile(
    rb"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d(?:\+|-(?!00:00))(?:0\d|1[0-5]):[0-5]\d"
)

#: Length of `2018-08-24T15:55:01Z`; no date is shorter.
SHORTEST_DATE: Final = 20
#: Length of a date with nanoseconds. What is cached is bounded: dates of any length exist.
_LONGEST_CACHED: Final = 35

#: What RFC 3339 allows for an offset is a little less than a day ...
_MAX_OFFSET: Final = timedelta(hours=24)
#: ... and what PostgreSQL reads is a little less than this (MAX_TZDISP_HOUR in its sources).
_POSTGRESQL_OFFSET: Final = timedelta(hours=16)


def read_date(text: bytes) -> bytes | None:
    """Read an RFC 3339 date-time, see `_normal_form`; None when it is none."""
    return read_short_date(text) if len(text) <= _LONGEST_CACHED else _read(_RFC_3339, text)


@lru_cache(maxsize=4096)
def read_short_date(text: bytes) -> bytes | None:
    """`read_date` for a text whose length is bounded by the caller: most stamps come in crowds."""
    return text if _is_normal(text) else _read(_RFC_3339, text)


def _is_normal(text: bytes) -> bool:
    """Return a quick way to tell that a date is in normal form already, as nearly all are."""
    if not _NORMAL.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text.decode())
    except ValueError:
        return False
    return True


def read_start(text: bytes) -> bytes | None:
    """Read `YYYY-MM-DD HH:MM:SS+ZZ:ZZ` (or with a blank before the offset), as `read_date`."""
    return _read_short_start(text) if len(text) <= _LONGEST_CACHED else None


@lru_cache(maxsize=64)
def _read_short_start(text: bytes) -> bytes | None:
    return _read(_START, text)


def _read(form: re.Pattern[bytes], text: bytes) -> bytes | None:
    match = form.fullmatch(text)
    return match and _normal_form(match)


def instant(date: bytes) -> datetime:
    """Return the point in time that a date in normal form stands for."""
    return datetime.fromisoformat(date.decode())


def _normal_form(match: re.Match[bytes]) -> bytes | None:
    """Return the date as `2018-08-24T15:55:01+00:00`, with up to six digits of a second if it had some.

    A leap second is the instant that follows it, which is how PostgreSQL and its clients count.
    Digits beyond the microsecond are cut. An offset that PostgreSQL does not read is brought to
    UTC. A year has four digits and is not 0000, before and after any of this.

    Args:
        match: of `_RFC_3339` or `_START`.

    Returns:
        None when there is no such day, time or offset.
    """
    day, minute, second, fraction, sign, *offset = match.groups()
    leap = second == b"60"
    try:
        moment = datetime.fromisoformat(f"{day.decode()}T{minute.decode()}00")
        moment += timedelta(seconds=int(second))
        east = _offset(sign, *offset) if sign else timedelta()
        if abs(east) >= _POSTGRESQL_OFFSET:
            moment, east = moment - east, timedelta()
    except (ValueError, OverflowError):
        return None
    if int(second) > 59 and not leap:
        return None
    tail = (fraction or b"")[:7]
    return moment.isoformat().encode() + tail + _offset_text(east)


def _offset(sign: bytes, hours: bytes, minutes: bytes) -> timedelta:
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    if int(minutes) > 59 or offset >= _MAX_OFFSET:
        raise ValueError("not an offset")
    return -offset if sign == b"-" else offset


def _offset_text(east: timedelta) -> bytes:
    minutes = int(abs(east).total_seconds()) // 60
    return b"%c%02d:%02d" % (b"-" if east < timedelta() else b"+", minutes // 60, minutes % 60)
