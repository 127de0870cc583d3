"""Which nodes there are, which certificates vouch for each, and which way leads to it.

Rudder's server writes two files for each policy server: the nodes list, one JSON object that maps
node id to `hostname`, `policy-server` and `key-hash`, and the certificates file, PEM certificates
one after the other, whose subject `UID` is the node id. `load_nodes` reads both into an immutable
`Nodes`, which the owner puts in the place of the former one in one step.

Loading runs in a thread beside the event loop: it takes both files apart in small steps, so that
the loop goes on however large the fleet is, and never has one of them in memory as a whole.
"""

import binascii
import hashlib
import hmac
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, TextIO

import msgspec

from relayd.errors import NodesError
from relayd.fleet.certificates import CertificateStore
from relayd.fleet.formats import in_small_steps, members, pem_blocks
from relayd.runlog.model import NodeCertificate
from relayd.runlog.signature.certificates import read_certificate
from relayd.system.printable import printable

#: Longest chain of policy servers that is followed (the bound of `rudder-relayd`).
MAX_LEVELS: Final = 20

#: Warnings of one load that are told one by one; the others are only counted.
MAX_WARNINGS: Final = 20

#: Bytes of the certificates file that are read at once.
_READ_SIZE: Final = 256 * 1024

_KEY_HASH: Final = re.compile(r"(sha256|sha512)(?::([0-9A-Fa-f]+)|//([0-9A-Za-z+/]+={0,2}))")
_DIGEST_SIZES: Final = {"sha256": 32, "sha512": 64}


class KeyHash(msgspec.Struct, frozen=True, gc=False):
    """The hash that the server knows of a node's public key.

    Attributes:
        algorithm: `sha256` or `sha512`.
        digest: 32 or 64 bytes.
    """

    algorithm: str
    digest: bytes

    def matches(self, spki_der: bytes) -> bool:
        """Return whether this is the hash of a key.

        Args:
            spki_der: DER of its SubjectPublicKeyInfo (RFC 5280, 4.1).
        """
        actual = hashlib.new(self.algorithm, spki_der).digest()
        return hmac.compare_digest(actual, self.digest)


class Node(msgspec.Struct, frozen=True, gc=False):
    """One entry of the nodes list.

    Attributes:
        id: node id, not empty, printable.
        hostname: name to reach it by; may be empty.
        policy_server: id of the machine it reports to; `root` is its own.
        key_hash: None when the list does not tell a usable one.
    """

    id: str
    hostname: str
    policy_server: str
    key_hash: KeyHash | None = None


