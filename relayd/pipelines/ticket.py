"""What travels through a pipeline, one type for each thing that is known.

    Arrival ─▶ Ticket ─▶ Examined run log ─▶ Settled
               taken up  (only run logs       Finished | Failed | Postponed | Vanished | Behind
                          for the database)

All of them are frozen: a stage does not change what it received, it sends the next type.
"""

import msgspec

from relayd.errors import Gone, Refused, Retry
from relayd.fleet.admission import Origin
from relayd.outputs.results import Done
from relayd.runlog.filename import parse_name, queue_id
from relayd.runlog.model import RunLogName
from relayd.spool.identity import Identity
from relayd.telemetry.metrics import Stage


class Ticket(msgspec.Struct, frozen=True):
    """A file in flight.

    Attributes:
        name: base name in the watched directory.
        atomic: it arrived by rename, so it is complete.
        taken: when it was taken up, seconds of Trio's clock.
        origin: node and run of a file that is examined here; None if the name gives none.
    """

    name: str
    atomic: bool
    taken: float
    origin: Origin | None = None

    def describe(self) -> dict[str, str]:
        """Return the fields that every log line about a file carries."""
        fields = {"file": self.name, "queue_id": queue_id(self.name)}
        if self.origin is not None:
            return fields | {"node": self.origin.node_id, "run_date": self.origin.run_date}
        # A relay forwards whatever has the extension; most of it is named like a run log.
        name = parse_name(self.name)
        if isinstance(name, RunLogName):
            fields |= {"node": name.node_id, "run_date": name.timestamp}
        return fields


class Summary(msgspec.Struct, frozen=True):
    """What an examined run log says of its node, besides its rows.

    Attributes:
        reports: number of its reports.
        config_id: configuration id; None if no report contains it.
        newest: Unix time of its last report, by the clock of the node; None if it has no row.
    """

    reports: int
    config_id: str | None
    newest: float | None


class Finished(msgspec.Struct, frozen=True):
    """A file that its output has: it will be removed.

    Attributes:
        ticket: the file.
        identity: of what was read.
        done: what the output says.
        summary: of its content; None where it was not examined.
    """

    ticket: Ticket
    identity: Identity
    done: Done
    summary: Summary | None = None


class Failed(msgspec.Struct, frozen=True):
    """A file that will never pass: it will be moved to `failed`.

    Attributes:
        ticket: the file.
        identity: of what was judged; None when it was refused by its name.
        refused: why.
        stage: where it was refused.
        wait: seconds that must pass before another attempt, if it cannot be moved.
    """

    ticket: Ticket
    identity: Identity | None
    refused: Refused
    stage: Stage
    wait: float = 0.0


class Postponed(msgspec.Struct, frozen=True):
    """A file that stays in the spool for another attempt.

    Attributes:
        ticket: the file.
        identity: of what was read; None when nothing was.
        retry: why.
        stage: where it was put off.
        wait: seconds that must pass at least before the next attempt.
        alone: whether the cause is in this file alone, so that newer ones of its node may follow.
    """

    ticket: Ticket
    identity: Identity | None
    retry: Retry
    stage: Stage
    wait: float = 0.0
    alone: bool = False


class Vanished(msgspec.Struct, frozen=True):
    """A file that was gone when its turn came."""

    ticket: Ticket


class Behind(msgspec.Struct, frozen=True):
    """A file that is put back although nothing is wrong with it.

    It is behind an older one of its node, or an operator waits for files in flight.
    """

    ticket: Ticket


Settled = Finished | Failed | Postponed | Vanished | Behind


def unfinished(
    ticket: Ticket, identity: Identity | None, verdict: Refused | Retry | Gone, stage: Stage
) -> Failed | Postponed | Vanished:
    """Return a file without success as the type that says what happens to it."""
    if isinstance(verdict, Refused):
        return Failed(ticket, identity, verdict, stage)
    if isinstance(verdict, Retry):
        return Postponed(ticket, identity, verdict, stage)
    return Vanished(ticket)
