"""A nodes list and certificates as Rudder's server writes them."""

import pytest

from relayd.fleet.loading import load_nodes
from relayd.fleet.nodes import Nodes
from tests.support.project import VECTORS

FIRST = "37817c4d-fbf7-4850-a985-50021f4e8f41"
SECOND = "e745a140-40bc-4b86-b6dc-084488fc906b"

pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="no reference data (RELAYD_VECTORS)")


def load(my_id: str) -> Nodes:
    loaded = load_nodes(VECTORS / "nodeslist.json", VECTORS / "keys" / "nodescerts.pem", my_id)
    assert (loaded.warnings, loaded.list_missing) == ([], False)
    return loaded.nodes


def test_list_of_the_server_is_read_as_the_root_server() -> None:
    """The real list gives its counts and routes, seen from root."""
    nodes = load("root")
    assert (nodes.managed_nodes, nodes.sub_nodes) == (3, 6)
    ways = {
        FIRST: FIRST,
        SECOND: SECOND,
        "a745a140-40bc-4b86-b6dc-084488fc906b": SECOND,
        "b745a140-40bc-4b86-b6dc-084488fc906b": SECOND,
        "c745a140-40bc-4b86-b6dc-084488fc906b": FIRST,
    }
    assert {node_id: nodes.next_hop(node_id) for node_id in ways} == ways


def test_list_of_the_server_is_read_as_a_relay() -> None:
    """The same list gives a relay the route to the nodes below it."""
    nodes = load(SECOND)
    assert nodes.managed_nodes == 1
    below = "a745a140-40bc-4b86-b6dc-084488fc906b"
    assert nodes.next_hop("b745a140-40bc-4b86-b6dc-084488fc906b") == below


@pytest.mark.history(54, 55)
def test_key_hashes_of_the_server_are_read() -> None:
    """Both spellings and the empty one occur in the real list; the base64 one matches its key."""
    nodes = load("root")
    found = {name: nodes.get(name) for name in (FIRST, SECOND, f"c{SECOND[1:]}", f"b{SECOND[1:]}")}
    hashes = [node.key_hash for node in found.values() if node]
    assert len(hashes) == 4
    assert hashes[0] is not None
    assert hashes[2:] == [None, None]
    assert hashes[1] is not None
    certificates = nodes.certificates(SECOND)
    assert len(certificates) == 2
    assert hashes[1].matches(certificates[0].spki)
    assert len(nodes.certificates(FIRST)) == 1
