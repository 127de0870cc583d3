"""Request bodies with a limit and back-pressure, and answers that are sent completely.

Quart 0.22 with Quart-Trio 0.12 buffers everything that arrives, compares a limit only with what is
currently buffered, ends a body cut off by the limit as if it were complete, and is cancelled by
Hypercorn in the middle of its last message. These classes replace the faulty parts.
"""

from collections.abc import Generator, Mapping
from typing import Any, Final, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody, TrioRequest
from werkzeug.exceptions import RequestEntityTooLarge

#: Bytes of a body that may wait for its handler, and before the handler takes the first of them;
#: beyond that the client has to wait.
HIGH_WATER: Final = 64 * 1024
LOW_WATER: Final = 32 * 1024
#: The last message of an answer must not be interrupted, but must end: a write has its own
#: deadline, this one covers the rest of Hypercorn's work.
LAST_SEND_S: Final = 30.0


class Body(TrioBody):
    """A request body, iterated over (bounded memory) or awaited as a whole (up to its limit)."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._received = 0
        self._unwanted = False
        self._wanted_whole = False
        self._high_water = LOW_WATER
        self._drained = trio.Event()

    def append(self, data: bytes) -> None:
        """Add data that arrived, unless it was discarded or exceeds the limit."""
        self._received += len(data)
        limit = self._max_content_length
        if limit is not None and self._received > limit and self._must_raise is None:
            self._must_raise = RequestEntityTooLarge()
            self._data.clear()
            self.set_complete()
        if self._must_raise is None and not self._unwanted:
            super().append(data)

    def discard(self) -> None:
        """Drop received and future data, because the answer is complete."""
        self._unwanted = True
        self._data.clear()
        self._wake()

    async def drained(self) -> None:
        """Wait until the handler has taken enough for more data to be received."""
        while len(self._data) > self._high_water and not self._unbounded():
            await self._drained.wait()

    def _unbounded(self) -> bool:
        return self._wanted_whole or self._unwanted or self._must_raise is not None

    def _wake(self) -> None:
        self._drained.set()
        self._drained = trio.Event()

    async def __anext__(self) -> bytes:
        if self._high_water < HIGH_WATER:
            self._high_water = HIGH_WATER
            self._wake()
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            # The limit was exceeded during the wait, which Quart mistakes for the end.
            if self._must_raise is not None:
                raise self._must_raise from None
            raise
        finally:
            self._wake()

    def __await__(self) -> Generator[Any, None, Any]:
        self._wanted_whole = True
        self._wake()
        return super().__await__()


class Request(TrioRequest):
    """A request whose body is bounded."""

    body_class = Body
    body: Body


class HTTPConnection(TrioASGIHTTPConnection):
    """One request and its answer."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Handle the request until its answer is sent or the client disconnects."""
        request = cast("Request", self._create_request_from_scope(send))
        limit = _limit_of(self.scope["raw_path"], self.app.config.get("BODY_LIMITS", {}))
        if limit is not None:
            request.body = Body(request.content_length, limit)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_receive_body, nursery, request.body, receive)
            nursery.start_soon(self.handle_request, nursery, request, _unbroken(request.body, send))


def _limit_of(path: bytes, limits: Mapping[str, int]) -> int | None:
    """Return the body limit of a path, in bytes; None if it has no limit of its own.

    The limit must be known before the handler is, because the body may arrive earlier.
    """
    for prefix, limit in limits.items():
        if path.startswith(prefix.encode()):
            return limit
    return None


async def _receive_body(nursery: trio.Nursery, body: Body, receive: ASGIReceiveCallable) -> None:
    """Pass the body on at the pace of its handler; a disconnect ends the request."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        if message["type"] == "http.request":
            body.append(message.get("body", b""))
            if not message.get("more_body", False):
                body.set_complete()
            del message  # the body has a copy, and the client may have to wait for long
            await body.drained()
    nursery.cancel_scope.cancel()


def _unbroken(body: Body, send: ASGISendCallable) -> ASGISendCallable:
    """Return a `send` whose last message is not interrupted.

    While it sends that message, Hypercorn reports the end of the request, which would cancel this
    very task while Hypercorn recycles or closes the connection. The rest of the body is dropped
    first, because Hypercorn has to deliver it before it can report the end.
    """

    async def send_whole(message: ASGISendEvent) -> None:
        if message["type"] != "http.response.body" or message.get("more_body", False):
            await send(message)
            return
        body.discard()
        with trio.move_on_after(LAST_SEND_S, shield=True):
            await send(message)

    return send_whole
