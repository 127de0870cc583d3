"""Loading the nodes list and the certificates file, with real files and certificates."""

import base64
import codecs
import hashlib
import json
import sys
import threading
import tracemalloc
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relayd.errors import NodesError
from relayd.fleet.loading import (
    MAX_WARNINGS,
    load_certificates_of,
    load_list,
    parse_key_hash,
)
from relayd.fleet.nodes import KeyHash
from relayd.runlog.model import NodeCertificate, Verified
from relayd.runlog.signature.smime import verify
from tests.support.fleet import Entries, Fleet, entry
from tests.support.signing import SigningNode, make_key_and_cert, sign_runlog


def test_each_node_has_its_own_entry_and_certificates(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """Every node of the list has the values of its entry, and no certificates but its own."""
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
    """Old and new certificate of a node, with the same issuer and serial, are both trusted."""
    old = make_key_and_cert("node-1", key=node.key, serial=7)
    new = make_key_and_cert("node-1", key=other.key, serial=7)
    fleet.write({"node-1": entry()}, old.cert_pem, new.cert_pem, old.cert_pem)
    nodes = fleet.load().nodes
    certificates = nodes.certificates("node-1")
    assert certificates == (old.certificate, new.certificate)
    alone = load_certificates_of("node-1", load_list(fleet.list_file), fleet.certs_file)
    assert (alone.get("node-1"), alone.validity("node-1")) == (
        certificates,
        nodes.validity("node-1"),
    )
    assert old.certificate.sid == new.certificate.sid
    for index, signer in enumerate((old, new)):
        verified = verify(sign_runlog(b"R: @@Common\n", signer), certificates)
        assert isinstance(verified, Verified)
        assert verified.signer == index


def test_load_keeps_a_certificate_larger_than_a_page_of_the_store(
    fleet: Fleet, node: SigningNode
) -> None:
    """All certificates of a node that has very many are stored, and so are those after it."""
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
    """Neither file needs to exist; a missing list is flagged, since no node is known then."""
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
def test_list_truncated_anywhere_is_refused(fleet: Fleet) -> None:
    """A nodes list truncated at any position is an error that names the file and a line."""
    whole = json.dumps({"a": entry(), "b": {**entry(), "key-hash": "sha256:"}}, indent=1).encode()
    for end in range(len(whole)):
        fleet.list_file.write_bytes(whole[:end])
        with pytest.raises(NodesError, match=r"nodeslist\.json: line \d+, character \d+: "):
            fleet.load()


@pytest.mark.fault("G1")
def test_certificates_truncated_anywhere_are_refused(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """A certificates file truncated within its last certificate, markers included, is an error."""
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
    """An empty certificates file is an error at a reload, when it may be half written, only."""
    fleet.write({"node-1": entry()}, node.cert_pem)
    former = fleet.load().nodes
    fleet.certs_file.write_bytes(b"")
    assert not fleet.load().nodes.has_certificates
    assert not fleet.load(previous=fleet.load().nodes).nodes.has_certificates
    with pytest.raises(NodesError, match=r"allnodescerts\.pem: line 1: cut off, it is empty"):
        fleet.load(previous=former)
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
        "\ufeff",
        " \ufeff{}",
    ],
)
def test_list_that_is_no_json_object_is_refused(fleet: Fleet, text: str) -> None:
    """Anything but a single JSON object is an error that says where the fault is."""
    fleet.list_file.write_text(text, encoding="utf-8")
    with pytest.raises(NodesError, match=r"nodeslist\.json: line 1, character \d+: "):
        fleet.load()


