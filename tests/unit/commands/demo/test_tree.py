"""The demo's policy servers: who is below whom, and what each of them knows."""

import hashlib
import json
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relayd.commands.demo.fleet.agents import make_nodes
from relayd.commands.demo.fleet.node import Node
from relayd.commands.demo.postgres.server import Connection
from relayd.commands.demo.processes.workspace import CERTIFICATES, NODES_LIST, Layout
from relayd.commands.demo.tree import ROOT, Tree, address
from relayd.config.main_conf import load_settings
from relayd.fleet.loading import load_nodes
from relayd.runlog.signature.certificates import read_certificate

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
DATABASE = Connection("127.0.0.1", 15432, "rudder", 'p@ss/"\\:%?#', "rudder")
KEYS = [generate_private_key(65_537, 2048) for _ in range(10)]
NODES = make_nodes(KEYS[:6], NOW)


def make_tree(root: Path, relays: int) -> Tree:
    """A tree of six nodes, written."""
    servers = [
        Node(KEYS[6 + number], address(number), NOW, None if number else ROOT)
        for number in range(relays + 1)
    ]
    layout = Layout(root, relays)
    layout.create()
    tree = Tree(layout, servers, NODES)
    tree.write(DATABASE)
    return tree


@pytest.mark.parametrize("relays", [0, 1, 2, 3])
def test_nodes_are_spread_over_the_relays(tmp_path: Path, relays: int) -> None:
    """Every node has a policy server, a relay where there is one, and a way up to the root."""
    tree = make_tree(tmp_path, relays)
    homes = [tree.home(node.node_id) for node in NODES]
    assert {home.title for home in homes} == {
        station.title for station in tree.relays or tree.stations
    }
    for node in NODES:
        assert tree.spools(node.node_id)[-1] == tree.root.workspace.incoming
    parents = {station.title: station.parent and station.parent.title for station in tree.stations}
    assert parents == dict(
        [
            ("root server", None),
            ("relay 1", "root server"),
            ("relay 2", "relay 1"),
            ("relay 3", "root server"),
        ][: relays + 1]
    )


def test_relayd_accepts_what_is_written(tmp_path: Path) -> None:
    """Every relayd of the tree reads its configuration without a warning, and fits to the next."""
    tree = make_tree(tmp_path, 2)
    settings = []
    for station in tree.stations:
        found, warnings = load_settings(station.workspace.configuration)
        assert warnings == []
        assert found.node_id() == station.node.node_id
        settings.append(found)
    root, *relays = settings
    assert root.processing.reporting.output == "database"
    assert root.output.database.password is not None
    assert root.output.database.password.reveal() == DATABASE.password
    assert len({found.general.https_port for found in settings}) == 1
    for (above, below), relay in zip(pairwise(tree.stations), relays, strict=True):
        assert relay.processing.reporting.output == "upstream"
        assert relay.output.upstream.host == above.node.hostname
        assert relay.output.upstream.password is not None
        assert relay.output.upstream.password.reveal() == above.password != below.password
        pinned = relay.output.upstream.server_certificate_file
        assert pinned.read_bytes() == above.node.certificate_pem()


def test_every_relay_knows_the_way_down(tmp_path: Path) -> None:
    """The lists of each policy server hold what is below it, with certificates, and no more."""
    tree = make_tree(tmp_path, 3)
    for station in tree.stations:
        directory = station.workspace.configuration
        loaded = load_nodes(directory / NODES_LIST, directory / CERTIFICATES, station.node.node_id)
        assert loaded.warnings == []
        for node in NODES:
            home = tree.home(node.node_id)
            way = [home, *home.above]
            assert (loaded.nodes.get(node.node_id) is not None) == (station in way)
            if station in way:
                assert loaded.nodes.certificates(node.node_id)
                below = [node.node_id, *(above.node.node_id for above in way)]
                expected = below[below.index(station.node.node_id) - 1]
                assert loaded.nodes.next_hop(node.node_id) == expected


def test_lists_are_those_of_a_server(tmp_path: Path) -> None:
    """Every certificate of the list belongs to a listed node, keys matching their hashes."""
    tree = make_tree(tmp_path, 0)
    directory = tree.root.workspace.configuration
    listed = json.loads((directory / NODES_LIST).read_text())
    hashes = {}
    for certificate in x509.load_pem_x509_certificates((directory / CERTIFICATES).read_bytes()):
        public = certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        node_id, _, _ = read_certificate(certificate.public_bytes(Encoding.DER))
        hashes[node_id] = f"sha256:{hashlib.sha256(public).hexdigest()}"
    assert hashes == {node: entry["key-hash"] for node, entry in listed.items()}
    assert set(listed) == {ROOT, *(node.node_id for node in NODES)}
    assert {entry["policy-server"] for entry in listed.values()} == {ROOT}


def test_fronts_only_where_relays_are(tmp_path: Path) -> None:
    """Without relays no web server is needed; with them each policy server has one of its own."""
    assert make_tree(tmp_path / "alone", 0).fronts() == []
    tree = make_tree(tmp_path / "two", 2)
    assert [front.listen.host for front in tree.fronts()] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert [front.api.port for front in tree.fronts()] == [
        station.port for station in tree.stations
    ]
