"""One request and its answer on an HTTP/2 connection, as an ASGI application sees them."""

from typing import Final, Protocol

import trio
from hypercorn.typing import ASGIReceiveEvent, ASGISendEvent
from hypercorn.utils import build_and_validate_headers, suppress_body

from relayd.api.http2.head import Head, Headers

#: Bytes of a body that an application gets at once.
_PIECE: Final = 64 * 1024
#: Headers of an answer that concern an HTTP/1 connection.
_OF_HTTP_1: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)


class Sending(Protocol):
    """What a stream needs of its connection."""

    async def ask(self, stream: "Stream") -> None:
        """Let the client send a body for which it waits."""

    async def took(self, stream: "Stream", length: int) -> None:
        """Let the client send as many bytes as the application has taken."""

    async def send_head(self, stream: "Stream", headers: Headers, *, end: bool) -> None:
        """Send the head of an answer."""

    async def send_data(self, stream: "Stream", data: bytes, *, end: bool) -> None:
        """Send a part of the body of an answer."""

    async def abort(self, stream: "Stream") -> None:
        """End a stream whose answer cannot be completed."""


class Stream:
    """A request and its answer.

    Attributes:
        number: of the stream.
        scope: around the application.
        ended: whether the whole request was received.
        answered: whether the whole answer was sent.
        gone: whether nothing more can be received or sent.
        waits: whether the client waits before it sends the body.
        is_large: whether the body may need more than the window that every stream has.
    """

    def __init__(self, connection: Sending, number: int, head: Head) -> None:
        self.number = number
        self.scope = trio.CancelScope()
        self.ended = False
        self.answered = False
        self.gone = False
        expected = (value.lower() for name, value in head.headers if name == b"expect")
        self.waits = b"100-continue" in expected
        length = dict(head.headers).get(b"content-length")
        self.is_large = length is None or int(length) > _PIECE
        self._connection = connection
        self._method = head.method
        self._buffer = bytearray()
        self._changed = trio.Event()
        self._asked = False
        self._delivered = False
        self._status = 0
        self._finished = False

    def feed(self, data: bytes) -> None:
        """Add received data."""
        self._buffer += data
        self.waits = False
        self._wake()

    def end(self) -> None:
        """Note that the request is complete."""
        self.ended = True
        self.waits = False
        self._wake()

    def cut(self) -> None:
        """End the application: nobody waits for it any more."""
        self.gone = True
        self._wake()
        self.scope.cancel()

    def unread(self) -> int:
        """Return the number of bytes that no application will take."""
        return len(self._buffer)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next part of the body, or that there is nothing more to come."""
        if not self._asked and not self.ended:
            await self._connection.ask(self)
        self._asked = True
        while not self._has_news():
            await self._changed.wait()
        # With its answer complete, whatever is left of a request is unwanted.
        if self.gone or self._delivered or self._finished:
            return {"type": "http.disconnect"}
        data = bytes(self._buffer[:_PIECE])
        del self._buffer[:_PIECE]
        self._delivered = self.ended and not self._buffer
        if data:
            await self._connection.took(self, len(data))
        return {"type": "http.request", "body": data, "more_body": not self._delivered}

    def _has_news(self) -> bool:
        if self.gone or self._finished:
            return True
        return not self._delivered and (bool(self._buffer) or self.ended)

    async def send(self, message: ASGISendEvent | None) -> None:
        """Send a part of the answer; None stands for the end of the application."""
        if message is None:
            await self._complete()
        elif message["type"] == "http.response.start":
            self._status = int(message["status"])
            await self._send_head(build_and_validate_headers(message.get("headers", [])))
        elif message["type"] == "http.response.body" and not self._finished:
            more, data = message.get("more_body", False), bytes(message.get("body", b""))
            if data or not more:
                await self._send_data(data, end=not more)

    async def _send_head(self, headers: Headers) -> None:
        kept = [pair for pair in headers if pair[0] not in _OF_HTTP_1]
        end = suppress_body(self._method, self._status) or (b"content-length", b"0") in kept
        status = (b":status", b"%d" % self._status)
        await self._connection.send_head(self, [status, *kept], end=end)
        if end:
            self._finish()

    async def _send_data(self, data: bytes, *, end: bool) -> None:
        await self._connection.send_data(self, data, end=end)
        if end:
            self._finish()

    def _finish(self) -> None:
        self._finished = True
        self._wake()

    async def _complete(self) -> None:
        if not self._status:
            self._status = 500
            await self._send_head([(b"content-length", b"0")])
        elif not self._finished:
            await self._connection.abort(self)
