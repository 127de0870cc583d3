"""Jumps of the wall clock, after which file ages cannot be trusted; and what a calendar has."""

import time
from collections.abc import Callable
from typing import Final

#: A wall clock that moved this much relative to the monotonic clock was set, not slewed.
JUMP_S: Final = 300.0
#: After a jump, ages are not trusted for this long, or for the retention if that is shorter.
CAUTION_S: Final = 86_400.0

#: Three days after the beginning and before the end of what `datetime` has, so that all time zones
#: have them as well; Unix times.
_FIRST: Final = -62_135_337_600.0
_LAST: Final = 253_402_041_599.0


def in_calendar(at: float) -> float:
    """Return a Unix time, or the nearest one that every calendar has.

    Times come from the names of files, from their attributes and from operators, so none of them
    may be taken for one that can be shown.
    """
    return min(max(at, _FIRST), _LAST)


def in_utc(at: float) -> str:
    """Return a Unix time in RFC 3339, to the second; see `in_calendar`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(in_calendar(at)))


class WallClock:
    """Compares the wall clock with the monotonic clock between two calls of `is_trusted`.

    Time spent in suspend counts as a jump, because the monotonic clock stops meanwhile.

    Args:
        retention: seconds after which files are removed.
        wall: returns Unix time in seconds.
        monotonic: returns the seconds of a clock that is never set.
    """

    def __init__(
        self,
        retention: float,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._caution = min(retention, CAUTION_S)
        self._wall = wall
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._distrusted_until = float("-inf")
        #: Seconds of the last jump; positive when the clock was set forward.
        self.jump = 0.0

    def is_trusted(self) -> bool:
        """Return whether file ages are reliable; they are not for a while after a jump."""
        now = self._monotonic()
        offset = self._wall() - now
        if abs(offset - self._offset) > JUMP_S:
            self.jump = offset - self._offset
            self._distrusted_until = now + self._caution
        self._offset = offset
        return now >= self._distrusted_until
