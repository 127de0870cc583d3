"""Pins of other policy servers, from files and from the nodes list."""

import codecs
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relayd.config.main_conf import load_settings
from relayd.config.secret import Secret
from relayd.errors import PeerError
from relayd.fleet.certificates import CertificateStore
from relayd.fleet.nodes import Node, Nodes
from relayd.fleet.pins import UPSTREAM_PEER, PinnedClients, read_pins
from relayd.telemetry.metrics import Metrics
from tests.support.signing import SigningNode, make_key_and_cert
from tests.support.tls_server import open_peer

UPSTREAM = make_key_and_cert("upstream")
SUB = make_key_and_cert("sub")


def make_peers(root: Path, *pins: SigningNode, general: str = "") -> tuple[PinnedClients, Metrics]:
    """Return the clients of a relay whose upstream has these certificates."""
    file = root / "policy_server.pem"
    file.write_bytes(b"".join(pin.cert_pem for pin in pins))
    conf = root / "main.conf"
    conf.write_text(
        f"""
        general = {{ node_id = "relay" {general} }}
        [output.upstream]
        host = "127.0.0.1"
        server_certificate_file = "{file}"
        """
    )
    metrics = Metrics()
    return PinnedClients(load_settings(root)[0], metrics), metrics


def test_all_certificates_of_a_file_are_pins(tmp_path: Path) -> None:
    """Each certificate of the file is read, even with text or a byte order mark around them."""
    file = tmp_path / "pins"
    for begin in (b"# old\n", codecs.BOM_UTF8):
        file.write_bytes(begin + UPSTREAM.cert_pem + b"\n# new\n" + SUB.cert_pem)
        assert read_pins(file) == (UPSTREAM.cert_der, SUB.cert_der)


@pytest.mark.fault("TLS4")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not found</html>",
        b"\x00" * 100,
        UPSTREAM.cert_pem[:-40],
        UPSTREAM.cert_pem.replace(b"M", b"*", 1),
        UPSTREAM.key_pem,
        ssl.DER_cert_to_PEM_cert(b"no certificate").encode(),
        None,
    ],
)
def test_a_file_without_a_whole_certificate_is_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    """An empty, truncated, damaged, unrelated or missing file is an error."""
    file = tmp_path / "pins"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PeerError, match=str(file)) as caught:
        read_pins(file)
    assert caught.value.kind == "operator"


@pytest.mark.fault("TLS6")
async def test_an_expired_pin_is_reported_and_used(tmp_path: Path) -> None:
    """An expired certificate causes a warning, is shown as a metric, and is pinned anyway."""
    end = datetime(2021, 1, 1, tzinfo=UTC)
    expired = make_key_and_cert("expired", not_after=end)
    peers, metrics = make_peers(tmp_path, expired)
    with capture_logs() as logs:
        peers.take_upstream(await peers.read_upstream())
    assert [line["log_level"] for line in logs] == ["warning"]
    assert "2021-01-01" in logs[0]["detail"]
    name = "rudder_relayd_upstream_certificate_expiry_timestamp_seconds"
    [line] = [one for one in metrics.render().decode().splitlines() if one.startswith(f"{name} ")]
    assert float(line.removeprefix(name)) == end.timestamp()
    async with open_peer(expired) as server:
        async with peers.clients.request(
            UPSTREAM_PEER, "PUT", f"{server.url}/x", content=b""
        ) as answer:
            assert answer.status == 201
        await peers.clients.aclose()


async def test_pins_of_upstream_and_sub_relays_apply_together(tmp_path: Path) -> None:
    """Each peer is authenticated by its own certificates only, whichever source changed last."""
    peers, _ = make_peers(tmp_path, UPSTREAM)
    store = CertificateStore()
    store.add_peer("sub", SUB.cert_der)
    async with open_peer(UPSTREAM) as upstream, open_peer(SUB) as sub:
        peers.take_upstream(await peers.read_upstream())
        peers.take_nodes(Nodes("relay", {"sub": Node("sub", "h", "relay")}, store))
        for name, server in ((UPSTREAM_PEER, upstream), ("sub", sub)):
            async with peers.clients.request(name, "GET", f"{server.url}/x") as answer:
                assert answer.status == 201
        with pytest.raises(PeerError, match="certificate"):
            await peers.clients.probe("sub", upstream.url)
        await peers.clients.aclose()


async def test_no_node_can_take_the_upstreams_place(tmp_path: Path) -> None:
    """While the upstream's pins are missing, no sub-relay passes for it, whatever its id."""
    peers, _ = make_peers(tmp_path)
    store = CertificateStore()
    for node_id in (UPSTREAM_PEER, "upstream"):
        store.add_peer(node_id, SUB.cert_der)
    nodes = {node_id: Node(node_id, "h", "relay") for node_id in (UPSTREAM_PEER, "upstream")}
    async with open_peer(SUB) as server:
        peers.take_nodes(Nodes("relay", nodes, store))
        with pytest.raises(PeerError, match="certificate"):
            await peers.clients.probe(UPSTREAM_PEER, server.url)
        await peers.clients.aclose()


async def test_without_pinning_no_pin_file_is_read(tmp_path: Path) -> None:
    """If verification is switched off, the file of pins need not exist."""
    peers, _ = make_peers(tmp_path, general=', peer_authentication = "dangerous_none"')
    assert await peers.read_upstream() == ()
    assert peers.attempted.is_set()
    async with open_peer(SUB) as server:
        auth = ("rudder", Secret("p"))
        async with peers.clients.request(
            UPSTREAM_PEER, "GET", f"{server.url}/x", auth=auth
        ) as answer:
            assert answer.status == 201
        await peers.clients.aclose()