class Nodes:
    """What the two files said at one moment. Nothing of it changes afterwards.

    Attributes:
        my_id: the node id of this policy server.
        managed_nodes: number of neighbours; on root that includes root itself.
        sub_nodes: number of all nodes in the list.
    """

    __slots__ = ("_certificates", "_nodes", "managed_nodes", "my_id", "sub_nodes")

    def __init__(
        self,
        my_id: str,
        nodes: Mapping[str, Node] | None = None,
        certificates: CertificateStore | None = None,
    ) -> None:
        """Takes over what it is given, without copying; without arguments no node is known.

        Args:
            my_id: the node id of this policy server.
            nodes: nodes by id.
            certificates: those of known nodes.
        """
        self.my_id = my_id
        self._nodes: Mapping[str, Node] = nodes or {}
        self._certificates = CertificateStore() if certificates is None else certificates
        self.sub_nodes = len(self._nodes)
        self.managed_nodes = sum(node.policy_server == my_id for node in self._nodes.values())

    def get(self, node_id: str) -> Node | None:
        """Return a node, or None when the list does not have it."""
        return self._nodes.get(node_id)

    def ids(self) -> Iterable[str]:
        """Return the ids of all nodes in the list, in its order."""
        return self._nodes.keys()

    def certificates(self, node_id: str) -> tuple[NodeCertificate, ...]:
        """Return the certificates of a node, in the order of the file; none when unknown."""
        return self._certificates.get(node_id)

    def peer_certificates(self, node_id: str) -> tuple[bytes, ...]:
        """Return the certificates, DER, of a node that is the policy server of others.

        None for any other node: only policy servers are connected to.
        """
        return self._certificates.peers.get(node_id, ())

    @property
    def peers(self) -> Mapping[str, tuple[bytes, ...]]:
        """`peer_certificates` of all nodes that have some."""
        return self._certificates.peers

    @property
    def has_certificates(self) -> bool:
        """Whether any node has a certificate."""
        return bool(self._certificates)

    def is_neighbour(self, node_id: str) -> bool:
        """Return whether a node reports to this policy server."""
        node = self._nodes.get(node_id)
        return node is not None and node.policy_server == self.my_id

    def next_hop(self, node_id: str) -> str:
        """Find the neighbour through which a node is reached.

        Args:
            node_id: the node to reach; a neighbour is its own next hop.

        Returns:
            The node id of a neighbour, never our own.

        Raises:
            NodesError: it is ourselves; it or a policy server above it is not in the list; its
                policy servers form a circle, or are more than `MAX_LEVELS`.
        """
        if node_id == self.my_id:
            raise NodesError(
                f"node {_quoted(node_id)} is this policy server: there is no hop to it"
            )
        way = [node_id]
        while len(way) <= MAX_LEVELS:
            node = self._nodes.get(way[-1])
            if node is None:
                raise NodesError(
                    f"no way to node {_quoted(node_id)}: {_quoted(way[-1])} is not in the list"
                )
            if node.policy_server == self.my_id:
                return node.id
            if node.policy_server in way:
                raise NodesError(
                    f"no way to node {_quoted(node_id)}: its policy servers form a circle"
                )
            way.append(node.policy_server)
        raise NodesError(
            f"no way to node {_quoted(node_id)}: more than {MAX_LEVELS} policy servers"
        )

    def trust_token(self, node_id: str) -> str:
        """Return a digest of all that decides whether a signature of this node is believed.

        The token is the same in every process and after every restart, and does not depend on
        the order of the certificates file. A file that was refused is worth another look exactly
        when the token of its node is another one.

        Returns:
            16 hexadecimal digits.
        """
        digest = hashlib.sha256(b"known" if node_id in self._nodes else b"unknown")
        certificates = self.certificates(node_id)
        for part in sorted(
            hashlib.sha256(certificate.sid).digest() + hashlib.sha256(certificate.spki).digest()
            for certificate in certificates
        ):
            digest.update(part)
        return digest.hexdigest()[:16]

    def expired_certificates(self, now: float) -> int:
        """Count the certificates whose validity has ended (they are trusted all the same).

        Args:
            now: unix time in seconds.
        """
        return self._certificates.expired(now)

    def premature_certificates(self, now: float) -> int:
        """Count the certificates that are not valid yet (they are trusted all the same).

        Args:
            now: unix time in seconds.
        """
        return self._certificates.not_yet_valid(now)


class NodesWarning(msgspec.Struct, frozen=True):
    """A part of the two files that is not used; its text is one line.

    Attributes:
        kind: `entry` of the list, `certificate`, `no_certificate` of any node, or `more` warnings.
        detail: the fault, without the name of the file.
        file: the file, None for `more`.
    """

    kind: Literal["entry", "certificate", "no_certificate", "more"]
    detail: str
    file: Path | None = None

    def __str__(self) -> str:
        return self.detail if self.file is None else f"{self.file}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What one load gave.

    Attributes:
        nodes: the new snapshot.
        warnings: what was skipped and why, at most `MAX_WARNINGS` and one more that counts the
            others.
        list_missing: there is no nodes list (yet), so that no node can be told from a stranger.
    """

    nodes: Nodes
    warnings: list[NodesWarning]
    list_missing: bool


def load_nodes(
    list_file: Path, certs_file: Path, my_id: str, former: Nodes | None = None
) -> Loaded:
    """Read nodes list and certificates; blocks, so it belongs in a thread.

    A file that does not exist counts as empty. An entry of the list or a certificate that cannot
    be used is skipped with a warning, and so is a certificate of no known node.

    Args:
        list_file: the nodes list, JSON in UTF-8.
        certs_file: PEM certificates (RFC 7468).
        my_id: the node id of this policy server.
        former: the nodes in force. If they have certificates, a certificates file without a
            single byte is one that is being written.

    Raises:
        NodesError: a file cannot be read, or is broken or cut off as a whole; the text names the
            file and the place. What was loaded before should then stay in force.
    """
    warnings = _Warnings()
    nodes = _load_list(list_file, warnings)
    may_be_empty = former is None or not former.has_certificates
    certificates = _load_certificates(certs_file, nodes or {}, warnings, may_be_empty)
    if nodes and not certificates:
        detail = "no certificate of any node: no run log can be verified"
        warnings.add(NodesWarning("no_certificate", detail, certs_file))
    return Loaded(Nodes(my_id, nodes, certificates), warnings.listed(), list_missing=nodes is None)


def parse_key_hash(text: object) -> KeyHash | None:
    """Read the `key-hash` of a nodes list: `sha256:<hex>` or `sha256//<base64>`, also sha512.

    Args:
        text: whatever the list has there.

    Returns:
        None when it is absent, of another type, or not a whole hash.
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
    """A value of the nodes list as it is written; what else it has is not ours."""

    hostname: str
    policy_server: str
    key_hash: object = None


