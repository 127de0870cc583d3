"""Shared files of nodes that are not below a relay: requests go to the policy server above."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from relayd.api import shared_files as module
from relayd.fleet.peers.client import Clients
from relayd.fleet.pins import UPSTREAM_PEER
from relayd.shared.upstream import UpstreamFiles
from tests.support.http import Server, open_server
from tests.support.shared import FILES, SOURCE, lines, make_shared, upload
from tests.support.signing import make_key_and_cert
from tests.support.tls_server import (
    Answer,
    Behaviour,
    Cut,
    Exchange,
    Peer,
    Silent,
    open_peer,
)

ABOVE = make_key_and_cert("above")
PATH = f"elsewhere/{SOURCE}/file.conf"
CONTENT = b"content\n" * 50_000


@asynccontextmanager
async def open_relay(root: Path, *, pinned: bool = True) -> AsyncIterator[tuple[Server, Peer]]:
    """A relay's API, and the policy server above it."""
    shared = await make_shared(root)
    clients = Clients()
    clients.update(
        {UPSTREAM_PEER: (ABOVE.cert_der if pinned else make_key_and_cert("x").cert_der,)}
    )
    async with open_peer(ABOVE) as peer:
        relay = shared.on_relay(UpstreamFiles(clients, peer.url))
        async with open_server(relay.app()) as server:
            yield server, peer
        await clients.aclose()


@pytest.mark.history(43, 44)
async def test_an_upload_goes_up_as_it_came(tmp_path: Path) -> None:
    """Name, query, content and length are forwarded unchanged; the status is returned."""
    body = upload(CONTENT)
    async with open_relay(tmp_path) as (server, peer):
        answer = await server.ask("PUT", f"{FILES}/{PATH}?ttl=1%20day&x=%ff", body)
        assert (answer.status, answer.body) == (201, b"")
        assert peer.uploads == [(f"/rudder/relay-api/shared-files/{PATH}?ttl=1%20day&x=%ff", body)]
        assert peer.requests[0].headers["content-length"] == str(len(body))
        assert peer.requests[0].headers["user-agent"].startswith("rudder-relayd/")
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("status", [200, 404])
async def test_a_hash_is_asked_for_above(tmp_path: Path, status: int) -> None:
    """HEAD is forwarded with its query, and its status is returned."""
    digest = lines(CONTENT)["hash_value"]
    async with open_relay(tmp_path) as (server, peer):
        peer.behaviour = Answer(status)
        answer = await server.ask("HEAD", f"{FILES}/{PATH}?hash={digest}")
        assert answer.status == status
        assert peer.requests[0].method == "HEAD"
        assert peer.requests[0].target == f"/rudder/relay-api/shared-files/{PATH}?hash={digest}"


@pytest.mark.parametrize(
    ("above", "here"), [(200, 200), (204, 204), (400, 400), (404, 404), (413, 413), (500, 500)]
)
async def test_the_status_is_that_of_the_server_above(
    tmp_path: Path, above: int, here: int
) -> None:
    """The sender gets the status of the policy server."""
    async with open_relay(tmp_path) as (server, peer):
        peer.behaviour = Answer(above, body=b"inner details" if above >= 400 else b"")
        answer = await server.ask("PUT", f"{FILES}/{PATH}?ttl=1d", upload(CONTENT))
        assert answer.status == here
        assert b"inner" not in answer.body


@pytest.mark.parametrize("status", [301, 303, 304, 307])
async def test_a_redirect_is_not_followed(tmp_path: Path, status: int) -> None:
    """A file is sent only to the policy server."""
    async with open_relay(tmp_path) as (server, peer):
        peer.behaviour = Answer(status, [("Location", f"{peer.url}/else")])
        for method, body in (("PUT", upload(CONTENT)), ("HEAD", b"")):
            answer = await server.ask(method, f"{FILES}/{PATH}?ttl=1d&hash=0", body)
            assert answer.status == 502
        assert len(peer.requests) == 2


@pytest.mark.parametrize("behaviour", [Cut("accept"), Cut("body"), Cut("stored")])
async def test_no_answer_from_above(tmp_path: Path, behaviour: Behaviour) -> None:
    """A broken connection gives 502; the next upload is forwarded again."""
    async with open_relay(tmp_path) as (server, peer):
        peer.behaviour = behaviour
        answer = await server.ask("PUT", f"{FILES}/{PATH}?ttl=1d", upload(CONTENT))
        assert answer.status == 502
        assert b"no answer from the policy server" in answer.body
        peer.behaviour = Behaviour()
        again = await server.ask("PUT", f"{FILES}/{PATH}?ttl=1d", upload(CONTENT))
        assert again.status == 201


async def test_another_server_above_gets_nothing(tmp_path: Path) -> None:
    """Nothing is written to a server whose certificate is not the pinned one."""
    async with open_relay(tmp_path, pinned=False) as (server, peer):
        answer = await server.ask("PUT", f"{FILES}/{PATH}?ttl=1d", upload(CONTENT))
        assert answer.status == 502
        assert peer.http_bytes == 0


async def test_a_silent_server_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for it is bounded, and other requests are served meanwhile."""
    monkeypatch.setattr(module, "FORWARD_S", 0.2)
    monkeypatch.setattr(module, "SLOWEST", 10**9)
    monkeypatch.setattr(module, "HEAD_TIMEOUT_S", 0.2)
    async with open_relay(tmp_path) as (server, peer):
        peer.behaviour = Silent()
        statuses: list[int] = []

        async def ask(method: str, body: bytes) -> None:
            answer = await server.ask(method, f"{FILES}/{PATH}?ttl=1d&hash=0", body)
            statuses.append(answer.status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "PUT", upload(CONTENT))
            nursery.start_soon(ask, "HEAD", b"")
            await peer.until(lambda: len(peer.requests) == 2)
            assert await server.lives()
        assert statuses == [502, 502]


@pytest.mark.history(42)
async def test_limits_hold_before_anything_is_passed_on(tmp_path: Path) -> None:
    """Lengths, ids and times to live are checked before."""
    body = upload(CONTENT)
    async with open_relay(tmp_path) as (server, peer):
        huge = f"Content-Length: {2 * 1024 * 1024}\r\nConnection: close\r\n"
        for path, headers, data, status in (
            (f"{PATH}?ttl=1d", huge, b"", 413),
            (f"{PATH}?ttl=1d", "Transfer-Encoding: chunked\r\n", b"", 411),
            (f"{PATH}?ttl=x", "", body, 400),
            ("elsewhere/../file?ttl=1d", "", body, 400),
        ):
            answer = await server.ask("PUT", f"{FILES}/{path}", data, headers)
            assert answer.status == status
        assert peer.connections == 0


class Holding(Behaviour):
    """Reads the start of a body, reports its size, and waits for the rest."""

    def __init__(self) -> None:
        self.began = trio.Event()

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        """Reads the rest when released."""
        start = await exchange.body(10)
        self.began.set()
        peer.store(exchange, start + await exchange.body())
        await exchange.reply(201)


async def test_an_upload_is_passed_on_while_it_comes(tmp_path: Path) -> None:
    """The server above has received the start before the sender sends the end."""
    body = upload(CONTENT)
    head = f"PUT {FILES}/{PATH}?ttl=1d HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with open_relay(tmp_path) as (server, peer):
        peer.behaviour = holding = Holding()
        async with server.client() as client:
            await client.send(head.encode() + body[:-1])
            await holding.began.wait()
            await client.send(body[-1:])
            assert (await client.answer("PUT")).status == 201
        assert peer.uploads[0][1] == body
