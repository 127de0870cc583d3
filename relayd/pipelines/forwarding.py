"""Forwarding to the upstream: the parts of its pipelines, opened, run and closed."""

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from relayd.config import main_conf as config
from relayd.config.main_conf import Settings
from relayd.fleet.pins import PinnedClients
from relayd.outputs.upstream.gate import UNREACHED_DELAYS_S, Gate, Trouble
from relayd.outputs.upstream.uploads import (
    INVENTORY_UPDATES,
    NEW_INVENTORIES,
    REPORTS,
    Route,
    Upstream,
)
from relayd.pipelines.dispose import Disposer, Rules
from relayd.pipelines.forward import Forwarder, Parcel, run_forwarding
from relayd.pipelines.outcomes import ForwardAccounts
from relayd.pipelines.parcels import Pairing
from relayd.pipelines.ticket import Ticket
from relayd.spool.cleanup import Housekeeping, Room, run_cleanup
from relayd.spool.disposal import Disposal
from relayd.spool.extensions import INVENTORIES, RUN_LOGS
from relayd.spool.layout import ensure_directories, lock_spool
from relayd.spool.pending import Pending
from relayd.spool.watching.watcher import Arrival, WatchedDirectory, run_watcher
from relayd.system.clock import WallClock
from relayd.system.wake import Wake
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("upstream")

#: Uploads under way at once. Each waits for its answer, most of the time: 32 are as good as one
#: with a 32nd of the way.
REPORT_LANES: Final = 32
INVENTORY_LANES: Final = 8


#: In place of a kind of file: what looking at the upstream says, without an upload.
CONNECTION: Final = "connection"


