"""One client connection: Hypercorn's HTTP/1 state machine over a Trio stream.

It replaces Hypercorn 0.18's own class, in which an exception in one connection ends the whole
service, a client that stops reading delays a stop for ever, idle connections stay open, and
descriptors leak. HTTP/2 and websockets, which relayd does not use, account for most inputs that
crash it.
"""

import math
import typing
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Request as RequestEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    AppWrapper,
    ASGIReceiveEvent,
    ConnectionState,
    Scope,
    TaskGroup,
)
from hypercorn.utils import parse_socket_addr

from relayd.api.answers import BrokenOffError
from relayd.api.server.access import Send, begin_access, log_refused
from relayd.api.server.limits import Limits
from relayd.api.server.strict import StrictConnection
from relayd.telemetry.logs import get_logger

log = get_logger("api")

#: Bytes of one read. With the body's high-water mark and the queue to the app, this limits the
#: memory of a connection to (queue of 10 + 1) reads and 1 MiB: 1.7 MiB.
MAX_RECEIVE: Final = 64 * 1024


Receive = Callable[[], Awaitable[ASGIReceiveEvent]]
#: An ASGI application, such as Quart's.
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Serving:
    """The objects that all connections of a server share."""

    app: App
    config: Config
    context: WorkerContext
    limits: Limits


class Slots:
    """A bounded number of connections; a new one may replace one without a request.

    Clients that open connections and send nothing, or send a head byte by byte, therefore cannot
    keep others out.

    Args:
        size: connections at once.
        each: the same for one client; None without such a bound.
    """

    def __init__(self, size: int, each: int | None = None) -> None:
        self._size = size
        self._each = each
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # the longest wait first
        self._clients: Counter[str] = Counter()

    def take(self, connection: "Connection") -> bool:
        """Add a connection; return False if all others have requests in progress."""
        client = connection.client
        full = self._each is not None and self._clients[client] >= self._each
        if full and not self._evict(client):
            return False
        if len(self._open) >= self._size and not self._evict():
            return False
        self._open.add(connection)
        self._clients[client] += 1
        self.waits(connection)
        return True

    def _evict(self, client: str | None = None) -> bool:
        """Cut the connection that has waited longest, of one client or of any."""
        candidates = (one for one in self._waiting if client in (None, one.client))
        victim = next(candidates, None)
        if victim is None:
            return False
        victim.cut()
        self.free(victim)
        return True

    def waits(self, connection: "Connection") -> None:
        """Note that a connection has no request in progress from now on."""
        if connection in self._open:
            self._waiting[connection] = None

    def end_waiting(self, fresh_s: float) -> None:
        """End all connections without a request in progress.

        Args:
            fresh_s: seconds that those have left which have had none so far.
        """
        for connection in self._waiting:
            if connection.fresh:
                connection.limit(fresh_s)
            else:
                connection.cut()

    def hurry(self) -> None:
        """Shorten the deadline of all writes, which must not delay the stop of the server."""
        for connection in self._open:
            connection.hurry()

    def works(self, connection: "Connection") -> None:
        """Note that a connection has a request in progress from now on."""
        self._waiting.pop(connection, None)

    def free(self, connection: "Connection") -> None:
        """Remove a closed connection."""
        if connection in self._open:
            self._clients[connection.client] -= 1
            if not self._clients[connection.client]:
                del self._clients[connection.client]
        self._open.discard(connection)
        self._waiting.pop(connection, None)


class Connection:
    """A client's connection, from accept to close.

    Args:
        serving: shared by all connections.
        slots: where this one has its place.
        stream: to the client.
        sock: below that stream.
        client: whose connections are counted together.

    Attributes:
        fresh: whether it has had no request so far.
    """

    def __init__(
        self,
        serving: Serving,
        slots: Slots,
        stream: trio.abc.HalfCloseableStream,
        sock: trio.socket.SocketType,
        client: str = "",
    ) -> None:
        self.client = client
        self.fresh = True
        self._latest = math.inf
        self._serving = serving
        self._slots = slots
        self._stream = stream
        self._socket = sock
        self._scope = trio.CancelScope()
        self._send_lock = trio.Lock()
        self._write_s = serving.limits.write_s
        self._writing = trio.CancelScope()
        self._ending = False
        self._tasks: Tasks
        self._protocol: StateMachine

    def cut(self) -> None:
        """End the connection now, including its request."""
        self._scope.cancel()

    def limit(self, seconds: float) -> None:
        """End the connection unless it has a request within this time."""
        self._latest = trio.current_time() + seconds
        self._scope.deadline = min(self._scope.deadline, self._latest)

    def hurry(self) -> None:
        """Apply the deadline of a stop to all further writes and to the current one."""
        self._write_s = self._serving.limits.stop_write_s
        due = trio.current_time() + self._write_s
        self._writing.deadline = min(self._writing.deadline, due)

    async def run(self) -> None:
        """Serve requests until the client disconnects, is too slow or violates the protocol.

        Nothing but `Cancelled` is raised: a bad request ends only its own connection. The caller
        owns the stream and closes it.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._tasks = self._make_tasks(nursery)
                    await self._serve()
        except* Exception:
            log.exception("connection failed")

    def _make_tasks(self, nursery: trio.Nursery) -> "Tasks":
        return Tasks(nursery)

    async def _serve(self) -> None:
        sock = self._socket
        try:
            peer = parse_socket_addr(sock.family, sock.getpeername())
        except OSError:
            return  # the client has disconnected already
        local = parse_socket_addr(sock.family, sock.getsockname())
        self._protocol = self._make_protocol(peer, local)
        self._wait_for_head()
        await self._protocol.initiate()
        await self._read()
        await self._protocol.handle(Closed())

    def _make_protocol(
        self, peer: tuple[str, int] | None, local: tuple[str, int] | None
    ) -> "StateMachine":
        return Protocol(self._serving, self._tasks, peer, local, self._send)

    async def _read(self) -> None:
        data: bytes | bytearray = b"-"
        while data:
            try:
                data = await self._stream.receive_some(MAX_RECEIVE)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not self._ending:
                await self._protocol.handle(RawData(bytes(data)))

    async def _send(self, event: Event) -> None:
        """Carry out an event of the state machine."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            await self._end()
        elif isinstance(event, Updated) and event.idle:
            self._wait_for_head()
        elif isinstance(event, Updated):
            self.fresh = False
            self._slots.works(self)
            self._scope.deadline = math.inf

    def _wait_for_head(self) -> None:
        self._slots.waits(self)
        due = trio.current_time() + self._serving.limits.head_s
        self._scope.deadline = min(due, self._latest)

    async def _write(self, data: bytes) -> None:
        async with self._send_lock:
            if self._ending:
                return
            broken = True
            # After part of a message, nothing else may be sent.
            with trio.move_on_after(self._write_s, shield=True) as self._writing:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_all(data)
                    broken = False
        if broken:
            await trio.aclose_forcefully(self._stream)
            self.cut()

    async def _end(self) -> None:
        """Send no more answers; the reader discards further input for a short while."""
        if not self._ending:
            self._ending = True
            self._slots.waits(self)
            self._scope.deadline = trio.current_time() + self._serving.limits.linger_s
            async with self._send_lock:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_eof()
        await self._protocol.handle(Closed())


