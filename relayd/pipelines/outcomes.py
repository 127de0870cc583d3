"""What is counted and logged for each file that leaves a pipeline or is put off."""

import time
from typing import Final, Protocol

from prometheus_client import Counter

from relayd.errors import Reason
from relayd.outputs.results import Stored
from relayd.pipelines.ticket import Failed, Finished, Postponed
from relayd.runlog.filename import inventory_node, run_of
from relayd.telemetry.logs import Limit, get_logger
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.nodes.records import NodeRecords, Outcome, RunFacts

#: An operator looks for each single file, so its lines are not summed up when there are many.
log = get_logger("disposal", Limit.NONE)
#: For the one line of each file that went well: a backlog has hundreds of them in a second.
good = get_logger("disposal", Limit.GOOD_FILES)

#: The reason that means that the node is unknown: Rudder's dashboards count it separately.
_INVALID: Final = Reason.UNKNOWN_NODE
#: Node and start of a file that is not named like a run log.
_NO_RUN: Final[tuple[str, float | None]] = ("", None)


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
        records: the record of each node.
    """

    def __init__(
        self,
        metrics: Metrics,
        repeats: Repeats | None = None,
        records: NodeRecords | None = None,
    ) -> None:
        self._metrics = metrics
        self._runs = _Runs(metrics, records)
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
        self._runs.finished(file, "stored", now)
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
        self._runs.failed(file)
        _note_refused(self._metrics, file)

    def postponed(self, file: Postponed) -> None:
        """Implement `Outcomes`."""
        self._metrics.retried.labels(file.stage).inc()
        self._runs.postponed(file)


class ForwardedOutcomes:
    """Outcomes of files that go to the upstream.

    Args:
        metrics: counts what files of every kind have in common.
        outcomes: counts this kind of file, by status `forward_ok` and `forward_error`.
        records: the record of each node.
    """

    def __init__(
        self, metrics: Metrics, outcomes: Counter, records: NodeRecords | None = None
    ) -> None:
        self._metrics = metrics
        self._files: _Runs | _Inventories
        if outcomes is metrics.reports:
            self._files = _Runs(metrics, records)
        else:
            self._files = _Inventories(records)
        self._outcomes = outcomes

    def finished(self, file: Finished, now: float) -> None:
        """Implement `Outcomes`."""
        self._outcomes.labels("forward_ok").inc()
        self._files.finished(file, "forwarded", now)
        if self._outcomes is self._metrics.reports:
            good.info("run log forwarded", **_good(file, now))
        else:
            good.info("inventory forwarded", **_good(file, now))

    def failed(self, file: Failed) -> None:
        """Implement `Outcomes`."""
        self._outcomes.labels("forward_error").inc()
        self._files.failed(file)
        _note_refused(self._metrics, file)

    def postponed(self, file: Postponed) -> None:
        """Implement `Outcomes`."""
        self._metrics.retried.labels(file.stage).inc()
        self._files.postponed(file)
        if file.retry.attempted:
            self._outcomes.labels("forward_error").inc()


class _Runs:
    """Notes what became of run logs: in the record of the node, and how long it took."""

    def __init__(self, metrics: Metrics, records: NodeRecords | None) -> None:
        self._metrics = metrics
        self._records = NodeRecords() if records is None else records

    def finished(self, file: Finished, outcome: Outcome, now: float) -> None:
        """Note a run log that its output has; `now` is a time of Trio's clock."""
        metrics, wall = self._metrics, time.time()
        took = now - file.ticket.taken
        metrics.processing_seconds.observe(took)
        metrics.report_bytes.observe(file.identity.size)
        arrived = file.identity.mtime_ns / 1e9
        node_id, start = run_of(file.ticket.name) or _NO_RUN
        lag = metrics.lag.observe(start, arrived, wall - took, wall)
        facts = _facts(file, start, arrived, lag)
        self._records.note_outcome(node_id, outcome, wall, facts)

    def failed(self, file: Failed) -> None:
        """Note a run log that was refused."""
        node_id, start = run_of(file.ticket.name) or _NO_RUN
        facts, reason = RunFacts(start), file.refused.reason
        self._records.note_outcome(node_id, "refused", time.time(), facts, reason)

    def postponed(self, file: Postponed) -> None:
        """Note a run log that has to wait by itself, not because its output is unavailable."""
        if file.retry.attempted:
            node_id, start = run_of(file.ticket.name) or _NO_RUN
            self._records.note_outcome(node_id, "postponed", time.time(), RunFacts(start))


class _Inventories:
    """Notes what became of inventories."""

    def __init__(self, records: NodeRecords | None) -> None:
        self._records = NodeRecords() if records is None else records

    def finished(self, file: Finished, outcome: Outcome, _now: float) -> None:
        """Note an inventory, or its signature, that its output has."""
        self._note(file.ticket.name, outcome)

    def failed(self, file: Failed) -> None:
        """Note an inventory that was refused."""
        self._note(file.ticket.name, "refused")

    def postponed(self, file: Postponed) -> None:
        """Note an inventory that has to wait by itself."""
        if file.retry.attempted:
            self._note(file.ticket.name, "postponed")

    def _note(self, name: str, outcome: Outcome) -> None:
        self._records.note_inventory(inventory_node(name), outcome, time.time())


def _facts(file: Finished, start: float | None, arrived: float, lag: float | None) -> RunFacts:
    summary = file.summary
    if summary is None:
        # Of what is only forwarded, the start is all that is known; it proves a fast clock only.
        ahead = start - arrived if start is not None and start > arrived else None
        return RunFacts(start, lag, ahead_s=ahead)
    ahead = None if summary.newest is None else summary.newest - arrived
    return RunFacts(start, lag, summary.reports, summary.config_id, ahead)


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
