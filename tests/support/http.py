"""A real HTTP server on a real socket, and a client that sees raw bytes."""

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import h11
import trio
from quart import Quart, Response
from quart.wrappers.response import ResponseBody

from relayd.api.app import Services, make_app
from relayd.api.server.limits import Limits
from relayd.api.server.server import run_server
from relayd.api.status import StatusCheck, StatusReport
from relayd.config.main_conf import Listen
from relayd.telemetry.metrics import Metrics

BASE = "/rudder/relay-api/1"
LOOPBACK = Listen(host="127.0.0.1", port=0)
#: Seconds after which a test is stuck; nothing is measured with it.
WATCHDOG_S = 60


INFO = f"GET {BASE}/system/info HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def nothing() -> None:
    """Return a reload that has nothing to do."""
    await trio.lowlevel.checkpoint()


async def healthy() -> StatusReport:
    """Return a status without any fault."""
    await trio.lowlevel.checkpoint()
    return StatusReport(configuration=StatusCheck("success"))


@dataclass
class Answer:
    """What came back: status, headers by lower-case name, whole body."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Client:
    """One connection; `ask` for well-formed requests, `stream` for everything else."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self._unread = b""

    async def send(self, data: bytes) -> None:
        """Send all of it, unless the server has closed already."""
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError:
            return

    async def answer(self, method: str = "GET") -> Answer:
        """Read one answer to a request that was sent before."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(self._unread) if self._unread else None
        answer = Answer(0)
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(bytes(await self.stream.receive_some(65536)))
            elif isinstance(event, h11.Response):
                answer.status = event.status_code
                answer.headers = {name.decode(): text.decode() for name, text in event.headers}
            elif isinstance(event, h11.Data):
                answer.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._unread = parser.trailing_data[0]
                return answer
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError("closed without an answer")

    async def ask(self, method: str, path: str, body: bytes = b"", headers: str = "") -> Answer:
        """Send one request and read its answer."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: relay\r\n{length}{headers}\r\n"
        await self.send(head.encode() + body)
        return await self.answer(method)

    async def until_closed(self) -> bytes:
        """Everything that still comes, to the end of the connection."""
        data = b""
        try:
            while part := await self.stream.receive_some(65536):
                data += part
        except trio.BrokenResourceError:
            pass
        return data

    async def reset(self) -> None:
        """Leaves without a word: the server's kernel sees a reset."""
        linger = struct.pack("ii", 1, 0)
        assert isinstance(self.stream, trio.SocketStream)
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await trio.aclose_forcefully(self.stream)


@dataclass
class Server:
    """A server that runs, and how to reach and stop it."""

    urls: list[str]
    stop: trio.Event
    scope: trio.CancelScope
    ended: trio.Event

    @property
    def port(self) -> int:
        """The port of its first TCP address."""
        return int(self.urls[0].rsplit(":", 1)[1])

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Yield a new connection."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        try:
            yield Client(stream)
        finally:
            await trio.aclose_forcefully(stream)

    async def ask(self, method: str, path: str, body: bytes = b"", headers: str = "") -> Answer:
        """One request on a connection of its own."""
        async with self.client() as client:
            return await client.ask(method, path, body, headers)

    async def raw(self, data: bytes) -> bytes:
        """All that comes back for these bytes, to the end of the connection."""
        async with self.client() as client:
            await client.send(data)
            return await client.until_closed()

    async def lives(self) -> bool:
        """Whether it still serves."""
        return (await self.ask("GET", f"{BASE}/system/info")).status == 200


@asynccontextmanager
async def open_server(
    app: Quart,
    *,
    limits: Limits | None = None,
    grace: float = 10.0,
    listen: Listen = LOOPBACK,
    watchdog: float = WATCHDOG_S,
) -> AsyncIterator[Server]:
    """Serve `app`; stop it at the end, unless the test has done so."""
    stop, ended = trio.Event(), trio.Event()
    with trio.fail_after(watchdog):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def serve(*, task_status: trio.TaskStatus[list[str]]) -> None:
                with scope:
                    await run_server(
                        app,
                        listen,
                        stop=stop,
                        grace=grace,
                        limits=limits or Limits(),
                        task_status=task_status,
                    )
                ended.set()

            urls = await nursery.start(serve)
            yield Server(urls, stop, scope, ended)
            stop.set()


def api(
    *,
    status: Callable[[], Awaitable[StatusReport]] = healthy,
    reload: Callable[[], Awaitable[None]] = nothing,
    metrics: Metrics | None = None,
) -> Quart:
    """Return the real app, with the given parts of the service."""
    return make_app(Services(status, reload, metrics or Metrics(), "1.2.3"))


def gated() -> tuple[Quart, trio.Event, trio.Event]:
    """Return the app with a route that waits, an event for its request, one that lets it answer."""
    app, asked, gate = api(), trio.Event(), trio.Event()

    @app.route("/gated", methods=["GET", "POST"])
    async def answer() -> str:
        asked.set()
        await gate.wait()
        return "done"

    return app, asked, gate


class _Flood(ResponseBody):
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        pass

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return b"x" * 65536


def flooding() -> Quart:
    """Return the app with a route whose answer never ends."""
    app = api()

    @app.get("/flood")
    async def flood() -> Response:
        return Response(_Flood())

    return app


def descriptors() -> int:
    """Open descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what nothing announces, such as another task's closed descriptor."""
    while not holds():
        await trio.sleep(0.01)
