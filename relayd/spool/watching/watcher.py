"""The first stage: names of files that are ready, live ones first, then the backlog.

    inotify ─▶ live names ──┐
    pending ─▶ due names  ──┼─▶ feed ─▶ the pipeline
    listing ─▶ backlog    ──┘

An event is only a hint and the directory is the truth: what the kernel did not tell, or what
there was no room to remember, is found by a listing. Nothing here grows with the backlog: at
most `LIVE_NAMES` live names and one listing are held, some 3 MB with 10,000 names.
"""

import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec
import trio

from relayd.spool.pending import Pending
from relayd.spool.watching.agenda import Agenda, Look
from relayd.spool.watching.directory import Watch
from relayd.spool.watching.inotify import IN_MOVED_TO
from relayd.spool.watching.listing import Listing, is_ours, oldest
from relayd.system.threads import in_thread
from relayd.system.wake import Wake
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("watch")

#: Events are read as fast as they come, so that the kernel's queue does not overflow while the
#: pipeline is full; names beyond this many are left to a listing.
LIVE_NAMES: Final = 4096
#: Events that come meanwhile are read together: a fleet's steady trickle would else cost a turn
#: of the event loop for each. The kernel keeps 16,384 of them.
EVENTS_PAUSE_S: Final = 0.05
#: How often the watch is compared with its path.
TICK_S: Final = 1.0
#: Files of the backlog between two looks at live names when no limit is configured.
TURN: Final = 50


class Arrival(NamedTuple):
    """A file that is ready.

    Attributes:
        name: its base name in the watched directory.
        atomic: it came by rename, so it is complete.
    """

    name: str
    atomic: bool


class WatchedDirectory(msgspec.Struct, frozen=True):
    """A spool directory and how it is caught up with.

    Attributes:
        path: the directory; it need not exist yet.
        extensions: of the files that count, without dot.
        catchup_frequency: seconds between periodic listings.
        catchup_limit: files of the backlog that are queued before live ones get their turn; 0
            switches periodic listings off, not those at start, after lost events and on request.
        listing_size: names that one listing returns at most.
    """

    path: Path
    extensions: frozenset[str]
    catchup_frequency: float
    catchup_limit: int
    listing_size: int = 10_000


