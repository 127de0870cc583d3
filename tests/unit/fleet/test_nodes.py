"""The nodes list and the certificates file, read from real files with real certificates."""

import base64
import hashlib
import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relayd.errors import NodesError
from relayd.fleet.nodes import (
    MAX_LEVELS,
    MAX_WARNINGS,
    KeyHash,
    Loaded,
    Nodes,
    load_nodes,
    parse_key_hash,
)
from relayd.runlog.model import NodeCertificate, Verified
from relayd.runlog.signature.smime import verify
from tests.support.signing import SigningNode, make_key_and_cert, sign_runlog

RELAY = "relay-1"

Entries = dict[str, dict[str, object]]


def entry(policy_server: str = "root", **more: object) -> dict[str, object]:
    return {"hostname": "h.example.org", "policy-server": policy_server, **more}


class Fleet:
    """A directory with the two files."""

    def __init__(self, directory: Path) -> None:
        self.list_file = directory / "nodeslist.json"
        self.certs_file = directory / "allnodescerts.pem"

    def write(self, entries: Entries, *certificates: bytes) -> None:
        """Writes both."""
        self.list_file.write_text(json.dumps(entries, indent=2))
        self.certs_file.write_bytes(b"".join(certificates))

    def load(self, my_id: str = "root", former: Nodes | None = None) -> Loaded:
        """Loads both."""
        return load_nodes(self.list_file, self.certs_file, my_id, former)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.fixture(scope="module")
def node() -> SigningNode:
    return make_key_and_cert("node-1")


@pytest.fixture(scope="module")
def other() -> SigningNode:
    return make_key_and_cert("node-2")


