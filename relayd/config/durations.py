"""Durations in the configuration files: `"10s"`, `"30min 20s"`, `"1day"`."""

import re
from typing import Final

_SECOND: Final = 1_000_000_000
_DAY: Final = 86_400 * _SECOND

#: Spellings of each unit and its length in nanoseconds. `M` is a month, `m` a minute; a month
#: is 30.44 days and a year 365.25 days.
_UNITS: Final = {
    spelling: length
    for spellings, length in (
        ("ns nsec", 1),
        ("us usec", 1_000),
        ("ms msec", 1_000_000),
        ("s sec secs second seconds", _SECOND),
        ("m min mins minute minutes", 60 * _SECOND),
        ("h hr hrs hour hours", 3_600 * _SECOND),
        ("d day days", _DAY),
        ("w week weeks", 7 * _DAY),
        ("M month months", _DAY * 3044 // 100),
        ("y year years", _DAY * 36525 // 100),
    )
    for spelling in spellings.split()
}
_PART: Final = re.compile(r"\s*([0-9]{1,20})\s*([A-Za-z]{1,8})\s*", re.ASCII)
#: The largest number of seconds that 64 bits hold, about 585 billion years.
_MAX_SECONDS: Final = 2**64 - 1
#: Completes "expected …" in error messages.
EXPECTED: Final = 'a duration such as "10s", "30min 20s" or "7days", or a whole number of seconds'


def parse_duration(text: str | int) -> float:
    """Return a duration in seconds.

    Args:
        text: one or more parts `<whole number><unit>` that are added up, or a whole number of
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


def _sum_of_parts(text: str) -> int:
    total, position = 0, 0
    while position < len(text) or not text:
        part = _PART.match(text, position)
        unit = _UNITS.get(part[2]) if part else None
        if part is None or unit is None:
            raise ValueError(f"expected {EXPECTED}")
        total += int(part[1]) * unit
        position = part.end()
    return total
