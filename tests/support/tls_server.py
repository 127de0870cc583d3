"""A policy server for uploads that misbehaves on demand: TLS, HTTP/1.1, stores what is PUT.

    async with open_peer(node) as peer:
        peer.behaviour = Answer(503)
        ...                     # a client that talks to peer.url and pins node.cert_der

A behaviour may be changed at any time; it concerns connections and requests that begin then.
"""

# ruff: noqa: D102 - an overridden method does what its base says

import hashlib
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Final

import h11
import pytest
import trio

from tests.support.signing import SigningNode

LOST = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, h11.RemoteProtocolError)


class Exchange:
    """One request on one connection.

    Attributes:
        method: of HTTP.
        target: as it was sent, percent-encoding and all.
        headers: by lower-case name.
    """

    def __init__(self, stream: "Counted", http: h11.Connection, head: h11.Request) -> None:
        self.stream = stream
        self.method = head.method.decode()
        self.target = head.target.decode("latin-1")
        self.headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        self._http = http

    async def body(self, limit: int | None = None) -> bytes:
        """Return the whole body, or about the first `limit` bytes of it."""
        parts: list[bytes] = []
        size = 0
        while limit is None or size < limit:
            event = await next_event(self._http, self.stream)
            if not isinstance(event, h11.Data):
                break
            parts.append(bytes(event.data))
            size += len(event.data)
        return b"".join(parts)

    async def digest(self) -> str:
        """Read the whole body and forgets it; the SHA-256 of it in hexadecimal."""
        digest = hashlib.sha256()
        while isinstance(event := await next_event(self._http, self.stream), h11.Data):
            digest.update(event.data)
        return digest.hexdigest()

    async def reply(
        self, status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
    ) -> None:
        """Return a whole answer."""
        fields = [*headers]
        if status not in {204, 304}:
            fields.append(("Content-Length", str(len(body))))
        await self._send(h11.Response(status_code=status, headers=fields))
        if body and self.method != "HEAD":
            await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self.stream.send_all(data)


class Behaviour:
    """What a good server does; base of all others."""

    #: In place of the server's own.
    context: ssl.SSLContext | None = None

    async def accept(self, stream: trio.SocketStream) -> None:
        """Handle a connection, before TLS."""

    async def serve(self, peer: "Peer", exchange: Exchange) -> None:
        """Answer a request."""
        peer.store(exchange, await exchange.body())
        await exchange.reply(201)


class Peer:
    """The running server.

    Attributes:
        port: on 127.0.0.1.
        behaviour: what happens now.
        connections: how many were begun.
        handshakes: how many of them came as far as TLS.
        http_bytes: decrypted bytes that clients sent, of all connections.
        uploads: target and body of each PUT that was stored, in order.
        requests: the head of each request, in order.
        open: connections that are open now.
        most_open: the highest number of them.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.port = 0
        self.behaviour = Behaviour()
        self.connections = 0
        self.handshakes = 0
        self.http_bytes = 0
        self.uploads: list[tuple[str, bytes]] = []
        self.requests: list[Exchange] = []
        self.open = 0
        self.most_open = 0
        self._context = context
        self._news = trio.Event()

    @property
    def url(self) -> str:
        """Of its root, without slash at the end."""
        return f"https://127.0.0.1:{self.port}"

    def store(self, exchange: Exchange, body: bytes) -> None:
        """Keep an upload."""
        self.uploads.append((exchange.target, body))
        self.ring()

    def ring(self) -> None:
        """Wake the tasks that wait for a condition."""
        self._news.set()
        self._news = trio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is checked whenever something happens here."""
        with trio.fail_after(60):
            while not condition():
                await self._news.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.ring()
        try:
            await self._serve(stream)
        except LOST:
            pass
        finally:
            self.open -= 1
            self.ring()
            stream.socket.close()

    async def _serve(self, stream: trio.SocketStream) -> None:
        await self.behaviour.accept(stream)
        context = self.behaviour.context or self._context
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await tls.do_handshake()
        self.handshakes += 1
        counted = Counted(tls, self)
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=200_000)
        while True:
            head = await next_event(http, counted)
            if not isinstance(head, h11.Request):
                return
            exchange = Exchange(counted, http, head)
            self.requests.append(exchange)
            self.ring()
            await self.behaviour.serve(self, exchange)
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()


