"""Many faults of the upstream, one after the other and mixed: nothing is lost, nothing changed."""

import random
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.support.forwarding import IMPATIENT, Relay
from tests.support.signing import make_key_and_cert
from tests.support.tls_server import (
    Answer,
    Behaviour,
    Cut,
    Endless,
    Exchange,
    Peer,
    Raw,
    Silent,
    With,
    open_peer,
    server_context,
)

NODE = make_key_and_cert("upstream")
STRANGER = make_key_and_cert("stranger")


def faults(numbers: random.Random) -> Iterator[tuple[str, Behaviour]]:
    """Without end, every kind among the first ones, then by chance."""
    old_tls = server_context(NODE)
    old_tls.maximum_version = old_tls.minimum_version = ssl.TLSVersion.TLSv1_2
    kinds: dict[str, list[Behaviour]] = {
        "reset at once": [Cut("accept")],
        "reset in the body": [Cut("body", after) for after in (1, 3000, 50_000)],
        "reset before the answer": [Cut("stored")],
        "closed": [Raw(b"")],
        "no greeting": [Silent(before_tls=True)],
        "no answer": [Silent()],
        "stranger": [With(server_context(STRANGER))],
        "old TLS": [With(old_tls)],
        "busy": [Answer(status) for status in (429, 500, 502, 503, 504, 507)],
        "refused": [Answer(status) for status in (400, 409, 411, 413, 414, 415, 422)],
        "operator": [Answer(status) for status in (401, 403, 404, 407)],
        "redirect": [
            Answer(status, [("Location", "https://127.0.0.1:1/")])
            for status in (301, 302, 303, 307, 308)
        ],
        "not modified": [Answer(304)],
        "other success": [Answer(status) for status in (202, 206, 207)],
        "no HTTP": [Raw(b"220 ready\r\n"), Raw(b"\x16\x03\x01" * 100)],
        "cut head": [Raw(b"HTTP/1.1 201 Crea")],
        "huge head": [Raw(b"HTTP/1.1 201 Created\r\nX: " + b"x" * 300_000 + b"\r\n\r\n")],
        "endless head": [Endless(b"HTTP/1.1 201 Created\r\n", b"X: y\r\n" * 50)],
        "early answer": [Early()],
    }
    for kind, behaviours in kinds.items():
        yield kind, numbers.choice(behaviours)
    while True:
        kind = numbers.choice(list(kinds))
        yield kind, numbers.choice(kinds[kind])


class Early(Behaviour):
    """Refuses before the body is there."""

    async def serve(self, peer: Peer, exchange: Exchange) -> None:  # noqa: D102
        await exchange.reply(413)
        raise trio.BrokenResourceError


class Chain(Behaviour):
    """Does to each connection or request the next fault of a list; a good server afterwards.

    Attributes:
        struck: kinds of fault that were really met, with how often.
        stolen: HTTP bytes that came over a connection that had to be refused.
    """

    def __init__(self, kinds: list[tuple[str, Behaviour]]) -> None:
        self._kinds = kinds[::-1]
        self.struck: dict[str, int] = {}

    def _next(self) -> Behaviour | None:
        if not self._kinds:
            return None
        kind, behaviour = self._kinds.pop()
        self.struck[kind] = self.struck.get(kind, 0) + 1
        return behaviour

    def _next_is_of_connections(self) -> bool:
        if not self._kinds:
            return False
        return isinstance(self._kinds[-1][1], With) or self._kinds[-1][0] in {
            "reset at once",
            "no greeting",
        }

    async def accept(self, stream: trio.SocketStream) -> None:  # noqa: D102
        self.context = None
        if self._next_is_of_connections():
            behaviour = self._next()
            assert behaviour is not None
            self.context = behaviour.context
            await behaviour.accept(stream)

    async def serve(self, peer: Peer, exchange: Exchange) -> None:  # noqa: D102
        behaviour = None if self._next_is_of_connections() else self._next()
        await (behaviour or Behaviour()).serve(peer, exchange)
        if self._next_is_of_connections():
            raise trio.BrokenResourceError  # so that there will be a connection


@asynccontextmanager
async def watchdog(seconds: float) -> AsyncIterator[None]:
    """Everything within has so much time."""
    with trio.fail_after(seconds):
        yield


@pytest.mark.fault("U1", "U2", "U3", "U4", "U5", "U6", "U7", "U8", "U10", "U11", "U12")
@pytest.mark.parametrize(
    "count",
    [pytest.param(120, id="120"), pytest.param(2000, id="2000", marks=pytest.mark.torture)],
)
async def test_whatever_the_upstream_does_every_file_arrives_as_it_was(
    tmp_path: Path, count: int
) -> None:
    """Faults of 19 kinds in a row: all files arrive byte for byte, strangers get not a byte."""
    numbers = random.Random(count)
    chain = Chain([fault for fault, _ in zip(faults(numbers), range(count), strict=False)])
    async with open_peer(NODE) as peer, watchdog(30 + count * 0.5):
        relay = Relay(tmp_path, peer, NODE, IMPATIENT)
        peer.behaviour = chain
        sizes = (0, 1, 20_000, 65_536, 65_537, 300_000)
        files = {
            f"{number:04}.log": numbers.randbytes(numbers.choice(sizes))
            for number in range(count // 3)
        }
        for name, body in files.items():
            relay.arrive(relay.reports, name, body)
        async with relay.running():
            await relay.empty(patience=30 + count * 0.5)
        assert sum(chain.struck.values()) == count
        assert len(chain.struck) == 19
        arrived = {target.removeprefix("/reports/"): body for target, body in peer.uploads}
        assert arrived == files
        assert relay.failed() == []
