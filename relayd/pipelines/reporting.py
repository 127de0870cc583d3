"""Run logs into a store, which is the database: the pipeline of a root server.

    watcher ─▶ gather ─▶ examine (lanes) ─▶ write ─▶ dispose
                            └─────── refused ─────────▲

Memory at worst: the names in front of `gather` and a batch of names; for each lane, the writer and
the disposal one batch, each at most `relayd.pipelines.workers.job.RESULT_BYTES` and one run log of
rows.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from relayd.config.main_conf import Settings
from relayd.errors import Reason
from relayd.fleet.current_nodes import CurrentNodes
from relayd.outputs.health import Health
from relayd.outputs.results import Probe, RunLogStore, StoreFacts
from relayd.pipelines.examine import Accepted, ExamineStage
from relayd.pipelines.gather import run_gather
from relayd.pipelines.holding import Holding, make_kept
from relayd.pipelines.line import Change, Line, run_spool_cleanup
from relayd.pipelines.outcomes import Repeats, StoredOutcomes
from relayd.pipelines.second_chance import SecondChance
from relayd.pipelines.ticket import Settled
from relayd.pipelines.workers.job import Setup
from relayd.pipelines.workers.pool import Examiner, open_examiner
from relayd.pipelines.write import Writer
from relayd.spool.disposal import ReasonRecord
from relayd.spool.layout import INCOMING, hold, run_log_spool
from relayd.spool.lock import DirectoryLock
from relayd.spool.shares import NODE_BYTES, Shares
from relayd.spool.watching.valve import Valve
from relayd.spool.watching.watcher import Arrival
from relayd.system.clock import WallClock
from relayd.system.delays import DELAYS, Delays
from relayd.system.wake import Wake
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.nodes.records import NodeRecords

log = get_logger("main")

#: Refusals that another nodes list or certificates file may turn into acceptance.
_CURABLE: Final = frozenset({Reason.UNKNOWN_NODE, Reason.NO_CERTIFICATE, Reason.UNKNOWN_SIGNER})


class ReportingStages:
    """The stages between the watcher and the disposal, and the channels between them.

    Args:
        examine: the examine stage.
        lanes: how many batches are examined at once.
        writer: the write stage.
        metrics: gets the fill of the channel in front of the examination.
    """

    def __init__(self, examine: ExamineStage, lanes: int, writer: Writer, metrics: Metrics) -> None:
        self._examine = examine
        self._lanes = lanes
        self._writer = writer
        self._fill = metrics.queue.labels("examine")

    async def __call__(
        self,
        arrivals: trio.MemoryReceiveChannel[Arrival],
        settled: trio.MemorySendChannel[list[Settled]],
    ) -> None:
        """Settle what arrives; end with the source. Owns both channel ends."""
        batches_in, batches = trio.open_memory_channel[list[Arrival]](0)
        write_in, write_out = trio.open_memory_channel[list[Accepted]](0)
        self._fill.set_function(lambda: arrivals.statistics().current_buffer_used)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_gather, arrivals, batches_in, name="gather")
            with batches, write_in, settled:
                for lane in range(self._lanes):
                    ends = batches.clone(), write_in.clone(), settled.clone()
                    nursery.start_soon(self._examine.run, *ends, name=f"examine {lane}")
                nursery.start_soon(self._writer.run, write_out, settled.clone(), name="write")


class ReportingPipeline:
    """The pipeline of run logs into a store.

    Attributes:
        name: of its task.
        lines: its watched directory.
        probes: checks of its output, by the name that the status shows.
        health: of its output.
        last_run: see `relayd.outputs.results.RunLogStore`.
    """

    name: str = "reporting"

    def __init__(
        self,
        settings: Settings,
        trust: CurrentNodes,
        metrics: Metrics,
        examiner: Examiner,
        store: RunLogStore,
        delays: Delays = DELAYS,
        lock: DirectoryLock | None = None,
        valve: Valve | None = None,
        records: NodeRecords | None = None,
    ) -> None:
        self._own = own = settings.processing.reporting
        self._spool = run_log_spool(own.directory, keeps=settings.keeps_run_logs)
        self._clock = WallClock(own.cleanup.retention)
        self._trust = trust
        self._metrics = metrics
        self._store = store
        self._nodes_changed = Wake()
        self._waiting_for_nodes = trio.Event()
        kept = make_kept(settings, self._spool)
        repeats = Repeats() if kept is None else Repeats(kept.offered)
        self._line = Line(
            self._spool,
            INCOMING,
            own,
            StoredOutcomes(metrics, repeats, records),
            metrics,
            self._clock,
            settle_s=own.settle_time,
            trust_token=trust.token,
            delays=delays,
            lock=lock,
            shares=Shares(size=NODE_BYTES),
            keep=kept.put_all if kept is not None and self._spool.keeps else None,
            valve=valve,
            records=records,
        )
        holds = self._line.pending.holds
        committed = self._line.disposal.committed.holds
        examine = ExamineStage(examiner, lambda: trust.nodes, committed, holds)
        self.health = Health(store.name, metrics.output_up[store.name])
        pending = self._line.pending
        self._writer = Writer(
            store, self.health, delays, holds, self._line.rescan, lambda: pending.recalled
        )
        pending.on_recall = self._writer.wake
        self.lines: Sequence[Line] = (self._line,)
        self._second_chance = SecondChance(store, self._writer, self._line)
        self._holding: Holding | None = None
        if kept is not None:
            self._holding = Holding(store, kept, repeats, self._line.pending, metrics)
        self._stages = ReportingStages(examine, examiner.lanes, self._writer, metrics)
        self.probes: Mapping[str, Probe] = {store.name: self._writer.check}
        self.last_run: Callable[[str], Awaitable[float | None]] | None = store.last_run

    async def run(self, stop: trio.Event) -> None:
        """Process run logs once the nodes are known, until `stop` is set and all is drained."""
        async with trio.open_nursery() as nursery:
            cleaned_up = self._spool, self._own, self._clock, self._metrics
            nursery.start_soon(run_spool_cleanup, *cleaned_up, name="cleanup")
            nursery.start_soon(self._run_requeue, name="requeue")
            nursery.start_soon(self._run_stopper, stop, name="stopper")
            nursery.start_soon(self._run_probe, name="probe")
            nursery.start_soon(self._second_chance.run, name="second chance")
            if self._holding is not None:
                nursery.start_soon(self._holding.run, name="hold")
            if await self._wait_for_nodes(stop):
                await self._line.run(self._stages, stop)
            nursery.cancel_scope.cancel("pipeline ended")

    def facts(self) -> StoreFacts:
        """Return what the status shows of the store besides the check."""
        held = msgspec.UNSET if self._holding is None else self._holding.numbers()
        return StoreFacts(server=self._store.server or msgspec.UNSET, held=held)

    async def _wait_for_nodes(self, stop: trio.Event) -> bool:
        """Wait for a nodes list: without one strangers cannot be recognized, so files wait."""
        if not self._trust.ready.is_set():
            self._waiting_for_nodes.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_then_cancel, stop, nursery.cancel_scope)
            await self._trust.ready.wait()
            nursery.cancel_scope.cancel("nodes known")
        return self._trust.ready.is_set() and not stop.is_set()

    async def wait_until_taking(self) -> None:
        """Return once run logs are taken from the spool, or only the nodes list is missing."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_then_cancel, self._waiting_for_nodes, nursery.cancel_scope)
            await self._line.taking.wait()
            nursery.cancel_scope.cancel("taking")

    def reconfigure(self, settings: Settings) -> None:
        """Take over what needs no restart: how the store is reached."""
        if settings.processing.reporting.output == self._store.name:
            self._store.reconfigure(settings)
            self._writer.wake()

    def retry(self) -> None:
        """Try the store now, and all files that wait for another attempt."""
        self._writer.wake()
        self._line.rescan()

    def wake(self, changed: Change) -> None:
        """Retry now if the nodes changed: refused and waiting files may pass."""
        if changed == "nodes":
            self._nodes_changed.set()
            self._writer.wake()

    async def _run_requeue(self) -> None:
        while True:
            await self._nodes_changed.wait()
            moved = await self._line.disposal.requeue(self._may_pass_now)
            if moved:
                log.info("refused files are retried with the new nodes", files=moved)
            self._line.rescan()

    def _may_pass_now(self, record: ReasonRecord) -> bool:
        nodes = self._trust.nodes
        return (
            record.reason in _CURABLE
            and bool(nodes.certificates(record.node))
            and nodes.trust_token(record.node) != record.trust
        )

    async def _run_probe(self) -> None:
        await self._writer.probe()
        await self._writer.watch(lambda: self._metrics.reads)

    async def _run_stopper(self, stop: trio.Event) -> None:
        await stop.wait()
        self._writer.stop()


async def _then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel("stop")


@asynccontextmanager
async def open_reporting(
    settings: Settings,
    trust: CurrentNodes,
    metrics: Metrics,
    store: RunLogStore,
    delays: Delays = DELAYS,
    valve: Valve | None = None,
    records: NodeRecords | None = None,
) -> AsyncIterator[ReportingPipeline]:
    """Open what the pipeline needs, and close it; the store stays the caller's.

    Raises:
        StartError: the spool cannot be used, or another relayd uses it.
    """
    own = settings.processing.reporting
    spool = run_log_spool(own.directory, keeps=settings.keeps_run_logs)
    setup = Setup(str(spool.directory / INCOMING), own.max_size, frozenset(own.skip_event_types))
    with hold(spool) as locks:
        async with open_examiner(setup, settings.general.core_threads) as examiner:
            lock = locks[spool.directory / INCOMING]
            yield ReportingPipeline(
                settings, trust, metrics, examiner, store, delays, lock, valve, records
            )
