"""Reporting on the root server: the parts of the pipeline, opened, run and closed."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from relayd.config.main_conf import Settings, database_parameters
from relayd.errors import Reason
from relayd.fleet.current_nodes import CurrentNodes
from relayd.outputs.postgres.database import Database
from relayd.pipelines.dispose import Disposer, Rules
from relayd.pipelines.examine import Writer, run_examine, run_reporting
from relayd.pipelines.outcomes import StoredAccounts
from relayd.pipelines.workers.job import Setup
from relayd.pipelines.workers.pool import Examiner, open_examiner
from relayd.spool.cleanup import Housekeeping, Room, run_cleanup
from relayd.spool.disposal import Disposal, ReasonRecord
from relayd.spool.extensions import RUN_LOGS
from relayd.spool.layout import ensure_directories, lock_spool
from relayd.spool.pending import Pending
from relayd.spool.watching.watcher import WatchedDirectory, run_watcher
from relayd.system.clock import WallClock
from relayd.system.wake import Wake
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("main")

CLOSE_TIMEOUT_S: Final = 2.0

#: Refusals that another nodes list or certificates file may turn into acceptance.
_CURABLE: Final = frozenset({Reason.UNKNOWN_NODE, Reason.NO_CERTIFICATE, Reason.UNKNOWN_SIGNER})


class Reporting:
    """The pipeline of run logs and what the service may ask of it.

    Attributes:
        database: where run logs go.
        taking: set once run logs are taken from the spool, or only the nodes list is missing.
    """

    def __init__(
        self,
        settings: Settings,
        trust: CurrentNodes,
        metrics: Metrics,
        examiner: Examiner,
        database: Database,
    ) -> None:
        own = settings.processing.reporting
        self.database = database
        self.taking = trio.Event()
        self._settings = settings
        self._trust = trust
        self._metrics = metrics
        self._examiner = examiner
        self._incoming = own.directory / "incoming"
        self._failed = own.directory / "failed"
        self._disposal = Disposal(self._incoming, self._failed)
        self._pending = Pending()
        self._rescan = Wake()
        self._nodes_changed = Wake()
        self._writer = Writer(database, metrics)
        self._clock = WallClock(own.cleanup.retention)
        metrics.count_in_flight(lambda: self._pending.in_flight)
        metrics.count_unremovable(lambda: len(self._disposal.committed))

    async def run(self, stop: trio.Event) -> None:
        """Process run logs once the nodes are known, until `stop` is set and all is drained."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_cleanup, name="cleanup")
            nursery.start_soon(self._run_requeue, name="requeue")
            nursery.start_soon(self._run_stopper, stop, name="stopper")
            nursery.start_soon(self._writer.look, name="look at the database")
            if await self._wait_for_nodes(stop):
                await self._run_pipeline(stop)
            nursery.cancel_scope.cancel("pipeline ended")

    async def _wait_for_nodes(self, stop: trio.Event) -> bool:
        """Until a nodes list is known, nobody can be told from a stranger: files wait."""
        if not self._trust.ready.is_set():
            self.taking.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_then_cancel, stop, nursery.cancel_scope)
            await self._trust.ready.wait()
            nursery.cancel_scope.cancel("nodes known")
        return self._trust.ready.is_set() and not stop.is_set()

    async def _run_pipeline(self, stop: trio.Event) -> None:
        own = self._settings.processing.reporting
        spool = WatchedDirectory(self._incoming, RUN_LOGS, own.catchup.frequency, own.catchup.limit)
        rules = Rules(own.settle_time, own.cleanup.retention)
        disposer = Disposer(
            self._disposal,
            self._pending,
            rules,
            StoredAccounts(self._metrics),
            self._trust.token,
            self._clock,
        )

        async def watch(arrivals: trio.MemorySendChannel) -> None:  # type: ignore[type-arg]
            watcher = partial(run_watcher, rescan=self._rescan, stop=stop)
            async with trio.open_nursery() as nursery:
                await nursery.start(watcher, spool, self._pending, arrivals, self._metrics)
                self.taking.set()

        examine = partial(
            run_examine, self._examiner, lambda: self._trust.nodes, self._disposal.committed.holds
        )
        await run_reporting(
            watch, examine, self._examiner.lanes, self._writer.run, disposer.run, self._metrics
        )

    def nodes_changed(self) -> None:
        """Another nodes list is in force: refused files may pass now, waiting ones too."""
        self._nodes_changed.set()
        self._writer.wake()

    def reconfigure(self, settings: Settings) -> None:
        """Take over what needs no restart: how the database is reached."""
        self.database.reconfigure(database_parameters(settings))
        self._writer.wake()

    async def _run_requeue(self) -> None:
        while True:
            await self._nodes_changed.wait()
            moved = await self._disposal.requeue(self._is_cured)
            if moved:
                log.info("refused files are tried again with the new nodes", files=moved)
            self._rescan.set()

    def _is_cured(self, record: ReasonRecord) -> bool:
        nodes = self._trust.nodes
        return (
            record.reason in _CURABLE
            and bool(nodes.certificates(record.node))
            and nodes.trust_token(record.node) != record.trust
        )

    async def _run_stopper(self, stop: trio.Event) -> None:
        await stop.wait()
        self._writer.stop()

    async def _run_cleanup(self) -> None:
        own = self._settings.processing.reporting.cleanup
        rooms = (Room(self._incoming, RUN_LOGS),)
        house = Housekeeping(rooms, self._failed, own.frequency, own.retention, own.max_size)
        await run_cleanup(house, self._clock, self._metrics)


async def _then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel("stop")


@asynccontextmanager
async def open_reporting(
    settings: Settings, trust: CurrentNodes, metrics: Metrics
) -> AsyncIterator[Reporting]:
    """Open what the pipeline needs, and closes it.

    Raises:
        StartError: the spool cannot be used, or another relayd uses it.
    """
    own = settings.processing.reporting
    ensure_directories(own.directory, own.directory / "incoming", own.directory / "failed")
    lock = lock_spool(own.directory)
    connections = settings.output.database.max_pool_size
    database = Database(database_parameters(settings), connections=connections)
    setup = Setup(str(own.directory / "incoming"), own.max_size, frozenset(own.skip_event_types))
    try:
        async with open_examiner(setup, settings.general.core_threads) as examiner:
            yield Reporting(settings, trust, metrics, examiner, database)
    finally:
        os.close(lock)
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await database.aclose()
