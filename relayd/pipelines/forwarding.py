"""Files to the upstream: the pipeline of a relay; a root server may send inventories with it.

    watcher ─▶ read ahead ─▶ forward (lanes) ─▶ gather ─▶ dispose    run logs
    watcher ─▶ parcels ─▶ forward (lanes) ─▶ gather ─▶ dispose       inventories, twice

Memory at worst, for each directory: the names in front of the second stage, the run logs that were
read ahead (2 MiB), and for each lane one small file or one piece of a large one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
import trio

from relayd.config.main_conf import InventorySettings, ReportingSettings, Settings
from relayd.fleet.pins import PinnedClients
from relayd.outputs.health import CONNECTION, Health, Trouble, watch
from relayd.outputs.results import Probe, StoreFacts
from relayd.outputs.upstream.gate import Gate
from relayd.outputs.upstream.uploads import (
    INVENTORY_UPDATES,
    NEW_INVENTORIES,
    PATIENCE,
    REPORTS,
    Route,
    UploadPatience,
    Upstream,
)
from relayd.overview.model import Kind
from relayd.pipelines.forward import AHEAD_MOST, Ahead, Forwarder
from relayd.pipelines.gather import BATCH, run_gather
from relayd.pipelines.line import Change, Line, run_spool_cleanup
from relayd.pipelines.outcomes import ForwardedOutcomes
from relayd.pipelines.parcels import Pairing, Parcel, run_parcels
from relayd.pipelines.ticket import Settled
from relayd.runlog.filename import inventory_node
from relayd.spool.layout import Spool, hold, inventory_spool, run_log_spool
from relayd.spool.lock import DirectoryLock
from relayd.spool.shares import Shares
from relayd.spool.watching.valve import Valve
from relayd.spool.watching.watcher import Arrival
from relayd.system.clock import WallClock
from relayd.system.delays import DELAYS, Delays
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.nodes.records import NodeRecords

#: Uploads under way at once. Each waits for its answer most of the time: 32 are as good as one
#: with a 32nd of the distance.
REPORT_LANES: Final = 32
INVENTORY_LANES: Final = 8
#: Those that one node may take: one for run logs, which keep their order, and three quarters of
#: them for inventories and for files whose names give no node. While the gate is closed, files
#: that failed occupy half, so that new ones fit in.
NO_NODE: Final = REPORT_LANES * 3 // 4
NODE_INVENTORIES: Final = INVENTORY_LANES * 3 // 4

#: How often to look for further files to remove while some wait for it.
GATHER_NAP_S: Final = 0.02

#: The locks of the watched directories, by their paths.
Locks = Mapping[Path, DirectoryLock]
_NO_LOCKS: Final[Locks] = MappingProxyType({})
_NO_VALVES: Final[Mapping[Kind, Valve]] = MappingProxyType({})


class _Source(msgspec.Struct, frozen=True):
    """A spool whose files go to the upstream.

    Attributes:
        spool: where they wait.
        own: its configuration.
        clock: judges whether ages of its files can be trusted.
        routes: the kind of files of each watched directory, in the order of `spool.places`.
    """

    spool: Spool
    own: ReportingSettings | InventorySettings
    clock: WallClock
    routes: tuple[Route, ...]


def _sources(settings: Settings) -> list[_Source]:
    """Return the spools whose output is "upstream"."""
    reporting, inventory = settings.processing.reporting, settings.processing.inventory
    sources = []
    if reporting.output == "upstream":
        clock = WallClock(reporting.cleanup.retention)
        spool = run_log_spool(reporting.directory)
        sources.append(_Source(spool, reporting, clock, (REPORTS,)))
    if inventory.output == "upstream":
        clock = WallClock(inventory.cleanup.retention)
        spool = inventory_spool(inventory.directory)
        routes = NEW_INVENTORIES, INVENTORY_UPDATES
        sources.append(_Source(spool, inventory, clock, routes))
    return sources


def _shares(route: Route) -> Shares:
    """Return what one node may have in flight, so that others get on whatever it sends."""
    if route is REPORTS:
        return Shares(files=1, no_node=NO_NODE)
    return Shares(inventory_node, files=NODE_INVENTORIES, no_node=NODE_INVENTORIES)


class _ForwardStages:
    """The stages of one directory, from the parcels to the batches for disposal."""

    def __init__(self, line: Line, route: Route, upstream: Upstream, gate: Gate) -> None:
        self.gate = gate
        self.line = line
        self._single = route is REPORTS
        self._lanes = REPORT_LANES if self._single else INVENTORY_LANES
        self._make = Pairing(line.path, line.pending).parcel
        self._forwarder = Forwarder(
            line.path,
            route,
            upstream,
            gate,
            line.pending,
            self._lanes,
            line.disposal.committed.holds,
        )

    async def __call__(
        self,
        arrivals: trio.MemoryReceiveChannel[Arrival],
        settled: trio.MemorySendChannel[list[Settled]],
    ) -> None:
        """Forward what arrives; end with the source. Owns both channel ends."""
        done_in, done = trio.open_memory_channel[Settled](BATCH)
        async with trio.open_nursery() as nursery:
            if self._single:
                self._start_single(nursery, arrivals, done_in)
            else:
                self._start_parcels(nursery, arrivals, done_in)
            gather = partial(run_gather, nap_s=GATHER_NAP_S)
            nursery.start_soon(gather, done, settled, name="gather")

    def _start_single(
        self,
        nursery: trio.Nursery,
        arrivals: trio.MemoryReceiveChannel[Arrival],
        done: trio.MemorySendChannel[Settled],
    ) -> None:
        ready_in, ready = trio.open_memory_channel[Ahead](AHEAD_MOST)
        nursery.start_soon(self._forwarder.run_ahead, arrivals, ready_in, name="read ahead")
        with ready, done:
            for lane in range(self._lanes):
                ends = ready.clone(), done.clone()
                nursery.start_soon(self._forwarder.run_alone, *ends, name=f"forward {lane}")

    def _start_parcels(
        self,
        nursery: trio.Nursery,
        arrivals: trio.MemoryReceiveChannel[Arrival],
        done: trio.MemorySendChannel[Settled],
    ) -> None:
        parcels_in, parcels = trio.open_memory_channel[Parcel](0)
        nursery.start_soon(run_parcels, arrivals, parcels_in, self._make, name="parcels")
        with parcels, done:
            for lane in range(self._lanes):
                ends = parcels.clone(), done.clone()
                nursery.start_soon(self._forwarder.run, *ends, name=f"forward {lane}")


class ForwardingPipeline:
    """All that goes to the upstream.

    Attributes:
        name: of its task.
        lines: its watched directories.
        probes: checks of its output for the status, which shows none for the upstream.
        health: of the upstream.
        last_run: None: nothing is stored here.
    """

    name: str = "forwarding"
    last_run: Callable[[str], Awaitable[float | None]] | None = None

    def __init__(
        self,
        settings: Settings,
        peers: PinnedClients,
        metrics: Metrics,
        delays: Delays = DELAYS,
        patience: UploadPatience = PATIENCE,
        locks: Locks = _NO_LOCKS,
        valves: Mapping[Kind, Valve] = _NO_VALVES,
        records: NodeRecords | None = None,
    ) -> None:
        self._upstream = Upstream(settings, peers, patience)
        self.health = Health("upstream", metrics.output_up["upstream"])
        self._metrics = metrics
        self._records = records
        self._delays = delays
        self._valves = valves
        self._sources = _sources(settings)
        self._stages = [
            self._make_stages(source, place, route, locks)
            for source in self._sources
            for place, route in zip(source.spool.places, source.routes, strict=True)
        ]
        self.lines: Sequence[Line] = tuple(stages.line for stages in self._stages)
        self.probes: Mapping[str, Probe] = {}

    def _make_stages(
        self, source: _Source, place: str, route: Route, locks: Locks
    ) -> _ForwardStages:
        metrics = self._metrics
        counter = metrics.reports if route is REPORTS else metrics.inventories
        line = Line(
            source.spool,
            place,
            source.own,
            ForwardedOutcomes(metrics, counter, self._records),
            metrics,
            source.clock,
            delays=self._delays,
            lock=locks.get(source.spool.directory / place),
            one_by_one=route is REPORTS,
            shares=_shares(route),
            valve=self._valves.get("reporting" if route is REPORTS else "inventories"),
            records=self._records if route is REPORTS else None,
        )

        def report(trouble: Trouble | None) -> None:
            self.health.note(route.name, trouble)
            line.pending.note_output(away=trouble is not None)

        gate = Gate(report, self._delays, yields=lambda: line.pending.recalled)
        line.pending.on_recall = gate.wake_waiting
        return _ForwardStages(line, route, self._upstream, gate)

    async def run(self, stop: trio.Event) -> None:
        """Forward until `stop` is set and what is under way has ended."""
        async with trio.open_nursery() as nursery:
            for source in self._sources:
                cleaned_up = source.spool, source.own, source.clock, self._metrics
                nursery.start_soon(run_spool_cleanup, *cleaned_up, name="cleanup")
            nursery.start_soon(self._run_stopper, stop, name="stopper")
            nursery.start_soon(self._probe, name="probe")
            async with trio.open_nursery() as lines:
                for stages in self._stages:
                    lines.start_soon(stages.line.run, stages, stop, name="forward")
            nursery.cancel_scope.cancel("all lines ended")

    async def wait_until_taking(self) -> None:
        """Return once files are taken from every directory."""
        for stages in self._stages:
            await stages.line.taking.wait()

    async def _run_stopper(self, stop: trio.Event) -> None:
        await stop.wait()
        for stages in self._stages:
            stages.gate.stop()

    async def _probe(self) -> None:
        """Report whether the upstream is available before a file needs it, and while none does."""
        attempts = 0
        while True:
            trouble = await self._upstream.probe()
            self.health.note(CONNECTION, trouble)
            if trouble is None:
                break
            attempts += 1
            await trio.sleep(self._delays.upstream_unreachable.after(attempts))
        await watch(self.health, lambda: self._metrics.reads, self._upstream.probe)

    def facts(self) -> StoreFacts:
        """Return nothing: what the upstream has accepted is not kept."""
        return StoreFacts()

    def reconfigure(self, settings: Settings) -> None:
        """Take over what needs no restart: user and passwords for the upstream."""
        self._upstream.reconfigure(settings)
        self.retry()

    def wake(self, changed: Change) -> None:
        """Retry now if the pins changed: the upstream may be the expected one."""
        if changed == "pins":
            self.retry()

    def retry(self) -> None:
        """Try the upstream now, also with files that it turned down."""
        for stages in self._stages:
            stages.gate.wake()
            stages.line.rescan()


@asynccontextmanager
async def open_forwarding(
    settings: Settings,
    peers: PinnedClients,
    metrics: Metrics,
    delays: Delays = DELAYS,
    patience: UploadPatience = PATIENCE,
    valves: Mapping[Kind, Valve] = _NO_VALVES,
    records: NodeRecords | None = None,
) -> AsyncIterator[ForwardingPipeline]:
    """Open what forwarding needs, and close it.

    Raises:
        StartError: a spool cannot be used, or another relayd uses it.
    """
    with ExitStack() as stack:
        locks: dict[Path, DirectoryLock] = {}
        for source in _sources(settings):
            locks |= stack.enter_context(hold(source.spool))
        yield ForwardingPipeline(settings, peers, metrics, delays, patience, locks, valves, records)