async def run_watcher(
    spool: WatchedDirectory,
    pending: Pending,
    send: trio.MemorySendChannel[Arrival],
    metrics: Metrics,
    *,
    rescan: Wake,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[Literal["inotify", "poll"]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Send the names of files that are ready, each claimed in `pending`.

    Ends when cancelled or when `stop` is set. Owns `send` and closes it; a full channel makes it
    wait. Reports, once the directory is watched, how; it is listed afterwards, so that no file
    falls between. A missing directory and a system without inotify are survived.

    Args:
        spool: what to watch.
        pending: who is in flight. The receiver releases or puts back each name it gets.
        send: where names go.
        metrics: gets the gauges of the spool and of the watch.
        rescan: rung when the world may have changed (an output is back, nodes were reloaded):
            everything is listed and tried again at once, whatever its delay.
        stop: set when no more files shall be taken.
        task_status: told whether "inotify" or "poll" is in use.

    Raises:
        trio.BrokenResourceError: the receiver is gone.
    """
    with send, Watch(spool.path, metrics) as watch:
        watcher = _Watcher(spool, pending, send, metrics, watch)
        await watch.check()
        log.info("watching", file=str(spool.path), mode=watch.mode)
        task_status.started(watch.mode)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.read_events, name="read events")
            nursery.start_soon(watcher.guard_watch, name="guard watch")
            nursery.start_soon(watcher.take_listings, name="list")
            nursery.start_soon(watcher.serve_rescans, rescan, name="serve rescans")
            nursery.start_soon(watcher.feed, name="feed")
            if stop is not None:
                await stop.wait()
                nursery.cancel_scope.cancel("stop")


class _Watcher:
    """What the tasks of one watcher share. Each changes it in one step between awaits."""

    def __init__(
        self,
        spool: WatchedDirectory,
        pending: Pending,
        send: trio.MemorySendChannel[Arrival],
        metrics: Metrics,
        watch: Watch,
    ) -> None:
        self._spool = spool
        self._pending = pending
        self._send = send
        self._metrics = metrics
        self._watch = watch
        self._turn = spool.catchup_limit or TURN
        #: The next listing is taken while so many names of the last one are still to be sent.
        self._low = spool.listing_size // 4
        self._live: dict[str, bool] = {}
        self._backlog: deque[str] = deque()
        self._agenda = Agenda(spool.catchup_frequency, periodic=spool.catchup_limit > 0)
        self._list_now = Wake()
        self._unreadable = False
        #: Names sent since the listing under way began.
        self._sent_meanwhile: set[str] | None = None
        self._limiter = trio.CapacityLimiter(1)

    async def read_events(self) -> None:
        """Collect live names. Never waits for the pipeline."""
        while True:
            events, lost = await self._watch.read()
            if lost:
                self._relist()
            for event in events:
                if is_ours(event.name, self._spool.extensions):
                    self._note_live(event.name, atomic=bool(event.mask & IN_MOVED_TO))
            await trio.sleep(EVENTS_PAUSE_S)

    def _note_live(self, name: str, *, atomic: bool) -> None:
        if len(self._live) < LIVE_NAMES or name in self._live:
            self._live[name] = atomic
            self._pending.news.set()
        else:
            self._agenda.unfinished(0.0)

    async def guard_watch(self) -> None:
        """Notice within a second that the directory is not the one that is watched."""
        while True:
            with trio.move_on_after(TICK_S):
                await self._watch.disturbed.wait()
            if await self._watch.check():
                self._relist()
            self._list_now.set()

    async def serve_rescans(self, rescan: Wake) -> None:
        """Try everything again when asked to."""
        while True:
            await rescan.wait()
            self._pending.forget_waiting()
            self._relist()

    def _relist(self) -> None:
        self._agenda.everything()
        self._list_now.set()

    async def take_listings(self) -> None:
        """List the directory whenever there is a reason to."""
        while True:
            look = self._next_look()
            if look is None:
                with trio.move_on_after(self._agenda.patience(trio.current_time())):
                    await self._list_now.wait()
                continue
            self._sent_meanwhile = sent = set[str]()
            try:
                listing = await self._take(look)
            except OSError as error:
                self._note_unreadable(error)
                self._agenda.unfinished(look.min_age)
                continue
            finally:
                self._sent_meanwhile = None
            self._unreadable = False
            if not look.measure:
                self._take_over(listing, look, sent)

    def _take_over(self, listing: Listing, look: Look, sent: set[str]) -> None:
        # The directory is the truth: what is left of the previous listing is in this one. What
        # was sent since it began is in flight or has left the directory by now.
        self._backlog = deque(name for name in listing.names if name not in sent)
        if listing.more:
            self._agenda.unfinished(look.min_age)
        self._pending.news.set()

    def _next_look(self) -> Look | None:
        if self._pending.take_spilled():
            self._agenda.unfinished(0.0)
        # Names that fail must find a place to wait in, else they would be tried in a hot loop.
        enough = min(self._spool.listing_size, self._pending.remembered) // 4
        return self._agenda.take(
            trio.current_time(),
            hungry=len(self._backlog) <= self._low and self._pending.room >= enough,
            polling=self._watch.mode == "poll",
        )

    async def _take(self, look: Look) -> Listing:
        now = time.time()
        listing = await in_thread(
            partial(
                oldest,
                self._spool.path,
                self._spool.extensions,
                limit=0 if look.measure else min(self._spool.listing_size, self._pending.room),
                min_age=look.min_age,
                exclude=self._pending.__contains__,
                now=now,
            ),
            limiter=self._limiter,
        )
        age = 0.0 if listing.oldest_mtime is None else max(0.0, now - listing.oldest_mtime)
        self._metrics.note_spool(str(self._spool.path), listing.total, age)
        return listing

    def _note_unreadable(self, error: OSError) -> None:
        # A missing directory is told by the watch.
        if not self._unreadable and not isinstance(error, FileNotFoundError):
            log.warning(
                "directory cannot be listed, trying again",
                file=str(self._spool.path),
                detail=error.strerror,
            )
        self._unreadable = True

    async def feed(self) -> None:
        """Send what there is: all live names, then a turn of the others."""
        while True:
            busy = await self._feed_live()
            busy = await self._feed_turn() or busy
            if not busy:
                with trio.move_on_at(self._pending.next_due()):
                    await self._pending.news.wait()
            await trio.lowlevel.checkpoint()

    async def _feed_live(self) -> bool:
        # Those that come meanwhile have the next turn, else a steady stream starves the backlog.
        names = list(self._live)
        for name in names:
            await self._send_one(name, atomic=self._live.pop(name))
        return bool(names)

    async def _feed_turn(self) -> bool:
        for number in range(self._turn):
            name = self._next_name()
            if name is None:
                return number > 0
            await self._send_one(name, atomic=False)
        return True

    def _next_name(self) -> str | None:
        """Return a name whose time has come, else one of the backlog. It is to be claimed at once."""
        if due := self._pending.take_due(1):
            return due[0]
        while self._backlog:
            name = self._backlog.popleft()
            if len(self._backlog) == self._low:
                self._list_now.set()
            # Taken up meanwhile because of an event: that is no reason to look at it once more.
            if name not in self._pending:
                return name
        return None

    async def _send_one(self, name: str, *, atomic: bool) -> None:
        if not self._pending.claim(name):
            return
        if self._sent_meanwhile is not None:
            self._sent_meanwhile.add(name)
        sent = False
        try:
            await self._send.send(Arrival(name, atomic))
            sent = True
        finally:
            if not sent:
                self._pending.release(name)
