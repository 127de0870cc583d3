"""A TCP proxy that misbehaves on demand, between relayd and a real server.

    async with open_proxy("127.0.0.1", port) as proxy:
        fault = proxy.fault = LoseReply(lambda seen: b"COMMIT" in seen)
        ...                     # a client that dials proxy.port
        await fault.struck.wait()
        proxy.fault = Fault()   # from now on everything passes

A fault may be changed at any time; it concerns the bytes that arrive from then on. `request` is
the way from the client to the server, `reply` the way back.
"""

# ruff: noqa: D102 - an overridden method does what its base says

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from socket import SO_LINGER, SOL_SOCKET
from typing import Literal

import trio

Way = Literal["request", "reply"]
Predicate = Callable[[bytes], bool]
LOST = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
CHUNK = 65_536
# How much of what has passed a predicate is shown: a marker may come in two chunks.
TAIL = 65_536


class Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        self._ends = {"request": server, "reply": client}
        self._seen = {"request": bytearray(), "reply": bytearray()}

    async def send(self, way: Way, data: bytes) -> None:
        """Pass bytes on."""
        await self._ends[way].send_all(data)

    async def half_close(self, way: Way) -> None:
        """End one way only (FIN); the other one still works."""
        await self._ends[way].send_eof()

    def note(self, way: Way, data: bytes) -> bytes:
        """Remembers bytes that arrived; gives back the last ones of this way, these included."""
        seen = self._seen[way]
        seen += data
        del seen[:-TAIL]
        return bytes(seen)

    def reset(self) -> None:
        """Drop both connections with RST."""
        for end in self._ends.values():
            end.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            end.socket.close()


class Fault:
    """Passes everything on; base of all faults.

    Attributes:
        struck: set when the fault has done its work for the first time.
    """

    def __init__(self) -> None:
        self.struck = trio.Event()

    async def connect(self, link: Link) -> None:
        """Note a new connection."""

    async def transfer(self, link: Link, way: Way, data: bytes) -> None:
        """Handle a chunk of bytes."""
        await link.send(way, data)


class Refuse(Fault):
    """Resets each new connection."""

    async def connect(self, link: Link) -> None:
        self.struck.set()
        link.reset()
        await trio.lowlevel.checkpoint()


class Delay(Fault):
    """Holds each chunk back for some seconds."""

    def __init__(self, seconds: float, way: Way = "reply") -> None:
        super().__init__()
        self._seconds, self._way = seconds, way

    async def transfer(self, link: Link, way: Way, data: bytes) -> None:
        if way == self._way:
            self.struck.set()
            await trio.sleep(self._seconds)
        await link.send(way, data)


class Drip(Fault):
    """Passes on one byte at a time, one each `seconds`."""

    def __init__(self, seconds: float, way: Way = "reply") -> None:
        super().__init__()
        self._seconds, self._way = seconds, way

    async def transfer(self, link: Link, way: Way, data: bytes) -> None:
        if way != self._way:
            await link.send(way, data)
            return
        for position in range(len(data)):
            await link.send(way, data[position : position + 1])
            self.struck.set()
            await trio.sleep(self._seconds)


class BlackHole(Fault):
    """Connections are accepted and nothing passes, either way, until `lift` is called."""

    def __init__(self) -> None:
        super().__init__()
        self._lifted = trio.Event()

    def lift(self) -> None:
        """Lets everything that was held pass on."""
        self._lifted.set()

    async def transfer(self, link: Link, way: Way, data: bytes) -> None:
        self.struck.set()
        await self._lifted.wait()
        await link.send(way, data)


class Corrupt(Fault):
    """Flips all bits of the byte at `offset` (counted from now on, over all connections)."""

    def __init__(self, offset: int, way: Way = "reply") -> None:
        super().__init__()
        self._left, self._way = offset, way

    async def transfer(self, link: Link, way: Way, data: bytes) -> None:
        if way == self._way:
            if 0 <= self._left < len(data):
                damaged = bytearray(data)
                damaged[self._left] ^= 0xFF
                data = bytes(damaged)
                self.struck.set()
            self._left -= len(data)
        await link.send(way, data)


