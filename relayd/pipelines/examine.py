"""The way of a run log on the root server, wired in one place.

    watcher ─▶ gather ─▶ examine (lanes) ─▶ write ─▶ dispose
                                └───── refused ──────▲

Each arrow is a bounded channel: a slow database slows the watcher and fills no memory. What
travels is a `Ticket`, one for each file in flight. A stage receives, works, sends, and ends when
its source does; only `dispose` touches files, and only after what `write` says is committed.

Memory at worst: ARRIVALS and a batch of names; for each lane, the writer and the disposal one
batch, each at most `RESULT_BYTES` and one run log of rows.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
import trio

from relayd.errors import DatabaseError, Reason, Refused, Retry
from relayd.fleet.nodes import Nodes
from relayd.outputs.postgres.database import Database
from relayd.outputs.results import Outcome, Stored
from relayd.pipelines.gather import BATCH, run_gather
from relayd.pipelines.ticket import Ticket
from relayd.pipelines.workers.job import Examined, Job
from relayd.pipelines.workers.pool import Examiner
from relayd.runlog.filename import parse_name
from relayd.runlog.model import RunLog
from relayd.spool.identity import Identity
from relayd.spool.watching.watcher import Arrival
from relayd.system.wake import Wake
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("examine")
database_log = get_logger("database")

#: Names waiting between the watcher and the examination: two full batches, some 30 KB.
ARRIVALS: Final = 256
#: Delays between attempts while the database is away, and while someone must act.
TRANSIENT_DELAYS_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
OPERATOR_DELAYS_S: Final = (1.0, 5.0, 15.0, 60.0)
#: Disk full, too many connections: no run log of a batch is better off than another.
FULL: Final = frozenset({"53100", "53300"})
#: A batch that fails this often while the server answers is written run log by run log.
ATTEMPTS_TOGETHER: Final = 3


class ToWrite(msgspec.Struct, frozen=True):
    """Examined and good: these run logs await their transaction, tickets in the same order."""

    tickets: list[Ticket]
    run_logs: list[RunLog]


def admit(ticket: Ticket, nodes: Nodes) -> Job | Refused:
    """Return what the name of a file decides: whose it is and with which certificates to verify it."""
    name = parse_name(ticket.name)
    if isinstance(name, Refused):
        return name
    ticket.node_id = name.node_id
    ticket.run_date = name.timestamp
    ticket.trust = nodes.trust_token(name.node_id)
    if nodes.get(name.node_id) is None:
        return Refused(Reason.UNKNOWN_NODE, f"node {name.node_id!r} is not in the nodes list")
    certificates = nodes.certificates(name.node_id)
    if not certificates:
        return Refused(Reason.NO_CERTIFICATE, f"no certificate is known of node {name.node_id!r}")
    return Job(ticket.name, name.archive, name.node_id, certificates)


async def run_examine(
    examiner: Examiner,
    nodes: Callable[[], Nodes],
    committed: Callable[[str, Identity], bool],
    batches: trio.MemoryReceiveChannel[list[Arrival]],
    to_write: trio.MemorySendChannel[ToWrite],
    to_dispose: trio.MemorySendChannel[list[Ticket]],
) -> None:
    """Turn names into run logs; ends with its source. Owns its three channel ends."""
    with batches, to_write, to_dispose:
        async for batch in batches:
            now = trio.current_time()
            tickets = [Ticket(arrival, now) for arrival in batch]
            jobs, admitted, refused = _admit_all(tickets, nodes())
            if refused:
                await to_dispose.send(refused)
            while jobs:
                results = await examiner.examine(jobs)
                good, others = _sort(admitted, results, committed)
                if others:
                    await to_dispose.send(others)
                if good.tickets:
                    await to_write.send(good)
                del jobs[: len(results)], admitted[: len(results)]
                # Some MB that would live on while this lane waits.
                del results, good, others


def _admit_all(
    tickets: Sequence[Ticket], nodes: Nodes
) -> tuple[list[Job], list[Ticket], list[Ticket]]:
    jobs: list[Job] = []
    admitted: list[Ticket] = []
    refused: list[Ticket] = []
    for ticket in tickets:
        decision = admit(ticket, nodes)
        if isinstance(decision, Job):
            jobs.append(decision)
            admitted.append(ticket)
        else:
            ticket.verdict = decision
            refused.append(ticket)
    return jobs, admitted, refused


def _sort(
    tickets: Sequence[Ticket],
    results: Sequence[Examined],
    committed: Callable[[str, Identity], bool],
) -> tuple[ToWrite, list[Ticket]]:
    """Part what must be written from what goes straight to disposal."""
    good = ToWrite([], [])
    others: list[Ticket] = []
    for ticket, examined in zip(tickets, results, strict=False):
        ticket.identity = examined.identity
        if examined.identity is not None and committed(ticket.name, examined.identity):
            ticket.verdict = Stored(0, again=True)
            others.append(ticket)
        elif isinstance(examined.result, RunLog):
            ticket.stage = "database"
            _report_warnings(ticket, examined.result)
            good.tickets.append(ticket)
            good.run_logs.append(examined.result)
        else:
            ticket.verdict = examined.result
            others.append(ticket)
    return good, others


def _report_warnings(ticket: Ticket, run_log: RunLog) -> None:
    if run_log.warnings:
        log.warning(
            "run log has flaws",
            flaws=len(run_log.warnings),
            detail=run_log.warnings[0],
            **ticket.describe(),
        )
        for warning in run_log.warnings[1:]:
            log.debug("flaw", detail=warning, **ticket.describe())


class Writer:
    """The write stage: commits batches, and waits with them while the database is away.

    Attributes:
        trouble: why the last attempt failed, None when it did not.
    """

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        self._wake = Wake()
        self._stopping = False
        self._was_up = False
        self.trouble: DatabaseError | None = None

    def wake(self) -> None:
        """Ends a waiting time now: something changed that may have mended the database."""
        self._wake.set()

    def stop(self) -> None:
        """From now on nothing waits for a database: what cannot be written stays in the spool."""
        self._stopping = True
        self.wake()

    async def run(
        self,
        source: trio.MemoryReceiveChannel[ToWrite],
        to_dispose: trio.MemorySendChannel[list[Ticket]],
    ) -> None:
        """Write what arrives; ends with its source. Owns both channel ends."""
        with source, to_dispose:
            async for part in source:
                with suppress(trio.WouldBlock, trio.EndOfChannel):
                    # Small parts are worth one transaction; two large ones only cost memory.
                    while len(part.tickets) < BATCH // 2:
                        other = source.receive_nowait()
                        part.tickets.extend(other.tickets)
                        part.run_logs.extend(other.run_logs)
                verdicts = await self.write(part.run_logs)
                part.run_logs.clear()
                for ticket, verdict in zip(part.tickets, verdicts, strict=True):
                    ticket.verdict = verdict
                await to_dispose.send(part.tickets)

    async def write(self, run_logs: Sequence[RunLog]) -> Sequence[Outcome | Retry]:
        """Write one batch, however long it takes, unless relayd stops."""
        attempt = 0
        while not self._gives_up():
            try:
                outcomes = await self._database.write(run_logs)
            except DatabaseError as error:
                attempt += 1
                self._note(error, attempt)
                together = attempt < ATTEMPTS_TOGETHER or error.sqlstate in FULL
                if not together and await self._server_is_well():
                    return [await self._write_alone(run_log) for run_log in run_logs]
                await self._wait(error, attempt)
            else:
                self._recovered()
                return outcomes
        return [self._not_attempted()] * len(run_logs)

    async def _write_alone(self, run_log: RunLog) -> Outcome | Retry:
        """Return one that the server cannot take now does not hold up the others of its batch."""
        attempt = 0
        while not self._gives_up():
            try:
                (outcome,) = await self._database.write([run_log])
            except DatabaseError as error:
                if await self._server_is_well():
                    return Retry(str(error))
                attempt += 1
                self._note(error, attempt)
                await self._wait(error, attempt)
            else:
                self._recovered()
                return outcome
        return self._not_attempted()

    async def look(self) -> None:
        """Return whether the database is there before a run log needs it; ends once it was."""
        attempt = 0
        while not self._was_up and not self._stopping:
            try:
                await self._database.probe()
            except DatabaseError as error:
                attempt += 1
                self._note(error, attempt)
                await trio.sleep(_delay(error, attempt))
            else:
                self._recovered()

    def _gives_up(self) -> bool:
        return self._stopping and self.trouble is not None

    def _not_attempted(self) -> Retry:
        return Retry(str(self.trouble), attempted=False)

    async def _server_is_well(self) -> bool:
        try:
            await self._database.probe()
        except DatabaseError:
            return False
        return True

    async def _wait(self, error: DatabaseError, attempt: int) -> None:
        with trio.move_on_after(_delay(error, attempt)):
            await self._wake.wait()

    def _note(self, error: DatabaseError, attempt: int) -> None:
        self._metrics.database_up.set(0)
        if self.trouble is None or str(self.trouble) != str(error):
            database_log.error(
                "database cannot take run logs, they wait",
                detail=str(error),
                kind=error.kind,
                sqlstate=error.sqlstate,
            )
        else:
            database_log.debug("database still cannot take run logs", attempt=attempt)
        self.trouble = error

    def _recovered(self) -> None:
        self._was_up = True
        self._metrics.database_up.set(1)
        if self.trouble is not None:
            database_log.info("database takes run logs again")
            self.trouble = None


def _delay(error: DatabaseError, attempt: int) -> float:
    delays = OPERATOR_DELAYS_S if error.kind == "operator" else TRANSIENT_DELAYS_S
    return delays[min(attempt, len(delays)) - 1]


async def run_reporting(
    watch: Callable[..., Awaitable[None]],
    examine: Callable[..., Awaitable[None]],
    lanes: int,
    write: Callable[..., Awaitable[None]],
    dispose: Callable[..., Awaitable[None]],
    metrics: Metrics,
) -> None:
    """Run the pipeline until its watcher ends and all that it took up is disposed of.

    Args:
        watch: the watcher; called with the channel for arrivals, which it owns.
        examine: `run_examine`, called with its three channel ends, once for each lane.
        lanes: how many files may be examined at once, in batches.
        write: `Writer.run`, called with its two channel ends.
        dispose: `Disposer.run`, called with its channel end.
        metrics: gets the fill of the channel in front of the examination.
    """
    arrivals_in, arrivals = trio.open_memory_channel[Arrival](ARRIVALS)
    batches_in, batches = trio.open_memory_channel[list[Arrival]](0)
    write_in, write_out = trio.open_memory_channel[ToWrite](0)
    dispose_in, dispose_out = trio.open_memory_channel[list[Ticket]](0)
    fill = metrics.queue.labels("examine")
    fill.set_function(lambda: arrivals_in.statistics().current_buffer_used)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, arrivals_in, name="watch")
        nursery.start_soon(run_gather, arrivals, batches_in, name="gather")
        with batches, write_in, dispose_in:
            for lane in range(lanes):
                ends = batches.clone(), write_in.clone(), dispose_in.clone()
                nursery.start_soon(examine, *ends, name=f"examine {lane}")
            nursery.start_soon(write, write_out, dispose_in.clone(), name="write")
        nursery.start_soon(dispose, dispose_out, name="dispose")
