"""What the name of a run-log file decides, before anything of it is read.

The daemon and `relayd inspect` both ask here, so that they cannot disagree.
"""

from typing import Protocol

import msgspec

from relayd.errors import Reason, Refused
from relayd.runlog.filename import parse_name
from relayd.runlog.model import NodeCertificate


class KnownNodes(Protocol):
    """The nodes whose run logs are accepted; `relayd.fleet.nodes.Nodes` is one."""

    def get(self, node_id: str) -> object | None:
        """Return what the nodes list says about a node, None where it does not have it."""
        ...

    def certificates(self, node_id: str) -> tuple[NodeCertificate, ...]:
        """Return the certificates that this node may sign with."""
        ...

    def trust_token(self, node_id: str) -> str:
        """Return a digest of all that decides whether a signature of this node is accepted."""
        ...


class Origin(msgspec.Struct, frozen=True):
    """Where a run log comes from, by the name of its file.

    Attributes:
        node_id: the node that uploaded it.
        run_date: RFC 3339 date-time of the run.
        trust: the node's trust token when the name was read.
    """

    node_id: str
    run_date: str
    trust: str


class Admitted(msgspec.Struct, frozen=True):
    """How a file that may be examined is to be read.

    Attributes:
        archive: "gz", "zip" or "" (stored as it is).
        certificates: one of these must have signed it.
    """

    archive: str
    certificates: tuple[NodeCertificate, ...]


class Admission(msgspec.Struct, frozen=True):
    """What the name of a file decides.

    Attributes:
        origin: None when the file is not named as a run log.
        decision: how to examine the file, or why it is refused without being opened.
    """

    origin: Origin | None
    decision: Admitted | Refused


def admit(file_name: str, nodes: KnownNodes) -> Admission:
    """Decide by its name whether a file is examined.

    Args:
        file_name: base name in the watched directory.
        nodes: the nodes in force.
    """
    name = parse_name(file_name)
    if isinstance(name, Refused):
        return Admission(None, name)
    node_id = name.node_id
    origin = Origin(node_id, name.timestamp, nodes.trust_token(node_id))
    if nodes.get(node_id) is None:
        detail = f"node {node_id!r} is not in the nodes list"
        return Admission(origin, Refused(Reason.UNKNOWN_NODE, detail))
    certificates = nodes.certificates(node_id)
    if not certificates:
        detail = f"node {node_id!r} has no certificate"
        return Admission(origin, Refused(Reason.NO_CERTIFICATE, detail))
    return Admission(origin, Admitted(name.archive, certificates))
