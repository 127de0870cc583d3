"""Malformed requests to the whole server over real sockets."""

import re

import pytest
from quart import request
from structlog.testing import capture_logs

from tests.support.http import api, descriptors, eventually, open_server
from tests.support.raw_http import CHUNKS, EXCESS, LEGAL, ODD, SMUGGLING, get, post

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def statuses(data: bytes) -> list[int]:
    """The status of each received answer."""
    return [int(status) for status in _STATUS.findall(data)]


@pytest.mark.fault("A4")
@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING)
async def test_an_ambiguous_head_is_refused(data: bytes) -> None:
    """An ambiguous head gets 400 and the end; later requests are ignored."""
    async with open_server(api()) as server:
        assert statuses(await server.raw(data)) == [400]


@pytest.mark.fault("A4")
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
async def test_an_ambiguous_chunk_is_refused(chunks: bytes) -> None:
    """A chunk that a proxy may understand differently gets 400 and the end."""
    app = api()

    @app.post("/nope")
    async def whole() -> str:
        await request.get_data()
        return "read"

    data = post(b"Transfer-Encoding: chunked", rest=chunks)
    async with open_server(app) as server:
        assert statuses(await server.raw(data)) == [400]


@pytest.mark.fault("A5", "D.5.5")
@pytest.mark.parametrize(("data", "status"), EXCESS.values(), ids=EXCESS)
async def test_too_much_or_another_protocol_is_refused(data: bytes, status: int) -> None:
    """The status names the excessive part or the unsupported protocol, and the connection ends."""
    async with open_server(api()) as server:
        assert statuses(await server.raw(data)) == [status]


@pytest.mark.fault("A5", "D.5.5")
@pytest.mark.parametrize("pieces", [1, 100])
async def test_the_same_is_refused_byte_by_byte(pieces: int) -> None:
    """The verdict on a head does not depend on its segments."""
    data, status = EXCESS["17 KiB header"]
    async with open_server(api()) as server, server.client() as client:
        for start in range(0, len(data), len(data) // pieces):
            await client.send(data[start : start + len(data) // pieces])
        assert statuses(await client.until_closed()) == [status]


@pytest.mark.fault("F17")
@pytest.mark.parametrize(("data", "status"), LEGAL.values(), ids=LEGAL)
async def test_rare_but_legal_requests_are_answered(data: bytes, status: int) -> None:
    """What a server has to accept is accepted, and the connection serves the next request."""
    async with open_server(api()) as server:
        found = statuses(await server.raw(data + get(b"Connection: close")))
    assert found[0] == status
    # An answer before the end of a body is the last one, and so is one to HTTP/1.0.
    last = b" HTTP/1.0" in data or b"chunked" in data
    assert found[1:] in ([], [200]) if last else found[1:] == [200]


@pytest.mark.parametrize("leaves", ["by reset", "by end"])
@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
async def test_a_malformed_request_affects_only_its_connection(data: bytes, leaves: str) -> None:
    """No input and no disconnect of one client affects the others or fills the log."""
    with capture_logs() as logs:
        async with open_server(api()) as server:
            async with server.client() as client:
                await client.send(data)
                if leaves == "by reset":
                    await client.reset()
                else:
                    await client.stream.send_eof()
                    await client.until_closed()
            assert await server.lives()
    assert [entry for entry in logs if entry["log_level"] in ("warning", "error")] == []


async def test_malformed_requests_leak_no_descriptor() -> None:
    """After every malformed input the process has as many open descriptors as before."""
    async with open_server(api()) as server:
        before = descriptors()
        for data in (*ODD.values(), *SMUGGLING.values()):
            async with server.client() as client:
                await client.send(data)
                await client.reset()
        await eventually(lambda: descriptors() <= before)
