"""A client that speaks HTTP/2 with the front door, well or badly."""

from base64 import b64encode
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import h2.events
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from tests.support.curl import NODE, USER
from tests.support.front_door import client_context
from tests.support.signing import SigningNode

if TYPE_CHECKING:
    from tests.support.webserver import Web

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING = 0, 1, 2, 3, 4, 6
GOAWAY, WINDOW_UPDATE, CONTINUATION = 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
_HEAD: Final = 9

Pairs = Iterable[tuple[str, str]]


@dataclass
class Reply:
    """What came on one stream.

    Attributes:
        early: informational statuses.
        whole: whether the answer ended.
        reset: with which code the server has reset the stream.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    early: list[int] = field(default_factory=list)
    whole: bool = False
    reset: int | None = None


class Http2Client:
    """One connection; `write` sends whatever it is given.

    Attributes:
        goaway: the code with which the server has ended the connection.
        closed: whether nothing more comes.
    """

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        config = H2Configuration(client_side=True, header_encoding="utf-8")
        config.validate_outbound_headers = config.normalize_outbound_headers = False
        self.h2 = H2Connection(config)
        self.replies: dict[int, Reply] = {}
        self.goaway: int | None = None
        self.closed = False
        self._raw = b""

    async def start(self, *, window: int | None = None) -> None:
        """Send preface and settings; a window is that of each stream for answers."""
        if window is not None:
            self.h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = window
            self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        """Send what h2 has to say."""
        await self.write(self.h2.data_to_send())

    async def write(self, data: bytes) -> None:
        """Send bytes, unless the server has closed already."""
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.closed = True

    async def begin(self, method: str, path: str, headers: Pairs = (), *, end: bool = False) -> int:
        """Send the head of a request; return its stream."""
        number = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "https"), (":authority", "relay")]
        self.h2.send_headers(number, [*pseudo, (":path", path), *headers], end_stream=end)
        self.replies[number] = Reply()
        await self.flush()
        return number

    async def send_body(self, number: int, data: bytes, *, end: bool = True) -> None:
        """Send a body at the server's pace, until it has answered or reset."""
        reply = self.replies[number]
        while not reply.whole and reply.reset is None and not self.closed:
            space = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if data and space <= 0:
                await self.pump()
                continue
            self.h2.send_data(number, data[:space], end_stream=end and len(data) <= space)
            data = data[space:]
            await self.flush()
            if not data:
                return

    async def answer(self, number: int) -> Reply:
        """Return the answer on a stream, once it is whole or nothing more comes."""
        reply = self.replies[number]
        while not reply.whole and reply.reset is None and not self.closed:
            await self.pump()
        return reply

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Pairs = ()) -> Reply:
        """Make a request and return its answer."""
        length = [("content-length", str(len(body)))] if body else []
        number = await self.begin(method, path, [*length, *headers], end=not body)
        if body:
            await self.send_body(number, body)
        return await self.answer(number)

    async def until_closed(self) -> int | None:
        """Read until the server closes; return the code with which it has announced that."""
        while not self.closed:
            await self.pump()
        return self.goaway

    async def first_of(self, *kinds: int) -> tuple[int, bytes]:
        """Return type and payload of the next frame of some types, -1 if the server closes before.

        This and `goodbye` are for a client that does not keep to the rules.
        """
        while not self.closed:
            data = self._raw
            while len(data) >= _HEAD and len(data) >= (end := _HEAD + int.from_bytes(data[:3])):
                kind, payload, data = data[3], data[_HEAD:end], data[end:]
                self._raw = data
                if kind in kinds:
                    return kind, payload
            try:
                part = await self.stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                part = b""
            self._raw += part
            self.closed = not part
        return -1, b""

    async def goodbye(self) -> int | None:
        """Read until the server closes; return the code with which it has announced that."""
        _, payload = await self.first_of(GOAWAY)
        await self.first_of()
        return int.from_bytes(payload[4:8]) if payload else None

    async def pump(self) -> None:
        """Read once."""
        try:
            data = await self.stream.receive_some(65536)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            self.closed = True
            return
        for event in self.h2.receive_data(bytes(data)):
            self._take(event)
        await self.flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ConnectionTerminated():
                self.goaway = int(event.error_code or 0)
            case h2.events.InformationalResponseReceived():
                self.replies[event.stream_id].early.append(_status(event.headers))
            case h2.events.ResponseReceived():
                reply = self.replies[event.stream_id]
                reply.status = _status(event.headers)
                reply.headers = {str(name): str(value) for name, value in event.headers}
            case h2.events.DataReceived():
                self.replies[event.stream_id].body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.replies[event.stream_id].whole = True
            case h2.events.StreamReset():
                if event.stream_id in self.replies:
                    self.replies[event.stream_id].reset = int(event.error_code)


def _status(headers: object) -> int:
    return int(dict(headers)[":status"])  # type: ignore[call-overload]


@asynccontextmanager
async def open_http2(
    web: "Web",
    node: SigningNode | None = None,
    source: str = NODE,
    *,
    start: bool = True,
    window: int | None = None,
) -> AsyncIterator[Http2Client]:
    """Yield a new connection to the front door on which HTTP/2 was negotiated."""
    context = client_context(web, node)
    context.set_alpn_protocols(["h2", "http/1.1"])
    plain = await trio.open_tcp_stream(web.host, web.port, local_address=source)
    stream = trio.SSLStream(plain, context, https_compatible=True)
    try:
        await stream.do_handshake()
        assert stream.selected_alpn_protocol() == "h2"
        client = Http2Client(stream)
        if start:
            await client.start(window=window)
        yield client
    finally:
        await trio.aclose_forcefully(plain)


def frame(kind: int, payload: bytes = b"", number: int = 0, flags: int = 0) -> bytes:
    """Return the bytes of a frame (RFC 9113, 4.1)."""
    head = len(payload).to_bytes(3) + bytes((kind, flags)) + number.to_bytes(4)
    return head + payload


def known(password: str) -> tuple[str, str]:
    """Return the header with the password."""
    return "authorization", "Basic " + b64encode(f"{USER}:{password}".encode()).decode()


ENHANCE_YOUR_CALM: Final = int(ErrorCodes.ENHANCE_YOUR_CALM)