class CutAfter(Fault):
    """Passes on `count` bytes of one way (over all connections), then resets the connection."""

    def __init__(self, count: int, way: Way = "request") -> None:
        super().__init__()
        self._left, self._way = count, way

    async def transfer(self, link: Link, way: Way, data: bytes) -> None:
        if way != self._way or self.struck.is_set() or len(data) < self._left:
            self._left -= len(data) if way == self._way else 0
            await link.send(way, data)
            return
        await link.send(way, data[: self._left])
        self.struck.set()
        link.reset()


class HalfClose(Fault):
    """Ends one way (FIN) after the first chunk of it; the other way stays open."""

    def __init__(self, way: Way = "reply") -> None:
        super().__init__()
        self._way = way

    async def transfer(self, link: Link, way: Way, data: bytes) -> None:
        if way == self._way and self.struck.is_set():
            return
        await link.send(way, data)
        if way == self._way:
            self.struck.set()
            await link.half_close(way)


class LoseRequest(Fault):
    """Once: the chunk that makes `predicate` true does not reach the server; both sides get RST."""

    def __init__(self, predicate: Predicate) -> None:
        super().__init__()
        self._predicate = predicate

    async def transfer(self, link: Link, way: Way, data: bytes) -> None:
        seen = link.note(way, data)
        if way == "request" and not self.struck.is_set() and self._predicate(seen):
            self.struck.set()
            link.reset()
            return
        await link.send(way, data)


class LoseReply(Fault):
    """Once: the server gets the bytes that make `predicate` true; its next answer is lost.

    The connection is reset when that answer has come, so the server has done its work.
    """

    def __init__(self, predicate: Predicate) -> None:
        super().__init__()
        self._predicate = predicate
        self._marked: Link | None = None

    async def transfer(self, link: Link, way: Way, data: bytes) -> None:
        if way == "reply" and link is self._marked and not self.struck.is_set():
            self.struck.set()
            link.reset()
            return
        # Marked before the bytes leave: the answer can be there before `send` returns.
        if way == "request" and self._marked is None and self._predicate(link.note(way, data)):
            self._marked = link
        await link.send(way, data)


class Proxy:
    """A running proxy.

    Attributes:
        port: TCP port on 127.0.0.1 that clients dial.
        target: host and port of the server; a new value counts for new connections.
        fault: what happens to the bytes.
        accepted: number of connections so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.target = (host, port)
        self.fault = Fault()
        self.accepted = 0
        self._links: set[Link] = set()
        self._news = trio.Event()

    def reset(self) -> None:
        """Drop all connections with RST."""
        for link in list(self._links):
            link.reset()

    async def wait_accepted(self, count: int) -> None:
        """Return when `count` connections have been accepted since the start."""
        while self.accepted < count:
            await self._news.wait()

    async def serve(self, client: trio.SocketStream) -> None:
        """Serve one client until one of the sides ends or a fault cuts the connection."""
        self.accepted += 1
        self._news.set()
        self._news = trio.Event()
        try:
            server = await trio.open_tcp_stream(*self.target)
        except OSError:
            client.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            return
        link = Link(client, server)
        self._links.add(link)
        try:
            async with server, trio.open_nursery() as nursery:
                await self.fault.connect(link)
                end = nursery.cancel_scope.cancel
                nursery.start_soon(self._pump, link, "request", client, end)
                nursery.start_soon(self._pump, link, "reply", server, end)
        finally:
            self._links.discard(link)

    async def _pump(
        self, link: Link, way: Way, source: trio.SocketStream, end: Callable[[], None]
    ) -> None:
        try:
            while data := await source.receive_some(CHUNK):
                await self.fault.transfer(link, way, data)
            await link.half_close(way)
        except LOST:
            end()


@asynccontextmanager
async def open_proxy(host: str, port: int) -> AsyncIterator[Proxy]:
    """Run a proxy to `host`:`port` until the block ends; all connections are dropped then."""
    proxy = Proxy(host, port)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, proxy.serve, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(serve)
        proxy.port = listeners[0].socket.getsockname()[1]
        yield proxy
        nursery.cancel_scope.cancel()
