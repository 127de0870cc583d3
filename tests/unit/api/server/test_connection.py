"""Effects of a client on its own connection, and on no other."""

import socket
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypercorn.protocol.events import Event
from hypercorn.protocol.http_stream import HTTPStream
from quart import request
from structlog.testing import capture_logs

from relayd.api.server.body import Request
from relayd.api.server.limits import Limits
from relayd.api.shared_folder import PIECE
from tests.support.http import (
    BASE,
    INFO,
    api,
    descriptors,
    eventually,
    flooding,
    gated,
    open_server,
)


async def test_a_fault_in_the_protocol_code_ends_one_connection_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exception below the app is logged, and other clients are served."""
    stock = HTTPStream.handle

    async def handle(self: HTTPStream, event: Event) -> None:
        if b"/fault" in getattr(event, "raw_path", b""):
            raise KeyError("inside")
        await stock(self, event)

    monkeypatch.setattr(HTTPStream, "handle", handle)
    with capture_logs() as logs:
        async with open_server(api()) as server, server.client() as other:
            assert (await other.ask("GET", "/metrics")).status == 200
            assert await server.raw(b"GET /fault HTTP/1.1\r\nHost: x\r\n\r\n") == b""
            assert (await other.ask("GET", "/metrics")).status == 200
            assert await server.lives()
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        "connection failed"
    ]


@pytest.mark.parametrize("body", [b"", b"x" * 900_000], ids=["no body", "body"])
async def test_a_fault_of_the_framework_is_answered(body: bytes) -> None:
    """An exception outside all handlers gives 500 and is logged once; the server continues."""
    app = api()

    class Broken(Request):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if args[2] == "/broken":
                raise KeyError("inside")
            super().__init__(*args, **kwargs)

    app.request_class = Broken
    with capture_logs() as logs:
        async with open_server(app) as server:
            assert (await server.ask("POST", "/broken", body)).status == 500
            assert await server.lives()
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        "request failed in the framework"
    ]


@pytest.mark.parametrize("end", ["stop", "cancel"])
async def test_a_client_that_stops_reading_does_not_delay_a_stop(end: str) -> None:
    """A stop and a cancellation complete although an answer cannot be written."""
    limits = Limits(write_s=600, stop_write_s=0.3)
    opening = open_server(flooding(), limits=limits, grace=0.1)
    async with opening as server, server.client() as client:
        await client.send(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.stream.receive_some(1)
        if end == "stop":
            server.stop.set()
        else:
            server.scope.cancel()
        await server.ended.wait()


async def test_a_client_that_stops_reading_is_cut_off() -> None:
    """The write deadline closes its connection, and the server continues."""
    opening = open_server(flooding(), limits=Limits(write_s=0.2))
    async with opening as server, server.client() as client:
        await client.send(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.stream.receive_some(1)
        before = descriptors()
        await eventually(lambda: descriptors() < before)
        assert await server.lives()


async def test_a_slow_reader_is_served() -> None:
    """A slow reader is served: the short write deadline applies only during a stop."""
    limits = Limits(write_s=600, stop_write_s=0.1)
    async with open_server(flooding(), limits=limits, grace=0) as server:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock.dup()))
            await stream.socket.connect(("127.0.0.1", server.port))
        async with stream:
            await stream.send_all(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
            read = 0
            while read < 2 * PIECE:  # one takes ten times as long as the bound of a stop
                await trio.sleep(0.02)
                read += len(await stream.receive_some(1024))


@pytest.mark.parametrize("requests", [0, 1, 3])
async def test_an_idle_connection_is_closed(requests: int) -> None:
    """A connection without a next request is closed, with or without earlier ones."""
    async with open_server(api(), limits=Limits(head_s=0.2)) as server, server.client() as client:
        for _ in range(requests):
            assert (await client.ask("GET", "/metrics")).status == 200
        assert await client.until_closed() == b""


@pytest.mark.fault("A1")
@pytest.mark.parametrize("requests", [0, 1])
async def test_a_head_that_trickles_is_cut_off(requests: int) -> None:
    """A client that sends its head byte by byte gets no extra time."""
    async with open_server(api(), limits=Limits(head_s=0.3)) as server, server.client() as client:
        for _ in range(requests):
            assert (await client.ask("GET", "/metrics")).status == 200

        async def trickle() -> None:
            await client.send(b"GET /metrics HTTP/1.1\r\nX: ")
            while True:
                await client.send(b"a")
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            assert await client.until_closed() == b""
            nursery.cancel_scope.cancel()


async def test_a_long_answer_is_not_an_idle_connection() -> None:
    """The deadline of the next head does not cut off a request in progress."""
    app, asked, gate = gated()
    async with open_server(app, limits=Limits(head_s=0.1)) as server, server.client() as client:
        await client.send(b"GET /gated HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        async with server.client() as idle:
            assert await idle.until_closed() == b""  # so long it was at least
        gate.set()
        assert (await client.answer()).body == b"done"


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_answer_before_the_end_of_the_body_ends_the_connection(framing: str) -> None:
    """A client that is still sending gets the complete answer, then the end; nothing leaks."""
    if framing == "length":
        head, body = b"Content-Length: 50000000", b"x" * 3_000_000
    else:
        head, body = b"Transfer-Encoding: chunked", b"10000\r\n" + b"x" * 65536 + b"\r\n"
    async with open_server(api()) as server:
        for _ in range(10):
            data = await server.raw(
                b"POST /nope HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + body
            )
            assert data.startswith(b"HTTP/1.1 404 ")
            assert data.endswith(b"\r\n\r\nNOT FOUND")


@pytest.mark.parametrize("size", [100_000, 3_000_000])
async def test_the_last_answer_is_not_lost_to_a_reset(size: int) -> None:
    """A client that continues to send gets the answer and a regular end, no reset."""
    head = f"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: {size + 1}\r\n\r\n".encode()
    async with open_server(api()) as server, server.client() as client:
        await client.stream.send_all(head)
        answer = await client.answer()
        await client.stream.send_all(b"x" * size)
        assert answer.status == 404
        assert await client.stream.receive_some(1) == b""


async def test_a_client_that_never_stops_sending_is_cut_off() -> None:
    """After the last answer, a client may send for a limited time only."""
    opening = open_server(api(), limits=Limits(linger_s=0.2))
    async with opening as server, server.client() as client:
        await client.send(b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n")

        async def send_for_ever() -> None:
            while True:
                await client.stream.send_all(b"x" * 65536)

        with pytest.raises(trio.BrokenResourceError):
            await send_for_ever()


async def test_an_unread_body_does_not_prevent_the_next_request() -> None:
    """Each request is answered although no handler reads its body, and its client can continue.

    An answer before the end of the body announces the end of the connection.
    """
    reused = 0
    async with open_server(api()) as server:
        for size in (1, 1000, 100_000, 900_000) * 5:
            async with server.client() as client:
                answer = await client.ask("POST", f"{BASE}/system/reload", b"x" * size)
                assert answer.status == 200
                if answer.headers.get("connection") == "close":
                    assert await client.until_closed() == b""
                else:
                    reused += 1
                    assert (await client.ask("GET", "/metrics")).status == 200
    assert reused >= 5


async def test_a_client_gone_with_a_request_in_the_queue_leaks_nothing() -> None:
    """After two pipelined requests and a disconnect, descriptors and slots are free again."""
    app, asked, gate = gated()
    async with open_server(app, limits=Limits(connections=10)) as server:
        before = descriptors()
        for _ in range(50):
            async with server.client() as client:
                await client.send(b"GET /gated HTTP/1.1\r\nHost: x\r\n\r\n" + INFO)
                await asked.wait()
                gate.set()
        await eventually(lambda: descriptors() <= before)
        assert await server.lives()


async def test_a_disconnect_ends_the_request() -> None:
    """The handler of a disconnected client is cancelled."""
    app, asked, cancelled = api(), trio.Event(), trio.Event()

    @app.get("/silent")
    async def silent() -> str:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with open_server(app) as server:
        async with server.client() as client:
            await client.send(b"GET /silent HTTP/1.1\r\nHost: x\r\n\r\n")
            await asked.wait()
        await cancelled.wait()
        assert await server.lives()


async def test_cancelling_the_server_raises_nothing_else() -> None:
    """A cancelled server with requests in progress raises only the cancellation."""
    app, asked, _ = gated()
    with capture_logs() as logs:
        async with open_server(app) as server, server.client() as client:
            await client.send(b"GET /gated HTTP/1.1\r\nHost: x\r\n\r\n" + INFO)
            await asked.wait()
            server.scope.cancel()
            await server.ended.wait()
    assert server.scope.cancelled_caught
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_a_background_task_of_the_app_cannot_end_serving() -> None:
    """Quart's background tasks are unavailable: starting one fails only that request."""
    app = api()

    @app.get("/background")
    async def background() -> str:
        app.add_background_task(trio.sleep, 0)
        return "started"

    async with open_server(app) as server:
        assert (await server.ask("GET", "/background")).status == 500
        assert (await server.ask("GET", "/background")).status == 500
        assert await server.lives()


