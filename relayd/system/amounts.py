"""Amounts as people read them: ages, sizes, counts."""

from typing import Final

#: What stands in a table for a value that is not known.
UNKNOWN: Final = "\N{EN DASH}"
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"))
_YEAR: Final = 365.25 * 86_400.0
_SIZES: Final = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def age(seconds: float) -> str:
    """Return an age as `2 d 3 h`, `3 h`, `5 min` or `8 s`: rounded down, at most two units."""
    whole = max(0, int(seconds))
    for place, (length, unit) in enumerate(_UNITS):
        if whole >= length:
            text = f"{whole // length:,} {unit}"
            smaller = _UNITS[place + 1 : place + 2]
            rest = whole % length // smaller[0][0] if smaller else 0
            # From ten units on, the smaller ones change nothing.
            return f"{text} {rest} {smaller[0][1]}" if rest and whole < 10 * length else text
    return f"{whole} s"


def span(seconds: float) -> str:
    """Return a time in one unit, rounded: `5 ms`, `1.5 s`, `40 s`, `25 min`, `3 h` or `2 days`."""
    for unit, size in (("years", _YEAR), ("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns" if seconds else "0 s"


def precise(seconds: float) -> str:
    """Return a time of which fractions of a second matter: `0.8 s`, `12 s`, then as `age`."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    return f"{seconds:.0f} s" if seconds < 59.5 else age(seconds)


def size(octets: int) -> str:
    """Return bytes as `612 kB`, `1.2 MB` or `14 bytes`; 1 kB is 1000 bytes."""
    for length, unit in _SIZES:
        if octets >= length:
            scaled = octets / length
            return f"{scaled:.1f} {unit}" if scaled < 9.95 else f"{scaled:,.0f} {unit}"
    return counted(octets, "byte")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, as `1 file` or `1,204 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
