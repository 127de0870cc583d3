"""The first stage: names of files that are ready, live ones first, then the backlog.

    inotify ─▶ live names ──┐
    pending ─▶ due names  ──┼─▶ feed ─▶ the pipeline
    listing ─▶ backlog    ──┘

Events are only hints, and the directory is authoritative: files without an event, or beyond the
limits of the tables here, are found by a listing. Memory does not grow with the backlog: at most
`LIVE_NAMES` live names and one listing are kept, some 3 MB with 10,000 names.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

import msgspec
import trio

from relayd.runlog.filename import run_of
from relayd.spool.lock import DirectoryLock
from relayd.spool.pending import Pending
from relayd.spool.watching.agenda import Agenda, ListingOrder
from relayd.spool.watching.directory_watch import DirectoryWatch
from relayd.spool.watching.inotify import IN_MOVED_TO
from relayd.spool.watching.listing import Listing, is_ours, oldest
from relayd.spool.watching.turns import Run, Turns
from relayd.spool.watching.valve import Valve
from relayd.system.shortage import words_of
from relayd.system.threads import in_thread
from relayd.system.wake import Wake
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("watch")

#: Events are read as fast as they arrive, so that the kernel's queue does not overflow while the
#: pipeline is full; names beyond this many are left to a listing.
LIVE_NAMES: Final = 4096
#: Events that arrive within this time are read together: otherwise the steady trickle of a fleet
#: would wake the event loop for each of them. The kernel keeps 16,384 events.
EVENTS_PAUSE_S: Final = 0.05
#: How often the watch is compared with its path.
CHECK_INTERVAL_S: Final = 1.0
#: Files of the backlog sent between two checks for live names if no limit is configured.
BATCH: Final = 50


class Arrival(NamedTuple):
    """A file that is ready.

    Attributes:
        name: its base name in the watched directory.
        atomic: whether it arrived by a rename, so that it is complete.
    """

    name: str
    atomic: bool


class WatchedDirectory(msgspec.Struct, frozen=True):
    """A spool directory, and how its backlog is processed.

    Attributes:
        path: the directory; it need not exist yet.
        extensions: extensions of the files to process, without dot.
        catchup_frequency: seconds between periodic listings.
        catchup_limit: files of the backlog that are queued before live ones are checked for again;
            0 disables periodic listings, but not those at start, after lost events and on request.
        listing_size: maximum number of names of one listing.
        lock: keeps other processes out of the directory.
        hidden: whether names with a leading dot are processed.
        ordered: whether the files are run logs, to be sent in the order of each node's runs.
        valve: closed while no files are taken.
        divert: takes over a claimed file that is not to be sent, and returns whether it has.
    """

    path: Path
    extensions: frozenset[str]
    catchup_frequency: float
    catchup_limit: int
    listing_size: int = 10_000
    lock: DirectoryLock | None = None
    hidden: bool = False
    ordered: bool = False
    valve: Valve = msgspec.field(default_factory=Valve)
    divert: Callable[[str], bool] | None = None


class NoteArrival(Protocol):
    """Gets the arrival of each file; may be called more often for a file that is not `live`."""

    def __call__(self, node_id: str, at: float, *, live: bool = True) -> None:
        """Note a file.

        Args:
            node_id: the node in the name of a run log; "" if there is none.
            at: when it arrived, Unix seconds.
            live: whether it arrives now; else it was found by a listing.
        """


def ignore(node_id: str, at: float, *, live: bool = True) -> None:
    """Implement `NoteArrival` for files that are not run logs."""


async def run_watcher(
    spool: WatchedDirectory,
    pending: Pending,
    send: trio.MemorySendChannel[Arrival],
    metrics: Metrics,
    *,
    rescan: Wake,
    stop: trio.Event | None = None,
    arrived: NoteArrival = ignore,
    task_status: trio.TaskStatus[Literal["inotify", "poll"]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Send the names of files that are ready, each claimed in `pending`.

    Ends when cancelled or when `stop` is set. Owns `send` and closes it; waits while the channel
    is full. Started once the directory is watched; it is listed after that, so that no file is
    missed in between. A missing directory and missing inotify are tolerated.

    Args:
        spool: the directory to watch.
        pending: the files in flight. The receiver releases or puts back each name it gets.
        send: the channel for the names.
        metrics: gets the gauges of the spool and of the watch.
        rescan: set when the outcome may have changed (an output is back, nodes were reloaded):
            all files are listed and retried at once, whatever their delays.
        stop: set when no more files are to be taken.
        arrived: gets the arrivals.
        task_status: gets the mode in use, "inotify" or "poll".

    Raises:
        trio.BrokenResourceError: the receiver is gone.
    """
    with send, DirectoryWatch(spool.path, metrics, spool.lock) as watch:
        watcher = _Watcher(spool, pending, send, metrics, watch, rescan, arrived)
        await watch.check()
        log.info("watching", file=str(spool.path), mode=watch.mode)
        task_status.started(watch.mode)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.read_events, name="read events")
            nursery.start_soon(watcher.guard_watch, name="guard watch")
            nursery.start_soon(watcher.take_listings, name="list")
            nursery.start_soon(watcher.serve_rescans, name="serve rescans")
            nursery.start_soon(watcher.feed, name="feed")
            if stop is not None:
                await stop.wait()
                nursery.cancel_scope.cancel("stop")


