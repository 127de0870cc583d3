"""What is counted and logged for each file that leaves a pipeline or is put off."""

import time
from typing import Final, Protocol

from prometheus_client import Counter

from relayd.errors import Reason
from relayd.outputs.results import Stored
from relayd.pipelines.ticket import Failed, Finished, Postponed
from relayd.telemetry.logs import Limit, get_logger
from relayd.telemetry.metrics import Metrics

#: An operator looks for each single file, so its lines are not summed up when there are many.
log = get_logger("disposal", Limit.NONE)
#: For the one line of each file that went well: a backlog has hundreds of them in a second.
good = get_logger("disposal", Limit.GOOD_FILES)

#: The reason that means that the node is unknown: Rudder's dashboards count it separately.
_INVALID: Final = Reason.UNKNOWN_NODE


class Outcomes(Protocol):
    """Gets the outcome of each file from the dispose stage."""

    def finished(self, file: Finished, now: float) -> None:
        """Count a file that its output has, once; `now` is a time of Trio's clock."""

    def failed(self, file: Failed) -> None:
        """Count a file that was moved to `failed`."""

    def postponed(self, file: Postponed) -> None:
        """Count a file that stays in the spool, and why."""


class Repeats:
    """Files that were committed before, and are processed again.

    Attributes:
        offered: their names; each is removed with its outcome.
        replayed: how many had an outcome.
        missing: of how many the rows were missing, and were stored again.
    """

    def __init__(self, offered: set[str] | None = None) -> None:
        self.offered = set[str]() if offered is None else offered
        self.replayed = 0
        self.missing = 0


class StoredOutcomes:
    """Outcomes of run logs that go to the database.

    Args:
        metrics: counts them.
        repeats: those that were counted when they were committed first.
    """

    def __init__(self, metrics: Metrics, repeats: Repeats | None = None) -> None:
        self._metrics = metrics
        self._repeats = repeats or Repeats()

    def finished(self, file: Finished, now: float) -> None:
        """Implement `Outcomes`."""
        stored, metrics = file.done, self._metrics
        assert isinstance(stored, Stored)
        if file.ticket.name in self._repeats.offered:
            self._count_again(file, stored)
            return
        metrics.reports.labels("ok").inc()
        metrics.reports_rows.inc(stored.rows)
        metrics.reports_broken.inc(stored.broken)
        _observe(metrics, file, now)
        if stored.duplicate:
            metrics.duplicates.inc()
            good.info("run log is already in the database", **_good(file, now))
        else:
            good.info("run log stored", rows=stored.rows, **_good(file, now))
        if stored.missing:
            log.warning(
                "a shorter version of this run is in the database; its rows are kept",
                missing=stored.missing,
                **file.ticket.describe(),
            )

    def _count_again(self, file: Finished, stored: Stored) -> None:
        """Count a run log that was counted when it was committed first."""
        metrics, repeats = self._metrics, self._repeats
        repeats.offered.discard(file.ticket.name)
        repeats.replayed += 1
        metrics.held_replayed.inc()
        metrics.reports_rows.inc(stored.rows)
        if stored.rows:
            repeats.missing += 1
            metrics.held_missing.inc()
            log.warning(
                "the database had lost a committed run log; stored again",
                rows=stored.rows,
                **file.ticket.describe(),
            )

    def failed(self, file: Failed) -> None:
        """Implement `Outcomes`."""
        # What is not named like a run log is none; the original does not count it either.
        if file.refused.reason is not Reason.BAD_NAME:
            status = "invalid" if file.refused.reason is _INVALID else "error"
            self._metrics.reports.labels(status).inc()
        _note_refused(self._metrics, file)

    def postponed(self, file: Postponed) -> None:
        """Implement `Outcomes`."""
        self._metrics.retried.labels(file.stage).inc()


class ForwardedOutcomes:
    """Outcomes of files that go to the upstream.

    Args:
        metrics: counts what files of every kind have in common.
        outcomes: counts this kind of file, by status `forward_ok` and `forward_error`.
    """

    def __init__(self, metrics: Metrics, outcomes: Counter) -> None:
        self._metrics = metrics
        self._outcomes = outcomes

    def finished(self, file: Finished, now: float) -> None:
        """Implement `Outcomes`."""
        self._outcomes.labels("forward_ok").inc()
        if self._outcomes is self._metrics.reports:
            _observe(self._metrics, file, now)
            good.info("run log forwarded", **_good(file, now))
        else:
            good.info("inventory forwarded", **_good(file, now))

    def failed(self, file: Failed) -> None:
        """Implement `Outcomes`."""
        self._outcomes.labels("forward_error").inc()
        _note_refused(self._metrics, file)

    def postponed(self, file: Postponed) -> None:
        """Implement `Outcomes`."""
        self._metrics.retried.labels(file.stage).inc()
        if file.retry.attempted:
            self._outcomes.labels("forward_error").inc()


def _observe(metrics: Metrics, file: Finished, now: float) -> None:
    metrics.processing_seconds.observe(now - file.ticket.taken)
    metrics.report_bytes.observe(file.identity.size)


def _good(file: Finished, now: float) -> dict[str, object]:
    """Return the fields of the line about a file that its output has.

    `age` is the time since its upload, `took` the part of it since it was taken up, in seconds.
    """
    age = time.time() - file.identity.mtime_ns / 1e9
    times = {"age": round(max(0.0, age), 3), "took": round(now - file.ticket.taken, 3)}
    return {**file.ticket.describe(), "bytes": file.identity.size, **times}


def _note_refused(metrics: Metrics, file: Failed) -> None:
    metrics.refused.labels(file.refused.reason.value).inc()
    log.warning(
        "refused, moved to failed",
        reason=file.refused.reason.value,
        detail=file.refused.detail,
        **file.ticket.describe(),
    )
