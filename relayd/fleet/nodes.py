"""The nodes of the fleet, the certificates of each, and the route to it.

`relayd.fleet.loading` reads the nodes list and the certificates file into an immutable `Nodes`,
which its owner puts in place of the previous one in a single step.
"""

import hashlib
import hmac
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from relayd.errors import NodesError
from relayd.fleet.certificates import CertificateStore
from relayd.runlog.model import NodeCertificate
from relayd.runlog.signature.certificates import Validity
from relayd.system.printable import printable

#: Longest chain of policy servers that is followed (the same bound as in `rudder-relayd`).
MAX_LEVELS: Final = 20


class KeyHash(msgspec.Struct, frozen=True, gc=False):
    """The hash of a node's public key, as recorded by the server.

    Attributes:
        algorithm: `sha256` or `sha512`.
        digest: 32 or 64 bytes.
    """

    algorithm: str
    digest: bytes

    def matches(self, spki_der: bytes) -> bool:
        """Return whether this is the hash of a given key.

        Args:
            spki_der: DER of its SubjectPublicKeyInfo (RFC 5280, 4.1).
        """
        actual = hashlib.new(self.algorithm, spki_der).digest()
        return hmac.compare_digest(actual, self.digest)


class Node(msgspec.Struct, frozen=True, gc=False):
    """One entry of the nodes list.

    Attributes:
        id: node id; printable, not empty.
        hostname: name to reach it by; may be empty.
        policy_server: id of the machine it reports to; `root` is its own.
        key_hash: None if the list has no usable one.
    """

    id: str
    hostname: str
    policy_server: str
    key_hash: KeyHash | None = None


class Nodes:
    """An immutable snapshot of the two files.

    Attributes:
        my_id: the node id of this policy server.
        managed_nodes: number of neighbours; on root this includes root itself.
        sub_nodes: number of all nodes in the list.
    """

    __slots__ = ("_certificates", "_nodes", "managed_nodes", "my_id", "sub_nodes")

    def __init__(
        self,
        my_id: str,
        nodes: Mapping[str, Node] | None = None,
        certificates: CertificateStore | None = None,
    ) -> None:
        """Take ownership of the arguments, without copying them; without any, all is empty.

        Args:
            my_id: the node id of this policy server.
            nodes: nodes by id.
            certificates: certificates of these nodes.
        """
        self.my_id = my_id
        self._nodes: Mapping[str, Node] = nodes or {}
        self._certificates = CertificateStore() if certificates is None else certificates
        self.sub_nodes = len(self._nodes)
        self.managed_nodes = sum(node.policy_server == my_id for node in self._nodes.values())

    def get(self, node_id: str) -> Node | None:
        """Return a node, or None if it is not in the list."""
        return self._nodes.get(node_id)

    def ids(self) -> Collection[str]:
        """Return the ids of all nodes, in the order of the list."""
        return self._nodes.keys()

    def certificates(self, node_id: str) -> tuple[NodeCertificate, ...]:
        """Return the certificates of a node, in the order of the file; none if unknown."""
        return self._certificates.get(node_id)

    def validity(self, node_id: str) -> tuple[Validity, ...]:
        """Return the validity of each certificate of a node, in the same order."""
        return self._certificates.validity(node_id)

    def route(self, node_id: str) -> list[str]:
        """Return the policy servers from below this one down to a node, and the node itself.

        Raises:
            NodesError: there is no route, see `next_hop`.
        """
        route = [node_id]
        hop = self.next_hop(node_id)
        while route[0] != hop:
            route.insert(0, self._nodes[route[0]].policy_server)
        return route

    @property
    def peers(self) -> Mapping[str, tuple[bytes, ...]]:
        """Certificates, DER, of the policy servers among the nodes, by node id.

        Relayd connects to policy servers only, so those of other nodes are not kept as a whole.
        """
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
        """Return the neighbour through which a node is reached.

        Args:
            node_id: the node to reach; a neighbour is its own next hop.

        Returns:
            The node id of a neighbour, never `my_id`.

        Raises:
            NodesError: the node is this policy server itself; it or a policy server above it is
                not in the list; its policy servers form a loop, or are more than `MAX_LEVELS`.
        """
        if node_id == self.my_id:
            raise NodesError(
                f"node {quoted(node_id)} is this policy server itself: there is no hop to it"
            )
        route = [node_id]
        while len(route) <= MAX_LEVELS:
            node = self._nodes.get(route[-1])
            if node is None:
                raise NodesError(
                    f"no route to node {quoted(node_id)}: {quoted(route[-1])} is not in the list"
                )
            if node.policy_server == self.my_id:
                return node.id
            if node.policy_server in route:
                raise NodesError(
                    f"no route to node {quoted(node_id)}: its policy servers form a loop"
                )
            route.append(node.policy_server)
        raise NodesError(
            f"no route to node {quoted(node_id)}: more than {MAX_LEVELS} policy servers"
        )

    def relay_of(self, node_id: str) -> str:
        """Return the id of the relay through which a node's files come; "" if none, or unknown."""
        node = self._nodes.get(node_id)
        if node is None or node.policy_server == self.my_id:
            return ""
        try:
            return self.next_hop(node_id)
        except NodesError:
            return ""

    def hostnames(self) -> dict[str, str]:
        """Return the host names of all nodes, by id."""
        return {node_id: node.hostname for node_id, node in self._nodes.items()}

    def trust_token(self, node_id: str) -> str:
        """Return a digest of everything that decides whether a node's signature is trusted.

        The token is the same in every process and after every restart, and does not depend on
        the order of the certificates file. A refused file is worth another attempt if, and only
        if, the token of its node has changed.

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
        """Count the certificates whose validity has ended (they are still trusted).

        Args:
            now: Unix time in seconds.
        """
        return self._certificates.expired(now)

    def premature_certificates(self, now: float) -> int:
        """Count the certificates that are not yet valid (they are already trusted).

        Args:
            now: Unix time in seconds.
        """
        return self._certificates.not_yet_valid(now)


def quoted(text: str) -> str:
    """Quote a name of unknown origin for a message."""
    return f'"{printable(text, 80)}"'
