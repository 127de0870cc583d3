"""The misbehaving TCP proxy, against an echo server and a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
import pytest
import trio

from tests.support.postgres import Database
from tests.support.proxy import (
    BlackHole,
    Corrupt,
    CutAfter,
    Delay,
    Drip,
    Fault,
    HalfClose,
    LoseReply,
    LoseRequest,
    Proxy,
    Refuse,
    open_proxy,
)

INSERT = (
    "INSERT INTO ruddersysevents (executiondate, nodeid, directiveid, ruleid, reportid, component,"
    " executiontimestamp) VALUES (now(), 'n', 'd', 'r', '0', 'c', now())"
)


async def echo(stream: trio.SocketStream) -> None:
    try:
        async for data in stream:
            await stream.send_all(data)
    except trio.BrokenResourceError:
        return


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Yield a proxy in front of an echo server."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        async with open_proxy("127.0.0.1", listeners[0].socket.getsockname()[1]) as running:
            yield running
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def dial(proxy: Proxy) -> AsyncIterator[trio.SocketStream]:
    stream = await trio.open_tcp_stream("127.0.0.1", proxy.port)
    async with stream:
        yield stream


async def receive_exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = await stream.receive_some(count - len(data))
        assert chunk, "the connection ended"
        data += chunk
    return data


async def test_passes_everything_on(proxy: Proxy) -> None:
    """Without a fault, bytes and the end of the stream go through both ways."""
    async with dial(proxy) as stream:
        await stream.send_all(b"hello")
        assert await receive_exactly(stream, 5) == b"hello"
        await stream.send_eof()
        assert await stream.receive_some() == b""
    assert proxy.accepted == 1


@pytest.mark.parametrize("fault", [Refuse, lambda: CutAfter(3), lambda: LoseRequest(bool)])
async def test_cuts_are_resets(proxy: Proxy, fault: type[Fault]) -> None:
    """A cut is seen by the client as a reset, not as a normal end."""
    current = proxy.fault = fault()
    async with dial(proxy) as stream:
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            await stream.send_all(b"hello")
            while await stream.receive_some():
                pass
    assert current.struck.is_set()


async def test_reset_drops_connections_that_are_open(proxy: Proxy) -> None:
    """Connections that were made before are dropped by a reset."""
    async with dial(proxy) as stream:
        await stream.send_all(b"x")
        await receive_exactly(stream, 1)
        proxy.reset()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_black_hole_holds_bytes_until_lifted(proxy: Proxy) -> None:
    """Bytes sent into the black hole arrive when it is lifted, and a fault is changed in flight."""
    hole = proxy.fault = BlackHole()
    async with dial(proxy) as stream:
        await stream.send_all(b"hello")
        await hole.struck.wait()
        proxy.fault = Fault()
        hole.lift()
        assert await receive_exactly(stream, 5) == b"hello"


@pytest.mark.parametrize("fault", [lambda: Delay(0.01), lambda: Drip(0.001)])
async def test_slow_faults_deliver_all(proxy: Proxy, fault: type[Fault]) -> None:
    """Delay and drip change when bytes arrive, not which."""
    current = proxy.fault = fault()
    async with dial(proxy) as stream:
        await stream.send_all(b"hello")
        assert await receive_exactly(stream, 5) == b"hello"
    assert current.struck.is_set()


async def test_corrupts_one_byte(proxy: Proxy) -> None:
    """Exactly the chosen byte is damaged."""
    proxy.fault = Corrupt(1)
    async with dial(proxy) as stream:
        await stream.send_all(b"hello")
        assert await receive_exactly(stream, 5) == b"h\x9allo"


async def test_half_close_ends_one_way(proxy: Proxy) -> None:
    """After a half-close the client has read the end but can still send."""
    proxy.fault = HalfClose("reply")
    async with dial(proxy) as stream:
        await stream.send_all(b"hello")
        assert await receive_exactly(stream, 5) == b"hello"
        assert await stream.receive_some() == b""
        await stream.send_all(b"more")


async def test_goes_to_another_server(proxy: Proxy) -> None:
    """New connections follow a changed target; without a listener there they are reset."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        proxy.target = listeners[0].socket.getsockname()[:2]
        async with dial(proxy) as stream:
            await stream.send_all(b"x")
            assert await receive_exactly(stream, 1) == b"x"
        nursery.cancel_scope.cancel()
    async with dial(proxy) as stream:
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
    await proxy.wait_accepted(2)


async def _insert(dsn: str) -> None:
    client = await asyncpg.connect(dsn)
    try:
        async with client.transaction():
            await client.execute(INSERT)
    finally:
        client.terminate()


@pytest.mark.parametrize(("fault", "stored"), [(LoseReply, "1"), (LoseRequest, "0")])
async def test_commit_with_reply_or_request_lost(
    database: Database, fault: type[LoseReply] | type[LoseRequest], stored: str
) -> None:
    """The client sees the same error, whether its COMMIT was lost or only the answer to it."""
    target = database.rudder
    async with open_proxy(target.host, target.port) as proxy:
        current = proxy.fault = fault(lambda seen: b"COMMIT" in seen)
        dsn = target.dsn.replace(f":{target.port}/", f":{proxy.port}/")
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
            await trio.to_thread.run_sync(asyncio.run, _insert(dsn))
        assert current.struck.is_set()
    assert await database.fetch("SELECT count(*) FROM ruddersysevents") == [(stored,)]
