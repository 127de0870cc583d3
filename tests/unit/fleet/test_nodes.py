"""The nodes of a fleet: routes, trust tokens, and certificates."""

import hashlib
import os
from datetime import UTC, datetime

import pytest

from relayd.errors import NodesError
from relayd.fleet.loading import parse_key_hash
from relayd.fleet.nodes import MAX_LEVELS, Nodes
from tests.support.fleet import Entries, Fleet, entry
from tests.support.signing import SigningNode, make_key_and_cert

RELAY = "relay-1"


def test_key_hash_matches_only_its_key(node: SigningNode, other: SigningNode) -> None:
    """A key hash matches the node's key and no other."""
    spki = node.certificate.spki
    for algorithm in ("sha256", "sha512"):
        known = parse_key_hash(f"{algorithm}:{hashlib.new(algorithm, spki).hexdigest()}")
        assert known is not None
        assert known.matches(spki)
        assert not known.matches(other.certificate.spki)


TREE: Entries = {
    "root": entry("root"),
    RELAY: entry("root"),
    "relay-2": entry(RELAY),
    "leaf": entry("relay-2"),
    "near": entry("root"),
}


@pytest.mark.parametrize(
    ("my_id", "hops"),
    [
        ("root", {RELAY: RELAY, "near": "near", "relay-2": RELAY, "leaf": RELAY}),
        (RELAY, {"relay-2": "relay-2", "leaf": "relay-2"}),
        ("relay-2", {"leaf": "leaf"}),
    ],
)
def test_next_hop_is_the_neighbour_on_the_route(
    fleet: Fleet, my_id: str, hops: dict[str, str]
) -> None:
    """From each policy server, the next hop to a node is the neighbour on the route to it."""
    fleet.write(TREE)
    nodes = fleet.load(my_id).nodes
    assert {node_id: nodes.next_hop(node_id) for node_id in hops} == hops
    neighbours = {node_id for node_id in TREE if nodes.is_neighbour(node_id)}
    assert neighbours - {"root"} == {hop for node_id, hop in hops.items() if node_id == hop}
    assert nodes.managed_nodes == len(neighbours)


@pytest.mark.history(46)
def test_root_is_never_its_own_next_hop(fleet: Fleet) -> None:
    """Root is its own policy server and counts as managed, but nothing is ever forwarded to it."""
    fleet.write(TREE)
    nodes = fleet.load("root").nodes
    assert nodes.is_neighbour("root")
    assert nodes.managed_nodes == 3
    assert "root" not in {nodes.next_hop(node_id) for node_id in TREE if node_id != "root"}
    with pytest.raises(NodesError, match="is this policy server"):
        nodes.next_hop("root")


@pytest.mark.fault("G9")
@pytest.mark.parametrize(
    ("entries", "target", "message"),
    [
        ({"a": entry("b"), "b": entry("a")}, "a", "loop"),
        ({"a": entry("a")}, "a", "loop"),
        ({"x": entry("a"), "a": entry("b"), "b": entry("c"), "c": entry("a")}, "x", "loop"),
        ({"a": entry("gone")}, "a", '"gone" is not in the list'),
        ({}, "a", '"a" is not in the list'),
        ({f"n{i}": entry(f"n{i + 1}") for i in range(1000)}, "n0", "more than 20"),
    ],
)
def test_route_that_leads_nowhere_is_an_error(
    fleet: Fleet, entries: Entries, target: str, message: str
) -> None:
    """A loop, a gap or an endless chain of policy servers is an error that says which it is."""
    fleet.write(entries)
    with pytest.raises(NodesError, match=message):
        fleet.load().nodes.next_hop(target)


def test_route_may_be_as_long_as_the_bound(fleet: Fleet) -> None:
    """A chain of exactly the allowed length is followed, a longer one is not."""
    entries = {f"n{i}": entry(f"n{i - 1}" if i else "root") for i in range(MAX_LEVELS + 1)}
    fleet.write(entries)
    nodes = fleet.load().nodes
    assert nodes.next_hop(f"n{MAX_LEVELS - 1}") == "n0"
    with pytest.raises(NodesError, match="more than"):
        nodes.next_hop(f"n{MAX_LEVELS}")


def test_trust_token_changes_only_with_list_entry_and_certificates(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """A node's token changes when it enters the list or its certificates change, and only then."""
    newer = make_key_and_cert("node-1", key=other.key)

    def token(entries: Entries, *pems: bytes) -> str:
        fleet.write(entries, *pems)
        return fleet.load().nodes.trust_token("node-1")

    known = {"node-1": entry()}
    unknown = token({"node-2": entry()}, node.cert_pem)
    bare = token(known)
    one = token(known, node.cert_pem)
    both = token(known, node.cert_pem, newer.cert_pem)
    assert len({unknown, bare, one, both}) == 4
    assert both == token(known, newer.cert_pem, node.cert_pem)
    assert one == token({**known, "node-2": entry()}, other.cert_pem, node.cert_pem)
    assert one == token({"node-1": entry("elsewhere", hostname="new")}, node.cert_pem)
    assert unknown == Nodes("root").trust_token("node-1")
    assert len(one) == 16


def test_expired_certificates_are_counted_and_trusted(fleet: Fleet, node: SigningNode) -> None:
    """An expired certificate is counted, and still trusted."""
    end = datetime(2021, 6, 1, tzinfo=UTC)
    expired = make_key_and_cert("node-2", key=node.key, not_after=end)
    fleet.write({"node-1": entry(), "node-2": entry()}, node.cert_pem, expired.cert_pem)
    nodes = fleet.load().nodes
    assert nodes.expired_certificates(end.timestamp()) == 0
    assert nodes.expired_certificates(end.timestamp() + 1) == 1
    assert nodes.certificates("node-2") == (expired.certificate,)


def test_certificates_of_the_future_are_counted_and_trusted(
    fleet: Fleet, node: SigningNode
) -> None:
    """A certificate whose validity has not begun is counted, and already trusted."""
    begin = datetime(2051, 6, 1, tzinfo=UTC)
    future = make_key_and_cert(
        "node-2", key=node.key, not_before=begin, not_after=datetime(2061, 6, 1, tzinfo=UTC)
    )
    fleet.write({"node-1": entry(), "node-2": entry()}, node.cert_pem, future.cert_pem)
    nodes = fleet.load().nodes
    assert nodes.premature_certificates(begin.timestamp()) == 0
    assert nodes.premature_certificates(begin.timestamp() - 1) == 1
    assert nodes.certificates("node-2") == (future.certificate,)


def test_token_is_the_same_in_another_process(fleet: Fleet, node: SigningNode) -> None:
    """A token that was stored is still valid after a restart."""
    fleet.write({"node-1": entry()}, node.cert_pem)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, fleet.load().nodes.trust_token("node-1").encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == fleet.load().nodes.trust_token("node-1")


def test_complete_certificates_are_kept_of_policy_servers_only(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """Nodes that relayd connects to have certificates to pin; for others no more is kept."""
    renewed = make_key_and_cert("node-1", serial=7)
    entries = {"node-1": entry(), "node-2": entry("node-1")}
    fleet.write(entries, node.cert_pem, other.cert_pem, renewed.cert_pem, node.cert_pem)
    nodes = fleet.load().nodes
    assert nodes.peers == {"node-1": (node.cert_der, renewed.cert_der)}
