"""A client of the web server: HTTP/1.1 over TLS, one request after the other."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final

import h11
import trio

from relayd.api.server.limits import Limits
from relayd.api.server.strict import StrictConnection

LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError)

_LIMITS: Final = Limits(request_line_bytes=16 * 1024)
_CHUNK: Final = 64 * 1024
#: Disconnect a client that sends no byte of a body for this many seconds.
_STALLED_S: Final = 30.0

Handler = Callable[["Exchange", h11.Request], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


class LostError(Exception):
    """The client is gone or does not speak HTTP; it cannot be answered."""


class Exchange:
    """A client's connection and its current request.

    Attributes:
        peer: the client's address.
    """

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], peer: str) -> None:
        self._stream = stream
        self._http = StrictConnection(_LIMITS)
        self._bodiless = False
        self.peer = peer

    async def run(self, handler: Handler) -> None:
        """Let `handler` answer each request until the client leaves, stalls or breaks HTTP."""
        try:
            with trio.fail_after(_LIMITS.head_s):
                await self._stream.do_handshake()
            await self._answer_all(handler)
        except (LostError, trio.TooSlowError, *LOST):
            return
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)

    async def _answer_all(self, handler: Handler) -> None:
        while True:
            with trio.move_on_after(_LIMITS.head_s) as idle:
                request = await self._next()
            if idle.cancelled_caught or not isinstance(request, h11.Request):
                return
            self._bodiless = request.method == b"HEAD"
            await handler(self, request)
            if not await self._is_reusable():
                return
            self._http.start_next_cycle()

    async def _is_reusable(self) -> bool:
        """Read the rest of the request, for a limited time, and return whether all was read.

        Closing the connection with unread data would lose the answer.
        """
        with trio.move_on_after(_LIMITS.linger_s):
            while self._http.their_state is h11.SEND_BODY:
                await self._next()
        return self._http.their_state is self._http.our_state is h11.DONE

    async def read(self) -> bytes:
        """Return the next piece of the request's body; empty at its end.

        Raises:
            LostError: the body ends too early, or nothing arrives for half a minute.
        """
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        with trio.move_on_after(_STALLED_S):
            event = await self._next()
            return bytes(event.data) if isinstance(event, h11.Data) else b""
        raise LostError

    async def wait_gone(self) -> None:
        """Return when the client closes the connection; call it after reading the whole body."""
        if data := await self._receive():
            self._http.receive_data(data)
            await trio.sleep_forever()  # the next request is waiting, so the client is not gone

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the head of the answer; without a Content-Length, the body is chunked."""
        await self._send(h11.Response(status_code=status, headers=list(headers)))

    async def send_data(self, data: bytes) -> None:
        """Send a piece of the answer now."""
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        """End the answer."""
        await self._send(h11.EndOfMessage())

    async def answer(self, status: int, text: str = "", headers: Headers = ()) -> None:
        """Send a complete short answer."""
        body = f"{text}\n".encode() if text else b""
        length = (b"Content-Length", str(len(body)).encode())
        await self.begin(status, [(b"Content-Type", b"text/plain"), length, *headers])
        if not self._bodiless:
            await self.send_data(body)
        await self.end()

    async def _refuse(self, status: int) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            with trio.move_on_after(_LIMITS.write_s), suppress(LostError):
                await self.answer(status, "malformed request", [(b"Connection", b"close")])

    async def _next(self) -> h11.Event:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._receive())
            elif isinstance(event, h11.Event) and not isinstance(event, h11.ConnectionClosed):
                return event
            else:
                raise LostError

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_CHUNK))
        except LOST as error:
            raise LostError from error

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            try:
                await self._stream.send_all(data)
            except LOST as error:
                raise LostError from error
