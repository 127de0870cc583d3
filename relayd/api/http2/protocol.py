"""One HTTP/2 connection: h2's state machine, with bounds on all that a client may cost.

Hypercorn has such a class too. In it, one request that does not read its body stops all others of
its connection, streams that a client resets go on unbounded, and several orders of frames raise
exceptions. h2 itself knows neither deadlines nor a bound on frames that carry nothing.

The body of a request waits in its stream, at most `WINDOW` bytes for all streams of a connection
together: the client may send more only when an application has taken some of it.
"""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Final, cast
from urllib.parse import unquote

import h2.events
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import AppWrapper, ConnectionState, HTTPScope

from relayd.api.http2.frames import ANSWER, BYTES, PIECE, RESET, FloodError, FrameCounter
from relayd.api.http2.head import Head, HeadError, Headers, read_head
from relayd.api.http2.stream import Stream
from relayd.api.server.access import log_refused
from relayd.api.server.connection import Serving, run_app
from relayd.telemetry.logs import get_logger

log = get_logger("api")

#: Requests at once. Agents send one for each connection.
STREAMS: Final = 16
#: The same with those that were reset and have not ended yet.
_RUNNING: Final = 2 * STREAMS
#: Requests after which a connection ends: h2 remembers every stream.
_REQUESTS: Final = 1000
#: Bytes that a client may send before the application takes them, for all streams.
WINDOW: Final = 256 * 1024
_FIRST_WINDOW: Final = 65_535  # RFC 9113, 6.9.2
#: Bytes of one write with a deadline of its own, and of one step of the parser.
_WRITE: Final = 64 * 1024
_STEP: Final = 16 * 1024

Address = tuple[str, int] | None


