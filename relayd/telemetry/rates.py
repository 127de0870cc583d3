"""The recent past in numbers: every 10 s of the last hour, every 5 min of the last day."""

import math
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Final, Literal

import msgspec

#: Seconds between two samples.
PERIOD_S: Final = 10.0
#: Points of the last hour, and of the last day.
HOUR: Final = 360
DAY: Final = 288
#: Samples that make one point of the day, of 5 min.
TOGETHER: Final = 30
#: Samples from which the present rates are computed, of a minute.
RECENT: Final = 6
#: Samples over which a backlog grows or shrinks, of 5 min.
TREND: Final = 30
#: A smaller change of the backlog is none: files come in bursts, each part and each file counts.
STEADY_FILES: Final = 10
STEADY_PART: Final = 0.02
#: A backlog that has lost this part of its highest value of the last minute does not grow.
FALLEN_PART: Final = 0.1
#: A usual rate is known after an hour.
USUAL_POINTS: Final = 12


class Totals(msgspec.Struct):
    """Run logs of all nodes since the start of relayd; they only grow.

    Attributes:
        arrived: those that arrived meanwhile.
        done: those that were stored or forwarded.
        refused: those that were moved to `failed`.
    """

    arrived: int = 0
    done: int = 0
    refused: int = 0


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in one period.

    Attributes:
        at: its end, Unix seconds.
        arrived: run logs that arrived.
        done: run logs that were stored or forwarded.
        refused: run logs that were refused.
        waiting: files that waited at its end.
        lag_median: half of the run logs were done within so many seconds after their arrival; NaN
            without a run log.
        lag_p99: the same for 99 %.
    """

    at: float
    arrived: float
    done: float
    refused: float
    waiting: float
    lag_median: float
    lag_p99: float


_FIELDS: Final = Point.__struct_fields__[1:]


class _Series:
    """The last points, the oldest first; 32 bytes each."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._next = 0
        self._at = array("d")
        self._columns = [array("f") for _ in _FIELDS]

    def __len__(self) -> int:
        return len(self._at)

    def add(self, point: Point) -> None:
        values = [getattr(point, field) for field in _FIELDS]
        if len(self._at) < self._length:
            self._at.append(point.at)
            for column, value in zip(self._columns, values, strict=True):
                column.append(value)
            return
        self._at[self._next] = point.at
        for column, value in zip(self._columns, values, strict=True):
            column[self._next] = value
        self._next = (self._next + 1) % self._length

    def last(self, number: int) -> list[Point]:
        """Return the last points, at most so many, the oldest first."""
        size = len(self._at)
        return [self._point((self._next + n) % size) for n in range(max(0, size - number), size)]

    def __iter__(self) -> Iterator[Point]:
        return iter(self.last(len(self)))

    def _point(self, row: int) -> Point:
        values = dict(zip(_FIELDS, [column[row] for column in self._columns], strict=True))
        return Point(at=self._at[row], **values)


class Rates:
    """The recent past of run logs, sampled every 10 seconds.

    Args:
        totals: run logs since the start, counted by others.
        waiting: returns how many files wait.
        lag: returns, for a part of the run logs and a number of samples, within how many seconds
            after their arrival they were done.
        wall: returns Unix time.
        flowing_since: returns the Unix time since which all outputs accept files; infinity while
            one does not, minus infinity if they always did.
    """

    def __init__(
        self,
        totals: Totals,
        waiting: Callable[[], int],
        lag: Callable[[float, int], float],
        wall: Callable[[], float] = time.time,
        flowing_since: Callable[[], float] = lambda: -math.inf,
    ) -> None:
        self._totals = totals
        self._waiting = waiting
        self._lag = lag
        self._wall = wall
        self._flowing_since = flowing_since
        self._hour = _Series(HOUR)
        self._day = _Series(DAY)
        self._before = (0, 0, 0)
        self._before_long = (0, 0, 0)
        self._samples = 0

    def sample(self) -> None:
        """Take a sample; called every `PERIOD_S`."""
        self._samples += 1
        self._before = self._take(self._hour, self._before, 1)
        if self._samples % TOGETHER == 0:
            self._before_long = self._take(self._day, self._before_long, TOGETHER)

    def _take(
        self, series: _Series, before: tuple[int, int, int], periods: int
    ) -> tuple[int, int, int]:
        totals = self._totals
        now = totals.arrived, totals.done, totals.refused
        arrived, done, refused = (new - old for new, old in zip(now, before, strict=True))
        series.add(
            Point(
                at=self._wall(),
                arrived=arrived,
                done=done,
                refused=refused,
                waiting=self._waiting(),
                lag_median=self._lag(0.5, periods),
                lag_p99=self._lag(0.99, periods),
            )
        )
        return now

    def hour(self) -> list[Point]:
        """Return the points of the last hour, one for each 10 s, the oldest first."""
        return list(self._hour)

    def day(self) -> list[Point]:
        """Return the points of the last day, one for each 5 min, the oldest first."""
        return list(self._day)

    def per_minute(self, field: Literal["arrived", "done", "refused"]) -> float:
        """Return how many run logs of this kind there were in the last minute.

        A shorter past is extrapolated; 0 before the first sample.
        """
        points = self._hour.last(RECENT)
        total: float = sum(getattr(point, field) for point in points)
        return total * RECENT / len(points) if points else 0.0

    def drain_rate(self) -> float:
        """Return how many run logs leave the spool in a second, at present."""
        return (self.per_minute("done") + self.per_minute("refused")) / 60

    def flow_rate(self) -> float:
        """Return the same since the outputs accept files, at most of the last minute.

        What left before an outage says nothing about what waits now. 0 while there is an outage,
        and until the first sample after it.
        """
        since = self._flowing_since()
        points = [point for point in self._hour.last(RECENT) if point.at - PERIOD_S >= since]
        total: float = sum(point.done + point.refused for point in points)
        return total / (PERIOD_S * len(points)) if points else 0.0

    def drain_s(self) -> float:
        """Return the seconds until the waiting files are gone at this rate, if none arrived.

        0 if none wait; infinity if none leave, or an output accepts none.
        """
        waiting, rate = self._waiting(), self.flow_rate()
        if not waiting:
            return 0.0
        return waiting / rate if rate else math.inf

    def trend(self) -> Literal["growing", "shrinking", "steady"]:
        """Return what the number of waiting files has done in the last 5 minutes."""
        points = self._hour.last(TREND)
        if len(points) < 2:
            return "steady"
        change = points[-1].waiting - points[0].waiting
        if abs(change) <= max(STEADY_FILES, STEADY_PART * points[0].waiting):
            return "steady"
        most = max(point.waiting for point in points[-RECENT:])
        fallen = points[-1].waiting < (1 - FALLEN_PART) * most
        return "growing" if change > 0 and not fallen else "shrinking"

    def usual(self) -> float | None:
        """Return how many run logs arrive in a minute: the median of the last day.

        Points of 5 min without a run log are left out, so that it does not fade in a silence.
        None if relayd runs for less than an hour.
        """
        arrived = sorted(point.arrived for point in self._day if point.arrived)
        if len(arrived) < USUAL_POINTS:
            return None
        return arrived[len(arrived) // 2] * RECENT / TOGETHER

    def silent_s(self) -> float:
        """Return for how many seconds no run log has arrived, as far as the last hour shows."""
        periods = 0
        for point in reversed(self.hour()):
            if point.arrived:
                break
            periods += 1
        return periods * PERIOD_S