class _Watcher:
    """State that the tasks of a watcher share, and change only between awaits."""

    def __init__(
        self,
        spool: WatchedDirectory,
        pending: Pending,
        send: trio.MemorySendChannel[Arrival],
        metrics: Metrics,
        watch: DirectoryWatch,
        rescan: Wake,
        arrived: NoteArrival,
    ) -> None:
        self._spool = spool
        self._pending = pending
        self._send = send
        self._metrics = metrics
        self._watch = watch
        self._rescan = rescan
        self._arrived = arrived
        self._batch = spool.catchup_limit or BATCH
        #: The next listing is taken once at most this many names of the last one are left to send.
        self._low = spool.listing_size // 4
        self._turns = Turns(pending.holds, pending.shares)
        #: The minimum age of the files of the last listing.
        self._listed_age = 0.0
        #: The oldest date of each node that has run logs which the last listing left out, or that
        #: were left to the next one; and of the latter, those since the current listing began.
        self._unlisted: dict[str, float] = {}
        self._left_meanwhile: dict[str, float] = {}
        #: Files beyond those in `pending.known`, when last counted (negative if some of these have
        #: vanished), and the oldest file then.
        self._rest = 0
        self._oldest: float | None = None
        self._agenda = Agenda(spool.catchup_frequency, periodic=spool.catchup_limit > 0)
        self._list_now = Wake()
        self._unreadable = False
        #: Whether files may be there that no listing has seen yet.
        self._blind = True
        #: Names sent since the current listing began.
        self._sent_meanwhile: set[str] | None = None
        self._limiter = trio.CapacityLimiter(1)
        metrics.count_spool(self._count)

    def _count(self) -> tuple[int, float | None]:
        """Return the number of files in the directory, and the age of the oldest one."""
        known = self._pending.known
        files = max(0, len(known) + self._rest)
        since = min(known.values()) if known else self._oldest if files else None
        return files, since

    async def read_events(self) -> None:
        """Collect live names, without ever waiting for the pipeline."""
        while True:
            events, lost = await self._watch.read()
            if lost:
                self._relist()
            for event in events:
                if is_ours(event.name, self._spool.extensions, hidden=self._spool.hidden):
                    self._note_live(event.name, atomic=bool(event.mask & IN_MOVED_TO))
            await trio.sleep(EVENTS_PAUSE_S)

    def _note_live(self, name: str, *, atomic: bool) -> None:
        pending, turns = self._pending, self._turns
        run = run_of(name) if self._spool.ordered else None
        if name not in pending.known:
            self._arrived(run[0] if run else "", time.time())
        if pending.is_in_flight(name):
            pending.claim(name)  # marks it as changed
        elif name not in turns and (len(turns) - turns.listed >= LIVE_NAMES or self._is_late(run)):
            self._rest += 1
            self._agenda.unfinished(0.0)
            for table in (self._unlisted, self._left_meanwhile):
                _note_oldest(table, run)
        else:
            pending.note(name)
            turns.add(name, run, atomic)
            pending.wake.set()

    def _is_late(self, run: Run | None) -> bool:
        """Return whether older run logs of a node are left to a later listing."""
        return run is not None and self._unlisted.get(run[0], run[1]) < run[1]

    async def guard_watch(self) -> None:
        """Detect within a second that the path is no longer the directory that is watched."""
        while True:
            with trio.move_on_after(CHECK_INTERVAL_S):
                await self._watch.disturbed.wait()
            if await self._watch.check():
                self._relist()
            self._list_now.set()

    async def serve_rescans(self) -> None:
        """Retry all files on request."""
        while True:
            await self._rescan.wait()
            self._pending.forget_waiting()
            self._relist()

    def _relist(self) -> None:
        self._blind = True
        self._agenda.everything()
        self._list_now.set()

    async def take_listings(self) -> None:
        """List the directory whenever there is a reason to."""
        while True:
            order = self._next_listing()
            if order is None:
                with trio.move_on_after(self._agenda.urgent_in(trio.current_time())):
                    await self._list_now.wait()
                continue
            self._sent_meanwhile = sent = set[str]()
            self._left_meanwhile = {}
            began = trio.current_time()
            try:
                listing = await self._list(order)
            except OSError as error:
                self._note_unreadable(error)
                self._agenda.unfinished(order.min_age)
                self._note_seen()
                continue
            finally:
                self._sent_meanwhile = None
            self._unreadable = False
            if not order.measure:
                self._replace_backlog(listing, order, sent)
            self._rest = listing.total - len(self._pending.known)
            self._oldest = listing.oldest_mtime
            self._agenda.note_unknown(self._rest, trio.current_time() - began)
            self._note_seen()

    def _note_seen(self) -> None:
        self._blind = self._agenda.is_blind
        self._pending.wake.set()

    def _replace_backlog(self, listing: Listing, order: ListingOrder, sent: set[str]) -> None:
        # Unsent names of the previous listing are in this one as well, which has no higher minimum
        # age. Names sent since it began are in flight or have left the directory by now.
        self._listed_age = order.min_age
        pending = self._pending
        found: list[tuple[str, Run | None]] = []
        for name, run, mtime in zip(listing.names, listing.runs, listing.mtimes, strict=True):
            if name not in sent:
                if name not in pending.known:
                    self._arrived(run[0] if run else "", mtime, live=False)
                pending.note(name, mtime)
                found.append((name, run))
        for gone in self._turns.replace_listed(found):
            if gone not in pending:
                pending.known.pop(gone, None)
        self._unlisted = listing.unlisted
        for run in self._left_meanwhile.items():
            _note_oldest(self._unlisted, run)
        pending.shares.note_listed(dict(zip(listing.names, listing.sizes, strict=True)))
        if listing.more:
            self._agenda.unfinished(order.min_age)

    def _next_listing(self) -> ListingOrder | None:
        if self._pending.take_spilled():
            self._agenda.unfinished(0.0)
        # There must be capacity for names that fail, or else they would be retried in a hot loop.
        enough = min(self._spool.listing_size, self._pending.remembered) // 4
        order = self._agenda.take(
            trio.current_time(),
            ready=self._turns.listed <= self._low and self._pending.capacity >= enough,
            polling=self._watch.mode == "poll",
        )
        if order is not None and self._turns.listed:
            return order._replace(min_age=min(order.min_age, self._listed_age))
        return order

    async def _list(self, order: ListingOrder) -> Listing:
        await self._watch.follow()
        return await in_thread(
            partial(
                oldest,
                self._spool.path,
                self._spool.extensions,
                limit=0 if order.measure else min(self._spool.listing_size, self._pending.capacity),
                min_age=order.min_age,
                exclude=self._pending.__contains__,
                now=time.time(),
                hidden=self._spool.hidden,
                ordered=self._spool.ordered,
            ),
            limiter=self._limiter,
        )

    def _note_unreadable(self, error: OSError) -> None:
        # The watch logs a directory that is missing or locked.
        watched = not isinstance(error, FileNotFoundError | BlockingIOError)
        if watched and not self._unreadable:
            log.warning(
                "cannot list directory; retrying",
                file=str(self._spool.path),
                detail=words_of(error),
            )
        self._unreadable = True

    async def feed(self) -> None:
        """Send all live names, then a batch of the others, and so on."""
        pending, turns = self._pending, self._turns
        while True:
            await self._spool.valve.wait_open()
            while pending.returned:
                name = pending.returned.pop()
                turns.add(name, run_of(name), atomic=False)
            turns.free()
            busy = await self._feed_live()
            busy = await self._feed_batch() or busy
            if not busy:
                with trio.move_on_at(min(pending.next_due(), turns.next_free())):
                    await pending.wake.wait()
            await trio.lowlevel.checkpoint()

    @property
    def _pauses(self) -> bool:
        """Whether no file may be sent now."""
        # A run log may have to wait for an older one that is not known yet.
        blind = self._blind or self._rescan.is_set
        return self._spool.valve.closed or (blind and self._spool.ordered)

    async def _feed_live(self) -> bool:
        # Names that arrive meanwhile wait for the next call, or they would starve the backlog.
        busy = False
        for _ in range(self._turns.fresh):
            if self._pauses or (found := self._turns.pop_fresh()) is None:
                break
            await self._send_one(*found)
            busy = True
        return busy

    async def _feed_batch(self) -> bool:
        for number in range(self._batch):
            found = None if self._pauses else self._next_name()
            if found is None:
                return number > 0
            await self._send_one(*found)
        return True

    def _next_name(self) -> tuple[str, bool] | None:
        """Return a name that is due, else one of the backlog, to be claimed at once."""
        while due := self._pending.take_due(1):
            run = run_of(due[0]) if self._spool.ordered else None
            if not self._turns.must_wait(due[0], run):
                return due[0], False
            self._turns.add(due[0], run, atomic=False)
        while found := self._turns.pop_late():
            if self._turns.listed == self._low:
                self._list_now.set()
            # Skip names taken up meanwhile because of an event.
            if found[1] or found[0] not in self._pending:
                return found
            self._pending.shares.pass_on(found[0])
            self._pending.wake.set()
        return None

    async def _send_one(self, name: str, atomic: bool) -> None:
        if not self._pending.claim(name):
            return
        if self._sent_meanwhile is not None:
            self._sent_meanwhile.add(name)
        if self._spool.divert is not None and self._spool.divert(name):
            return
        arrival, sent = Arrival(name, atomic), False
        try:
            # Each `send` takes a turn of the event loop, which costs more than all else here.
            try:
                self._send.send_nowait(arrival)
            except trio.WouldBlock:
                await self._send.send(arrival)
            sent = True
        finally:
            if not sent:
                self._pending.release(name)


def _note_oldest(dates: dict[str, float], run: Run | None) -> None:
    """Keep the date of the oldest run of each node."""
    if run is not None:
        node, date = run
        dates[node] = min(date, dates.get(node, date))