class Counted:
    """A TLS stream whose decrypted bytes are counted."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], peer: Peer) -> None:
        self._stream = stream
        self._peer = peer
        self.transport_stream = stream.transport_stream

    async def receive_some(self, size: int) -> bytes:
        data = bytes(await self._stream.receive_some(size))
        self._peer.http_bytes += len(data)
        return data

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)


async def next_event(http: h11.Connection, stream: "Counted") -> object:
    """Return the next event of h11, read from the stream as far as needed."""
    while True:
        event = http.next_event()
        if event is not h11.NEED_DATA:
            return event
        http.receive_data(bytes(await stream.receive_some(65_536)))


class Answer(Behaviour):
    """Takes the whole body and answers with a status."""

    def __init__(self, status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b""):
        self.status = status
        self.headers = headers
        self.body = body

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        await exchange.digest()
        await exchange.reply(self.status, self.headers, self.body)


class Raw(Behaviour):
    """Takes the whole body and answers with any bytes, then closes."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        await exchange.digest()
        for part in self.parts:
            await exchange.stream.send_all(part)
        raise trio.BrokenResourceError


OK: Final = b"HTTP/1.1 200 OK\r\n"
CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n"
#: Answers for `Endless` that never get on: how they begin, and what is then repeated.
NEVER_GETS_ON: Final = [
    pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, id="100"),
    pytest.param(b"", b"HTTP/1.1 103 x\r\nLink: </a>\r\n\r\n" * 100, id="103"),
    pytest.param(OK, b"A: b\r\n" * 100, id="headers"),
    pytest.param(OK + b"A: ", b"b" * 1000, id="header"),
    pytest.param(CHUNKED + b"1;", b"x" * 1000, id="chunk extension"),
    pytest.param(CHUNKED, b"1;" + b"x" * 1000 + b"\r\nA\r\n", id="chunk extensions"),
    pytest.param(CHUNKED + b"0\r\n", b"A: b\r\n" * 100, id="trailers"),
    pytest.param(b"\r\n" * 100, b"\r\n" * 100, id="empty lines"),
    pytest.param(b"", b"\x00" * 1000, id="junk"),
]


class Endless(Behaviour):
    """Answers with a head and then a body that has no end, or says nothing any more."""

    def __init__(self, head: bytes, piece: bytes) -> None:
        self.head = head
        self.piece = piece

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        await exchange.digest()
        await exchange.stream.send_all(self.head)
        while self.piece:
            await exchange.stream.send_all(self.piece)
        await trio.sleep_forever()


class Silent(Behaviour):
    """Takes the request and says nothing, or not even that."""

    def __init__(self, *, before_tls: bool = False) -> None:
        self.before_tls = before_tls

    async def accept(self, stream: trio.SocketStream) -> None:
        if self.before_tls:
            await trio.sleep_forever()

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        await trio.sleep_forever()


class Cut(Behaviour):
    """Drops the connection with RST: at once, within the body, or when the file is stored."""

    def __init__(self, when: str = "accept", after: int = 1) -> None:
        self.when = when
        self.after = after

    async def accept(self, stream: trio.SocketStream) -> None:
        if self.when == "accept":
            reset(stream)

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        if self.when == "body":
            await exchange.body(self.after)
        elif self.when == "stored":
            peer.store(exchange, await exchange.body())
        reset(exchange.stream.transport_stream)


class With(Behaviour):
    """A good server, but with another TLS context."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context


def reset(stream: trio.SocketStream) -> None:
    """Close with RST."""
    stream.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()
    raise trio.BrokenResourceError


def server_context(node: SigningNode, chain: bytes = b"") -> ssl.SSLContext:
    """Return the TLS context of a server with this node's certificate, then the others."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        cert, key = directory / "cert", directory / "key"
        cert.write_bytes(node.cert_pem + chain)
        key.write_bytes(node.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
    return context


@asynccontextmanager
async def open_peer(
    node: SigningNode, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Peer]:
    """Run the server, on a free port unless one is given, until the block ends."""
    peer = Peer(server_context(node))
    listeners = await trio.open_tcp_listeners(port, host=host)
    peer.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, peer.serve, listeners)
        yield peer
        nursery.cancel_scope.cancel()
