"""Request bodies are bounded, have back-pressure, and are never truncated silently."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from quart import Quart, request
from werkzeug.exceptions import RequestEntityTooLarge

from relayd.api.app import MAX_BODY
from relayd.api.server.body import HIGH_WATER, Body
from tests.support.http import api, open_server


def reading(how: str) -> tuple[Quart, list[int]]:
    """The app with a route that reads its body, and the sizes of the received pieces."""
    app = api()
    pieces: list[int] = []

    @app.post("/read")
    async def read() -> str:
        if how == "streamed":
            pieces.extend([len(piece) async for piece in request.body])
        else:
            pieces.append(len(await request.get_data()))
        return str(sum(pieces))

    return app, pieces


def chunked(size: int) -> bytes:
    """A request with a chunked body of `size` bytes, without its end."""
    count, chunk = size // 65536, b"10000\r\n" + b"x" * 65536 + b"\r\n"
    return b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * count


@pytest.mark.parametrize("how", ["streamed", "whole"])
async def test_a_body_at_the_limit_is_read(how: str) -> None:
    """The largest body that is allowed arrives complete, streamed or as a whole."""
    app, _ = reading(how)
    async with open_server(app) as server:
        answer = await server.ask("POST", "/read", b"x" * MAX_BODY)
        assert (answer.status, answer.body) == (200, str(MAX_BODY).encode())


@pytest.mark.fault("A2")
@pytest.mark.parametrize("how", ["streamed", "whole"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_over_the_limit_is_refused(how: str, framing: str) -> None:
    """With or without a declared length, a body over the limit gets 413 and the connection ends."""
    app, pieces = reading(how)
    if framing == "length":
        head = f"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n"
        data = head.encode() + b"x" * 100_000
    else:
        data = chunked(2 * MAX_BODY)
    async with open_server(app) as server:
        assert (await server.raw(data)).startswith(b"HTTP/1.1 413 ")
        assert sum(pieces) <= MAX_BODY
        assert await server.lives()


async def test_a_slow_handler_slows_its_client() -> None:
    """Data that a handler does not read stay with the client, not in relayd's memory."""
    app, gate, asked = api(), trio.Event(), trio.Event()
    pieces: list[int] = []

    @app.post("/slow")
    async def slow() -> str:
        request.max_content_length = None
        asked.set()
        await gate.wait()
        pieces.extend([len(piece) async for piece in request.body])
        return str(sum(pieces))

    app.config["MAX_CONTENT_LENGTH"] = None
    size = 64 * 1024 * 1024
    async with open_server(app) as server, server.client() as client:
        sent = 0

        async def upload() -> None:
            nonlocal sent
            head = f"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
            await client.stream.send_all(head.encode())
            while sent < size:
                await client.stream.send_all(b"x" * 65536)
                sent += 65536

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            await asked.wait()
            await trio.testing.wait_all_tasks_blocked(0.1)
            stalled = sent
            gate.set()
            assert (await client.answer()).body == str(size).encode()
    # The kernel's buffers of both ends hold some MiB; the rest was not sent.
    assert stalled < size // 2
    assert max(pieces) <= HIGH_WATER + 16 * 65536


async def test_a_limit_exceeded_during_a_read_is_an_error() -> None:
    """A waiting reader gets an error for a body over the limit, not its end."""
    body = Body(None, 10)
    outcome: list[bytes | str] = []

    async def read() -> None:
        nonlocal outcome
        try:
            async for piece in body:
                outcome += [piece]
        except RequestEntityTooLarge:
            outcome.append("too large")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        body.append(b"12345")
        await trio.testing.wait_all_tasks_blocked()
        body.append(b"67890!")
    assert outcome == [b"12345", "too large"]


async def test_the_wait_for_a_handler_ends_with_reading_and_with_discarding() -> None:
    """The wait ends when data are taken, awaited as a whole, discarded or refused."""

    async def freed_by(action: Callable[[Body], Awaitable[None]]) -> None:
        body = Body(None, None)
        body.append(b"x" * (HIGH_WATER + 1))
        async with trio.open_nursery() as nursery:
            freed = trio.Event()

            async def wait() -> None:
                await body.drained()
                freed.set()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not freed.is_set()
            await action(body)
            await freed.wait()

    async def take(body: Body) -> None:
        await anext(body)

    async def want_whole(body: Body) -> None:
        with trio.move_on_after(0):
            await body

    async def discard(body: Body) -> None:
        body.discard()
        await trio.lowlevel.checkpoint()

    for action in (take, want_whole, discard):
        await freed_by(action)


async def test_a_refused_body_is_not_buffered() -> None:
    """Over the limit nothing is buffered, so the wait ends."""
    body = Body(None, 100)
    body.append(b"x" * (HIGH_WATER + 1))
    await body.drained()
    with pytest.raises(RequestEntityTooLarge):
        await body


async def test_an_answer_does_not_wait_for_an_unread_body() -> None:
    """A handler that reads nothing of a body answers even if the buffer is full."""
    app, gate = api(), trio.Event()
    app.config["MAX_CONTENT_LENGTH"] = None

    @app.post("/careless")
    async def careless() -> str:
        await gate.wait()
        return "done"

    head = b"POST /careless HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
    async with (
        open_server(app) as server,
        server.client() as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.send, head + b"x" * 64 * HIGH_WATER)
        await trio.testing.wait_all_tasks_blocked(0.1)
        gate.set()
        assert (await client.until_closed()).endswith(b"done")