class StateMachine(typing.Protocol):
    """What a connection needs of a version of HTTP."""

    async def initiate(self) -> None:
        """Send what the server says first."""

    async def handle(self, event: Event) -> None:
        """Handle received data, or the end of the connection."""


class Protocol(H11Protocol):
    """Hypercorn's HTTP/1 state machine over a strict parser, without upgrades to anything else."""

    def __init__(
        self,
        serving: Serving,
        tasks: "Tasks",
        peer: tuple[str, int] | None,
        local: tuple[str, int] | None,
        send: Callable[[Event], Awaitable[None]],
        *,
        state: ConnectionState | None = None,
        tls: bool = False,
    ) -> None:
        super().__init__(
            cast("AppWrapper", serving.app),
            serving.config,
            serving.context,
            cast("TaskGroup", tasks),
            state or ConnectionState({}),
            ssl=tls,
            client=peer,
            server=local,
            send=send,
        )
        self.connection = StrictConnection(serving.limits)

    async def _send_error_response(self, status_code: int) -> None:
        log_refused(status_code, self.client)
        await super()._send_error_response(status_code)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore an offer to switch to HTTP/2, as RFC 9110, 7.8 allows."""

    async def stream_send(self, event: StreamEvent) -> None:
        """Send an answer of the app; one before the end of the request is the last one."""
        early = self.connection.their_state is h11.SEND_BODY
        if early and isinstance(event, Response) and event.status_code >= 200:
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def _create_stream(self, request: h11.Request) -> None:
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            RequestEvent(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=_method(request.method),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1


def _method(sent: bytes) -> str:
    """Return a method; methods are case-sensitive, and the framework would make `get` a GET."""
    method = sent.decode("ascii")
    return method if method.isupper() else "UNKNOWN"


class Tasks:
    """The tasks of one connection, with the interface that Hypercorn's protocol code expects."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def receiving(self, receive: Receive) -> Receive:
        """Return the `receive` of a request, whose first call asks for its body."""
        return receive

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Scope, send: Send
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start a request; the result accepts the client's input."""
        put, get = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)
        receive = self.receiving(partial(_receive, get))
        self._nursery.start_soon(run_app, app, scope, get, receive, send)

        async def put_while_wanted(event: ASGIReceiveEvent) -> None:
            # It is the app that reports the end of its own answer: it must not wait for itself,
            # whatever it has left unread.
            if event["type"] == "http.disconnect":
                put.close()
                return
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the app has ended
                await put.send(event)

        return put_while_wanted


async def _receive(channel: trio.MemoryReceiveChannel[ASGIReceiveEvent]) -> ASGIReceiveEvent:
    try:
        return await channel.receive()
    except trio.EndOfChannel:
        return {"type": "http.disconnect"}


async def run_app(
    app: AppWrapper,
    scope: Scope,
    channel: AbstractContextManager[object],
    receive: Receive,
    send: Send,
) -> None:
    """Run one request; an exception in the framework itself is answered with 500.

    Args:
        app: the application.
        scope: of the request.
        channel: is left when the application has ended, before `send` learns of it.
        receive: gives the client's input.
        send: takes the parts of the answer, and None at the end.
    """
    application = cast("App", app)
    access = begin_access(scope)

    to_client = send if access is None else access.noting(send)
    try:
        with channel:
            await application(scope, receive, to_client)
    except* BrokenOffError as error:
        log.debug("answer broken off", detail=str(error.exceptions[0]))
    except* Exception:
        log.exception("request failed in the framework")
    finally:
        if access is not None:
            access.log()
    await send(None)
