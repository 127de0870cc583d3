"""Loading the nodes list and the certificates file.

Rudder's server writes two files for each policy server: the nodes list, a JSON object that maps
node ids to `hostname`, `policy-server` and `key-hash`, and the certificates file, PEM certificates
one after the other, whose subject `UID` is the node id.

Loading runs in a thread: it parses both files in small steps, so that the event loop goes on
however large the fleet is, and never has a whole file in memory.
"""

import binascii
import re
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, TextIO

import msgspec

from relayd.errors import NodesError
from relayd.fleet.certificates import CertificateStore
from relayd.fleet.formats import in_small_steps, members, members_at_once, pem_blocks
from relayd.fleet.nodes import KeyHash, Node, Nodes, quoted
from relayd.runlog.signature.certificates import read_certificate
from relayd.system.addresses import HostError, usable_host
from relayd.system.shortage import words_of

#: Warnings of one load that are reported one by one; the rest are only counted.
MAX_WARNINGS: Final = 20

#: Bytes of the certificates file that are read at once.
_READ_SIZE: Final = 256 * 1024

_KEY_HASH: Final = re.compile(r"(sha256|sha512)(?::([0-9A-Fa-f]+)|//([0-9A-Za-z+/]+={0,2}))")
_DIGEST_SIZES: Final = {"sha256": 32, "sha512": 64}