def test_load_gives_each_node_its_entry_and_its_certificates(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """Every node of the list is known by what the list says and with its own certificates only."""
    fleet.write(
        {"root": entry(), "node-1": entry(), "node-2": entry(hostname="two", unknown=[1])},
        node.cert_pem,
        other.cert_pem,
    )
    loaded = fleet.load()
    nodes = loaded.nodes
    assert (loaded.warnings, loaded.list_missing) == ([], False)
    assert nodes.certificates("node-1") == (node.certificate,)
    assert nodes.certificates("node-2") == (other.certificate,)
    assert nodes.certificates("root") == nodes.certificates("stranger") == ()
    known = nodes.get("node-2")
    assert known is not None
    assert (known.id, known.hostname, known.policy_server) == ("node-2", "two", "root")
    assert nodes.get("stranger") is None
    assert (nodes.managed_nodes, nodes.sub_nodes, nodes.has_certificates) == (3, 3, True)


@pytest.mark.fault("C20")
def test_load_keeps_all_certificates_of_a_node_in_order(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """Old and new certificate of one node, same issuer and serial, are both kept and believed."""
    old = make_key_and_cert("node-1", key=node.key, serial=7)
    new = make_key_and_cert("node-1", key=other.key, serial=7)
    fleet.write({"node-1": entry()}, old.cert_pem, new.cert_pem, old.cert_pem)
    certificates = fleet.load().nodes.certificates("node-1")
    assert certificates == (old.certificate, new.certificate)
    assert old.certificate.sid == new.certificate.sid
    for index, signer in enumerate((old, new)):
        verified = verify(sign_runlog(b"R: @@Common\n", signer), certificates)
        assert isinstance(verified, Verified)
        assert verified.signer == index


def test_load_keeps_a_certificate_larger_than_a_page_of_the_store(
    fleet: Fleet, node: SigningNode
) -> None:
    """A node with very many certificates is stored whole, and its neighbours in memory too."""
    many = [make_key_and_cert("node-1", serial=number) for number in range(1, 300)]
    after = make_key_and_cert("node-3", key=node.key)
    fleet.write(
        {"node-1": entry(), "node-3": entry()}, *(one.cert_pem for one in many), after.cert_pem
    )
    nodes = fleet.load().nodes
    assert nodes.certificates("node-1") == tuple(one.certificate for one in many)
    assert nodes.certificates("node-3") == (after.certificate,)


@pytest.mark.history(56)
@pytest.mark.fault("G2")
def test_missing_files_count_as_empty(fleet: Fleet) -> None:
    """Neither file need exist; that the list does not, so that nobody is known, is told."""
    loaded = fleet.load()
    assert loaded.list_missing
    assert loaded.nodes.sub_nodes == 0
    fleet.list_file.write_text(json.dumps({"root": entry()}))
    loaded = fleet.load()
    assert not loaded.list_missing
    assert loaded.nodes.get("root") is not None
    assert [str(warning) for warning in loaded.warnings] == [
        f"{fleet.certs_file}: no certificate of any node: no run log can be verified"
    ]


@pytest.mark.fault("G1")
def test_list_cut_anywhere_is_refused(fleet: Fleet) -> None:
    """A nodes list that ends anywhere before its end is an error that names the file and a line."""
    whole = json.dumps({"a": entry(), "b": {**entry(), "key-hash": "sha256:"}}, indent=1).encode()
    for end in range(len(whole)):
        fleet.list_file.write_bytes(whole[:end])
        with pytest.raises(NodesError, match=r"nodeslist\.json: line \d+, character \d+: "):
            fleet.load()


@pytest.mark.fault("G1")
def test_certificates_cut_anywhere_are_refused(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """A certificates file cut within its last certificate, markers included, is an error."""
    start, whole = len(node.cert_pem), node.cert_pem + other.cert_pem
    ends = {*range(start + 1, start + 70), *range(start + 70, len(whole), 97)}
    ends |= set(range(len(whole) - 40, len(whole) - 1))
    for end in sorted(ends):
        fleet.write({"node-1": entry(), "node-2": entry()}, whole[:end])
        with pytest.raises(NodesError, match=r"allnodescerts\.pem: .*cut off"):
            fleet.load()


@pytest.mark.fault("G1")
def test_emptied_certificates_file_is_refused_when_there_were_certificates(
    fleet: Fleet, node: SigningNode
) -> None:
    """An empty certificates file is a half-written one at a reload, and no fault at the start."""
    fleet.write({"node-1": entry()}, node.cert_pem)
    former = fleet.load().nodes
    fleet.certs_file.write_bytes(b"")
    assert not fleet.load().nodes.has_certificates
    assert not fleet.load(former=fleet.load().nodes).nodes.has_certificates
    with pytest.raises(NodesError, match=r"allnodescerts\.pem: line 1: cut off, it is empty"):
        fleet.load(former=former)
    assert former.certificates("node-1") == (node.certificate,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '"text"',
        "null",
        "{} {}",
        '{"a": 1,}',
        '{"a": 1 "b": 2}',
        "{1: 2}",
        "{'a': 1}",
        '{"a": NaN-}',
        '{"a": tru}',
        "\ufeff{}",
    ],
)
def test_list_that_is_no_json_object_is_refused(fleet: Fleet, text: str) -> None:
    """Whatever is not one JSON object is an error that tells the place."""
    fleet.list_file.write_text(text, encoding="utf-8")
    with pytest.raises(NodesError, match=r"nodeslist\.json: line 1, character \d+: "):
        fleet.load()


@pytest.mark.fault("P12", "D.5.5")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(b"[" * 200_000, "expected '{'", id="deep-outside"),
        pytest.param(b'{"a":' + b"[" * 200_000, "nested too deeply", id="deep-array"),
        pytest.param(b'{"a":' * 200_000, "nested too deeply", id="deep-object"),
        pytest.param(b'{"a":' + b"1" * 5000 + b"}", "integer", id="long-integer"),
        pytest.param(b'{"a":{"x":1,"x":2}}', "a key twice", id="duplicate-key"),
        pytest.param(b'{"a":1,"a":2}', None, id="duplicate-of-skipped-node"),
        pytest.param(
            b'{"a":{"hostname":"h","policy-server":"p"},"a":{"hostname":"i","policy-server":"p"}}',
            '"a" is listed twice',
            id="duplicate-node",
        ),
        pytest.param(b'{"a":"\xff"}', "not UTF-8", id="not-utf-8"),
    ],
)
def test_hostile_list_is_refused_as_a_whole(fleet: Fleet, text: bytes, told: str | None) -> None:
    """JSON made to hurt a decoder ends in one error of ours, never in another exception."""
    fleet.list_file.write_bytes(text)
    if told is None:
        assert len(fleet.load().warnings) == 2
        return
    with pytest.raises(NodesError, match=told) as caught:
        fleet.load()
    assert str(fleet.list_file) in str(caught.value)
    assert len(str(caught.value)) < 500


def test_unreadable_file_is_refused(fleet: Fleet) -> None:
    """A path that cannot be read, here a directory, is an error that names it."""
    fleet.list_file.mkdir()
    with pytest.raises(NodesError, match=r"nodeslist\.json: cannot be read: Is a directory"):
        fleet.load()
    fleet.list_file.rmdir()
    fleet.certs_file.mkdir()
    with pytest.raises(NodesError, match=r"allnodescerts\.pem: cannot be read: Is a directory"):
        fleet.load()


