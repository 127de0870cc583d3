"""Durations in the configuration files: `"10s"`, `"30min 20s"`, `"1.5h"`, `"1day"`.

The forms are those of `rudder-relayd` (the Rust crate humantime), odd ones included: `"0"` needs no
unit, and white space is skipped wherever it stands between digits.
"""

import re
from typing import Final

_SECOND: Final = 1_000_000_000
_DAY: Final = 86_400 * _SECOND

#: Spellings of each unit and its length in nanoseconds. `M` is a month, `m` a minute; a month
#: is 30.44 days and a year 365.25 days.
_UNITS: Final = {
    spelling: length
    for spellings, length in (
        ("ns nsec nanos", 1),
        ("us usec micros \u00b5s \u03bcs", 1_000),  # the micro sign, and the Greek letter
        ("ms msec millis", 1_000_000),
        ("s sec secs second seconds", _SECOND),
        ("m min mins minute minutes", 60 * _SECOND),
        ("h hr hrs hour hours", 3_600 * _SECOND),
        ("d day days", _DAY),
        ("w wk wks week weeks", 7 * _DAY),
        ("M month months", _DAY * 3044 // 100),
        ("y yr yrs year years", _DAY * 36525 // 100),
    )
    for spelling in spellings.split()
}
#: Digits, perhaps a fraction, and a unit.
_PART: Final = re.compile(
    r"\s*+([0-9][0-9\s]*+)(?:\.([0-9][0-9\s]*+))?([A-Za-z\u00b5\u03bc]{1,8})\s*+"
)
_ZERO: Final = re.compile(r"\s*0[0\s]*")
#: Digits of a number; more than 64 bits have.
_MAX_DIGITS: Final = 20
#: The largest number of seconds that 64 bits hold, about 585 billion years.
_MAX_SECONDS: Final = 2**64 - 1
#: Completes "expected …" in error messages.
EXPECTED: Final = 'a duration such as "10s", "30min 20s" or "7days", or a whole number of seconds'


def parse_duration(text: str | int) -> float:
    """Return a duration in seconds.

    Args:
        text: one or more parts `<number><unit>` that are added up, `0`, or a whole number of
            seconds as an integer.

    Raises:
        ValueError: it is not a duration; the text says what was expected.
    """
    if isinstance(text, bool):
        raise ValueError(f"expected {EXPECTED}")  # noqa: TRY004 - any invalid value is a ValueError
    nanoseconds = text * _SECOND if isinstance(text, int) else _sum_of_parts(text)
    if not 0 <= nanoseconds <= _MAX_SECONDS * _SECOND:
        raise ValueError(f"expected {EXPECTED}, from 0 to {_MAX_SECONDS} s")
    return nanoseconds / _SECOND


def has_split_number(text: str | int) -> bool:
    """Return whether white space divides a number of a duration: `"10 20s"` is 1020 seconds."""
    if isinstance(text, int):
        return False
    return any(
        len(digits.split()) > 1 for part in _PART.finditer(text) for digits in part.groups("")[:2]
    )


def _sum_of_parts(text: str) -> int:
    if _ZERO.fullmatch(text):
        return 0
    total, position = 0, 0
    while position < len(text) or not text:
        part = _PART.match(text, position)
        unit = _UNITS.get(part[3]) if part else None
        if part is None or unit is None:
            raise ValueError(f"expected {EXPECTED}")
        total += _length(part[1], part[2] or "", unit)
        position = part.end()
    return total


def _length(whole: str, fraction: str, unit: int) -> int:
    whole, fraction = "".join(whole.split()), "".join(fraction.split())
    whole = whole.lstrip("0") or "0"
    if len(whole) > _MAX_DIGITS:
        raise ValueError(f"expected {EXPECTED}, from 0 to {_MAX_SECONDS} s")
    fraction = fraction[:_MAX_DIGITS]
    return int(whole) * unit + int(int(fraction or "0") * unit // 10 ** len(fraction))
