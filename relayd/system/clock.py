"""Whether the wall clock can be trusted to tell how old a file is."""

import time
from collections.abc import Callable
from typing import Final

#: A wall clock that moved this much against the monotonic one was set, not slewed.
JUMP_S: Final = 300.0
#: After a jump ages are not trusted for this long, or for the retention if that is shorter.
CAUTION_S: Final = 86_400.0


class WallClock:
    """Compares the wall clock with the monotonic one between two questions.

    Time spent in suspend counts as a jump, for the monotonic clock stands still meanwhile.

    Args:
        retention: seconds after which files are removed.
        wall: gives Unix time in seconds.
        monotonic: gives seconds of a clock that nobody sets.
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
        #: Seconds of the last jump, positive when the clock was set forward.
        self.jump = 0.0

    def is_trusted(self) -> bool:
        """Return whether ages mean something: False for a while after the wall clock was set."""
        now = self._monotonic()
        offset = self._wall() - now
        if abs(offset - self._offset) > JUMP_S:
            self.jump = offset - self._offset
            self._distrusted_until = now + self._caution
        self._offset = offset
        return now >= self._distrusted_until
