"""One client connection of the front door: TLS below the HTTP server's connection."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import h11
import trio
from hypercorn.typing import ASGIReceiveEvent, ConnectionState, H11SendableEvent

from relayd.api.door.tls import TlsStream, Trusted, digest_of
from relayd.api.server.connection import (
    Connection,
    Protocol,
    Receive,
    Serving,
    Slots,
    StateMachine,
    Tasks,
)
from relayd.telemetry.logs import get_logger

if TYPE_CHECKING:
    from relayd.api.http2.protocol import Http2Protocol

log = get_logger("api")

#: Seconds from accept to the end of the handshake.
HANDSHAKE_S: Final = 10.0
#: Seconds for saying goodbye.
_CLOSE_S: Final = 2.0

#: Key of the digest of the client's certificate in the state of its requests.
CERTIFICATE: Final = "certificate"


class DoorConnection(Connection):
    """A client's TLS connection; its context is the one in use when it was accepted."""

    def __init__(
        self,
        serving: Serving,
        slots: Slots,
        stream: trio.SocketStream,
        trusted: Trusted,
        client: str,
    ) -> None:
        self._tls = TlsStream(stream, trusted.context)
        self._certificate: bytes | None = None
        self._nursery: trio.Nursery
        self._http2: Http2Protocol | None = None
        super().__init__(serving, slots, self._tls, stream.socket, client)

    async def _serve(self) -> None:
        self._scope.deadline = min(trio.current_time() + HANDSHAKE_S, self._latest)
        try:
            certificate = await self._tls.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.debug("TLS handshake failed", client=self.client, detail=str(error.__cause__))
            return
        if certificate is not None:
            self._certificate = digest_of(certificate)
        await super()._serve()
        with trio.move_on_after(_CLOSE_S), suppress(trio.BrokenResourceError):
            await self._tls.aclose()

    def _make_tasks(self, nursery: trio.Nursery) -> Tasks:
        self._nursery = nursery
        return _DoorTasks(nursery, self)

    def _make_protocol(
        self, peer: tuple[str, int] | None, local: tuple[str, int] | None
    ) -> StateMachine:
        state = ConnectionState({CERTIFICATE: self._certificate})
        if self._tls.speaks_http2():
            # 2 MB, which a relay without such a client does not need.
            from relayd.api.http2.protocol import Http2Protocol

            self._http2 = Http2Protocol(
                self._serving, self._nursery, peer, local, self._send, state
            )
            return self._http2
        return _DoorProtocol(
            self._serving, self._tasks, peer, local, self._send, state=state, tls=True
        )

    def hurry(self) -> None:
        """Apply the deadline of a stop to all further writes and to the current ones."""
        super().hurry()
        if self._http2 is not None:
            self._http2.hurry(self._write_s)

    async def ask_for_body(self) -> None:
        """Let the client send its body, if it waits for that."""
        assert isinstance(self._protocol, _DoorProtocol)
        await self._protocol.ask_for_body()


class _DoorTasks(Tasks):
    def __init__(self, nursery: trio.Nursery, connection: DoorConnection) -> None:
        super().__init__(nursery)
        self._ask = connection.ask_for_body

    def receiving(self, receive: Receive) -> Receive:
        return _asking(receive, self._ask)


def _asking(receive: Receive, ask: Callable[[], Awaitable[None]]) -> Receive:
    asked = False

    async def receive_after_asking() -> ASGIReceiveEvent:
        nonlocal asked
        if not asked:
            asked = True
            await ask()
        return await receive()

    return receive_after_asking


class _DoorProtocol(Protocol):
    """Answers `Expect: 100-continue` only once a request was found good.

    Hypercorn would answer it at once, and a client with the wrong password would send its file.
    """

    _wanted = False

    async def _create_stream(self, request: h11.Request) -> None:
        self._wanted = False
        await super()._create_stream(request)

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        if not isinstance(event, h11.InformationalResponse) or self._wanted:
            await super()._send_h11_event(event)

    async def ask_for_body(self) -> None:
        self._wanted = True
        if self.connection.they_are_waiting_for_100_continue:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))
