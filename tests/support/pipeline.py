"""Fakes of what the pipeline's stages stand on, and the values that travel through them."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from relayd.config.main_conf import Settings, database_parameters
from relayd.errors import DatabaseError, Gone, Refused, Retry
from relayd.fleet.certificates import CertificateStore
from relayd.fleet.nodes import Node, Nodes
from relayd.outputs.results import Done, ServerFacts, Stored, Written
from relayd.pipelines.gather import BATCH
from relayd.pipelines.ticket import Behind, Failed, Finished, Settled, Ticket, Vanished, unfinished
from relayd.pipelines.workers.job import Examined, Job
from relayd.runlog.model import NodeCertificate, RunLog
from relayd.runlog.signature.certificates import Validity
from relayd.spool.committed import WalPoint
from relayd.spool.identity import Identity
from relayd.spool.watching.watcher import Arrival
from relayd.system.wake import Wake
from relayd.telemetry.metrics import Stage
from tests.support.rows import make_rows

IDENTITY = Identity(1, 2, 3, 4)

Verdict = Done | Refused | Retry | Gone


def make_nodes(*certified: str, others: Sequence[str] = ()) -> Nodes:
    """Nodes with a certificate each, and others without."""
    store = CertificateStore()
    for node_id in certified:
        store.add(node_id, NodeCertificate(b"sid", node_id.encode()), Validity(0, 2**40))
    nodes = {node_id: Node(node_id, "host", "root") for node_id in (*certified, *others)}
    return Nodes("root", nodes, store)


def name_of(number: int, node_id: str = "node1") -> str:
    """File name of one of many run logs."""
    return f"2026-03-01T{number // 60:02}:{number % 60:02}:00+00:00@{node_id}.log"


def arrivals(count: int, node_id: str = "node1") -> list[Arrival]:
    """Files of one node."""
    return [Arrival(name_of(number, node_id), atomic=True) for number in range(count)]


def settle(
    ticket: Ticket, identity: Identity | None, verdict: Verdict, stage: Stage = "examine"
) -> Settled:
    """A file whose outcome is known."""
    if isinstance(verdict, Done):
        assert identity is not None
        return Finished(ticket, identity, verdict)
    return unfinished(ticket, identity, verdict, stage)


def verdict_of(file: Settled) -> Verdict:
    """What became of a file."""
    match file:
        case Finished():
            return file.done
        case Failed():
            return file.refused
        case Vanished():
            return Gone()
        case Behind():
            return Retry("waits for an older run of its node", attempted=False)
        case _:
            return file.retry


class FakeExaminer:
    """Examines by a table; a run log where it says nothing.

    Attributes:
        calls: names of each call.
        at_once: how many results one call gives at most.
    """

    lanes = 1

    def __init__(self, at_once: int = BATCH) -> None:
        self.results: dict[str, RunLog | Refused | Retry | Gone] = {}
        self.calls: list[list[str]] = []
        self.at_once = at_once
        self.go_on = trio.Event()
        self.go_on.set()
        self.error: Exception | None = None

    async def examine(self, jobs: Sequence[Job]) -> list[Examined]:
        """Wait for `go_on`."""
        self.calls.append([job.name for job in jobs])
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return [self._examined(job) for job in jobs[: self.at_once]]

    def _examined(self, job: Job) -> Examined:
        result = self.results.get(job.name) or make_rows(job.node_id, rows=1)
        return Examined(None if isinstance(result, Gone) else IDENTITY, result)


class FakeDatabase:
    """Fails as asked, once for each entry of a list; stores the rest.

    Attributes:
        batches: the nodes of each batch it was asked to write.
        failures: errors of the next writes; None stands for success.
        ill: nodes whose run logs it cannot take now.
        held: nodes whose run logs its tables refuse, while they accept others.
        probes: errors of the next probes; well where there are none.
        times: when it was asked to write.
        idle_looks: when it was looked at while idle.
        parameters: connection parameters, one for each reconfiguration.
        token: of its tables.
        point: where it is in its history; an error if it cannot be asked.
        locations: how often it was asked.
    """

    def __init__(self) -> None:
        self.name = "database"
        self.batches: list[list[str]] = []
        self.failures: list[DatabaseError | None] = []
        self.ill: set[str] = set()
        self.held: set[str] = set()
        self.probes: list[DatabaseError | None] = []
        self.times: list[float] = []
        self.idle_looks: list[float] = []
        self.parameters: list[dict[str, object]] = []
        self.token = "tables:1"
        self.moved = Wake()
        self.locations = 0
        self.server: ServerFacts | None = None
        self.point: WalPoint | DatabaseError = WalPoint("1", 1)

    async def locate(self) -> WalPoint:
        """As `Database.locate`."""
        self.locations += 1
        await trio.lowlevel.checkpoint()
        if isinstance(self.point, DatabaseError):
            raise self.point
        return self.point

    async def write(self, batch: Sequence[RunLog]) -> list[Written]:
        """As `Database.write`."""
        self.times.append(trio.current_time())
        self.batches.append([run_log.node_id for run_log in batch])
        await trio.lowlevel.checkpoint()
        error = self.failures.pop(0) if self.failures else None
        if error is None and self.ill & set(self.batches[-1]):
            error = transient("ill")
        if error is not None:
            raise error
        return [
            Retry("narrowed") if run_log.node_id in self.held else Stored(run_log.rows)
            for run_log in batch
        ]

    async def definition(self) -> str:
        """As `Database.definition`."""
        await self.probe()
        return self.token

    async def last_run(self, _node_id: str) -> float | None:
        """As `Database.last_run`, of a database without any run."""
        await self.probe()
        return None

    def reconfigure(self, settings: Settings) -> None:
        """As `Database.reconfigure`."""
        self.parameters.append(database_parameters(settings))

    async def look(self) -> None:
        """As `Database.look`."""
        self.idle_looks.append(trio.current_time())
        await self.probe()

    async def probe(self) -> None:
        """As `Database.probe`."""
        await trio.lowlevel.checkpoint()
        error = self.probes.pop(0) if self.probes else None
        if error is not None:
            raise error


def transient(text: str = "away") -> DatabaseError:
    """Return a server that is away."""
    return DatabaseError(text, "transient", "08006")


def operator(text: str = "no password") -> DatabaseError:
    """Return a server where someone must act."""
    return DatabaseError(text, "operator", "28P01")


def standby() -> DatabaseError:
    """Return a server that only reads."""
    return DatabaseError("a standby", "operator", "25006")


async def ended(*channels: trio.MemoryReceiveChannel[Any]) -> None:
    """Fails unless nothing comes any more."""
    for channel in channels:
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()
