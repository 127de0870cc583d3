"""HTTP/2 at the front door: the same rules and bounds, and the attacks that only HTTP/2 has."""

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import trio
from hpack import Decoder, Encoder
from structlog.testing import capture_logs

from relayd.api.door import uploads as door_uploads
from relayd.api.fair_limiter import Bounds
from relayd.api.http2.frames import BYTES, FloodError, FrameCounter
from relayd.api.http2.protocol import WINDOW
from relayd.api.server.limits import Limits
from tests.support.curl import POLICY_SERVER, STRANGER, USER
from tests.support.front_door import open_door
from tests.support.http import descriptors, eventually
from tests.support.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Pairs,
    frame,
    known,
    open_http2,
)
from tests.support.ledger import SEED
from tests.support.webserver import PASSWORD, Web

KNOWN = known(PASSWORD)
EXPECT = ("expect", "100-continue")
NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM = 0, 1, 7


async def served(web: Web) -> None:
    """Fail unless the next client is served."""
    async with open_http2(web, source=POLICY_SERVER) as client:
        name = os.urandom(4).hex()
        assert (await client.ask("PUT", f"/reports/{name}", b"x", [KNOWN])).status == 201
    (web.incoming / name).unlink()


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let goodbyes have little time."""
    monkeypatch.setattr(
        "relayd.api.door.door.Limits", lambda connections: Limits(connections, linger_s=0.1)
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let heads, writes and goodbyes have little time."""
    monkeypatch.setattr(
        "relayd.api.door.door.Limits",
        lambda connections: Limits(connections, head_s=1.0, write_s=1.0, linger_s=0.1),
    )


async def test_uploads_and_downloads(web: Web) -> None:
    """Many requests over one connection, also at the same time, are as good as over HTTP/1."""
    data = os.urandom(1_000_000)
    (web.own / "share" / "common").mkdir()
    (web.own / "share" / "common" / "file").write_bytes(data)
    async with open_door(web), open_http2(web) as client:
        for size in (0, 1, 70_000, 1_000_000):
            path = f"/reports/{size}.log"
            assert (await client.ask("PUT", path, data[:size], [KNOWN])).status == 201
            number = await client.begin("PUT", path, [KNOWN])  # without a length
            await client.send_body(number, data[:size])
            assert (await client.answer(number)).status == 204
            assert (web.incoming / f"{size}.log").read_bytes() == data[:size]
        numbers = [await client.begin("GET", "/common/file", end=True) for _ in range(10)]
        assert [(await client.answer(number)).body == data for number in numbers] == [True] * 10
        reply = await client.ask("HEAD", "/common/file")
        assert (reply.status, reply.body) == (200, b"")
        assert reply.headers["content-length"] == "1000000"
        assert (await client.ask("GET", "/uuid")).body == b"root\n"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("PUT", "/reports/x", [], 401),
        ("PUT", "/reports/x", [known("wrong")], 401),
        ("PUT", "/reports/.x", [KNOWN], 403),
        ("PUT", "/nothing", [KNOWN], 403),
        ("PUT", "/reports/x", [KNOWN, ("content-range", "bytes 0-4/9")], 400),
        ("POST", "/reports/x", [KNOWN], 405),
        ("put", "/reports/x", [KNOWN], 405),
        ("PUT", "/reports/x", [KNOWN, ("content-length", str(64 * 1024**2 + 1))], 413),
        ("PUT", "/reports/" + "a" * 9000, [KNOWN], 414),
        ("PUT", "/reports/x", [KNOWN, ("x", "a" * 17_000)], 431),
        ("PUT", "/reports/x", [KNOWN, *[("x", "y")] * 101], 431),
    ],
)
async def test_refused_for_the_head(
    web: Web, method: str, path: str, headers: Pairs, status: int
) -> None:
    """The answer comes before the body, the rest is not wanted, and the connection goes on."""
    async with open_door(web), open_http2(web) as client:
        reply = await client.answer(await client.begin(method, path, [*headers, EXPECT]))
        assert (reply.status, reply.early) == (status, [])
        while reply.reset is None:
            await client.pump()
        assert reply.reset == NO_ERROR
        assert (await client.ask("GET", "/uuid")).status == 200
    assert web.waiting() == []


