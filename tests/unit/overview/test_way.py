"""What relays on the way to a node answer, some of them faulty, over real TLS."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from relayd import __version__
from relayd.config.main_conf import ProcessingSettings, ReportingSettings, Settings
from relayd.fleet.nodes import MAX_LEVELS
from relayd.fleet.peers.client import Clients
from relayd.overview.fleet import FleetView
from relayd.overview.one_node import HopState
from relayd.overview.way import MAX_ANSWER, Way, read_hops
from relayd.telemetry.nodes.records import NodeRecords, RunFacts
from tests.support.remote_run import make_nodes
from tests.support.signing import make_key_and_cert
from tests.support.tls_server import Answer, Behaviour, Exchange, Peer, Silent, open_peer

RELAY = make_key_and_cert("r1")
NOW = 1_790_000_000.0
SHOWN = "2026-09-21T14:13:20.000+00:00"
NODES = make_nodes(
    ["n1", "r1"], {"r1": ["r2"], "r2": ["m 1"]}, hosts={"r1": "127.0.0.1", "r2": "127.0.0.2"}
)


async def _known() -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def _way(root: Path, port: int = 1) -> AsyncIterator[Way]:
    """The root server above r1, whose spool has a run log of n1."""
    incoming = root / "incoming"
    incoming.mkdir()
    (incoming / "2026-11-28T10:00:00+00:00@n1.log").touch()
    settings = Settings(
        processing=ProcessingSettings(
            reporting=ReportingSettings(directory=root, output="database")
        )
    )
    records = NodeRecords()
    records.note_arrival("n1", NOW)
    records.note_outcome("n1", "stored", NOW + 1, RunFacts(start=NOW - 20, lag_s=21.0))
    clients = Clients()
    clients.update({"r1": (RELAY.cert_der,)})
    yield Way(FleetView(settings), lambda: NODES, records, clients, port, _known)
    await clients.aclose()


def _answer(*hops: dict[str, object]) -> bytes:
    return json.dumps({"data": {"hops": hops}, "result": "success", "action": "x"}).encode()


def _troubles(hops: tuple[HopState, ...] | list[HopState]) -> list[tuple[str, str | None]]:
    return [(hop.relay, hop.trouble) for hop in hops]


GOOD: dict[str, Any] = {
    "relay": "r1",
    "hostname": "forged",
    "version": "0.2.0",
    "last_arrival": SHOWN,
    "outcome": "forwarded",
    "outcome_at": SHOWN,
    "waiting": 3,
    "failed": 1,
    "lag_s": 21.5,
}


async def test_relays_are_asked_by_id_and_named_by_our_own_list(tmp_path: Path) -> None:
    """One request to the first relay; a relay that it leaves out was not asked."""
    async with open_peer(RELAY) as peer, _way(tmp_path, peer.port) as way:
        peer.behaviour = Answer(200, body=_answer(GOOD))
        first, second = await way.below("m 1", passed=2)
    [request] = peer.requests
    assert request.method == "GET"
    assert request.target == "/rudder/relay-api/remote-run/status/m%201"
    assert request.headers["rudder-relay-hops"] == "3"
    assert first == HopState(
        relay="r1",
        hostname="127.0.0.1",
        version="0.2.0",
        last_arrival=NOW,
        outcome="forwarded",
        outcome_at=NOW,
        waiting=3,
        failed=1,
        lag_s=21.5,
    )
    assert (second.relay, second.hostname, second.trouble) == ("r2", "127.0.0.2", "not asked")


async def test_a_relay_answers_about_itself_and_for_those_below(tmp_path: Path) -> None:
    """Its own part comes first; a node that is not below it, like itself, has no answer."""
    async with open_peer(RELAY) as peer, _way(tmp_path, peer.port) as way:
        peer.behaviour = Answer(200, body=_answer(GOOD, {**GOOD, "relay": "r2"}))
        below = await way.answer("m 1", 0)
        own = await way.answer("n1", 0)
        assert [await way.answer(node, 0) for node in ("root", "strange", "")] == [None] * 3
    assert below is not None
    assert own is not None
    assert [hop["relay"] for hop in below["hops"]] == ["root", "r1", "r2"]
    assert own["hops"] == [
        {
            "relay": "root",
            "hostname": "",
            "version": __version__,
            "last_arrival": SHOWN,
            "outcome": "stored",
            "reason": None,
            "outcome_at": "2026-09-21T14:13:21.000+00:00",
            "waiting": 1,
            "failed": 0,
            "lag_s": 21.0,
            "trouble": None,
        }
    ]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b"NOT FOUND", "it cannot be asked: rudder-relayd, or an older relayd"),
        (404, b'{"result":"error"}', "it does not have this node"),
        (503, b"", "it answered with status 503"),
        (200, b"[" * 60_000, "its answer is not understood"),
        (200, _answer(GOOD) + b" " * MAX_ANSWER, "its answer is not understood"),
        (200, _answer(), "its answer is not understood"),
        *(
            (200, _answer({**GOOD, **change}), "its answer is not understood")
            for change in (
                {"relay": "r2"},
                {"version": "\x1b[2J"},
                {"version": "1\n"},
                {"reason": "x" * 41},
                {"outcome": "lost"},
                {"last_arrival": "soon"},
                {"last_arrival": "0001-01-01T00:00:00"},
                {"outcome_at": 1e300},
                {"waiting": -1},
                {"failed": 2**70},
                {"lag_s": 1e300},
                {"trouble": "x" * 501},
                {"version": ["deep"]},
            )
        ),
        (200, _answer(*[GOOD] * 3), "its answer is not understood"),
    ],
)
def test_what_is_no_answer_about_these_relays_is_named(status: int, body: bytes, said: str) -> None:
    """Nothing of an answer is used unless all of it is what a relay on this way may say."""
    assert _troubles(read_hops(status, body, ["r1", "r2"])) == [("r1", said)]


def test_texts_of_relays_are_printable() -> None:
    """A terminal never gets control characters of another server."""
    hops = read_hops(200, _answer({"relay": "r1", "trouble": "gone\x1b[2J\n"}), ["r1"])
    assert _troubles(hops) == [("r1", "gone\\x1b[2J\\n")]


async def test_unreachable_relays_are_named(tmp_path: Path, mock_clock: MockClock) -> None:
    """One that refuses, one that is silent, and a loop each end in bounded time."""
    mock_clock.rate = 10  # a handshake takes real time

    class Stalled(Behaviour):
        async def serve(self, peer: Peer, exchange: Exchange) -> None:
            await trio.sleep_forever()

    async with open_peer(RELAY) as peer, _way(tmp_path, peer.port) as way:
        for behaviour in (Stalled(), Silent()):
            peer.behaviour = behaviour
            troubles = _troubles(await way.below("m 1"))
            assert troubles[0][0] == "r1"
            assert troubles[0][1] is not None
            assert troubles[1] == ("r2", "not asked")
        loop = await way.below("m 1", passed=MAX_LEVELS)
    assert _troubles(loop)[0] == ("r1", "passed on by 20 relays already")
    (tmp_path / "x").mkdir()
    async with _way(tmp_path / "x") as way:
        [refused] = await way.below("r2")
    assert "refused" in (refused.trouble or "")
