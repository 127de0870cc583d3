"""Clients that hold on to the front door, or speak something else."""

import os
from contextlib import AsyncExitStack

import h11
import pytest
import trio

from relayd.api.door import connection as door_connection
from relayd.api.server.limits import Limits
from tests.support.curl import NODE, POLICY_SERVER, USER
from tests.support.front_door import basic, open_client, open_door
from tests.support.http import descriptors, eventually
from tests.support.raw_http import CHUNKS, SMUGGLING
from tests.support.webserver import PASSWORD, Web

KNOWN = basic(f"{USER}:{PASSWORD}")


async def served(web: Web, source: str = POLICY_SERVER) -> bool:
    """Return whether an upload from another address gets through."""
    async with open_client(web, source=source) as client:
        answer = await client.ask("PUT", f"/reports/{os.urandom(4).hex()}", b"x", KNOWN)
    return answer.status == 201


@pytest.mark.fault("A1", "A2")
async def test_idle_connections_are_bounded(web: Web) -> None:
    """500 connections without a handshake, or with half of one, keep out nobody, and end."""
    async with open_door(web, max_connections=64, max_connections_per_address=32):
        before = descriptors()
        async with AsyncExitStack() as stack:
            for number in range(500):
                stream = await trio.open_tcp_stream(web.host, web.port, local_address=NODE)
                stack.push_async_callback(trio.aclose_forcefully, stream)
                if number % 2:
                    await stream.send_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            await eventually(lambda: descriptors() <= before + 500 + 40)
            assert await served(web)
            assert await served(web, NODE)
        await eventually(lambda: descriptors() <= before)


@pytest.mark.fault("A1")
async def test_many_tls_connections_without_a_request_are_bounded(web: Web) -> None:
    """An address with all its connections idle loses the oldest one to the next; others stay."""
    async with (
        open_door(web, max_connections_per_address=8),
        open_client(web, source=POLICY_SERVER) as other,
        AsyncExitStack() as stack,
    ):
        assert (await other.ask("GET", "/uuid")).status == 200
        clients = []
        for _ in range(20):
            clients.append(await stack.enter_async_context(open_client(web)))
            assert (await clients[-1].ask("GET", "/uuid")).status == 200
        with pytest.raises((EOFError, h11.RemoteProtocolError, trio.BrokenResourceError)):
            await clients[0].ask("GET", "/uuid")
        assert (await clients[-1].ask("GET", "/uuid")).status == 200
        assert (await other.ask("GET", "/uuid")).status == 200


@pytest.mark.fault("A1")
async def test_slow_clients_end(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake and a head that take too long are ended."""
    monkeypatch.setattr(door_connection, "HANDSHAKE_S", 0.2)
    monkeypatch.setattr(
        "relayd.api.door.door.Limits", lambda connections: Limits(connections, head_s=0.2)
    )
    async with open_door(web):
        stream = await trio.open_tcp_stream(web.host, web.port)
        assert await stream.receive_some() == b""
        await stream.aclose()
        async with open_client(web) as client:
            await client.send(b"PUT /reports/x HTTP/1.1\r\nHost: ")
            assert await client.until_closed() == b""
        assert await served(web)


JUNK = {
    "HTTP": b"GET /uuid HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(5000),
    "SSH": b"SSH-2.0-x\r\n",
    "record too long": b"\x16\x03\x03\xff\xff" + bytes(70_000),
    "alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "cut hello": b"\x16\x03\x01\x00\x05\x01\x00",
    "random": bytes(range(256)) * 20,
}


@pytest.mark.fault("A5")
@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
async def test_what_is_not_tls_ends_its_connection(web: Web, junk: bytes) -> None:
    """Other protocols get no answer in theirs, and the next client is served."""
    async with open_door(web):
        stream = await trio.open_tcp_stream(web.host, web.port)
        answer = b""
        try:
            await stream.send_all(junk)
            await stream.send_eof()
            while data := await stream.receive_some():
                answer += data
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(stream)
        assert not answer.startswith(b"HTTP")
        assert await served(web)


@pytest.mark.fault("A4")
async def test_ambiguous_requests_are_refused(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The strict parser is behind TLS too: nothing is smuggled into the spool."""
    monkeypatch.setattr(
        "relayd.api.door.door.Limits", lambda connections: Limits(connections, linger_s=0.02)
    )
    bodies = [
        b"PUT /reports/x HTTP/1.1\r\nHost: x\r\n%bTransfer-Encoding: chunked\r\n\r\n%b"
        % (KNOWN.encode(), chunks)
        for chunks in CHUNKS.values()
    ]
    async with open_door(web):
        for data in (*SMUGGLING.values(), *bodies):
            async with open_client(web) as client:
                await client.send(data)
                answers = await client.until_closed()
                assert answers.startswith(b"HTTP/1.1 400"), (data, answers)
                assert answers.count(b"HTTP/1.1") == 1, (data, answers)
        assert web.waiting() == []
        assert await served(web)