async def test_expected_body_is_asked_for(web: Web) -> None:
    """A client that waits is asked for its body, once the checks are done."""
    async with open_door(web), open_http2(web) as client:
        number = await client.begin("PUT", "/reports/x", [KNOWN, EXPECT])
        while not client.replies[number].early:
            await client.pump()
        await client.send_body(number, b"content")
        assert (await client.answer(number)).status == 201
        assert client.replies[number].early == [100]
    async with open_door(web), open_http2(web, source=STRANGER) as client:
        assert (await client.ask("PUT", "/reports/y", b"x", [KNOWN])).status == 403
    assert (web.incoming / "x").read_bytes() == b"content"
    assert web.waiting() == ["x"]


async def test_curl_as_agents_call_it_chooses_it(web: Web) -> None:
    """A real client uploads over HTTP/2 without being asked to, and learns of a refusal."""
    file = web.own / "file"
    file.write_bytes(os.urandom(3_000_000))
    upload = ("--upload-file", str(file), "-w", "%{http_version}\n%{http_code}")
    async with open_door(web):
        for user, status in ((f"{USER}:wrong", 401), (f"{USER}:{PASSWORD}", 201)):
            reply = await web.curl("/reports/x", *upload, user=user)
            assert (reply.status, reply.body[-1], reply.exit_code) == (status, "2", 0)
    assert (web.incoming / "x").read_bytes() == file.read_bytes()


async def test_certificates_count(web: Web) -> None:
    """A node is known by its certificate."""
    async with open_door(web), open_http2(web, web.nodes["node0"]) as client:
        assert (await client.ask("PUT", "/reports/x", b"x")).status == 201
        assert (await client.ask("GET", "/policies/node0/none")).status == 404
        assert (await client.ask("GET", "/policies/node1/none")).status == 403


@pytest.mark.parametrize("end", ["reset", "close", "too long", "too short"])
async def test_unfinished_upload_leaves_nothing(web: Web, end: str) -> None:
    """An upload that is cut off, or whose length is not the announced one, is no file."""
    async with open_door(web), open_http2(web) as client:
        length = ("content-length", "200000")
        number = await client.begin("PUT", "/reports/x", [KNOWN, length])
        await client.send_body(number, bytes(100_000), end=False)
        await eventually(lambda: len(web.waiting()) == 1)
        if end == "reset":
            client.h2.reset_stream(number)
            await client.flush()
        elif end == "close":
            await trio.aclose_forcefully(client.stream.transport_stream)
        elif end == "too long":
            await client.write(frame(DATA, bytes(16_384), number) * 7)
        else:
            await client.write(frame(DATA, b"x", number, END_STREAM))
        await eventually(lambda: web.waiting() == [])
        await served(web)


