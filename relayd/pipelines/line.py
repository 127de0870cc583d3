"""One watched directory and all that surrounds its stages, whatever these do.

    watcher ─▶ stages ─▶ dispose
        ▲                   │
        └──── pending ◀─────┘

Arrows between stages are bounded channels: an output that is slow or down slows the watcher and
does not fill the memory.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, Literal, Protocol

import trio

from relayd.config.main_conf import InventorySettings, ReportingSettings
from relayd.pipelines.aside import Aside
from relayd.pipelines.dispose import DisposalRules, DisposeStage
from relayd.pipelines.outcomes import Outcomes
from relayd.pipelines.ticket import Settled
from relayd.spool.cleanup import CleanupPlan, run_cleanup
from relayd.spool.disposal import Disposal, Keep
from relayd.spool.layout import Spool
from relayd.spool.lock import DirectoryLock
from relayd.spool.pending import Pending
from relayd.spool.shares import Shares
from relayd.spool.watching.valve import Valve
from relayd.spool.watching.watcher import Arrival, WatchedDirectory, ignore, run_watcher
from relayd.system.clock import WallClock
from relayd.system.delays import DELAYS, Delays
from relayd.system.wake import Wake
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.nodes.records import NodeRecords

#: Names waiting between the watcher and the stages: two full batches, some 30 KB.
ARRIVALS: Final = 256


#: What may have fixed a failure, so that it is worth another attempt: the nodes list and the
#: certificates, or the pins of the upstream.
Change = Literal["nodes", "pins"]


class Stages(Protocol):
    """The stages of a line between the watcher and the disposal."""

    async def __call__(
        self,
        arrivals: trio.MemoryReceiveChannel[Arrival],
        settled: trio.MemorySendChannel[list[Settled]],
    ) -> None:
        """Settle what arrives; end with the source. Owns both channel ends."""
        ...


def _no_token(_node_id: str) -> str:
    return ""


class Line:
    """One watched directory.

    Attributes:
        path: the directory.
        pending: its files in flight and those that wait for another attempt.
        disposal: touches its files.
        aside: sets files of nodes on hold aside.
        spool: the spool that it belongs to.
        taking: set once files are taken from it.

    Args:
        spool: the spool that it belongs to.
        place: its name there.
        own: the configuration of this kind of file.
        outcomes: counts and logs.
        metrics: gets the gauges of the spool.
        clock: of the spool, judges whether ages of files can be trusted.
        settle_s: see `relayd.pipelines.dispose.DisposalRules`.
        trust_token: returns the present trust token of a node, where files are judged by one.
        delays: between attempts with one file.
        lock: keeps other processes out of the directory.
        one_by_one: whether run logs of one node are processed one after the other.
        shares: what each node may have in flight.
        keep: keeps committed files for a while, see `relayd.spool.disposal.Disposal`.
        valve: closed while no files are taken.
        records: gets the arrivals, of run logs.
    """

    def __init__(
        self,
        spool: Spool,
        place: str,
        own: ReportingSettings | InventorySettings,
        outcomes: Outcomes,
        metrics: Metrics,
        clock: WallClock,
        *,
        settle_s: float = 0.0,
        trust_token: Callable[[str], str] = _no_token,
        delays: Delays = DELAYS,
        lock: DirectoryLock | None = None,
        one_by_one: bool = False,
        shares: Shares | None = None,
        keep: Keep | None = None,
        valve: Valve | None = None,
        records: NodeRecords | None = None,
    ) -> None:
        self.path = path = spool.directory / place
        self.pending = Pending(delays.file, one_by_one=one_by_one, shares=shares)
        self.disposal = Disposal(path, spool.failed, keep)
        self._rescan = Wake()
        self.aside = Aside(spool, place, self.pending, self.rescan)
        self.spool = spool
        self.taking = trio.Event()
        self._arrived = ignore if records is None else records.note_arrival
        self._metrics = metrics
        self._watched = WatchedDirectory(
            path,
            spool.extensions,
            own.catchup.frequency,
            own.catchup.limit,
            lock=lock,
            hidden=spool.hidden,
            ordered=spool.ordered,
            valve=valve or Valve(),
            divert=self.aside.take,
        )
        self._disposer = DisposeStage(
            self.disposal,
            self.pending,
            DisposalRules(settle_s, own.cleanup.retention),
            outcomes,
            trust_token,
            clock,
        )
        metrics.count_in_flight(lambda: self.pending.in_flight)
        metrics.count_unremovable(lambda: len(self.disposal.committed))

    async def run(self, stages: Stages, stop: trio.Event) -> None:
        """Process files until `stop` is set and all that was taken up is disposed of."""
        arrivals_in, arrivals = trio.open_memory_channel[Arrival](ARRIVALS)
        settled_in, settled = trio.open_memory_channel[list[Settled]](0)
        await self.aside.load()
        async with trio.open_nursery() as around:
            around.start_soon(self.aside.run, name="set aside")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, arrivals_in, stop, name="watch")
                nursery.start_soon(stages, arrivals, settled_in, name="stages")
                nursery.start_soon(self._disposer.run, settled, name="dispose")
            around.cancel_scope.cancel("line ended")

    async def _watch(self, arrivals: trio.MemorySendChannel[Arrival], stop: trio.Event) -> None:
        watcher = partial(run_watcher, rescan=self._rescan, stop=stop, arrived=self._arrived)
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher, self._watched, self.pending, arrivals, self._metrics)
            self.taking.set()

    def rescan(self) -> None:
        """Retry all waiting files now, and list the directory."""
        self._rescan.set()


async def run_spool_cleanup(
    spool: Spool,
    own: ReportingSettings | InventorySettings,
    clock: WallClock,
    metrics: Metrics,
) -> None:
    """Remove old refused files and leftovers from a spool, until cancelled."""
    cleanup = own.cleanup
    plan = CleanupPlan(spool, cleanup.frequency, cleanup.retention, cleanup.max_size)
    await run_cleanup(plan, clock, metrics)