@pytest.mark.history(54)
@pytest.mark.parametrize(
    "value",
    [
        1,
        None,
        "node",
        [],
        {},
        {"hostname": "h"},
        {"policy-server": "root"},
        {"hostname": 5, "policy-server": "root"},
        {"hostname": "h", "policy-server": None},
        {"hostname": "h\n", "policy-server": "root"},
        {"hostname": "h", "policy-server": "\x1b[2J"},
    ],
)
def test_one_unusable_entry_costs_only_its_node(fleet: Fleet, value: object) -> None:
    """One entry that cannot be used is skipped with a warning that names it; the rest is loaded."""
    text = json.dumps({"good-1": entry(), "bad": value, "good-2": entry()})
    fleet.list_file.write_text(text)
    loaded = fleet.load()
    assert loaded.nodes.get("bad") is None
    assert None not in {loaded.nodes.get("good-1"), loaded.nodes.get("good-2")}
    assert loaded.warnings[0].kind == "entry"
    assert str(loaded.warnings[0]).startswith(f'{fleet.list_file}: node "bad" skipped: ')
    assert str(loaded.warnings[0]).isprintable()


@pytest.mark.parametrize("node_id", ["", "a\nb", "\x1b]0;x\x07", "\ud800", "a\u202eb"])
def test_entry_with_an_unprintable_id_is_skipped(fleet: Fleet, node_id: str) -> None:
    """A node id that cannot be shown in one line is no node id."""
    fleet.write({node_id: entry(), "good": entry()})
    loaded = fleet.load()
    assert (loaded.nodes.sub_nodes, loaded.nodes.get("good") is not None) == (1, True)
    assert str(loaded.warnings[0]).isprintable()


SHA256, SHA512 = hashlib.sha256(b"key").digest(), hashlib.sha512(b"key").digest()


@pytest.mark.history(54, 55)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"sha256:{SHA256.hex()}", KeyHash("sha256", SHA256)),
        (f"sha256:{SHA256.hex().upper()}", KeyHash("sha256", SHA256)),
        (f"sha512:{SHA512.hex()}", KeyHash("sha512", SHA512)),
        (f"sha256//{base64.b64encode(SHA256).decode()}", KeyHash("sha256", SHA256)),
        (f"sha512//{base64.b64encode(SHA512).decode()}", KeyHash("sha512", SHA512)),
        ("sha256:", None),
        ("sha256//", None),
        ("", None),
        (None, None),
        (5, None),
        ([], None),
        (f"md5:{SHA256.hex()}", None),
        (f"sha512:{SHA256.hex()}", None),
        (f"sha256:{SHA256.hex()[:-1]}", None),
        (f"sha256:{SHA256.hex()}\n", None),
        (f"sha256: {SHA256.hex()}", None),
        (f"sha256//{base64.b64encode(SHA256).decode()[:-1]}", None),
        (f"sha256//{base64.b64encode(SHA256).decode()}=", None),
        (f"sha256/{base64.b64encode(SHA256).decode()}", None),
    ],
)
def test_key_hash_spellings(fleet: Fleet, text: object, expected: KeyHash | None) -> None:
    """Both spellings are read; anything else means that the node has no hash, never an error."""
    assert parse_key_hash(text) == expected
    fleet.write({"a": {**entry(), "key-hash": text}, "b": entry()})
    loaded = fleet.load()
    node, without = loaded.nodes.get("a"), loaded.nodes.get("b")
    assert node is not None
    assert without is not None
    assert (node.key_hash, without.key_hash) == (expected, None)


def test_key_hash_matches_only_its_key(node: SigningNode, other: SigningNode) -> None:
    """A key hash tells the node's key from any other."""
    spki = node.certificate.spki
    for algorithm in ("sha256", "sha512"):
        known = parse_key_hash(f"{algorithm}:{hashlib.new(algorithm, spki).hexdigest()}")
        assert known is not None
        assert known.matches(spki)
        assert not known.matches(other.certificate.spki)


def damaged(pem: bytes) -> bytes:
    lines = pem.split(b"\n")
    return b"\n".join([*lines[:3], b"*" * 64, *lines[3:]])


def without_line(pem: bytes, number: int) -> bytes:
    lines = pem.splitlines(keepends=True)
    del lines[number]
    return b"".join(lines)


