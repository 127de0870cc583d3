"""What travels through a pipeline: one file in flight."""

from typing import TYPE_CHECKING

from relayd.errors import Gone, Refused, Retry
from relayd.outputs.results import Done
from relayd.runlog.filename import queue_id
from relayd.spool.watching.watcher import Arrival

if TYPE_CHECKING:
    from relayd.spool.identity import Identity

Verdict = Done | Refused | Retry | Gone


class Ticket:
    """One file in flight: what is known of it, gained stage by stage.

    Attributes:
        name: base name in the watched directory.
        atomic: it arrived by rename, so it is whole.
        taken: when it was taken up, seconds of Trio's clock.
        node_id: the node of its name, "" when that could not be read.
        run_date: the date-time of its name, likewise.
        trust: token of what was known of that node when the name was read (`Nodes.trust_token`).
        identity: of what was read; None when nothing was.
        settles_in: seconds after which it will not be held for unfinished any more.
        stage: where it would be put off, one of `relayd.telemetry.metrics.RETRY_STAGES`.
        verdict: what shall become of it.
    """

    __slots__ = (
        "atomic",
        "identity",
        "name",
        "node_id",
        "run_date",
        "settles_in",
        "stage",
        "taken",
        "trust",
        "verdict",
    )

    def __init__(self, arrival: Arrival, taken: float) -> None:
        self.name = arrival.name
        self.atomic = arrival.atomic
        self.taken = taken
        self.node_id = ""
        self.run_date = ""
        self.trust = ""
        self.stage = "examine"
        self.identity: Identity | None = None
        self.settles_in = 0.0
        self.verdict: Verdict = Gone()

    def describe(self) -> dict[str, str]:
        """Return the fields that every log line about a file carries."""
        fields = {"file": self.name, "queue_id": queue_id(self.name)}
        if self.node_id:
            fields |= {"node": self.node_id, "run_date": self.run_date}
        return fields