class NodesWarning(msgspec.Struct, frozen=True):
    """A part of the two files that is not used; its text is one line.

    Attributes:
        kind: `entry` of the list, its `hostname`, `certificate`, `no_certificate` of any node, or
            `more` warnings.
        detail: the fault, without the name of the file.
        file: the file, None for `more`.
    """

    kind: Literal["entry", "hostname", "certificate", "no_certificate", "more"]
    detail: str
    file: Path | None = None

    def __str__(self) -> str:
        return self.detail if self.file is None else f"{self.file}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of a load.

    Attributes:
        nodes: the new snapshot.
        warnings: what was skipped and why; at most `MAX_WARNINGS`, and one more that counts the
            others.
        problems: the number of all that was skipped.
        list_missing: the nodes list does not exist (yet), so strangers cannot be recognized.
    """

    nodes: Nodes
    warnings: list[NodesWarning]
    problems: int
    list_missing: bool


def load_nodes(
    list_file: Path, certs_file: Path, my_id: str, previous: Nodes | None = None
) -> Loaded:
    """Read the nodes list and the certificates; blocks, so it belongs in a thread.

    A file that does not exist counts as empty. An entry of the list or a certificate that cannot
    be used is skipped with a warning, as is a certificate that belongs to no node of the list.
    Where that concerns all of them, the file is taken for one of another format, and refused.

    Args:
        list_file: the nodes list, JSON in UTF-8, with or without a byte order mark.
        certs_file: PEM certificates (RFC 7468).
        my_id: the node id of this policy server.
        previous: the current nodes. If they have certificates, an empty certificates file is
            taken for one that is just being written, and one in which no certificate is usable
            for a broken one.

    Raises:
        NodesError: a file cannot be read, is broken or truncated as a whole, or has entries of
            which none is usable; the text names the file and the place. The previous nodes should
            then stay in use.
    """
    warnings = _Warnings()
    nodes = _load_list(list_file, warnings)
    may_be_empty = previous is None or not previous.has_certificates
    certificates = _load_certificates(certs_file, nodes or {}, warnings, may_be_empty)
    if nodes and not certificates:
        detail = "no certificate of any node: no run log can be verified"
        warnings.add(NodesWarning("no_certificate", detail, certs_file))
    return Loaded(
        Nodes(my_id, nodes, certificates),
        warnings.listed(),
        warnings.count,
        list_missing=nodes is None,
    )


def load_list(path: Path) -> dict[str, Node]:
    """Read the nodes list alone, without warnings; none if it does not exist. Blocks.

    For commands: it does not stop for the event loop of a daemon.

    Raises:
        NodesError: it cannot be read, or is broken as a whole.
    """
    return _load_list(path, _Warnings(), gently=False) or {}


def load_certificates_of(node_id: str, nodes: Mapping[str, Node], path: Path) -> CertificateStore:
    """Read the certificates of one node alone, a fraction of the work of all of them. Blocks.

    Args:
        node_id: the node.
        nodes: the nodes list.
        path: the certificates file; none are found if it does not exist.

    Raises:
        NodesError: it cannot be read.
    """
    store = CertificateStore()
    marks = [node_id.encode(codec, "replace") for codec in ("utf-8", "latin-1", "utf-16-be")]
    own = {node_id: nodes[node_id]}
    try:
        with path.open("rb", buffering=_READ_SIZE) as file:
            for _, block in pem_blocks(file):
                if isinstance(block, bytes) and any(mark in block for mark in marks):
                    with suppress(ValueError):
                        _add_certificate(store, block, own, ())
    except FileNotFoundError:
        return store
    except (OSError, ValueError) as error:
        detail = (
            str(error) if isinstance(error, ValueError) else f"cannot be read: {words_of(error)}"
        )
        raise NodesError(detail, file=path) from error
    return store


def parse_key_hash(text: object) -> KeyHash | None:
    """Read the `key-hash` of a nodes list: `sha256:<hex>` or `sha256//<base64>`, also sha512.

    Args:
        text: any value that the list has there.

    Returns:
        None if it is absent, of another type, or not a complete hash.
    """
    matched = _KEY_HASH.fullmatch(text) if isinstance(text, str) else None
    if matched is None:
        return None
    algorithm, hexadecimal, base64 = matched.groups()
    try:
        digest = bytes.fromhex(hexadecimal) if hexadecimal else _from_base64(base64)
    except ValueError:
        return None
    return KeyHash(algorithm, digest) if len(digest) == _DIGEST_SIZES[algorithm] else None


class _Entry(msgspec.Struct, rename="kebab"):
    """A value of the nodes list; other keys it may have are ignored."""

    hostname: object
    policy_server: str
    key_hash: object = None


class _Warnings:
    """The first few warnings, and a count of all.

    Attributes:
        count: of all.
    """

    def __init__(self) -> None:
        self._first: list[NodesWarning] = []
        self.count = 0

    def add(self, warning: NodesWarning) -> None:
        self.count += 1
        if self.count <= MAX_WARNINGS:
            self._first.append(warning)

    def listed(self) -> list[NodesWarning]:
        more = self.count - len(self._first)
        return [*self._first, NodesWarning("more", f"… and {more} more")] if more else self._first


def _load_list(path: Path, warnings: _Warnings, *, gently: bool = True) -> dict[str, Node] | None:
    """Read the nodes list; return None if it does not exist."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read_entries(path, file, warnings, gently=gently)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodesError(f"cannot be read: {words_of(error)}", file=path) from error
    except RecursionError as error:
        raise NodesError("nested too deeply", file=path) from error
    except ValueError as error:
        raise NodesError(str(error), file=path) from error


def _read_entries(
    path: Path, file: TextIO, warnings: _Warnings, *, gently: bool
) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    names: dict[str, str] = {}
    skipped, first = 0, ""
    found = in_small_steps(members(file)) if gently else members_at_once(file)
    for node_id, value in found:
        if node_id in nodes:
            raise ValueError(f"node {quoted(node_id)} is listed twice")
        try:
            node, doubt = _read_entry(node_id, value, names)
        except ValueError as error:
            detail = f"node {quoted(node_id)} skipped: {error}"
            skipped, first = skipped + 1, first or detail
            warnings.add(NodesWarning("entry", detail, path))
            continue
        nodes[node_id] = node
        if doubt is not None:
            detail = f"node {quoted(node_id)} cannot be reached: {doubt}"
            warnings.add(NodesWarning("hostname", detail, path))
    if skipped and not nodes:
        raise _none_usable("entry", "entries", skipped, first)
    return nodes


