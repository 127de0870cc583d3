"""Dates in run logs, converted to one form that PostgreSQL always accepts."""

import re
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

#: RFC 3339, 5.6, without the blank that it tolerates between date and time: in a run log, a blank
#: ends the date. The offset may also lack its colon or its minutes, as strftime(3) and some agents
#: write it.
_RFC_3339: Final = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d+)?(?:[Zz]|([+-])(\d\d)(?::?(\d\d))?)"
)

#: The start date of a run, as in each of its reports: `%Y-%m-%d %H:%M:%S%z` in every form that
#: strptime(3) or chrono, which the original uses, reads. Blanks, numbers of one digit and the sign
#: U+2212 are chrono's.
_START: Final = re.compile(
    rb"(\d{4})- *(\d\d?)- *(\d\d?)[ \t]+(\d\d?): *(\d\d?): *(\d\d?)()"
    rb" *(?:[Zz]|([+-]|\xe2\x88\x92)(\d\d)(?:[ :]*(\d\d))?) *"
)

#: The normal form, except that the month, day, minute or second may be too large.
_NORMAL: Final = re.compile(
    rb"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d(?:\+|-(?!00:00))(?:0\d|1[0-5]):[0-5]\d"
)

#: Length of `2018-08-24T15:55:01Z`; no date is shorter.
SHORTEST_DATE: Final = 20
#: Length of a date with nanoseconds. Dates can have any length, but the cache must be bounded.
_LONGEST_CACHED: Final = 35

_LEAP_SECOND: Final = 60

#: RFC 3339 allows offsets of less than a day ...
_MAX_OFFSET: Final = timedelta(hours=24)
#: ... and PostgreSQL reads those below this (MAX_TZDISP_HOUR in its sources).
_POSTGRESQL_OFFSET: Final = timedelta(hours=16)


def read_date(text: bytes) -> bytes | None:
    """Return an RFC 3339 date-time in the form of `_normal_form`; None if it is invalid."""
    return read_short_date(text) if len(text) <= _LONGEST_CACHED else _read(_RFC_3339, text)


@lru_cache(maxsize=4096)
def read_short_date(text: bytes) -> bytes | None:
    """Do the work of `read_date`, cached: most stamps repeat. The caller bounds the length."""
    return text if _is_normal(text) else _read(_RFC_3339, text)


def _is_normal(text: bytes) -> bool:
    """Return quickly whether a date is already in normal form, as nearly all are."""
    if not _NORMAL.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text.decode())
    except ValueError:
        return False
    return True


def read_start(text: bytes) -> bytes | None:
    """Read `YYYY-MM-DD HH:MM:SS+ZZ:ZZ`, the offset in any form, like `read_date`."""
    return _read_short_start(text) if len(text) <= _LONGEST_CACHED else None


@lru_cache(maxsize=64)
def _read_short_start(text: bytes) -> bytes | None:
    return _read(_START, text)


def _read(form: re.Pattern[bytes], text: bytes) -> bytes | None:
    match = form.fullmatch(text)
    return match and _normal_form(match)


def instant(date: bytes) -> datetime:
    """Return the point in time of a date in normal form."""
    return datetime.fromisoformat(date.decode())


def _normal_form(match: re.Match[bytes]) -> bytes | None:
    """Return the date as `2018-08-24T15:55:01+00:00`, with up to six digits of a fraction if given.

    A leap second becomes the following second, as in PostgreSQL and its clients. Digits beyond the
    microsecond are dropped. A date with an offset that PostgreSQL cannot read is converted to UTC.
    The year has four digits and is not 0000, before and after the conversion.

    Args:
        match: of `_RFC_3339` or `_START`.

    Returns:
        None if the day, time or offset does not exist.
    """
    *numbers, second, fraction, sign, hours, minutes = match.groups()
    try:
        moment = datetime(*map(int, numbers))  # type: ignore[arg-type]  # noqa: DTZ001
        moment += timedelta(seconds=int(second))
        east = _offset(sign, hours, minutes or b"0") if sign else timedelta()
        if abs(east) >= _POSTGRESQL_OFFSET:
            moment, east = moment - east, timedelta()
    except (ValueError, OverflowError):
        return None
    if int(second) > _LEAP_SECOND:
        return None
    tail = (fraction or b"")[:7]
    return moment.isoformat().encode() + tail + _offset_text(east)


def _offset(sign: bytes, hours: bytes, minutes: bytes) -> timedelta:
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    if int(minutes) > 59 or offset >= _MAX_OFFSET:
        raise ValueError("not an offset")
    return offset if sign == b"+" else -offset


def _offset_text(east: timedelta) -> bytes:
    minutes = int(abs(east).total_seconds()) // 60
    return b"%c%02d:%02d" % (b"-" if east < timedelta() else b"+", minutes // 60, minutes % 60)