@pytest.mark.fault("P12", "D.5.5")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(b"[" * 200_000, "expected '{'", id="deep-outside"),
        pytest.param(b'{"a":' + b"[" * 200_000, "nested too deeply", id="deep-array"),
        pytest.param(b'{"a":' * 200_000, "nested too deeply", id="deep-object"),
        pytest.param(b'{"a":' + b"1" * 5000 + b"}", "integer", id="long-integer"),
        pytest.param(b'{"a":{"x":1,"x":2}}', "a key twice", id="duplicate-key"),
        pytest.param(b'{"a":1,"a":2}', "none of its 2 entries can be used", id="skipped-twice"),
        pytest.param(
            b'{"a":{"hostname":"h","policy-server":"p"},"a":{"hostname":"i","policy-server":"p"}}',
            '"a" is listed twice',
            id="duplicate-node",
        ),
        pytest.param(b'{"a":"\xff"}', "not UTF-8", id="not-utf-8"),
    ],
)
def test_hostile_list_is_refused_as_a_whole(fleet: Fleet, text: bytes, message: str) -> None:
    """JSON that is made to break a decoder raises NodesError and no other exception."""
    fleet.list_file.write_bytes(text)
    with pytest.raises(NodesError, match=message) as caught:
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
        {"hostname": "h", "policy-server": None},
        {"hostname": "h", "policy-server": "\x1b[2J"},
    ],
)
def test_unusable_entry_affects_only_its_node(fleet: Fleet, value: object) -> None:
    """An unusable entry is skipped with a warning that names it; the rest is loaded."""
    text = json.dumps({"good-1": entry(), "bad": value, "good-2": entry()})
    fleet.list_file.write_text(text)
    loaded = fleet.load()
    assert loaded.nodes.get("bad") is None
    assert None not in {loaded.nodes.get("good-1"), loaded.nodes.get("good-2")}
    assert loaded.warnings[0].kind == "entry"
    assert str(loaded.warnings[0]).startswith(f'{fleet.list_file}: node "bad" skipped: ')
    assert str(loaded.warnings[0]).isprintable()


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    ("hostname", "kept"),
    [
        ("a..b", "a..b"),
        ("a.test:443", "a.test:443"),
        ("https://a.test", "https://a.test"),
        ("a" * 64, "a" * 64),
        ("a." * 200, "a." * 200),
        ("-x", "-x"),
        ("a b", "a b"),
        ("[::1]:1", "[::1]:1"),
        ("\u5927\u2488", "\u5927\u2488"),
        ("a\n", ""),
        ("\ud800", ""),
        ("a\x00b", ""),
        (5, ""),
        (None, ""),
        (["a"], ""),
    ],
)
def test_odd_host_name_concerns_only_the_calls_of_its_node(
    fleet: Fleet, hostname: object, kept: str
) -> None:
    """A node with an unusable host name stays known, for its run logs; a warning names it."""
    bad = {"hostname": hostname, "policy-server": "root"}
    fleet.list_file.write_text(json.dumps({"good": entry(), "bad": bad}))
    loaded = fleet.load()
    nodes = [loaded.nodes.get(node_id) for node_id in ("good", "bad")]
    assert [node and node.hostname for node in nodes][1:] == [kept]
    warning = loaded.warnings[0]
    assert (warning.kind, str(warning).isprintable()) == ("hostname", True)
    assert str(warning).startswith(f'{fleet.list_file}: node "bad" cannot be reached: ')


@pytest.mark.parametrize("node_id", ["", "a\nb", "\x1b]0;x\x07", "\ud800", "a\u202eb"])
def test_entry_with_an_unprintable_id_is_skipped(fleet: Fleet, node_id: str) -> None:
    """A node id that cannot be shown in one line is not accepted."""
    fleet.write({node_id: entry(), "good": entry()})
    loaded = fleet.load()
    assert (loaded.nodes.sub_nodes, loaded.nodes.get("good") is not None) == (1, True)
    assert str(loaded.warnings[0]).isprintable()


@pytest.mark.fault("F6", "F60")
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": 1}, 'its only entry cannot be used: node "a" skipped: '),
        ({"a": {"x": "h"}, "": entry()}, 'none of its 2 entries can be used; the first: node "a'),
    ],
)
def test_list_of_which_nothing_is_usable_is_refused(
    fleet: Fleet, entries: dict[str, object], message: str
) -> None:
    """Entries of which none can be used are a fault of the list; an empty list is none."""
    fleet.list_file.write_text(json.dumps(entries))
    with pytest.raises(NodesError, match=rf"nodeslist\.json: {message}"):
        fleet.load()
    fleet.list_file.write_text("{}")
    loaded = fleet.load()
    assert (loaded.nodes.sub_nodes, loaded.list_missing, loaded.warnings) == (0, False, [])