class _Warnings:
    """The first few warnings and the number of all."""

    def __init__(self) -> None:
        self._told: list[NodesWarning] = []
        self._count = 0

    def add(self, warning: NodesWarning) -> None:
        self._count += 1
        if self._count <= MAX_WARNINGS:
            self._told.append(warning)

    def listed(self) -> list[NodesWarning]:
        more = self._count - len(self._told)
        return [*self._told, NodesWarning("more", f"… and {more} more")] if more else self._told


def _load_list(path: Path, warnings: _Warnings) -> dict[str, Node] | None:
    """Read the nodes list; None when there is none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return _read_entries(path, file, warnings)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodesError(f"cannot be read: {error.strerror}", file=path) from error
    except RecursionError as error:
        raise NodesError("nested too deeply", file=path) from error
    except ValueError as error:
        raise NodesError(str(error), file=path) from error


def _read_entries(path: Path, file: TextIO, warnings: _Warnings) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    names: dict[str, str] = {}
    for node_id, value in in_small_steps(members(file)):
        if node_id in nodes:
            raise ValueError(f"node {_quoted(node_id)} is listed twice")
        try:
            nodes[node_id] = _read_entry(node_id, value, names)
        except ValueError as error:
            detail = f"node {_quoted(node_id)} skipped: {error}"
            warnings.add(NodesWarning("entry", detail, path))
    return nodes


def _read_entry(node_id: str, value: object, names: dict[str, str]) -> Node:
    """Make a node of one member; `names` lets nodes share the name of their policy server."""
    entry = msgspec.convert(value, _Entry)
    if not node_id or not (node_id + entry.hostname + entry.policy_server).isprintable():
        raise ValueError("id, hostname or policy-server is empty or not printable")
    policy_server = names.setdefault(entry.policy_server, entry.policy_server)
    return Node(node_id, entry.hostname, policy_server, parse_key_hash(entry.key_hash))


def _load_certificates(
    path: Path, nodes: Mapping[str, Node], warnings: _Warnings, may_be_empty: bool
) -> CertificateStore:
    try:
        with path.open("rb", buffering=_READ_SIZE) as file:
            store = _read_certificates(path, file, nodes, warnings)
            if not may_be_empty:
                _require_content(file)
            return store
    except FileNotFoundError:
        return CertificateStore()
    except OSError as error:
        raise NodesError(f"cannot be read: {error.strerror}", file=path) from error
    except ValueError as error:
        raise NodesError(str(error), file=path) from error


def _read_certificates(
    path: Path, file: BinaryIO, nodes: Mapping[str, Node], warnings: _Warnings
) -> CertificateStore:
    store = CertificateStore()
    servers = {node.policy_server for node in nodes.values()}
    for line, block in in_small_steps(pem_blocks(file)):
        try:
            _trust(store, block, nodes, servers)
        except ValueError as error:
            detail = f"line {line}: certificate skipped: {error}"
            warnings.add(NodesWarning("certificate", detail, path))
    return store


def _require_content(file: BinaryIO) -> None:
    if file.tell() == 0:
        raise ValueError("line 1: cut off, it is empty")


def _trust(
    store: CertificateStore, block: bytes | str, nodes: Mapping[str, Node], servers: Container[str]
) -> None:
    """Add one certificate; raises ValueError when it cannot vouch for a node."""
    if isinstance(block, str):
        raise ValueError(block)  # noqa: TRY004 - a fault of the file, not of the caller
    node_id, certificate, validity = read_certificate(block)
    if node_id is None:
        raise ValueError("its subject has no UID")
    node = nodes.get(node_id)
    if node is None:
        raise ValueError(f"node {_quoted(node_id)} is not in the nodes list")
    store.add(node.id, certificate, validity)
    if node.id in servers:
        store.add_peer(node.id, block)


def _from_base64(text: str) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)


def _quoted(text: str) -> str:
    """Show a name of unknown origin."""
    return f'"{printable(text, 80)}"'
