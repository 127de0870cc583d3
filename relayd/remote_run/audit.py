"""One log line for each run: who requested what, and how it ended."""

from dataclasses import dataclass

from relayd.remote_run.events import RunReporter, named
from relayd.remote_run.plan import Plan
from relayd.remote_run.request import RunRequest
from relayd.telemetry.logs import Limit, get_logger
from relayd.telemetry.metrics import Metrics, RunOutcome

#: Who started what is of use only if no line is left out. One for each node of a fleet may come
#: within a minute; commands are slower than the log.
log = get_logger("remote_run", Limit.NONE)


@dataclass(frozen=True, slots=True)
class Requester:
    """The client, as seen by HTTP. Good enough for the log, never for a decision.

    Attributes:
        address: of the connection, usually the web server's.
        forwarded_for: the header in which the web server gives the address of its own client.
    """

    address: str
    forwarded_for: str


def write_audit(
    requester: Requester,
    request: RunRequest,
    outcome: RunOutcome,
    metrics: Metrics,
    *,
    plan: Plan | None = None,
    reporter: RunReporter | None = None,
    seconds: float = 0.0,
) -> None:
    """Log and count the end of a run.

    Args:
        requester: who requested the run.
        request: what was requested.
        outcome: one of `relayd.telemetry.metrics.RunOutcome`: `ok` if every agent succeeded or
            is not known to have failed, `incomplete` if some node failed, `timeout` if a command or
            relay was given up, `stopped` if relayd was stopped, `refused` if the run was not
            accepted.
        metrics: of the service.
        plan: how the run was divided; None if it was not.
        reporter: has the verdicts of the run; None if it did not begin.
        seconds: duration of the run.
    """
    metrics.remote_runs.labels(outcome).inc()
    verdicts = dict(sorted(reporter.verdicts.items())) if reporter is not None else {}
    log.info(
        "remote run",
        asked_by=requester.address,
        forwarded_for=requester.forwarded_for,
        target="all" if request.nodes is None else named(request.nodes),
        nodes=sum(1 for _ in plan.nodes()) if plan is not None else 0,
        neighbours=len(plan.local) if plan is not None else 0,
        relays=len(plan.hops) if plan is not None else 0,
        conditions=",".join(request.conditions),
        asynchronous=request.asynchronous,
        keep_output=request.keep_output,
        outcome=outcome,
        verdicts=" ".join(f"{kind}={number}" for kind, number in verdicts.items()),
        dropped_bytes=reporter.dropped if reporter is not None else 0,
        seconds=round(seconds, 3),
    )


def outcome_of(reporter: RunReporter) -> RunOutcome:
    """Return the outcome of a run that was not stopped."""
    if reporter.cut:
        return "timeout"
    bad = set(reporter.verdicts) - {"ok", "unknown"}
    return "incomplete" if bad else "ok"
