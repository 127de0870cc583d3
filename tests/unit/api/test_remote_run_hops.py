"""Remote run through sub-relays, some of them faulty, over real TLS."""

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from relayd.remote_run.events import NOTE
from relayd.remote_run.helper.limits import limits_for
from relayd.remote_run.hop import patience
from tests.support.agent import PRINT_ARGUMENTS, agent
from tests.support.http import eventually
from tests.support.remote_run import Following, make_nodes, open_lab
from tests.support.signing import make_key_and_cert
from tests.support.tls_server import Behaviour, Cut, Exchange, Peer, Silent, open_peer

RELAY = make_key_and_cert("r1")
PINS = {"r1": (RELAY.cert_der,)}
LOCAL = {"r1": "127.0.0.1", "r2": "127.0.0.2"}
NODES = make_nodes(["n1"], {"r1": ["m1", "m2"]}, hosts=LOCAL)
NDJSON = "application/x-ndjson"


class Relay(Behaviour):
    """A sub-relay that answers with text or events and records its requests."""

    def __init__(
        self,
        *pieces: bytes,
        kind: str = "text/plain",
        end: bool = True,
        stays: bool = False,
    ) -> None:
        self.stays = stays
        self.pieces = pieces
        self.kind = kind
        self.end = end
        self.asked: list[dict[str, str]] = []

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        """Reads the form and answers."""
        self.asked.append(dict(parse_qsl((await exchange.body()).decode())))
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {self.kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        await exchange.stream.send_all(head.encode())
        for piece in self.pieces:
            await exchange.stream.send_all(b"%x\r\n%s\r\n" % (len(piece), piece))
        if self.stays:
            await trio.sleep_forever()
        if self.end:
            await exchange.stream.send_all(b"0\r\n\r\n")
        raise trio.BrokenResourceError


def events(*records: dict[str, object]) -> Iterator[bytes]:
    """Events in the form that a relay sends."""
    return (json.dumps(event).encode() + b"\n" for event in records)


def verdict(kind: str, node: str, relay: str = "r1", **more: object) -> dict[str, object]:
    """An event."""
    return {"event": kind, "relay": relay, "node": node, **more}


@pytest.mark.history(47, 48)
async def test_a_sub_relay_gets_its_own_nodes(tmp_path: Path) -> None:
    """The call is a form to the right URL, with the same parameters and its nodes only."""
    async with (
        open_peer(RELAY) as peer,
        open_lab(
            agent(tmp_path / "rudder", PRINT_ARGUMENTS), NODES, pins=PINS, https_port=peer.port
        ) as lab,
    ):
        peer.behaviour = relay = Relay(b"far away\n", b"still\n")
        answer = await lab.post(
            "nodes", nodes="m1,n1,m2,x", conditions="c1,c2", asynchronous=True, keep_output=True
        )
    assert sorted(answer.body.splitlines(keepends=True)) == sorted(
        [
            b"remote\n",
            b"run\n",
            b"-D\n",
            b"c1,c2\n",
            b"--\n",
            b"n1.test\n",
            b"far away\n",
            b"still\n",
        ]
    )
    [request] = peer.requests
    assert (request.method, request.target) == ("POST", "/rudder/relay-api/remote-run/nodes")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["accept"] == "*/*"
    assert relay.asked == [
        {"asynchronous": "true", "keep_output": "true", "classes": "c1,c2", "nodes": "m1,m2"}
    ]


@pytest.mark.history(46, 53)
async def test_a_run_on_all_goes_to_each_sub_relay_and_never_to_itself(tmp_path: Path) -> None:
    """Root calls the relays below it, with `all`, and runs its own command for the neighbours."""
    async with (
        open_peer(RELAY) as peer,
        open_lab(
            agent(tmp_path / "rudder", PRINT_ARGUMENTS), NODES, pins=PINS, https_port=peer.port
        ) as lab,
    ):
        peer.behaviour = relay = Relay(b"hop\n")
        answer = await lab.post("all", keep_output=True)
    assert set(answer.body.split()) == {
        b"remote", b"run", b"--", b"root.test,n1.test,127.0.0.1", b"hop"
    }  # fmt: skip
    assert [request.target for request in peer.requests] == ["/rudder/relay-api/remote-run/all"]
    assert relay.asked == [{"asynchronous": "false", "keep_output": "true"}]


@pytest.mark.history(46)
async def test_a_request_that_went_through_too_many_relays_is_refused(tmp_path: Path) -> None:
    """Each relay counts the hops; the one after the twentieth refuses, and no command runs."""
    async with (
        open_peer(RELAY) as peer,
        open_lab(
            agent(tmp_path / "rudder", "exit 0"), NODES, pins=PINS, https_port=peer.port
        ) as lab,
    ):
        peer.behaviour = Relay()
        assert (await lab.post("nodes/m1", "Rudder-Relay-Hops: 21\r\n")).status == 508
        assert (await lab.post("nodes/m1", "Rudder-Relay-Hops: 20\r\n")).status == 200
        assert (await lab.post("nodes/m1", "Rudder-Relay-Hops: \xb2\r\n")).status == 200
    assert [request.headers["rudder-relay-hops"] for request in peer.requests] == ["21", "1"]


async def test_events_of_a_sub_relay_are_passed_on(tmp_path: Path) -> None:
    """Verdicts of a lower relay keep its name; repeated and unrequested ones are dropped."""
    sent = events(
        verdict("queued", "m1"),
        verdict("started", "m1"),
        verdict("output", "m1", output="hi"),
        verdict("exit", "m1", relay="deep", code=4, nodes=1, detail="no"),
        verdict("exit", "m1", code=0),
        verdict("exit", "n1", code=0),
        verdict("exit", "stranger", code=0),
        {"event": "nonsense"},
        {"event": "output", "relay": "r1", "output": "of somebody"},
        verdict("unreachable", "m2", detail="no usable host name"),
    )
    async with (
        open_peer(RELAY) as peer,
        open_lab(
            agent(tmp_path / "rudder", "exit 0"), NODES, pins=PINS, https_port=peer.port
        ) as lab,
    ):
        peer.behaviour = Relay(*sent, b"no json\n", kind=f"{NDJSON}; charset=utf-8")
        with capture_logs() as logs:
            heard = await lab.events("nodes", nodes="n1,m1,m2", asynchronous=True, keep_output=True)
    assert heard.verdicts == {"n1": "exit", "m1": "exit", "m2": "unreachable"}
    [m1] = [event for event in heard.of("exit") if event["node"] == "m1"]
    assert (m1["relay"], m1["code"], m1["detail"]) == ("deep", 4, "no")
    assert sorted(heard.nodes("queued")) == ["m1", "m2", "n1"]
    assert heard.output() == ["hi", "of somebody"]
    assert peer.requests[0].headers["accept"] == NDJSON
    strange = [
        entry
        for entry in logs
        if entry["event"] == "sub-relay sent events for nodes it was not asked about"
    ]
    assert [entry["events"] for entry in strange] == [4]


async def test_verdicts_for_a_relay_without_events_are_unknown(tmp_path: Path) -> None:
    """For nodes below an older relay, the verdict says that their result is unknown."""
    async with (
        open_peer(RELAY) as peer,
        open_lab(
            agent(tmp_path / "rudder", "exit 0"), NODES, pins=PINS, https_port=peer.port
        ) as lab,
    ):
        peer.behaviour = Relay(b"one\ntwo")
        heard = await lab.events("nodes", nodes="m1,m2", asynchronous=True, keep_output=True)
    assert heard.output() == ["one", "two"]
    assert [(event["node"], event["code"]) for event in heard.of("exit")] == [
        ("m1", None),
        ("m2", None),
    ]


@pytest.mark.parametrize(
    ("behaviour", "detail"),
    [
        (Cut("accept"), "reset by peer"),
        (Cut("body"), "reset by peer"),
        (Relay(b"half a li", end=False), "no valid answer"),
        (Relay(*events(verdict("exit", "m1", code=0)), kind=NDJSON, end=False), "no valid answer"),
        (Relay(kind=NDJSON), "no verdict from this relay"),
    ],
    ids=["refuses", "resets", "breaks off", "breaks off within events", "sends no verdict"],
)
async def test_a_sub_relay_that_fails_is_a_verdict(
    tmp_path: Path, behaviour: Behaviour, detail: str
) -> None:
    """Nodes below a failing relay get that verdict; its earlier events count; others continue."""
    async with (
        open_peer(RELAY) as peer,
        open_lab(
            agent(tmp_path / "rudder", "echo hi"), NODES, pins=PINS, https_port=peer.port
        ) as lab,
    ):
        peer.behaviour = behaviour
        with capture_logs() as logs:
            heard = await lab.events("nodes", nodes="n1,m1,m2", asynchronous=True, keep_output=True)
            answer = await lab.post("nodes", nodes="n1,m2", asynchronous=True, keep_output=True)
    verdicts = heard.verdicts
    assert (verdicts["n1"], verdicts["m2"]) == ("exit", "hop_error")
    assert "hi" in heard.output()
    details = {event["detail"] for event in heard.of("hop_error")}
    assert [found for found in details if detail in found] == list(details)
    assert answer.status == 200
    assert b"hi\n" in answer.body
    failed = [entry for entry in logs if entry["event"] == "sub-relay failed"]
    assert [entry["node"] for entry in failed] == ["r1", "r1"]


async def test_a_status_of_a_sub_relay_is_a_verdict(tmp_path: Path) -> None:
    """The verdict for a relay that refuses the call has its status; its body is ignored."""

    class Refusing(Behaviour):
        async def serve(self, peer: Peer, exchange: Exchange) -> None:
            await exchange.body()
            await exchange.reply(404, [("Content-Type", NDJSON)], b'{"event":"exit"}\n')

    async with (
        open_peer(RELAY) as peer,
        open_lab(
            agent(tmp_path / "rudder", "exit 0"), NODES, pins=PINS, https_port=peer.port
        ) as lab,
    ):
        peer.behaviour = Refusing()
        heard = await lab.events("nodes/m1")
    assert [event["detail"] for event in heard.of("hop_error")] == [
        "this relay answered with status 404"
    ]


async def test_a_relay_without_certificate_or_host_is_not_called(tmp_path: Path) -> None:
    """Without a pin or a usable host name no call is made, and the verdicts of its nodes say so."""
    hosts = {"r1": "127.0.0.1", "r2": "host/@evil", "r3": "::1"}
    nodes = make_nodes([], {"r1": ["m1"], "r2": ["m2"], "r3": ["m3"]}, hosts=hosts)
    async with (
        open_peer(RELAY) as peer,
        open_lab(agent(tmp_path / "rudder", "exit 0"), nodes, https_port=peer.port) as lab,
    ):
        heard = await lab.events("nodes", nodes="m1,m2,m3")
    assert set(heard.verdicts.values()) == {"hop_error"}
    assert not peer.requests


@asynccontextmanager
async def open_dead(port: int, where: str) -> AsyncIterator[None]:
    """A server on 127.0.0.2 that accepts connections and never answers."""
    if where == "accept":
        with socket.socket() as full:
            full.bind(("127.0.0.2", port))
            full.listen(
                0
            )  # the kernel completes handshakes, but no process accepts the connections
            yield
        return
    async with open_peer(RELAY, "127.0.0.2", port) as peer:
        peer.behaviour = Silent(before_tls=where == "handshake")
        yield


@pytest.mark.fault("A20")
@pytest.mark.parametrize("where", ["accept", "handshake", "answer"])
async def test_a_silent_sub_relay_does_not_delay_others(tmp_path: Path, where: str) -> None:
    """While one relay never answers, other output arrives; its verdict comes at the end."""
    nodes = make_nodes(["n1"], {"r1": ["m1"], "r2": ["k1"]}, hosts=LOCAL)
    pins = PINS | {"r2": (RELAY.cert_der,)}
    command = agent(tmp_path / "rudder", "echo hi")
    async with open_peer(RELAY) as peer, open_dead(peer.port, where):
        peer.behaviour = Relay(b"from r1\n")
        async with open_lab(command, nodes, pins=pins, https_port=peer.port, timeout=0.3) as lab:
            async with lab.begun(
                "nodes", nodes="n1,m1,k1", asynchronous=True, keep_output=True
            ) as client:
                following = Following(client)
                await following.until(b"hi\n")
                await following.until(b"from r1\n")
                meanwhile = following.complete
                await following.to_the_end()
                assert (meanwhile, following.complete) == (False, True)
            heard = await lab.events("nodes", nodes="n1,m1,k1", asynchronous=True)
            assert heard.verdicts == {"n1": "exit", "m1": "exit", "k1": "hop_error"}


@pytest.mark.fault("F54")
@pytest.mark.parametrize("keep_output", [True, False])
async def test_a_sub_relay_that_answers_late(
    tmp_path: Path, mock_clock: MockClock, *, keep_output: bool
) -> None:
    """A relay that waits for a silent one below it before it answers loses no output."""
    mock_clock.rate = 10  # a handshake takes real time

    class Late(Relay):
        async def serve(self, peer: Peer, exchange: Exchange) -> None:
            await trio.sleep(12)
            await super().serve(peer, exchange)

    nodes = make_nodes([], {"r1": ["m1", "m2"]}, hosts=LOCAL)
    async with (
        open_peer(RELAY) as peer,
        open_lab(tmp_path / "none", nodes, pins=PINS, https_port=peer.port, watchdog=1000.0) as lab,
    ):
        peer.behaviour = Late(b"m1: done\n")
        with capture_logs() as logs:
            answer = await lab.post(
                "nodes", nodes="m1,m2", asynchronous=True, keep_output=keep_output
            )
            await eventually(lambda: bool(logs))
    assert answer.body == (b"m1: done\n" if keep_output else b"")
    assert [entry["outcome"] for entry in logs] == ["ok"]


@pytest.mark.fault("F51")
async def test_a_cut_below_is_said_at_the_end(tmp_path: Path) -> None:
    """What a relay says of its own cuts is at the end of the answer, as is that it was given up."""
    note = f"{NOTE}1 node (m1): terminated: no output for 0.3 s\n".encode()
    nodes = make_nodes(["n1"], {"r1": ["m1"], "r2": ["k1"]}, hosts=LOCAL)
    pins = PINS | {"r2": (RELAY.cert_der,)}
    command = agent(tmp_path / "rudder", "sleep 0.2; echo last")
    async with open_peer(RELAY) as peer, open_peer(RELAY, "127.0.0.2", peer.port) as other:
        peer.behaviour = Relay(b"far\n", note)
        other.behaviour = Relay(b"begins\n", stays=True)
        async with open_lab(command, nodes, pins=pins, https_port=peer.port, timeout=0.3) as lab:
            answer = await lab.post("nodes", nodes="n1,m1,k1", keep_output=True)
    lines = answer.body.splitlines(keepends=True)
    assert sorted(lines[:3]) == [b"begins\n", b"far\n", b"last\n"]
    assert lines[3:] == [note, f"{NOTE}1 node (k1): given up: no output for 0.9 s\n".encode()]


def test_a_relay_waits_longer_than_the_one_below() -> None:
    """On the way down, each relay gives up before the one above it, after the time of its nodes."""
    waits = [patience(300.0, 40, hops).silence for hops in range(21)]
    assert waits == sorted(waits, reverse=True)
    assert len(set(waits)) == len(waits)
    assert waits[-1] > limits_for(300.0, 40).silence == 12_000.0


async def test_many_runs_go_through_one_relay_at_once(tmp_path: Path) -> None:
    """150 runs are open at the same relay before it answers the first."""
    together, met = 150, trio.Event()

    class Meeting(Relay):
        async def serve(self, peer: Peer, exchange: Exchange) -> None:
            if len(peer.requests) == together:
                met.set()
            await met.wait()
            await super().serve(peer, exchange)

    async with (
        open_peer(RELAY) as peer,
        open_lab(
            agent(tmp_path / "rudder", "exit 0"), NODES, pins=PINS, https_port=peer.port
        ) as lab,
        trio.open_nursery() as nursery,
    ):
        peer.behaviour = Meeting(b"here\n")

        async def one() -> None:
            answer = await lab.post("nodes/m1", keep_output=True)
            assert (answer.status, answer.body) == (200, b"here\n")

        for _ in range(together):
            nursery.start_soon(one)
