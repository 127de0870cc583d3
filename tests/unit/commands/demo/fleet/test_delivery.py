"""Uploads of the demo's nodes: kept until they are taken, and sent again in order."""

import ssl
from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
import trio

from relayd.commands.demo.fleet.delivery import Delivery, Destination, make_destination
from relayd.commands.demo.fleet.upload import Kind, SimulatedUpload
from relayd.errors import StartError
from tests.support.ports import free_port
from tests.support.signing import make_key_and_cert
from tests.support.tls_server import Answer, Behaviour, Cut, Peer, With, open_peer, server_context

SERVER, OTHER = make_key_and_cert("server"), make_key_and_cert("other")
START = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def make_upload(number: int, node: str = "a") -> SimulatedUpload:
    name = f"2026-05-04T03:02:0{number}+00:00@{node}.log.gz"
    return SimulatedUpload(Kind.GOOD, name, b"%d" % number, node, START, rows=3)


def destination(port: int) -> Destination:
    return make_destination(f"https://127.0.0.1:{port}", "p@ss", SERVER.cert_pem.decode())


def names(peer: Peer) -> list[str]:
    return [unquote(target).removeprefix("/reports/") for target, _ in peer.uploads]


async def test_an_upload_is_sent_like_an_agents() -> None:
    """It is one request on a connection of its own, with the password."""
    async with open_peer(SERVER) as peer:
        delivery = Delivery(lambda _: destination(peer.port))
        for number in range(2):
            delivery.add(make_upload(number))
            assert delivery.holds(make_upload(number).name)
            await delivery.run_node("a")
        assert [body for _, body in peer.uploads] == [b"0", b"1"]
        assert names(peer) == [make_upload(0).name, make_upload(1).name]
        assert peer.connections == peer.handshakes == 2
        head = peer.requests[0]
        assert head.headers["authorization"] == "Basic cnVkZGVyOnBAc3M="
    assert (delivery.names, delivery.kept, delivery.unanswered) == (frozenset(), 0, 0)


async def test_what_is_not_taken_waits_for_the_next_run() -> None:
    """While relayd is away or busy, nodes keep their uploads, and then send all in order."""
    port = free_port()
    delivery = Delivery(lambda _: destination(port))
    delivery.add(make_upload(0))
    assert delivery.kept == 0
    await delivery.run_node("a")
    assert delivery.kept == 1
    async with open_peer(SERVER, port=port) as peer:
        peer.behaviour = Answer(503)
        delivery.add(make_upload(1))
        delivery.add(make_upload(0, "b"))
        await delivery.run_all()
        assert delivery.kept == 3
        assert len(peer.requests) == 2
        peer.behaviour = Cut("stored")
        await delivery.run_node("b")
        assert (delivery.kept, delivery.unanswered) == (3, 1)
        peer.behaviour = Behaviour()
        await delivery.run_all()
        again = make_upload(0, "b").name
        assert names(peer) == [again, make_upload(0).name, make_upload(1).name, again]
    assert (delivery.names, delivery.kept) == (frozenset(), 0)


@pytest.mark.parametrize("broken", ["certificate", "version"])
async def test_nothing_is_sent_to_another_server(broken: str) -> None:
    """With another certificate or an older version of TLS, no request is made."""
    context = server_context(OTHER if broken == "certificate" else SERVER)
    if broken == "version":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with open_peer(SERVER) as peer:
        peer.behaviour = With(context)
        delivery = Delivery(lambda _: destination(peer.port))
        delivery.add(make_upload(0))
        await delivery.run_node("a")
        assert (peer.requests, delivery.kept, delivery.unanswered) == ([], 1, 0)


@pytest.mark.fault("F47")
@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (503, b"no space left\n", "relayd takes no uploads: not enough disk space"),
        (401, b"unauthorized\n", "relayd answered 401 to an upload: unauthorized"),
    ],
)
async def test_a_lasting_refusal_ends_the_demo(status: int, text: bytes, message: str) -> None:
    """What another run would not change is reported with relayd's own words."""
    async with open_peer(SERVER) as peer:
        peer.behaviour = Answer(status, body=text)
        delivery = Delivery(lambda _: destination(peer.port))
        delivery.add(make_upload(0))
        with pytest.raises(StartError, match=f"^{message}$"):
            await delivery.run_node("a")
    assert delivery.names == {make_upload(0).name}


async def test_two_runs_of_a_node_do_not_send_twice() -> None:
    """A run that begins while another one of the same node goes on leaves everything to it."""
    async with open_peer(SERVER) as peer:
        delivery = Delivery(lambda _: destination(peer.port))
        async with trio.open_nursery() as nursery:
            for number in range(3):
                delivery.add(make_upload(number))
                nursery.start_soon(delivery.run_node, "a")
        assert names(peer) == [make_upload(number).name for number in range(3)]
