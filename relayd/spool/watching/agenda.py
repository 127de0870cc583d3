"""When to list a spool directory, and which files to take."""

import math
from typing import Final, NamedTuple

#: A periodic listing leaves younger files to their events.
CATCHUP_AGE_S: Final = 30.0
#: Minimum time since the previous listing, for an ordinary listing and for an urgent one.
GAP_S: Final = 1.0
URGENT_GAP_S: Final = 0.25
#: Maximum time between listings while inotify is unavailable.
POLL_S: Final = 10.0
#: With periodic listings switched off, the directory is still measured for the gauges.
MEASURE_S: Final = 60.0
#: ... and measured again after this many times the time that it took.
COST_FACTOR: Final = 50.0


class ListingOrder(NamedTuple):
    """A listing to take.

    Attributes:
        min_age: minimum age of a file, in seconds since its last modification.
        measure: only count files, queue none.
    """

    min_age: float
    measure: bool = False


class Agenda:
    """The reasons for the next listing of one directory.

    Args:
        frequency: seconds between periodic listings, infinite for none.
        periodic: whether these queue files.
    """

    def __init__(self, frequency: float, *, periodic: bool) -> None:
        self._frequency = frequency
        self._periodic = periodic and math.isfinite(frequency)
        self._everything = True
        self._unfinished: float | None = None
        self._last = float("-inf")
        #: When files were last queued. Measuring in between does not put off the next time.
        self._last_queued = float("-inf")
        #: Seconds until the directory is measured again.
        self._measure_s = MEASURE_S

    @property
    def is_blind(self) -> bool:
        """Whether files may be there of which nothing is known."""
        return self._everything

    def note_unknown(self, files: int, cost: float) -> None:
        """Note by how many files the last listing differed from the known ones.

        The gauges are exact while all files are known; if they are not, the directory is measured
        again soon, unless that is expensive: `cost` is what the listing took, in seconds.
        """
        self._measure_s = max(GAP_S, COST_FACTOR * cost) if files else MEASURE_S

    def everything(self) -> None:
        """Request a listing of all files as soon as possible, because events may be missing."""
        self._everything = True

    def unfinished(self, min_age: float) -> None:
        """Request another listing, because files of this minimum age were left out."""
        if self._unfinished is None or min_age < self._unfinished:
            self._unfinished = min_age

    def urgent_in(self, now: float) -> float:
        """Return seconds until an urgent listing may be taken; infinity if there is none."""
        return max(0.0, self._last + URGENT_GAP_S - now) if self._everything else float("inf")

    def take(self, now: float, *, ready: bool, polling: bool) -> ListingOrder | None:
        """Return the listing to take now; None if there is no reason for one yet.

        Args:
            now: Trio time.
            ready: whether most files of the previous listing have been sent, and more can be
                accepted.
            polling: whether there are no events.
        """
        order = self._choose(now, ready=ready, polling=polling)
        if order is None:
            return None
        self._last = now
        if not order.measure:
            self._last_queued = now
            self._everything = False
            self._unfinished = None
        return order

    def _choose(self, now: float, *, ready: bool, polling: bool) -> ListingOrder | None:
        passed = now - self._last
        if self._everything:
            return ListingOrder(0.0) if passed >= URGENT_GAP_S else None
        if passed < GAP_S or not ready:
            return None
        order = self._choose_ordinary(now - self._last_queued, polling=polling)
        if order is None and passed >= self._measure_s:
            return ListingOrder(0.0, measure=True)
        return order

    def _choose_ordinary(self, passed: float, *, polling: bool) -> ListingOrder | None:
        if self._unfinished is not None:
            return ListingOrder(self._unfinished)
        if polling:
            return ListingOrder(0.0) if passed >= min(self._frequency, POLL_S) else None
        if self._periodic:
            return ListingOrder(CATCHUP_AGE_S) if passed >= self._frequency else None
        return None
