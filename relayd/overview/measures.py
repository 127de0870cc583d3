"""What relayd has measured, in the form of the overview."""

import math
import time
from typing import Final

from relayd.overview.model import Backlog, Flow, Lag
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.nodes.records import NodeRecords
from relayd.telemetry.rates import Rates

#: Samples of 10 s that the lag is taken from: five minutes.
_RECENT: Final = 30


class Measured:
    """Implements `relayd.overview.collect.Measures`.

    Args:
        metrics: of the service.
        rates: of its run logs.
        records: of its nodes.
    """

    def __init__(self, metrics: Metrics, rates: Rates, records: NodeRecords) -> None:
        self._metrics = metrics
        self._rates = rates
        self._records = records

    def flow(self) -> Flow:
        """Return the rates of run logs."""
        rates = self._rates
        return Flow(
            arrived=rates.per_minute("arrived"),
            done=rates.per_minute("done"),
            refused=rates.per_minute("refused"),
            usual=rates.usual(),
            last_arrival=self._records.last_arrival,
        )

    def backlog(self) -> Backlog:
        """Return what waits, and whether it becomes less."""
        files = self._metrics.waiting
        if not files:
            return Backlog()
        trend, drain_s = self._rates.trend(), self._rates.drain_s()
        return Backlog(
            files=files,
            oldest_s=self._metrics.oldest_age(),
            drained_per_s=self._rates.flow_rate() or None,
            drained_in_s=drain_s if math.isfinite(drain_s) else None,
            grows=trend == "growing",
        )

    def lag(self) -> Lag:
        """Return how long run logs took in the last minutes; before any, since the start."""
        lag = self._metrics.lag
        return Lag(
            here=_known(lag.quantile("here", 0.5, _RECENT)),
            here_p99=_known(lag.quantile("here", 0.99, _RECENT)),
            whole=_known(lag.quantile("total", 0.5, _RECENT)),
            whole_p99=_known(lag.quantile("total", 0.99, _RECENT)),
        )

    @property
    def since(self) -> float:
        """Unix time since which arrivals are known."""
        return self._records.since

    def silent(self, seconds: float, known: int) -> int:
        """Return how many of the known nodes have sent no run log for this long."""
        return max(0, known - self._records.count_heard(time.time() - seconds))


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number