class Health:
    """Whether the upstream takes files: shown as a metric, and told once each way."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._troubles: dict[str, Trouble] = {}

    def note(self, what: str, trouble: Trouble | None) -> None:
        """What an attempt says, of one kind of file or of the connection alone."""
        former = self._troubles.pop(what, None)
        if trouble is None:  # whoever was answered had a connection
            former = self._troubles.pop(CONNECTION, None) or former
        known = {other.detail for other in self._troubles.values()}
        if trouble is not None:
            self._troubles[what] = trouble
            if trouble.detail not in known and (not former or former.detail != trouble.detail):
                log.error(
                    "upstream takes no files, they wait",
                    detail=trouble.detail,
                    kind=trouble.kind,
                    files=what,
                )
        elif former is not None and former.detail not in known:
            log.info("upstream takes files again", files=what)
        self._metrics.upstream_up.set(not self._troubles)


class Line:
    """One watched directory whose files go upstream.

    Attributes:
        taking: set once files are taken from it.
    """

    def __init__(
        self,
        route: Route,
        spool: WatchedDirectory,
        cleanup: config.SpoolCleanup,
        upstream: Upstream,
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._gate = Gate(partial(health.note, route.name))
        self.taking = trio.Event()
        self._spool = spool
        self._metrics = metrics
        self._pending = Pending()
        self._rescan = Wake()
        is_report = route is REPORTS
        disposal = Disposal(spool.path, spool.path.parent / "failed")
        self._disposer = Disposer(
            disposal,
            self._pending,
            Rules(0.0, cleanup.retention),
            ForwardAccounts(metrics, metrics.reports if is_report else metrics.inventories),
            lambda _node_id: "",
            WallClock(cleanup.retention),
        )
        self._make = _alone if is_report else Pairing(spool.path, self._pending).parcel
        self._lanes = REPORT_LANES if is_report else INVENTORY_LANES
        self._forwarder = Forwarder(
            spool.path, route, upstream, self._gate, disposal.committed.holds
        )
        metrics.count_in_flight(lambda: self._pending.in_flight)
        metrics.count_unremovable(lambda: len(disposal.committed))

    async def run(self, stop: trio.Event) -> None:
        """Send files until `stop` is set and what is under way has ended."""

        async def watch(arrivals: trio.MemorySendChannel[Arrival]) -> None:
            watcher = partial(run_watcher, rescan=self._rescan, stop=stop)
            async with trio.open_nursery() as nursery:
                await nursery.start(watcher, self._spool, self._pending, arrivals, self._metrics)
                self.taking.set()

        await run_forwarding(
            watch, self._make, self._forwarder.run, self._lanes, self._disposer.run
        )

    def stop(self) -> None:
        """Nothing waits for the upstream any more."""
        self._gate.stop()

    def wake(self) -> None:
        """Something changed: the upstream is tried now, also with files that it turned down."""
        self._gate.wake()
        self._rescan.set()


async def _alone(arrival: Arrival) -> Parcel:
    return [Ticket(arrival, trio.current_time())]


class Forwarding:
    """All that goes upstream, and what the service may ask of it."""

    def __init__(self, settings: Settings, peers: PinnedClients, metrics: Metrics) -> None:
        self._upstream = Upstream(settings, peers)
        self._health = Health(metrics)
        self._metrics = metrics
        self._houses: list[Housekeeping] = []
        self._lines: list[Line] = []
        processing = settings.processing
        if processing.reporting.output == "upstream":
            self._add(processing.reporting, RUN_LOGS, {"incoming": REPORTS})
        if processing.inventory.output == "upstream":
            places = {"incoming": NEW_INVENTORIES, "accepted-nodes-updates": INVENTORY_UPDATES}
            self._add(processing.inventory, INVENTORIES, places)

    def _add(
        self,
        own: config.Reporting | config.Inventory,
        extensions: frozenset[str],
        places: dict[str, Route],
    ) -> None:
        rooms = tuple(Room(own.directory / place, extensions) for place in places)
        failed = own.directory / "failed"
        cleanup = own.cleanup
        self._houses.append(
            Housekeeping(rooms, failed, cleanup.frequency, cleanup.retention, cleanup.max_size)
        )
        for room, route in zip(rooms, places.values(), strict=True):
            spool = WatchedDirectory(
                room.path, extensions, own.catchup.frequency, own.catchup.limit
            )
            self._lines.append(
                Line(route, spool, own.cleanup, self._upstream, self._health, self._metrics)
            )

    async def run(self, stop: trio.Event) -> None:
        """Forward until `stop` is set and what is under way has ended."""
        async with trio.open_nursery() as nursery:
            for house in self._houses:
                clock = WallClock(house.retention)
                nursery.start_soon(run_cleanup, house, clock, self._metrics, name="cleanup")
            nursery.start_soon(self._run_stopper, stop, name="stopper")
            nursery.start_soon(self._look, name="look at the upstream")
            async with trio.open_nursery() as lines:
                for line in self._lines:
                    lines.start_soon(line.run, stop, name="forward")
            nursery.cancel_scope.cancel("all lines ended")

    async def wait_until_taking(self) -> None:
        """Return once files are taken from every directory."""
        for line in self._lines:
            await line.taking.wait()

    async def _run_stopper(self, stop: trio.Event) -> None:
        await stop.wait()
        for line in self._lines:
            line.stop()

    async def _look(self) -> None:
        """Return whether the upstream is there before a file needs it; ends once it was."""
        attempt = 0
        while True:
            trouble = await self._upstream.look()
            self._health.note(CONNECTION, trouble)
            if trouble is None:
                return
            await trio.sleep(UNREACHED_DELAYS_S[min(attempt, len(UNREACHED_DELAYS_S) - 1)])
            attempt += 1

    def reconfigure(self, settings: Settings) -> None:
        """Take over what needs no restart: user and passwords for the upstream."""
        self._upstream.reconfigure(settings)
        self.wake()

    def wake(self) -> None:
        """Something changed that may have mended the upstream: it is tried now."""
        for line in self._lines:
            line.wake()


@asynccontextmanager
async def open_forwarding(
    settings: Settings, peers: PinnedClients, metrics: Metrics
) -> AsyncIterator[Forwarding]:
    """Open what forwarding needs, and closes it.

    Raises:
        StartError: a spool cannot be used, or another relayd uses it.
    """
    processing = settings.processing
    with ExitStack() as stack:
        if processing.reporting.output == "upstream":
            _hold(stack, processing.reporting.directory, "incoming")
        if processing.inventory.output == "upstream":
            directory = processing.inventory.directory
            _hold(stack, directory, "incoming", "accepted-nodes-updates")
        yield Forwarding(settings, peers, metrics)


def _hold(stack: ExitStack, directory: Path, *places: str) -> None:
    watched = (directory / place for place in places)
    ensure_directories(directory, *watched, directory / "failed")
    stack.callback(os.close, lock_spool(directory))