async def test_bodies_that_nobody_takes_are_bounded(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While uploads wait for their turn, a client can send one window for all of them."""
    monkeypatch.setattr(door_uploads, "AT_ONCE", Bounds(total=1, each=1, waiting=20, wait_s=60))
    async with open_door(web), open_http2(web) as client:
        numbers = [await client.begin("PUT", f"/reports/{n}", [KNOWN]) for n in range(10)]
        sent = 0
        for number in numbers[1:]:
            while space := min(client.h2.local_flow_control_window(number), 16_384):
                client.h2.send_data(number, bytes(space))
                await client.flush()
                sent += space
        assert sent <= WINDOW
        for number in numbers:
            client.h2.end_stream(number)
        await client.flush()
        assert [(await client.answer(n)).status for n in numbers] == [201] * 10


BAD_HEADS: dict[str, list[tuple[bytes, bytes]]] = {
    "no path": [(b":method", b"PUT"), (b":scheme", b"https"), (b":authority", b"x")],
    "two paths": [*((b":path", b"/reports/a"),) * 2],
    "relative path": [(b":path", b"reports/a")],
    "space in path": [(b":path", b"/reports/a b")],
    "line in path": [(b":path", b"/reports/a HTTP/1.1\r\nx: y")],
    "bad method": [(b":method", b"PUT /x HTTP/1.1\r\n")],
    "line in value": [(b"x", b"a\r\ncontent-length: 5")],
    "nul in value": [(b"x", b"a\0b")],
    "upper case": [(b"X-Y", b"z")],
    "colon in name": [(b"x:y", b"z")],
    "space in name": [(b"x y", b"z")],
    "chunked": [(b"transfer-encoding", b"chunked")],
    "connection": [(b"connection", b"close")],
    "te": [(b"te", b"gzip")],
    "two lengths": [(b"content-length", b"1"), (b"content-length", b"2")],
    "equal lengths": [(b"content-length", b"1"), (b"content-length", b"1")],
    "signed length": [(b"content-length", b"+1")],
    "list of lengths": [(b"content-length", b"1, 1")],
    "two hosts": [(b"host", b"a")],
    "late pseudo-header": [(b"x", b"y"), (b":path", b"/reports/a")],
    "unknown pseudo-header": [(b":x", b"y")],
    "websocket": [(b":protocol", b"websocket")],
    "tunnel": [(b":method", b"CONNECT")],
}


def encoded(more: list[tuple[bytes, bytes]]) -> bytes:
    """Return the block of an upload's head with more headers, or others if they are pseudo."""
    if len(more) == 3:
        return Encoder().encode(more)
    given = {name for name, _ in more if more[0][0].startswith(b":")}
    pseudo = [
        (b":method", b"PUT"),
        (b":scheme", b"https"),
        (b":authority", b"relay"),
        (b":path", b"/reports/a"),
    ]
    own = [pair for pair in pseudo if pair[0] not in given]
    password = (KNOWN[0].encode(), KNOWN[1].encode())
    if given:
        return Encoder().encode([*own, *more, password])
    return Encoder().encode([*own, password, *more])


@pytest.mark.fault("A4")
@pytest.mark.parametrize("more", BAD_HEADS.values(), ids=BAD_HEADS)
async def test_ambiguous_requests_are_refused(
    web: Web, brief: None, more: list[tuple[bytes, bytes]]
) -> None:
    """What could be read differently is refused: nothing is stored."""
    async with open_door(web), open_http2(web) as client:
        await client.write(
            frame(HEADERS, encoded(more), 1, END_HEADERS) + frame(DATA, b"x", 1, END_STREAM)
        )
        kind, payload = await client.first_of(GOAWAY, HEADERS)
        if kind == GOAWAY:
            assert int.from_bytes(payload[4:8]) == PROTOCOL_ERROR
        else:
            status = next(iter(Decoder().decode(payload, raw=True)))[1]
            assert status in (b"400", b"501")
        await served(web)
    assert web.waiting() == []


Flood = Callable[[], Iterator[bytes]]
BLOCK = encoded([])


def resets() -> Iterator[bytes]:
    """Requests that are reset at once (CVE-2023-44487)."""
    for number in range(1, 200_000, 2):
        yield frame(HEADERS, BLOCK, number, END_HEADERS)
        yield frame(RST_STREAM, bytes((0, 0, 0, 8)), number)


def provoked_resets() -> Iterator[bytes]:
    """Requests that make the server reset them (CVE-2025-8671)."""
    for number in range(1, 200_000, 2):
        yield frame(HEADERS, BLOCK, number, END_HEADERS)
        yield frame(WINDOW_UPDATE, (2**31 - 1).to_bytes(4), number)


def continuations() -> Iterator[bytes]:
    """A head that never ends (CVE-2024-27316)."""
    yield frame(HEADERS, BLOCK, 1)
    while True:
        yield frame(CONTINUATION, b"\x00\x01x\x01y", 1)


def bomb() -> Iterator[bytes]:
    """A header of 4 kB, which each further byte repeats."""
    large = Encoder().encode([(b"x" * 2000, b"y" * 2000)])
    yield frame(HEADERS, BLOCK + large + b"\xbe" * 8000, 1, END_HEADERS)


def repeated(kind: int, payload: bytes = b"", number: int = 0) -> Flood:
    """Return a flood of one frame."""

    def flood() -> Iterator[bytes]:
        if number:
            yield frame(HEADERS, BLOCK, number, END_HEADERS)
        while True:
            yield frame(kind, payload, number)

    return flood


def streams() -> Iterator[bytes]:
    """Requests that wait for nothing but their bodies."""
    for number in range(1, 200_000, 2):
        yield frame(HEADERS, BLOCK, number, END_HEADERS)


def settings() -> Iterator[bytes]:
    """Settings nobody knows, each with a value to be kept."""
    for first in range(100, 60_000, 2000):
        yield frame(
            SETTINGS, b"".join(n.to_bytes(2) + bytes(4) for n in range(first, first + 2000))
        )


FLOODS: dict[str, Flood] = {
    "rapid reset": resets,
    "provoked resets": provoked_resets,
    "continuations": continuations,
    "header bomb": bomb,
    "streams": streams,
    "unknown settings": settings,
    "settings": repeated(SETTINGS, (4).to_bytes(2) + (70_000).to_bytes(4)),
    "empty settings": repeated(SETTINGS),
    "pings": repeated(PING, bytes(8)),
    "priorities": repeated(PRIORITY, bytes((0, 0, 0, 3, 1)), 1),
    "window updates": repeated(WINDOW_UPDATE, (1).to_bytes(4), 1),
    "empty data": repeated(DATA, b"", 1),
    "unknown frames": repeated(200, b"x"),
}


@pytest.mark.fault("A1", "A5")
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_floods_end_the_connection(web: Web, brief: None, flood: Flood) -> None:
    """Frames that cost only the server something end the connection with GOAWAY, and no other."""
    async with open_door(web), open_http2(web) as other, open_http2(web) as client:
        parts, sent = flood(), 0
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                nonlocal sent
                while not client.closed and (part := b"".join(next_of(parts, 50))):
                    await client.write(part)
                    sent += len(part)

            nursery.start_soon(send)
            code = await client.goodbye()
            nursery.cancel_scope.cancel()
        assert code in (ENHANCE_YOUR_CALM, PROTOCOL_ERROR)
        assert (await other.ask("GET", "/uuid")).status == 200
        await served(web)
        await eventually(lambda: web.waiting() == [])


def next_of(parts: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Yield the next few parts."""
    for _ in range(count):
        if part := next(parts, b""):
            yield part


def mutated(chance: random.Random) -> bytes:
    """Return frames of any type, for streams that exist and others, some of them cut."""
    parts = []
    for _ in range(chance.randrange(1, 30)):
        kind = chance.choice([*range(11), DATA, HEADERS, HEADERS, 200])
        size = chance.choice([0, 1, 4, 5, 6, 8, 9, 16, 100, 300])
        payload = chance.choice(
            [
                chance.randbytes(size),
                bytes(size),
                BLOCK,
                BLOCK + chance.randbytes(3),
                bytes((0, 0, 0, 1)),
            ]
        )
        number = chance.choice([0, 1, 1, 1, 2, 3, 5, 7, 2**31 - 1])
        flags = chance.choice([0, END_STREAM, END_HEADERS, 5, 8, 0x20, 0x25, chance.randrange(256)])
        parts.append(frame(kind, payload, number, flags))
    data = b"".join(parts)
    return data if chance.random() < 0.9 else data[: -chance.randrange(1, 10)]


async def send_mutated(web: Web, count: int) -> None:
    """Send such frames on many connections; nothing may fail inside of the server."""
    chance = random.Random(SEED)
    with capture_logs() as logs:
        async with open_door(web, watchdog=math.inf):
            for _ in range(count):
                async with open_http2(web) as client:
                    await client.begin("PUT", "/reports/x", [KNOWN])
                    await client.write(mutated(chance) + frame(GOAWAY, bytes(8)))
                    with trio.move_on_after(0.3):  # some wait for more
                        await client.goodbye()
            await served(web)
    assert [entry for entry in logs if entry["log_level"] in ("error", "critical")] == []


@pytest.mark.fault("A5")
async def test_any_frames_are_survived(web: Web, brief: None) -> None:
    """Frames in any order and with any content end their connection at most."""
    await send_mutated(web, 25)


@pytest.mark.torture
@pytest.mark.fault("A5")
async def test_any_frames_are_survived_3000_times(web: Web, brief: None) -> None:
    """The same on 3,000 connections."""
    await send_mutated(web, 3000)


@pytest.mark.fault("A1")
@pytest.mark.parametrize("stall", ["window", "head", "silence", "preface"])
async def test_stalled_clients_end(web: Web, quick: None, stall: str) -> None:
    """A client that reads nothing, or does not complete its request, is disconnected."""
    (web.own / "share" / "common").mkdir()
    (web.own / "share" / "common" / "file").write_bytes(bytes(100_000))
    async with open_door(web):
        before = descriptors()
        async with open_http2(web, window=0, start=stall != "preface") as client:
            if stall == "window":
                await client.begin("GET", "/common/file", end=True)
            elif stall == "head":
                await client.write(frame(HEADERS, BLOCK, 1))
            elif stall == "preface":
                await client.write(PREFACE[:10])
            code = await client.goodbye()
        assert code == (ENHANCE_YOUR_CALM if stall == "window" else None)
        await eventually(lambda: descriptors() <= before)
        await served(web)


async def test_a_stop_completes_requests(web: Web, brief: None) -> None:
    """Requests in progress are answered within the grace, new ones refused, then comes GOAWAY."""

    async def upload(*, task_status: trio.TaskStatus[None]) -> None:
        async with open_http2(web) as client:
            number = await client.begin("PUT", "/reports/x", [KNOWN])
            await client.send_body(number, b"first ", end=False)
            task_status.started()
            while (await client.ask("GET", "/uuid")).reset != REFUSED_STREAM:
                pass
            await client.send_body(number, b"second")
            assert (await client.answer(number)).status == 201
            assert await client.until_closed() == NO_ERROR

    async with trio.open_nursery() as nursery, open_door(web, grace=60):
        await nursery.start(upload)
    assert (web.incoming / "x").read_bytes() == b"first second"


@pytest.mark.fault("A1", "A5")
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
async def test_answer_before_the_end_of_the_request_ends_it(
    web: Web, brief: None, method: str
) -> None:
    """A client that does not complete an answered request costs nothing, and may go on."""
    async with open_door(web):
        for data in (b"", b"x") * 3:
            async with open_http2(web, source=STRANGER) as client:
                number = await client.begin(method, "/uuid")
                if data:
                    await client.send_body(number, data, end=False)
                assert (await client.answer(number)).status == (404 if method == "PUT" else 200)
                assert (await client.ask("GET", "/uuid")).body == b"root\n"


async def test_many_requests_end_the_connection(
    web: Web, brief: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection ends after many requests, each of which is answered."""
    monkeypatch.setattr("relayd.api.http2.protocol._REQUESTS", 5)
    async with open_door(web), open_http2(web) as client:
        for _ in range(5):
            assert (await client.ask("GET", "/uuid")).status == 200
        assert await client.until_closed() == NO_ERROR


async def test_overlapping_requests_end_the_connection(
    web: Web, brief: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as well if there is always one in progress, which is answered; others are refused."""
    monkeypatch.setattr("relayd.api.http2.protocol._REQUESTS", 5)
    async with open_door(web), open_http2(web) as client:
        number = await client.begin("PUT", "/reports/x", [KNOWN])
        for _ in range(4):
            assert (await client.ask("GET", "/uuid")).status == 200
        assert (await client.ask("GET", "/uuid")).reset == REFUSED_STREAM
        await client.send_body(number, b"x")
        assert (await client.answer(number)).status == 201
        assert await client.until_closed() == NO_ERROR


async def test_bodies_in_small_pieces_are_no_flood(web: Web) -> None:
    """A client that sends what a program prints, a line in each frame, is served to the end."""
    async with open_door(web), open_http2(web) as client:
        number = await client.begin("PUT", "/reports/lines", [KNOWN])
        for _ in range(1500):
            await client.send_body(
                number, b"a line of 41 bytes, with its end, no more\n"[1:], end=False
            )
        await client.send_body(number, b"")
        assert (await client.answer(number)).status == 201
    assert (web.incoming / "lines").stat().st_size == 1500 * 41


def test_nothing_is_loaded_before_a_client_asks() -> None:
    """The front door itself loads nothing of HTTP/2."""
    code = "import sys, relayd.service.tree, relayd.api.door.door; print('h2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_frames_are_counted_wherever_they_are_cut() -> None:
    """Frames cost the same in one piece and byte by byte, and bodies earn their price."""
    frames = PREFACE + frame(PING, bytes(8)) * 300 + frame(DATA, bytes(1000), 1) * 300
    whole, split = FrameCounter(), FrameCounter()
    whole.count(frames)
    for byte in frames:
        split.count(bytes((byte,)))
    for counter in (whole, split):
        counter.pay(100)
        with pytest.raises(FloodError):
            counter.pay(1)
        counter.earn(1_000_000 // BYTES + 1000)
        counter.pay(999)