def shortened(pem: bytes) -> bytes:
    return without_line(pem, 4)


def without_end(pem: bytes) -> bytes:
    return without_line(pem, -1)


def emptied(_: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"


def swollen(pem: bytes) -> bytes:
    begin, rest = pem.split(b"\n", 1)
    return begin + b"\n" + (b"A" * 64 + b"\n") * 3000 + rest


def relabelled(pem: bytes) -> bytes:
    return pem.replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE")


@pytest.mark.fault("G4")
@pytest.mark.parametrize("damage", [damaged, shortened, without_end, emptied, swollen, relabelled])
def test_one_malformed_certificate_costs_only_itself(
    fleet: Fleet, node: SigningNode, other: SigningNode, damage: Callable[[bytes], bytes]
) -> None:
    """One certificate that cannot be read is skipped, its line told; those around it are loaded."""
    third = make_key_and_cert("node-3", key=node.key)
    pems = (node.cert_pem, damage(other.cert_pem), third.cert_pem)
    fleet.write({name: entry() for name in ("node-1", "node-2", "node-3")}, *pems)
    loaded = fleet.load()
    assert loaded.nodes.certificates("node-1") == (node.certificate,)
    assert loaded.nodes.certificates("node-2") == ()
    assert loaded.nodes.certificates("node-3") == (third.certificate,)
    line = node.cert_pem.count(b"\n") + 1
    [warning] = loaded.warnings
    assert str(warning).startswith(f"{fleet.certs_file}: line {line}: certificate skipped: ")


@pytest.mark.fault("G4")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(der=bytes.fromhex("30023000"))
@given(der=st.binary(max_size=80).map(lambda body: b"\x30" + bytes([len(body)]) + body))
def test_certificate_of_any_bytes_costs_only_itself(
    fleet: Fleet, node: SigningNode, der: bytes
) -> None:
    """No content of a PEM block keeps the certificates behind it from being loaded."""
    block = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n"
    fleet.write({"node-1": entry()}, block % base64.encodebytes(der), node.cert_pem)
    loaded = fleet.load()
    assert loaded.nodes.certificates("node-1") == (node.certificate,)
    assert len(loaded.warnings) == 1


def test_text_and_line_ends_around_certificates_do_not_matter(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """Comments, CRLF, blank lines and a missing last line end do not change what is read."""
    text = b"subject=UID = node-1\n\n" + node.cert_pem.replace(b"\n", b"\r\n") + b"\n\n- a note\n"
    fleet.write({"node-1": entry(), "node-2": entry()}, text, other.cert_pem.rstrip())
    loaded = fleet.load()
    assert loaded.nodes.certificates("node-1") == (node.certificate,)
    assert loaded.nodes.certificates("node-2") == (other.certificate,)
    assert loaded.warnings == []


def test_certificate_without_uid_or_of_an_unknown_node_is_skipped(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """A certificate that belongs to no known node is skipped with a warning that says why."""
    nameless = make_key_and_cert(
        "x", key=node.key, subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    )
    fleet.write({"node-1": entry()}, nameless.cert_pem, other.cert_pem, node.cert_pem)
    loaded = fleet.load()
    assert loaded.nodes.certificates("node-1") == (node.certificate,)
    assert loaded.nodes.certificates("node-2") == ()
    assert [warning.detail.split("skipped: ")[1] for warning in loaded.warnings] == [
        "its subject has no UID",
        'node "node-2" is not in the nodes list',
    ]


@pytest.mark.fault("C23")
def test_weak_key_is_refused_at_load(fleet: Fleet) -> None:
    """RSA keys that are short or have a tiny exponent do not come in force; Ed25519 keys do."""
    short = make_key_and_cert("short", key=rsa.generate_private_key(65537, 1024))
    tiny = make_key_and_cert("tiny", key=rsa.generate_private_key(3, 2048))
    good = make_key_and_cert("good", key=ed25519.Ed25519PrivateKey.generate())
    names = {"short", "tiny", "good"}
    fleet.write({name: entry() for name in names}, short.cert_pem, tiny.cert_pem, good.cert_pem)
    loaded = fleet.load()
    assert {name for name in names if loaded.nodes.certificates(name)} == {"good"}
    assert len(loaded.warnings) == 2


def test_warnings_of_one_load_are_bounded(fleet: Fleet) -> None:
    """Thousands of faults give a bounded number of warnings; the last one counts the others."""
    fleet.list_file.write_text(json.dumps({f"node-{number}": 0 for number in range(1000)}))
    warnings = fleet.load().warnings
    assert len(warnings) == MAX_WARNINGS + 1
    assert str(warnings[-1]) == f"… and {1000 - MAX_WARNINGS} more"


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
def test_next_hop_is_the_neighbour_on_the_way(
    fleet: Fleet, my_id: str, hops: dict[str, str]
) -> None:
    """From each policy server, a node below is reached through the neighbour that leads to it."""
    fleet.write(TREE)
    nodes = fleet.load(my_id).nodes
    assert {node_id: nodes.next_hop(node_id) for node_id in hops} == hops
    neighbours = {node_id for node_id in TREE if nodes.is_neighbour(node_id)}
    assert neighbours - {"root"} == {hop for node_id, hop in hops.items() if node_id == hop}
    assert nodes.managed_nodes == len(neighbours)


@pytest.mark.history(46)
def test_root_is_never_its_own_next_hop(fleet: Fleet) -> None:
    """Root is its own policy server and counts as managed, but nothing is ever sent on to root."""
    fleet.write(TREE)
    nodes = fleet.load("root").nodes
    assert nodes.is_neighbour("root")
    assert nodes.managed_nodes == 3
    assert "root" not in {nodes.next_hop(node_id) for node_id in TREE if node_id != "root"}
    with pytest.raises(NodesError, match="is this policy server"):
        nodes.next_hop("root")


@pytest.mark.fault("G9")
@pytest.mark.parametrize(
    ("entries", "target", "told"),
    [
        ({"a": entry("b"), "b": entry("a")}, "a", "circle"),
        ({"a": entry("a")}, "a", "circle"),
        ({"x": entry("a"), "a": entry("b"), "b": entry("c"), "c": entry("a")}, "x", "circle"),
        ({"a": entry("gone")}, "a", '"gone" is not in the list'),
        ({}, "a", '"a" is not in the list'),
        ({f"n{i}": entry(f"n{i + 1}") for i in range(1000)}, "n0", "more than 20"),
    ],
)
def test_way_that_leads_nowhere_ends_in_an_error(
    fleet: Fleet, entries: Entries, target: str, told: str
) -> None:
    """Circles, gaps and endless chains of policy servers end in an error that says which."""
    fleet.write(entries)
    with pytest.raises(NodesError, match=told):
        fleet.load().nodes.next_hop(target)


def test_way_may_be_as_long_as_the_bound(fleet: Fleet) -> None:
    """A chain of exactly the allowed length is followed, one more is not."""
    entries = {f"n{i}": entry(f"n{i - 1}" if i else "root") for i in range(MAX_LEVELS + 1)}
    fleet.write(entries)
    nodes = fleet.load().nodes
    assert nodes.next_hop(f"n{MAX_LEVELS - 1}") == "n0"
    with pytest.raises(NodesError, match="more than"):
        nodes.next_hop(f"n{MAX_LEVELS}")


def test_trust_token_changes_exactly_with_what_decides(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """A node's token changes when it becomes known or its certificates change, and only then."""
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
    """A certificate past its end is counted, and is in force all the same."""
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
    """A certificate whose validity has not begun is counted, and is in force all the same."""
    begin = datetime(2051, 6, 1, tzinfo=UTC)
    future = make_key_and_cert(
        "node-2", key=node.key, not_before=begin, not_after=datetime(2061, 6, 1, tzinfo=UTC)
    )
    fleet.write({"node-1": entry(), "node-2": entry()}, node.cert_pem, future.cert_pem)
    nodes = fleet.load().nodes
    assert nodes.premature_certificates(begin.timestamp()) == 0
    assert nodes.premature_certificates(begin.timestamp() - 1) == 1
    assert nodes.certificates("node-2") == (future.certificate,)


@pytest.mark.history(35)
def test_snapshot_never_changes_while_another_is_loaded(fleet: Fleet, node: SigningNode) -> None:
    """A reload builds another snapshot beside the one in force, which answers as before."""
    fleet.write({"node-1": entry()}, node.cert_pem)
    before = fleet.load().nodes
    renewed = make_key_and_cert("node-1")
    fleet.write({"node-1": entry(hostname="new"), "node-2": entry()}, renewed.cert_pem)
    after = fleet.load(former=before).nodes
    assert before.certificates("node-1") == (node.certificate,)
    assert (before.sub_nodes, before.get("node-2")) == (1, None)
    assert after.certificates("node-1") == (renewed.certificate,)
    assert after.sub_nodes == 2


@pytest.mark.fault("G8")
@pytest.mark.history(35)
def test_load_lets_other_threads_run_all_along(fleet: Fleet, node: SigningNode) -> None:
    """While a large fleet loads in a thread, another thread gets its turn between few nodes each.

    Switches on request are ruled out by a switch interval longer than the load, so only those
    that the loading thread offers by itself remain.
    """
    count = 4000
    entries: Entries = {f"node-{number}": entry() for number in range(count)}
    fleet.write(entries, *[node.cert_pem] * count)
    turns = 0
    done = threading.Event()

    def load() -> None:
        fleet.load()
        done.set()

    former = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        thread = threading.Thread(target=load)
        thread.start()
        while not done.wait(1e-5):
            turns += 1
        thread.join()
    finally:
        sys.setswitchinterval(former)
    assert turns >= count // 100


@pytest.mark.parametrize("begin", [b"", b"-----BEGIN CERTIFICATE-----\n"], ids=["text", "body"])
def test_load_does_not_hold_the_files_in_memory(
    fleet: Fleet, node: SigningNode, begin: bytes
) -> None:
    """A certificates file of 60 MB, in one certificate or none, is read through a small window."""
    block = b"x" * 1_000_000 + b"\n"
    fleet.write({"node-1": entry()}, begin, *[block] * 60, node.cert_pem)
    tracemalloc.start()
    try:
        nodes = fleet.load().nodes
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert nodes.certificates("node-1") == (node.certificate,)
    assert peak < 6_000_000


def test_list_longer_than_the_window_is_read_whole(fleet: Fleet) -> None:
    """Names, values and white space that cross the edges of what is read at once are read whole."""
    entries: Entries = {
        f"ño-{number}": entry(hostname="h" * (number % 977), more=number * 10**number)
        for number in range(1000)
    }
    fleet.list_file.write_text(
        json.dumps(entries, indent=7, ensure_ascii=False) + " " * 200_000, encoding="utf-8"
    )
    nodes = fleet.load().nodes
    assert nodes.sub_nodes == 1000
    for node_id, values in entries.items():
        found = nodes.get(node_id)
        assert found is not None
        assert found.hostname == values["hostname"]


def test_number_that_crosses_the_window_is_one_number(fleet: Fleet) -> None:
    """A number that goes on where what is read at once ends is not taken for two."""
    fleet.list_file.write_text(f'{{"n": 1.{"0" * 200_000}, "a": {json.dumps(entry())}}}')
    loaded = fleet.load()
    assert (loaded.nodes.sub_nodes, loaded.nodes.get("a") is not None) == (1, True)


def test_place_of_a_fault_far_in_is_told(fleet: Fleet) -> None:
    """Line and character of a fault are those of the file, however far in it is."""
    text = json.dumps({f"node-{number}": entry() for number in range(5000)}, indent=1)
    place = text.index('"node-4321"')
    fleet.list_file.write_text(text[:place] + "!" + text[place:])
    line = text.count("\n", 0, place) + 1
    with pytest.raises(NodesError, match=f"line {line}, character {place}: expected a name"):
        fleet.load()


def test_token_is_the_same_in_another_process(fleet: Fleet, node: SigningNode) -> None:
    """A token that was written down is still right after a restart."""
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


def test_certificates_are_what_a_worker_can_be_sent(fleet: Fleet, node: SigningNode) -> None:
    """Certificates come as the plain values that the verification takes."""
    fleet.write({"node-1": entry()}, node.cert_pem)
    [certificate] = fleet.load().nodes.certificates("node-1")
    assert isinstance(certificate, NodeCertificate)
    assert isinstance(certificate.spki, bytes)


def test_only_policy_servers_keep_their_whole_certificates(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """Who is connected to can be pinned by its certificates; of the others nothing more is kept."""
    renewed = make_key_and_cert("node-1", serial=7)
    entries = {"node-1": entry(), "node-2": entry("node-1")}
    fleet.write(entries, node.cert_pem, other.cert_pem, renewed.cert_pem, node.cert_pem)
    nodes = fleet.load().nodes
    assert nodes.peer_certificates("node-1") == (node.cert_der, renewed.cert_der)
    assert nodes.peer_certificates("node-2") == ()
    assert nodes.peers == {"node-1": (node.cert_der, renewed.cert_der)}
