"""How long run logs take from the start of the run to the output, hop by hop.

run starts ── node ──▶ arrives ── spool ──▶ taken up ── output ──▶ stored or forwarded
                       └───────────────── here ─────────────────┘
└───────────────────────────────── total ───────────────────────┘
"""

import math
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final, Literal, get_args

from relayd.system.lean import lean

with lean("prometheus_client"):
    from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector, CollectorRegistry

Hop = Literal["node", "spool", "output", "here", "total"]
HOPS: Final[tuple[Hop, ...]] = get_args(Hop)

#: A longer way is that of a wrong clock: files that wait longer are given up.
ABSURD_S: Final = 7 * 86_400.0
#: Times of files are those of the kernel's tick, some milliseconds early or late.
TICK_S: Final = 0.1
#: Upper bounds in seconds, ten in each power of ten, so that a quantile is right to a tenth.
BOUNDS: Final = tuple(
    float(f"{step}e{power}")
    for power in range(-2, 6)
    for step in ("1", "1.25", "1.6", "2", "2.5", "3.2", "4", "5", "6.3", "8")
)
#: Those that `/metrics` shows.
SHOWN: Final = tuple(
    float(f"{step}e{power}") for power in range(-2, 6) for step in ("1", "2.5", "5")
)[2:-1]
#: Hops whose quantiles are shown, and for how many samples back.
_QUANTILES: Final[tuple[Hop, ...]] = ("here", "total")
_REMEMBERED: Final = 30


class _Counts:
    """Durations of one hop: how many are in each bucket, and their sum."""

    __slots__ = ("buckets", "sum")

    def __init__(self) -> None:
        self.buckets = array("Q", bytes(8 * (len(BOUNDS) + 1)))
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def shown(self) -> list[tuple[str, float]]:
        """Return cumulated counts by bound, as Prometheus has them."""
        total = list(accumulate(self.buckets))
        rows = [(f"{bound:g}", float(total[bisect_left(BOUNDS, bound)])) for bound in SHOWN]
        return [*rows, ("+Inf", float(total[-1]))]


class Lag(Collector):
    """The durations of all hops since the start, and those of the last minutes.

    Args:
        registry: gets the metrics `rudder_relayd_lag_seconds` and
            `rudder_relayd_lag_implausible_total`.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._hops = {hop: _Counts() for hop in HOPS}
        # Called for each run log: attributes are found faster than keys.
        self._node, self._spool = self._hops["node"], self._hops["spool"]
        self._output, self._here = self._hops["output"], self._hops["here"]
        self._total = self._hops["total"]
        self._absurd = dict.fromkeys(("node", "spool"), 0)
        self._samples: deque[tuple[array[int], ...]] = deque(maxlen=_REMEMBERED)
        self.sample()
        if registry is not None:
            registry.register(self)

    def observe(
        self, start: float | None, arrived: float, taken: float, done: float
    ) -> float | None:
        """Note a run log that is stored or forwarded. All times are Unix seconds.

        Args:
            start: start of the run, by the clock of the node; None if it is not known.
            arrived: when the file was last written to.
            taken: when it was taken up.
            done: now.

        Returns:
            Seconds from the start until now; None if it is not known, or implausible.
        """
        self._output.add(done - taken if done > taken else 0.0)
        spool = taken - arrived
        if -TICK_S <= spool <= ABSURD_S:
            self._spool.add(max(0.0, spool))
            self._here.add(done - arrived if done > arrived else 0.0)
        else:
            self._absurd["spool"] += 1
        if start is None:
            return None
        if not 0 <= arrived - start <= ABSURD_S or done < start:
            self._absurd["node"] += 1
            return None
        self._node.add(arrived - start)
        self._total.add(done - start)
        return done - start

    def sample(self) -> None:
        """Begin the next period of `quantile`; called every 10 seconds."""
        self._samples.append(tuple(array("Q", self._hops[hop].buckets) for hop in _QUANTILES))

    def quantile(self, hop: Literal["here", "total"], part: float, periods: int = 30) -> float:
        """Return how many seconds a part of the run logs took at most.

        Args:
            hop: of which hop.
            part: 0.5 for the median, 0.99 for 99 %.
            periods: how many calls of `sample` to look back, at most 30.

        Returns:
            Seconds, interpolated within a bucket; NaN if there was no run log.
        """
        past = self._samples[-min(periods, len(self._samples))][_QUANTILES.index(hop)]
        now = self._hops[hop].buckets
        return quantile_of([new - old for new, old in zip(now, past, strict=True)], part)

    def collect(self) -> Iterable[Metric]:
        """Implement `Collector`."""
        lag = HistogramMetricFamily(
            "rudder_relayd_lag_seconds", "Seconds that run logs took, by hop", labels=["hop"]
        )
        for hop, counts in self._hops.items():
            lag.add_metric([hop], counts.shown(), counts.sum)
        yield lag
        absurd = CounterMetricFamily(
            "rudder_relayd_lag_implausible",
            "Run logs whose times cannot be right, by hop",
            labels=["hop"],
        )
        for name, number in self._absurd.items():
            absurd.add_metric([name], number)
        yield absurd


def quantile_of(counts: Sequence[int], part: float) -> float:
    """Return a quantile of durations that are counted by `BOUNDS`; NaN if there are none."""
    rank = part * sum(counts)
    if not rank:
        return math.nan
    for number, count in enumerate(counts):
        if count and rank <= count:
            lower = BOUNDS[number - 1] if number else 0.0
            upper = BOUNDS[min(number, len(BOUNDS) - 1)]
            return lower + (upper - lower) * rank / count
        rank -= count
    return BOUNDS[-1]
