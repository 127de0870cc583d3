"""Handshakes: whose certificates are known, and what a renewal changes."""

import ssl
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import h11
import pytest
import trio

from relayd.api.door.tls import KeyFiles, build_context, build_trusted, digest_of
from relayd.config.main_conf import Listen
from relayd.errors import StartError
from relayd.fleet.nodes import Node, Nodes
from tests.support.front_door import client_context, open_client, open_door
from tests.support.signing import SigningNode, make_key_and_cert, rsa_key
from tests.support.webserver import Web

UUID = b"GET /uuid HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.fault("D.2.3")
async def test_node_is_known_by_its_whole_certificate(web: Web) -> None:
    """A node's own certificate opens its policies, expired or not; no other one of it does."""
    expired = make_key_and_cert("node1", not_after=datetime(2024, 1, 1, tzinfo=UTC))
    (web.own / "nodes.pem").write_bytes(web.nodes["node0"].cert_pem + expired.cert_pem)
    for name in ("node0", "node1"):
        (web.own / "share" / name).mkdir()
        (web.own / "share" / name / "policy").write_text(f"of {name}")
    other_key = make_key_and_cert("node0", key=rsa_key("thief"))
    same_key = make_key_and_cert("node0", key=web.nodes["node0"].key)
    assert same_key.cert_der != web.nodes["node0"].cert_der
    async with open_door(web):
        for node, status in (
            (web.nodes["node0"], 200),
            (expired, 403),
            (None, 403),
            (other_key, 0),
            (same_key, 0),
            (make_key_and_cert("stranger"), 0),
        ):
            assert await ask(web, "/policies/node0/policy", node) == status, node
        assert await ask(web, "/policies/node1/policy", expired) == 200


async def ask(web: Web, path: str, node: SigningNode | None) -> int:
    """Return the status of a GET; 0 for a client whose handshake failed."""
    async with open_client(web, node) as client:
        try:
            return (await client.ask("GET", path)).status
        except (EOFError, h11.RemoteProtocolError, trio.BrokenResourceError):
            return 0


async def test_renewal_loses_no_connection(web: Web) -> None:
    """New connections get the new certificate and know new nodes; those that exist go on."""
    added = make_key_and_cert("node9")
    async with open_door(web) as door, open_client(web, web.nodes["node0"]) as old:
        assert (await old.ask("GET", "/uuid")).body == b"root\n"
        assert await ask(web, "/uuid", added) == 0
        fresh = make_key_and_cert("renewed")
        cert, key = fresh.write(web.own)
        cert.rename(web.own / "front.cert")
        key.rename(web.own / "front.priv")
        with (web.own / "nodes.pem").open("ab") as file:
            file.write(added.cert_pem)
        door._trust.nodes = with_node(door._trust.nodes, "node9")
        await door.renew()
        assert (await old.ask("GET", "/uuid")).status == 200
        async with open_client(web, added) as new:
            assert (await new.ask("GET", "/uuid")).status == 200
            assert isinstance(new.stream, trio.SSLStream)
            assert new.stream.getpeercert(binary_form=True) == fresh.cert_der
        # A node that is gone is unknown on its old connection too.
        (web.own / "nodes.pem").write_bytes(b"")
        await door.renew()
        assert (await old.ask("GET", "/policies/node0/x")).status == 403


def with_node(nodes: Nodes, node_id: str) -> Nodes:
    """Return the nodes with one more below this server."""
    known = {one: nodes.get(one) for one in nodes.ids()}
    known[node_id] = Node(node_id, "", "root")
    return Nodes("root", {one: node for one, node in known.items() if node is not None})


async def test_a_failed_renewal_changes_nothing(web: Web) -> None:
    """With a key of another certificate, the previous pair stays in use."""
    async with open_door(web) as door:
        other = make_key_and_cert("other")
        (web.own / "front.priv").write_bytes(other.key_pem)
        for work in (door.check, door.renew):
            with pytest.raises(StartError, match="the key is not that of the certificate"):
                await work()
        assert await ask(web, "/uuid", web.nodes["node0"]) == 200


async def test_only_tls_1_3_without_sessions(web: Web) -> None:
    """TLS 1.2 is refused, no ticket is sent, and HTTP/2 can be switched off."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with open_door(web, http2=False):
        stream = await trio.open_ssl_over_tcp_stream(
            web.host, web.port, ssl_context=context, https_compatible=True
        )
        await stream.send_all(UUID)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        assert stream.version() == "TLSv1.3"
        assert stream.selected_alpn_protocol() == "http/1.1"
        assert not stream.session.has_ticket
        await stream.aclose()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        stream = await trio.open_ssl_over_tcp_stream(web.host, web.port, ssl_context=context)
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        ("none", "key", "cannot read .*none: No such file"),
        ("cert", "none", "cannot read .*none: No such file"),
        ("key", "key", "not PEM"),
        ("cert", "locked", "passphrase"),
        ("cert", "other", "the key is not that of the certificate"),
    ],
)
def test_identity_that_cannot_be_used(
    tmp_path: Path, certificate: str, key: str, words: str
) -> None:
    """The error says which file, and what is wrong with it; no passphrase is asked for."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
    )

    one = make_key_and_cert("one")
    (tmp_path / "cert").write_bytes(one.cert_pem)
    (tmp_path / "key").write_bytes(one.key_pem)
    (tmp_path / "other").write_bytes(make_key_and_cert("other").key_pem)
    locked = one.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")
    )
    (tmp_path / "locked").write_bytes(locked)
    with pytest.raises(StartError, match=words):
        build_context(KeyFiles(tmp_path / certificate, tmp_path / key))


def test_only_neighbours_are_trusted(tmp_path: Path) -> None:
    """Certificates of nodes behind other relays, of strangers and broken ones are left out."""
    front, near, far = (make_key_and_cert(name) for name in ("front", "near", "far"))
    nameless = replace(make_key_and_cert("stranger"))
    cert, key = front.write(tmp_path)
    broken = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"
    file = tmp_path / "nodes.pem"
    file.write_bytes(broken + near.cert_pem + far.cert_pem + nameless.cert_pem)
    nodes = Nodes("root", {"near": Node("near", "", "root"), "far": Node("far", "", "relay")})
    trusted = build_trusted(KeyFiles(cert, key), file, nodes)
    assert trusted.nodes == {digest_of(near.cert_der): "near"}
    assert trusted.context.cert_store_stats()["x509"] == 1
    assert build_trusted(KeyFiles(cert, key), tmp_path / "none", nodes).nodes == {}
    assert build_trusted(KeyFiles(cert, key), file, nodes, trusted) is trusted
    key.write_bytes(front.key_pem + b"\n")
    assert build_trusted(KeyFiles(cert, key), file, nodes, trusted) is not trusted


async def test_all_addresses_of_both_families(web: Web) -> None:
    """`0.0.0.0` and `[::]` with one port do not exclude each other."""
    listen = tuple(Listen.parse(f"{host}:{web.port}") for host in wildcards())
    async with open_door(web, listen=listen):
        assert await ask(web, "/uuid", None) == 200
        if len(listen) > 1:
            stream = await trio.open_tcp_stream("::1", web.port)
            tls = trio.SSLStream(stream, client_context(web), https_compatible=True)
            await tls.send_all(UUID)
            assert (await tls.receive_some()).startswith(b"HTTP/1.1 200")
            await tls.aclose()


def wildcards() -> list[str]:
    """Return the wildcard addresses of the families that this machine has."""
    return ["0.0.0.0", "[::]"] if Path("/proc/net/if_inet6").exists() else ["0.0.0.0"]
