"""A watcher on a real directory, for tests of what it sends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path

import trio

from relayd.spool.pending import Pending
from relayd.spool.watching.watcher import Arrival, WatchedDirectory, run_watcher
from relayd.system.wake import Wake
from relayd.telemetry.metrics import Metrics

EXTENSIONS = frozenset({"gz", "zip", "log"})


class Watcher:
    """A running watcher and everything it shares.

    Attributes:
        path: the watched directory.
        pending: the files in flight.
        arrivals: what the watcher sends, handed over one by one.
        metrics: its gauges.
        rescan: rung by a test to have everything tried again.
        stop: set by a test to end it.
        mode: how the directory was watched at start.
    """

    def __init__(
        self, path: Path, arrivals: trio.MemoryReceiveChannel[Arrival], pending: Pending
    ) -> None:
        self.path = path
        self.arrivals = arrivals
        self.pending = pending
        self.metrics = Metrics()
        self.rescan = Wake()
        self.stop = trio.Event()
        self.mode = ""

    async def take(self) -> Arrival:
        """Return the next arrival, left in flight."""
        return await self.arrivals.receive()

    async def finish(self, count: int) -> list[str]:
        """Process this many files: each is removed and released, as the pipeline would.

        Names whose file is gone are released and not counted.
        """
        names: list[str] = []
        while len(names) < count:
            name = (await self.take()).name
            with suppress(FileNotFoundError):
                (self.path / name).unlink()
                names.append(name)
            self.pending.release(name)
        return names

    async def see_events(self) -> None:
        """Upload files until one is known to have come by its event."""
        for number in count():
            temporary = self.path / ".davfs.tmp000001"
            temporary.write_text("x")
            temporary.rename(self.path / f"seen{number}.log")
            name, atomic = await self.take()
            (self.path / name).unlink(missing_ok=True)
            self.pending.release(name)
            if atomic:
                return

    async def is_silent(self, seconds: float) -> bool:
        """Whether nothing arrives for some seconds of Trio's clock."""
        with trio.move_on_after(seconds) as scope:
            await self.take()
        return scope.cancelled_caught

    def value(self, name: str, **labels: str) -> float:
        """Return the value of one of the watcher's metrics."""
        metric = getattr(self.metrics, name)
        one = metric.labels(**labels) if labels else metric
        return float(one.collect()[0].samples[0].value)


@asynccontextmanager
async def open_watcher(
    path: Path,
    *,
    frequency: float = 10.0,
    limit: int = 50,
    listing_size: int = 10_000,
    settled: bool = False,
    extensions: frozenset[str] = EXTENSIONS,
    hidden: bool = False,
    ordered: bool = False,
    pending: Pending | None = None,
) -> AsyncIterator[Watcher]:
    """Run a watcher on `path` as long as the block lasts; nothing is buffered.

    With `settled` the listing at start is over when the block begins: a file for it was there.
    """
    if settled:
        (path / "first.log").write_text("x")
    send, receive = trio.open_memory_channel[Arrival](0)
    watcher = Watcher(path, receive, pending or Pending())
    spool = WatchedDirectory(
        path, extensions, frequency, limit, listing_size, hidden=hidden, ordered=ordered
    )
    run = partial(
        run_watcher,
        spool,
        watcher.pending,
        send,
        watcher.metrics,
        rescan=watcher.rescan,
        stop=watcher.stop,
    )
    with receive:
        async with trio.open_nursery() as nursery:
            watcher.mode = await nursery.start(run)
            if settled:
                await watcher.finish(1)
            yield watcher
            nursery.cancel_scope.cancel()
