"""One log line for each run: who asked for what, and how it ended."""

from dataclasses import dataclass

from relayd.remote_run.events import Teller
from relayd.remote_run.plan import Plan
from relayd.remote_run.request import Wanted
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("remote_run")


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked, as far as HTTP tells. Good for the log, never for a decision.

    Attributes:
        address: of the connection, usually the web server's.
        forwarded_for: the header by which that one tells its own client.
    """

    address: str
    forwarded_for: str


def write_audit(
    asker: Asker,
    wanted: Wanted,
    outcome: str,
    metrics: Metrics,
    *,
    plan: Plan | None = None,
    teller: Teller | None = None,
    seconds: float = 0.0,
) -> None:
    """Log and counts the end of a run.

    Args:
        asker: who asked.
        wanted: for what.
        outcome: one of `relayd.telemetry.metrics.RUN_OUTCOMES`: `ok` when every agent ended well
            or is not known to have failed, `incomplete` when some node failed, `timeout` when the
            time was over, `stopped` when relayd was, `refused` when it was not taken on.
        metrics: of the service.
        plan: how it was divided, if it came to that.
        teller: how it went, if it came to that.
        seconds: how long it took.
    """
    metrics.remote_runs.labels(outcome).inc()
    verdicts = dict(sorted(teller.verdicts.items())) if teller is not None else {}
    log.info(
        "remote run",
        asked_by=asker.address,
        forwarded_for=asker.forwarded_for,
        target="all" if wanted.nodes is None else f"{len(wanted.nodes)} nodes",
        nodes=sum(1 for _ in plan.nodes()) if plan is not None else 0,
        neighbours=len(plan.local) if plan is not None else 0,
        relays=len(plan.hops) if plan is not None else 0,
        conditions=",".join(wanted.conditions),
        asynchronous=wanted.asynchronous,
        keep_output=wanted.keep_output,
        outcome=outcome,
        verdicts=" ".join(f"{kind}={number}" for kind, number in verdicts.items()),
        dropped_bytes=teller.dropped if teller is not None else 0,
        seconds=round(seconds, 3),
    )


def outcome_of(teller: Teller) -> str:
    """`ok` or `incomplete`, of a run that has ended by itself."""
    bad = set(teller.verdicts) - {"ok", "unknown"}
    return "incomplete" if bad else "ok"
