"""What is counted and told of the files that leave a pipeline, or are put off."""

from typing import Final, Protocol

from prometheus_client import Counter

from relayd.errors import Reason, Refused, Retry
from relayd.outputs.results import Stored
from relayd.pipelines.ticket import Ticket
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

#: An operator looks for each single file: its lines are not summed up when there are many.
log = get_logger("disposal", limited=False)

#: Reasons that say that nothing is known of the node: Rudder's dashboards count them apart.
_INVALID: Final = frozenset({Reason.BAD_NAME, Reason.UNKNOWN_NODE})


class Accounts(Protocol):
    """What the dispose stage tells of each file."""

    def done(self, ticket: Ticket, now: float) -> None:
        """Its output has it, for the first time; `now` is a time of Trio's clock."""

    def refused(self, ticket: Ticket, refused: Refused) -> None:
        """It was moved to `failed`."""

    def put_off(self, ticket: Ticket, retry: Retry) -> None:
        """It stays in the spool."""


class StoredAccounts:
    """Run logs that go to the database."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def done(self, ticket: Ticket, now: float) -> None:
        """As the protocol has it."""
        stored = ticket.verdict
        assert isinstance(stored, Stored)
        metrics = self._metrics
        metrics.reports.labels("ok").inc()
        metrics.reports_rows.inc(stored.rows)
        metrics.processing_seconds.observe(now - ticket.taken)
        if ticket.identity is not None:
            metrics.report_bytes.observe(ticket.identity.size)
        if stored.duplicate:
            metrics.duplicates.inc()
            log.info("run log is in the database already", **ticket.describe())
        if stored.missing:
            log.warning(
                "a shorter version of this run is in the database, its rows are kept",
                missing=stored.missing,
                **ticket.describe(),
            )

    def refused(self, ticket: Ticket, refused: Refused) -> None:
        """As the protocol has it."""
        status = "invalid" if refused.reason in _INVALID else "error"
        self._metrics.reports.labels(status).inc()
        _note_refused(self._metrics, ticket, refused)

    def put_off(self, ticket: Ticket, retry: Retry) -> None:
        """As the protocol has it."""
        self._metrics.retried.labels(ticket.stage).inc()


class ForwardAccounts:
    """Files that go to the upstream.

    Args:
        metrics: gets what files of every kind have in common.
        outcomes: of this kind of file, by status `forward_ok` and `forward_error`.
    """

    def __init__(self, metrics: Metrics, outcomes: Counter) -> None:
        self._metrics = metrics
        self._outcomes = outcomes

    def done(self, ticket: Ticket, now: float) -> None:
        """As the protocol has it."""
        self._outcomes.labels("forward_ok").inc()
        if self._outcomes is self._metrics.reports:
            self._metrics.processing_seconds.observe(now - ticket.taken)
            if ticket.identity is not None:
                self._metrics.report_bytes.observe(ticket.identity.size)
        log.debug("forwarded", **ticket.describe())

    def refused(self, ticket: Ticket, refused: Refused) -> None:
        """As the protocol has it."""
        self._outcomes.labels("forward_error").inc()
        _note_refused(self._metrics, ticket, refused)

    def put_off(self, ticket: Ticket, retry: Retry) -> None:
        """As the protocol has it."""
        self._metrics.retried.labels(ticket.stage).inc()
        if retry.attempted:
            self._outcomes.labels("forward_error").inc()


def _note_refused(metrics: Metrics, ticket: Ticket, refused: Refused) -> None:
    metrics.refused.labels(refused.reason.value).inc()
    log.warning(
        "refused, moved to failed",
        reason=refused.reason.value,
        detail=refused.detail,
        **ticket.describe(),
    )