def _none_usable(kind: str, kinds: str, count: int, first: str) -> ValueError:
    """Return the error for a file of whose entries or certificates none can be used."""
    if count == 1:
        return ValueError(f"its only {kind} cannot be used: {first}")
    return ValueError(f"none of its {count} {kinds} can be used; the first: {first}")


def _read_entry(node_id: str, value: object, names: dict[str, str]) -> tuple[Node, str | None]:
    """Make a node from one member, and say what is wrong with its host name, if anything is.

    Args:
        node_id: name of the member.
        value: its value.
        names: lets nodes share the name of their policy server.
    """
    entry = msgspec.convert(value, _Entry)
    if not node_id or not (node_id + entry.policy_server).isprintable():
        raise ValueError("id or policy-server is empty or not printable")
    policy_server = names.setdefault(entry.policy_server, entry.policy_server)
    key_hash = parse_key_hash(entry.key_hash)
    if not isinstance(entry.hostname, str) or not entry.hostname.isprintable():
        node = Node(node_id, "", policy_server, key_hash)
        return node, "its hostname is not text, or not printable"
    node = Node(node_id, entry.hostname, policy_server, key_hash)
    return node, _doubt_hostname(entry.hostname)


def _doubt_hostname(hostname: str) -> str | None:
    if not hostname:  # usual for nodes that nobody calls
        return None
    try:
        usable_host(hostname)
    except HostError as error:
        return f"expected {error}, got hostname {quoted(hostname)}"
    return None


def _load_certificates(
    path: Path, nodes: Mapping[str, Node], warnings: _Warnings, may_be_empty: bool
) -> CertificateStore:
    try:
        with path.open("rb", buffering=_READ_SIZE) as file:
            store, unusable = _read_certificates(path, file, nodes, warnings)
            if not may_be_empty:
                _require_content(file)
                if unusable:
                    raise _none_usable("certificate", "certificates", *unusable)
            return store
    except FileNotFoundError:
        return CertificateStore()
    except OSError as error:
        raise NodesError(f"cannot be read: {words_of(error)}", file=path) from error
    except ValueError as error:
        raise NodesError(str(error), file=path) from error


def _read_certificates(
    path: Path, file: BinaryIO, nodes: Mapping[str, Node], warnings: _Warnings
) -> tuple[CertificateStore, tuple[int, str] | None]:
    """Read the certificates of listed nodes.

    Returns:
        The certificates; and, unless one certificate names a node, listed or not, how many there
        are and what is wrong with the first.
    """
    store = CertificateStore()
    servers = {node.policy_server for node in nodes.values()}
    skipped, first, usable = 0, "", False
    for line, block in in_small_steps(pem_blocks(file)):
        try:
            _add_certificate(store, block, nodes, servers)
        except ValueError as error:
            detail = f"line {line}: certificate skipped: {error}"
            skipped, first = skipped + 1, first or detail
            usable = usable or isinstance(error, _StrangerError)
            warnings.add(NodesWarning("certificate", detail, path))
        else:
            usable = True
    return store, (skipped, first) if skipped and not usable else None


class _StrangerError(ValueError):
    """A sound certificate is that of a node which is not in the list."""


def _require_content(file: BinaryIO) -> None:
    if file.tell() == 0:
        raise ValueError("line 1: cut off, it is empty")


def _add_certificate(
    store: CertificateStore, block: bytes | str, nodes: Mapping[str, Node], servers: Container[str]
) -> None:
    """Add one certificate; raise ValueError if it does not identify a node of the list."""
    if isinstance(block, str):
        raise ValueError(block)  # noqa: TRY004 - a fault of the file, not of the caller
    node_id, certificate, validity = read_certificate(block)
    if node_id is None:
        raise ValueError("its subject has no UID")
    node = nodes.get(node_id)
    if node is None:
        raise _StrangerError(f"node {quoted(node_id)} is not in the nodes list")
    store.add(node.id, certificate, validity)
    if node.id in servers:
        store.add_peer(node.id, block)


def _from_base64(text: str) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)
