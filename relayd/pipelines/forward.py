"""The way of a file on a relay, wired in one place.

    watcher ─▶ parcels ─▶ forward (lanes) ─▶ gather ─▶ dispose

What travels between the middle two is a parcel: the tickets of files that belong together. Each
arrow is a bounded channel, so an upstream that is away slows the watcher and fills no memory: at
worst ARRIVALS names, and for each lane one parcel and one piece of a file.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from relayd.errors import Retry
from relayd.outputs.results import Forwarded
from relayd.outputs.upstream.gate import Gate, Trouble, Turn
from relayd.outputs.upstream.uploads import Route, Upstream
from relayd.pipelines.gather import BATCH, run_gather
from relayd.pipelines.ticket import Ticket, Verdict
from relayd.spool.identity import Identity
from relayd.spool.reading import SpoolFile, open_spool_file
from relayd.spool.watching.watcher import Arrival

#: Names waiting between the watcher and the lanes: some 15 KB.
ARRIVALS: Final = 128
#: Threads that read files of one directory.
READERS: Final = 4

Parcel = list[Ticket]


async def run_parcels(
    source: trio.MemoryReceiveChannel[Arrival],
    parcels: trio.MemorySendChannel[Parcel],
    make: Callable[[Arrival], Awaitable[Parcel]],
) -> None:
    """Make parcels of what arrives; ends with its source. Owns both channel ends."""
    with source, parcels:
        async for arrival in source:
            if parcel := await make(arrival):
                await parcels.send(parcel)


class Forwarder:
    """The forward stage of one watched directory.

    Args:
        directory: the watched directory.
        route: what kind of files it has.
        upstream: where they go.
        gate: asked before each upload.
        committed: whether this very file was sent already and only has to be removed.
    """

    def __init__(
        self,
        directory: Path,
        route: Route,
        upstream: Upstream,
        gate: Gate,
        committed: Callable[[str, Identity], bool],
    ) -> None:
        self._directory = directory
        self._route = route
        self._upstream = upstream
        self._gate = gate
        self._committed = committed
        self._limiter = trio.CapacityLimiter(READERS)

    async def run(
        self,
        parcels: trio.MemoryReceiveChannel[Parcel],
        to_dispose: trio.MemorySendChannel[Ticket],
    ) -> None:
        """Send what arrives; ends with its source. Owns both channel ends."""
        with parcels, to_dispose:
            async for parcel in parcels:
                await self._forward(parcel)
                for ticket in parcel:
                    await to_dispose.send(ticket)

    async def _forward(self, parcel: Parcel) -> None:
        """Files of a parcel leave the spool together: none before all are there."""
        for ticket in parcel:
            ticket.stage = "forward"
            ticket.verdict = await self._forward_one(ticket)
            if isinstance(ticket.verdict, Retry):
                for other in parcel:
                    other.verdict = ticket.verdict
                    other.settles_in = ticket.settles_in
                return

    async def _forward_one(self, ticket: Ticket) -> Verdict:
        """Try until the upstream could be asked: that it is away says nothing of the file."""
        while (turn := await self._gate.enter()) is not None:
            with self._gate.using(turn):
                verdict = await self._try(ticket, turn)
            if turn.trouble is None or turn.trouble.reached:
                return verdict
        return Retry(f"relayd stops; {_detail(self._gate.trouble)}", attempted=False)

    async def _try(self, ticket: Ticket, turn: Turn) -> Verdict:
        path = f"{self._directory}/{ticket.name}"
        ticket.identity, opened = await open_spool_file(path, self._limiter)
        if not isinstance(opened, SpoolFile):
            return opened
        try:
            if self._committed(ticket.name, opened.identity):
                return Forwarded(again=True)
            trouble = await self._upstream.put(self._route, ticket.name, opened)
        except OSError as error:
            return Retry(f"cannot be read: {error.strerror}")
        finally:
            opened.close()
        turn.end(trouble)
        if trouble is None:
            return Forwarded()
        ticket.settles_in = trouble.wait
        return Retry(trouble.detail)


def _detail(trouble: Trouble | None) -> str:
    return "" if trouble is None else trouble.detail


async def run_forwarding(
    watch: Callable[..., Awaitable[None]],
    make: Callable[[Arrival], Awaitable[Parcel]],
    forward: Callable[..., Awaitable[None]],
    lanes: int,
    dispose: Callable[..., Awaitable[None]],
) -> None:
    """Run the pipeline until its watcher ends and all that it took up is disposed of.

    Args:
        watch: the watcher; called with the channel for arrivals, which it owns.
        make: makes a parcel of an arrival, or none.
        forward: `Forwarder.run`, called with its two channel ends, once for each lane.
        lanes: how many uploads may be under way at once.
        dispose: `Disposer.run`, called with its channel end.
    """
    arrivals_in, arrivals = trio.open_memory_channel[Arrival](ARRIVALS)
    parcels_in, parcels = trio.open_memory_channel[Parcel](0)
    done_in, done = trio.open_memory_channel[Ticket](BATCH)
    dispose_in, dispose_out = trio.open_memory_channel[list[Ticket]](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, arrivals_in, name="watch")
        nursery.start_soon(run_parcels, arrivals, parcels_in, make, name="parcels")
        with parcels, done_in:
            for lane in range(lanes):
                ends = parcels.clone(), done_in.clone()
                nursery.start_soon(forward, *ends, name=f"forward {lane}")
        nursery.start_soon(run_gather, done, dispose_in, name="gather")
        nursery.start_soon(dispose, dispose_out, name="dispose")
