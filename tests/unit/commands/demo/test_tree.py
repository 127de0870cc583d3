"""The demo's policy servers: their tree, and the files written for each."""

import hashlib
import json
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypercorn.typing import Scope

from relayd.api.door.door import Door
from relayd.api.server.access import Send
from relayd.api.server.connection import Receive
from relayd.commands.demo.fleet.agents import make_nodes
from relayd.commands.demo.fleet.delivery import Delivery
from relayd.commands.demo.fleet.node import SimulatedNode
from relayd.commands.demo.fleet.upload import Kind, SimulatedUpload
from relayd.commands.demo.postgres.server import ConnectionInfo
from relayd.commands.demo.processes.workspace import CERTIFICATES, NODES_LIST, Layout
from relayd.commands.demo.tree import ROOT, Tree, address
from relayd.config.main_conf import load_settings
from relayd.fleet.current_nodes import CurrentNodes
from relayd.fleet.loading import load_nodes
from relayd.runlog.signature.certificates import read_certificate
from relayd.telemetry.metrics import Metrics

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
DATABASE = ConnectionInfo("127.0.0.1", 15432, "rudder", 'p@ss/"\\:%?#', "rudder")
KEYS = [generate_private_key(65_537, 2048) for _ in range(10)]
NODES = make_nodes(KEYS[:6], NOW)


def make_tree(root: Path, relays: int) -> Tree:
    """Write the files of a tree with six nodes."""
    servers = [
        SimulatedNode(KEYS[6 + number], address(number), NOW, None if number else ROOT)
        for number in range(relays + 1)
    ]
    layout = Layout(root, relays)
    layout.create()
    tree = Tree(layout, servers, NODES)
    tree.write(DATABASE)
    return tree


def test_two_servers_write_to_one_database(tmp_path: Path) -> None:
    """With a cluster, each of two servers has half of the nodes, and holds what it commits."""
    machines = [SimulatedNode(KEYS[6 + n], address(n), NOW, None if n else ROOT) for n in range(2)]
    layout = Layout(tmp_path, 1)
    layout.create()
    tree = Tree(layout, machines, NODES, writers=2)
    tree.write(DATABASE, hold="5min")
    assert tree.relays == []
    homes = [tree.home(node.node_id).title for node in NODES]
    assert homes == ["server 1", "server 2"] * 3
    for server in tree.servers:
        settings, warnings = load_settings(server.workspace.configuration)
        assert (settings.general.node_id, settings.output.database.hold) == (ROOT, 300.0)
        assert warnings == []


@pytest.mark.parametrize("relays", [0, 1, 2, 3])
def test_nodes_are_spread_over_the_relays(tmp_path: Path, relays: int) -> None:
    """Every node has a policy server, a relay if there are any, and a path up to the root."""
    tree = make_tree(tmp_path, relays)
    homes = [tree.home(node.node_id) for node in NODES]
    assert {home.title for home in homes} == {
        server.title for server in tree.relays or tree.servers
    }
    for node in NODES:
        assert tree.spools(node.node_id)[-1] == tree.root.workspace.incoming
    parents = {server.title: server.parent and server.parent.title for server in tree.servers}
    assert parents == dict(
        [
            ("root server", None),
            ("relay 1", "root server"),
            ("relay 2", "relay 1"),
            ("relay 3", "root server"),
        ][: relays + 1]
    )


def test_relayd_accepts_the_configurations(tmp_path: Path) -> None:
    """Every relayd reads its configuration without a warning, and matches its parent."""
    tree = make_tree(tmp_path, 2)
    settings = []
    for server in tree.servers:
        found, warnings = load_settings(server.workspace.configuration)
        assert warnings == []
        assert found.node_id() == server.node.node_id
        settings.append(found)
    root, *relays = settings
    assert root.processing.reporting.output == "database"
    assert root.output.database.password is not None
    assert root.output.database.password.reveal() == DATABASE.password
    assert len({found.general.https_port for found in settings}) == 1
    for (above, below), relay in zip(pairwise(tree.servers), relays, strict=True):
        assert relay.processing.reporting.output == "upstream"
        assert relay.output.upstream.host == above.node.hostname
        assert relay.output.upstream.password is not None
        assert relay.output.upstream.password.reveal() == above.password != below.password
        pinned = relay.output.upstream.server_certificate_file
        assert pinned.read_bytes() == above.node.certificate_pem()


def test_every_policy_server_lists_the_nodes_below_it(tmp_path: Path) -> None:
    """Each policy server's lists contain the nodes below it, with certificates, and no others."""
    tree = make_tree(tmp_path, 3)
    for server in tree.servers:
        directory = server.workspace.configuration
        loaded = load_nodes(directory / NODES_LIST, directory / CERTIFICATES, server.node.node_id)
        assert loaded.warnings == []
        for node in NODES:
            home = tree.home(node.node_id)
            path = [home, *home.above]
            assert (loaded.nodes.get(node.node_id) is not None) == (server in path)
            if server in path:
                assert loaded.nodes.certificates(node.node_id)
                below = [node.node_id, *(above.node.node_id for above in path)]
                expected = below[below.index(server.node.node_id) - 1]
                assert loaded.nodes.next_hop(node.node_id) == expected


def test_lists_match_each_other(tmp_path: Path) -> None:
    """Every certificate belongs to a listed node, and its key matches the listed hash."""
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


async def nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Answer no request."""


async def test_relayd_serves_agents_with_what_is_written(tmp_path: Path) -> None:
    """The configuration opens relayd's own server at the node's destination, for its password."""
    tree = make_tree(tmp_path, 1)
    upload = SimulatedUpload(Kind.GOOD, "x.log", b"x", NODES[0].node_id, NOW, 0)
    delivery, stop = Delivery(tree.destination), trio.Event()
    for relay in tree.relays:
        settings, _ = load_settings(relay.workspace.configuration)
        general, metrics = settings.general, Metrics()
        trust = CurrentNodes(
            general.nodes_list_file, general.nodes_certs_file, settings.node_id(), metrics
        )
        await trust.load()
        async with trio.open_nursery() as nursery:
            await nursery.start(Door(settings, trust, metrics, nothing).run, stop, 0.1)
            delivery.add(upload)
            await delivery.run_all()
            stop.set()
    assert delivery.names == frozenset()
    assert tree.holds(upload)
    assert (tree.spools(upload.node_id)[0] / "x.log").read_bytes() == b"x"
