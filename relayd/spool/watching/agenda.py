"""When to list a spool directory, and what for."""

from typing import Final, NamedTuple

#: A periodic listing leaves younger files to their events.
CATCHUP_AGE_S: Final = 30.0
#: Least time between two listings that continue each other, and after something happened.
GAP_S: Final = 1.0
URGENT_GAP_S: Final = 0.25
#: Longest time between listings while there is no inotify.
POLL_S: Final = 10.0
#: With periodic listings switched off, the directory is still measured for the gauges.
MEASURE_S: Final = 60.0


class Look(NamedTuple):
    """A listing to take.

    Attributes:
        min_age: seconds since its last modification that a file must have at least.
        measure: only count files, queue none.
    """

    min_age: float
    measure: bool = False


class Agenda:
    """The reasons for the next listing of one directory.

    Args:
        frequency: seconds between periodic listings.
        periodic: whether these queue files.
    """

    def __init__(self, frequency: float, *, periodic: bool) -> None:
        self._frequency = frequency
        self._periodic = periodic
        self._everything = True
        self._unfinished: float | None = None
        self._last = float("-inf")

    def everything(self) -> None:
        """Something happened that events do not tell: list all files as soon as possible."""
        self._everything = True

    def unfinished(self, min_age: float) -> None:
        """Files of this least age were left out: list again when what was found is on its way."""
        if self._unfinished is None or min_age < self._unfinished:
            self._unfinished = min_age

    def patience(self, now: float) -> float:
        """Return seconds until an urgent listing may be taken; infinite when there is none."""
        return max(0.0, self._last + URGENT_GAP_S - now) if self._everything else float("inf")

    def take(self, now: float, *, hungry: bool, polling: bool) -> Look | None:
        """Return the listing to take now, None when there is no reason for one yet.

        Args:
            now: Trio time.
            hungry: what the previous listing found is on its way, and there is room for more.
            polling: there are no events.
        """
        look = self._choose(now - self._last, hungry=hungry, polling=polling)
        if look is None:
            return None
        self._last = now
        if not look.measure:
            self._everything = False
            self._unfinished = None
        return look

    def _choose(self, passed: float, *, hungry: bool, polling: bool) -> Look | None:
        if self._everything:
            return Look(0.0) if passed >= URGENT_GAP_S else None
        if passed < GAP_S or not hungry:
            return None
        if self._unfinished is not None:
            return Look(self._unfinished)
        if polling:
            return Look(0.0) if passed >= min(self._frequency, POLL_S) else None
        if self._periodic:
            return Look(CATCHUP_AGE_S) if passed >= self._frequency else None
        return Look(0.0, measure=True) if passed >= MEASURE_S else None