async def test_requests_in_one_segment_are_answered_in_order() -> None:
    """Pipelined requests are served one after the other."""
    async with open_server(api()) as server, server.client() as client:
        await client.send(b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n" + INFO * 20)
        assert (await client.answer()).status == 404
        for _ in range(20):
            assert (await client.answer()).status == 200


async def test_an_upgrade_is_ignored() -> None:
    """An offer of another protocol is answered in HTTP/1.1, and so is the next request."""
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    async with open_server(api()) as server, server.client() as client:
        assert (await client.ask("GET", "/metrics", headers=offer)).status == 200
        assert (await client.ask("GET", "/metrics")).status == 200


async def test_the_body_of_an_expectation_is_read_after_100() -> None:
    """A client that waits for 100 gets it, and its body is read."""
    app = api()

    @app.post("/echo")
    async def echo() -> str | bytes:
        return await request.get_data()

    async with open_server(app) as server, server.client() as client:
        head = (
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        await client.send(head)
        assert (await client.stream.receive_some(4096)).startswith(b"HTTP/1.1 100 ")
        await client.send(b"12345")
        assert (await client.answer()).body == b"12345"


async def test_answers_do_not_name_the_software() -> None:
    """Answers carry no Server header."""
    async with open_server(api()) as server:
        answer = await server.ask("GET", "/metrics")
        assert "server" not in answer.headers
        with suppress(EOFError):
            assert b"server" not in (await server.raw(b"\n\n")).lower()