@pytest.mark.fault("F60")
@pytest.mark.parametrize("count", [1, 2])
def test_certificates_of_which_none_is_usable_do_not_replace_others(
    fleet: Fleet, node: SigningNode, other: SigningNode, count: int
) -> None:
    """A reload keeps the certificates in use; at a start, and if all are strangers', it is none."""
    fleet.write({"node-1": entry()}, node.cert_pem)
    former = fleet.load().nodes
    fleet.certs_file.write_bytes(damaged(node.cert_pem) * count)
    assert len(fleet.load().warnings) == count + 1
    with pytest.raises(NodesError, match=r"allnodescerts\.pem: .* be used.*: not base64"):
        fleet.load(previous=former)
    fleet.certs_file.write_bytes(damaged(node.cert_pem) + other.cert_pem)
    assert not fleet.load(previous=former).nodes.has_certificates


@pytest.mark.fault("F60")
def test_a_byte_order_mark_makes_no_difference(fleet: Fleet, node: SigningNode) -> None:
    """What an editor of Windows puts in front of either file is no part of it."""
    fleet.list_file.write_text(json.dumps({"node-1": entry()}), encoding="utf-8-sig")
    fleet.certs_file.write_bytes(codecs.BOM_UTF8 + node.cert_pem)
    loaded = fleet.load()
    assert loaded.warnings == []
    assert loaded.nodes.certificates("node-1") == (node.certificate,)


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
    """Both spellings are read; with anything else the node has no hash, which is not an error."""
    assert parse_key_hash(text) == expected
    fleet.write({"a": {**entry(), "key-hash": text}, "b": entry()})
    loaded = fleet.load()
    node, without = loaded.nodes.get("a"), loaded.nodes.get("b")
    assert node is not None
    assert without is not None
    assert (node.key_hash, without.key_hash) == (expected, None)


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
def test_malformed_certificate_affects_no_other(
    fleet: Fleet, node: SigningNode, other: SigningNode, damage: Callable[[bytes], bytes]
) -> None:
    """A malformed certificate is skipped, with its line in a warning; the rest are loaded."""
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
def test_certificate_of_random_bytes_affects_no_other(
    fleet: Fleet, node: SigningNode, der: bytes
) -> None:
    """No content of a PEM block prevents the certificates after it from being loaded."""
    block = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n"
    fleet.write({"node-1": entry()}, block % base64.encodebytes(der), node.cert_pem)
    loaded = fleet.load()
    assert loaded.nodes.certificates("node-1") == (node.certificate,)
    assert len(loaded.warnings) == 1


