"""Admission: the decision about a run-log file that needs only its name.

The daemon and `relayd inspect` both use it, so that their verdicts are the same.
"""

from typing import Protocol

import msgspec

from relayd.errors import Reason, Refused
from relayd.runlog.filename import parse_name
from relayd.runlog.model import NodeCertificate


class KnownNodes(Protocol):
    """The nodes whose run logs are accepted; `relayd.fleet.nodes.Nodes` implements it."""

    def get(self, node_id: str) -> object | None:
        """Return the entry of a node in the nodes list, None if it has none."""
        ...

    def certificates(self, node_id: str) -> tuple[NodeCertificate, ...]:
        """Return the certificates of a node."""
        ...

    def trust_token(self, node_id: str) -> str:
        """Return a digest of everything on which the acceptance of a node's signatures depends."""
        ...


class Origin(msgspec.Struct, frozen=True):
    """Origin of a run log, as given by the name of its file.

    Attributes:
        node_id: the node that uploaded it.
        run_date: RFC 3339 date-time of the run.
        trust: the node's trust token at the time of the admission.
    """

    node_id: str
    run_date: str
    trust: str


class Admitted(msgspec.Struct, frozen=True):
    """Parameters for the examination of a file.

    Attributes:
        archive: "gz", "zip" or "" (not packed).
        certificates: the file must be signed with one of these.
    """

    archive: str
    certificates: tuple[NodeCertificate, ...]


class Admission(msgspec.Struct, frozen=True):
    """The decision about a file by its name.

    Attributes:
        origin: None if the name is not that of a run log.
        decision: how to examine the file, or why it is refused without being opened.
    """

    origin: Origin | None
    decision: Admitted | Refused


def admit(file_name: str, nodes: KnownNodes) -> Admission:
    """Decide by the name of a file whether it is examined.

    Args:
        file_name: base name in the watched directory.
        nodes: the current nodes.
    """
    name = parse_name(file_name)
    if isinstance(name, Refused):
        return Admission(None, name)
    node_id = name.node_id
    origin = Origin(node_id, name.timestamp, nodes.trust_token(node_id))
    certificates = trusted_certificates(node_id, nodes)
    if isinstance(certificates, Refused):
        return Admission(origin, certificates)
    return Admission(origin, Admitted(name.archive, certificates))


def trusted_certificates(node_id: str, nodes: KnownNodes) -> tuple[NodeCertificate, ...] | Refused:
    """Return the certificates of a node, at least one, or why its run logs are refused."""
    if nodes.get(node_id) is None:
        return Refused(Reason.UNKNOWN_NODE, f"node {node_id!r} is not in the nodes list")
    return nodes.certificates(node_id) or Refused(
        Reason.NO_CERTIFICATE, f"node {node_id!r} has no certificate"
    )