class Http2Protocol:
    """The server's side of a connection, with the interface of Hypercorn's protocol classes.

    Args:
        serving: shared by all connections.
        nursery: of the connection.
        peer: the client.
        local: this server.
        send: carries out events of the state machine.
        state: of all requests.
    """

    def __init__(
        self,
        serving: Serving,
        nursery: trio.Nursery,
        peer: Address,
        local: Address,
        send: Callable[[Event], Awaitable[None]],
        state: ConnectionState,
    ) -> None:
        self._serving = serving
        self._nursery = nursery
        self._peer = peer
        self._local = local
        self._send = send
        self._state = state
        self._h2 = _make_h2(serving)
        self._frames = FrameCounter()
        self._streams: dict[int, Stream] = {}
        self._running = 0
        self._requests = 0
        self._over = False
        self._lock = trio.Lock()
        self._window = trio.Event()
        self._write_s = serving.limits.write_s
        self._writes: set[trio.CancelScope] = set()

    async def initiate(self) -> None:
        """Send the settings of this server."""
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW - _FIRST_WINDOW)
        await self.flush()

    def hurry(self, write_s: float) -> None:
        """Apply a shorter deadline to all further writes and to the current ones."""
        self._write_s = write_s
        for scope in self._writes:
            scope.deadline = min(scope.deadline, trio.current_time() + write_s)

    async def handle(self, event: Event) -> None:
        """Handle received data, or the end of the connection."""
        if isinstance(event, RawData) and not self._over:
            try:
                for at in range(0, len(event.data), _STEP):
                    await self._receive(event.data[at : at + _STEP])
            except FloodError as error:
                log.debug("HTTP/2 client disconnected", client=self._client, detail=str(error))
                await self._close(ErrorCodes.ENHANCE_YOUR_CALM)
            except ProtocolError as error:
                log.debug("bad HTTP/2", client=self._client, detail=type(error).__name__)
                await self._end()  # h2 has announced it
        elif isinstance(event, Closed):
            self._over = True
            self._cut_all()

    @property
    def _client(self) -> str:
        return self._peer[0] if self._peer else ""

    async def _receive(self, data: bytes) -> None:
        if self._over:
            return
        self._frames.count(data)
        for event in self._h2.receive_data(data):
            await self._take(event)
        await self.flush()

    async def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                await self._begin(event)
            case h2.events.DataReceived():
                self._take_data(event)
            case h2.events.StreamEnded():
                if (stream := self._streams.get(event.stream_id)) is not None:
                    stream.end()
            case h2.events.StreamReset():
                if not event.remote_reset:
                    self._frames.pay(RESET)
                if (stream := self._streams.get(event.stream_id)) is not None:
                    stream.cut()
                    self._wake()
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self._wake()
            case h2.events.ConnectionTerminated():
                await self._end()

    def _wake(self) -> None:
        """Let answers look at their windows again."""
        self._window.set()
        self._window = trio.Event()

    def _take_data(self, event: h2.events.DataReceived) -> None:
        length, padded = len(event.data), event.flow_controlled_length
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.gone:
            self.acknowledge(event.stream_id, padded)
            return
        self._frames.earn(length // BYTES or int(length >= PIECE))
        stream.feed(event.data)
        self.acknowledge(stream.number, padded - length)

    async def _begin(self, event: h2.events.RequestReceived) -> None:
        number = event.stream_id
        self._requests += 1
        late = self._serving.context.terminated.is_set() and self._requests > 1
        if late or self._requests > _REQUESTS or self._running >= _RUNNING:
            self._frames.pay(RESET)
            self._reset(number, ErrorCodes.REFUSED_STREAM)
            return
        try:
            head = read_head(event.headers, self._serving.limits)
        except HeadError as error:
            self._refuse(number, error, ended=event.stream_ended is not None)
            return
        stream = Stream(self, number, head)
        self._streams[number] = stream
        self._running += 1
        if self._running == 1:
            await self._send(Updated(idle=False))
        self._nursery.start_soon(self._run, stream, head)

    def _refuse(self, number: int, error: HeadError, *, ended: bool) -> None:
        """Answer a request that is not understood."""
        log_refused(error.status, self._peer)
        self._frames.pay(RESET)
        status = (b":status", b"%d" % error.status)
        with suppress(ProtocolError):
            self._h2.send_headers(number, [status, (b"content-length", b"0")], end_stream=True)
        if not ended:
            self._reset(number, ErrorCodes.NO_ERROR)

    async def _run(self, stream: Stream, head: Head) -> None:
        """Run one request."""
        with stream.scope:
            app = cast("AppWrapper", self._serving.app)
            await run_app(app, self._scope(head), nullcontext(), stream.receive, stream.send)
        self._running -= 1
        stream.cut()
        del self._streams[stream.number]
        self.acknowledge(stream.number, stream.unread())
        if self._over:
            return
        self._frames.earn(ANSWER if stream.answered else 0)
        await self.flush()
        if not self._running:
            await self._send(Updated(idle=True))
            if self._requests >= _REQUESTS or self._serving.context.terminated.is_set():
                await self._close(ErrorCodes.NO_ERROR)

    def _scope(self, head: Head) -> HTTPScope:
        return {
            "type": "http",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "http_version": "2",
            "method": head.method,
            "scheme": "https",
            "path": unquote(head.path.decode("ascii")),
            "raw_path": head.path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "client": self._peer,
            "server": self._local,
            "state": cast("ConnectionState", self._state.copy()),
            "extensions": {},
        }

    async def ask(self, stream: Stream) -> None:
        """Let a client send a body for which it waits."""
        with suppress(ProtocolError):
            if stream.waits:
                self._h2.send_headers(stream.number, [(b":status", b"100")])
            if stream.is_large:
                self._h2.increment_flow_control_window(WINDOW - _FIRST_WINDOW, stream.number)
        await self.flush()

    def acknowledge(self, number: int, length: int) -> None:
        """Let the client send as many bytes as were taken or dropped."""
        if length:
            with suppress(ProtocolError):
                self._h2.acknowledge_received_data(length, number)

    async def took(self, stream: Stream, length: int) -> None:
        """Let the client send as many bytes as the application has taken."""
        self.acknowledge(stream.number, length)
        await self.flush()

    async def send_head(self, stream: Stream, headers: Headers, *, end: bool) -> None:
        """Send the head of an answer."""
        own = self._serving.config.response_headers("h2")
        with suppress(ProtocolError):  # the connection or stream has ended
            self._h2.send_headers(stream.number, headers + own, end_stream=end)
        await self._sent(stream, end=end)

    async def send_data(self, stream: Stream, data: bytes, *, end: bool) -> None:
        """Send a part of an answer at the pace of the client, unless it is too slow."""
        left = memoryview(data)
        while not stream.gone:
            with trio.move_on_after(self._write_s) as scope:
                self._writes.add(scope)
                try:
                    with suppress(ProtocolError):
                        last = end and len(left) <= _WRITE
                        await self._send_part(stream, left[:_WRITE], end=last)
                finally:
                    self._writes.discard(scope)
            if scope.cancelled_caught:
                log.debug("HTTP/2 client does not read", client=self._client)
                await self._close(ErrorCodes.ENHANCE_YOUR_CALM)
                return
            left = left[_WRITE:]
            if not left:
                break
        await self._sent(stream, end=end)

    async def _send_part(self, stream: Stream, part: memoryview, *, end: bool) -> None:
        number = stream.number
        while (part or end) and not stream.gone:
            space = min(
                self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size, _STEP
            )
            if space <= 0 and part:
                await self._window.wait()
                continue
            last = len(part) <= space
            self._h2.send_data(number, bytes(part[:space]), end_stream=end and last)
            self._frames.earn(space // BYTES)
            await self.flush()
            part = part[space:]
            if last:
                return

    async def _sent(self, stream: Stream, *, end: bool) -> None:
        if end:
            stream.answered = True
            if not stream.ended:
                self._reset(stream.number, ErrorCodes.NO_ERROR)  # the rest of the body is unwanted
        await self.flush()

    def _reset(self, number: int, code: ErrorCodes) -> None:
        with suppress(ProtocolError):
            self._h2.reset_stream(number, code)

    async def abort(self, stream: Stream) -> None:
        """End a stream whose answer cannot be completed."""
        self._reset(stream.number, ErrorCodes.INTERNAL_ERROR)
        await self.flush()

    async def flush(self) -> None:
        """Send what h2 has to say. Frames must keep their order and cannot be taken back."""
        async with self._lock:
            with trio.CancelScope(shield=True):  # each write has its own deadline
                while data := self._h2.data_to_send(_WRITE):
                    await self._send(RawData(data))

    async def _close(self, code: ErrorCodes) -> None:
        """Announce the end of the connection, and end it."""
        if self._over:
            return
        with suppress(ProtocolError):
            self._h2.close_connection(code)
        await self._end()

    async def _end(self) -> None:
        if self._over:
            return
        self._over = True
        await self.flush()
        await self._send(Closed())

    def _cut_all(self) -> None:
        for stream in self._streams.values():
            stream.cut()
        self._wake()


def _make_h2(serving: Serving) -> H2Connection:
    connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    connection.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: serving.limits.head_bytes,
        },
    )
    return connection