def test_text_and_line_ends_around_certificates_do_not_matter(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """Comments, CRLF, blank lines and a missing final line end make no difference."""
    text = b"subject=UID = node-1\n\n" + node.cert_pem.replace(b"\n", b"\r\n") + b"\n\n- a note\n"
    fleet.write({"node-1": entry(), "node-2": entry()}, text, other.cert_pem.rstrip())
    loaded = fleet.load()
    assert loaded.nodes.certificates("node-1") == (node.certificate,)
    assert loaded.nodes.certificates("node-2") == (other.certificate,)
    assert loaded.warnings == []


def test_certificate_without_uid_or_of_an_unknown_node_is_skipped(
    fleet: Fleet, node: SigningNode, other: SigningNode
) -> None:
    """A certificate of no node in the list is skipped with a warning that says why."""
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
    """RSA keys that are short or have a tiny exponent are not trusted; Ed25519 keys are."""
    short = make_key_and_cert("short", key=rsa.generate_private_key(65537, 1024))
    tiny = make_key_and_cert("tiny", key=rsa.generate_private_key(3, 2048))
    good = make_key_and_cert("good", key=ed25519.Ed25519PrivateKey.generate())
    names = {"short", "tiny", "good"}
    fleet.write({name: entry() for name in names}, short.cert_pem, tiny.cert_pem, good.cert_pem)
    loaded = fleet.load()
    assert {name for name in names if loaded.nodes.certificates(name)} == {"good"}
    assert len(loaded.warnings) == 2


def test_warnings_of_one_load_are_bounded(fleet: Fleet) -> None:
    """Thousands of faults cause a bounded number of warnings; the last one counts the rest."""
    bad = {f"node-{number}": 0 for number in range(1000)}
    fleet.list_file.write_text(json.dumps({**bad, "good": entry()}))
    fleet.certs_file.write_bytes(make_key_and_cert("good").cert_pem)
    warnings = fleet.load().warnings
    assert len(warnings) == MAX_WARNINGS + 1
    assert str(warnings[-1]) == f"… and {1000 - MAX_WARNINGS} more"


@pytest.mark.history(35)
def test_snapshot_never_changes_while_another_is_loaded(fleet: Fleet, node: SigningNode) -> None:
    """A reload builds a new snapshot; the current one does not change."""
    fleet.write({"node-1": entry()}, node.cert_pem)
    before = fleet.load().nodes
    renewed = make_key_and_cert("node-1")
    fleet.write({"node-1": entry(hostname="new"), "node-2": entry()}, renewed.cert_pem)
    after = fleet.load(previous=before).nodes
    assert before.certificates("node-1") == (node.certificate,)
    assert (before.sub_nodes, before.get("node-2")) == (1, None)
    assert after.certificates("node-1") == (renewed.certificate,)
    assert after.sub_nodes == 2


@pytest.mark.fault("G8")
@pytest.mark.history(35)
def test_load_lets_other_threads_run_all_along(fleet: Fleet, node: SigningNode) -> None:
    """While a large fleet loads in a thread, another thread runs after every few nodes.

    The switch interval is longer than the load, which rules out switches on request, so only
    those that the loading thread offers by itself remain.
    """
    count = 4000
    entries: Entries = {f"node-{number}": entry() for number in range(count)}
    fleet.write(entries, *[node.cert_pem] * count)
    runs = 0
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
            runs += 1
        thread.join()
    finally:
        sys.setswitchinterval(former)
    assert runs >= count // 100


@pytest.mark.parametrize("begin", [b"", b"-----BEGIN CERTIFICATE-----\n"], ids=["text", "body"])
def test_load_does_not_hold_the_files_in_memory(
    fleet: Fleet, node: SigningNode, begin: bytes
) -> None:
    """A certificates file of 60 MB, in a certificate or outside, is read in small pieces."""
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
    """Names, values and white space that span two reads are read as a whole."""
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
    """A number that spans two reads is not taken for two numbers."""
    fleet.list_file.write_text(f'{{"n": 1.{"0" * 200_000}, "a": {json.dumps(entry())}}}')
    loaded = fleet.load()
    assert (loaded.nodes.sub_nodes, loaded.nodes.get("a") is not None) == (1, True)


def test_position_of_a_fault_far_into_the_file_is_reported(fleet: Fleet) -> None:
    """Line and character of a fault refer to the file, however far into it the fault is."""
    text = json.dumps({f"node-{number}": entry() for number in range(5000)}, indent=1)
    place = text.index('"node-4321"')
    fleet.list_file.write_text(text[:place] + "!" + text[place:])
    line = text.count("\n", 0, place) + 1
    with pytest.raises(NodesError, match=f"line {line}, character {place}: expected a name"):
        fleet.load()


def test_certificates_are_what_a_worker_can_be_sent(fleet: Fleet, node: SigningNode) -> None:
    """Certificates are plain values, as the verification in a worker requires."""
    fleet.write({"node-1": entry()}, node.cert_pem)
    [certificate] = fleet.load().nodes.certificates("node-1")
    assert isinstance(certificate, NodeCertificate)
    assert isinstance(certificate.spki, bytes)
