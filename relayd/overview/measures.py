"""What relayd has measured, in the form of the overview."""

from relayd.overview.model import Backlog, Flow, Lag
from relayd.telemetry.metrics import Metrics


class MeasuredByMetrics:
    """Implements `relayd.overview.collect.Measures`.

    Args:
        metrics: of the service.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def flow(self) -> Flow:
        """Return the rates of run logs."""
        return Flow()

    def backlog(self) -> Backlog:
        """Return what waits."""
        files = self._metrics.waiting
        oldest = self._metrics.oldest_age() if files else None
        return Backlog(files=files, oldest_s=oldest)

    def lag(self) -> Lag:
        """Return how long run logs take."""
        return Lag()

    def silent(self, seconds: float) -> int:
        """Return the number of known nodes without a run log for this long."""
        del seconds
        return 0
