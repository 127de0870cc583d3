"""All about one node at this server: its record, its way, its certificates, its files."""

from typing import Final

import msgspec

from relayd.errors import NodesError
from relayd.fleet.nodes import Nodes
from relayd.overview.nodes import NodeRow, Sources, name_of, node_row
from relayd.runlog.signature.keys import describe_key
from relayd.telemetry.nodes.records import NodeRecord

#: Files that are named.
NAMED: Final = 20


class CertificateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate of a node.

    Attributes:
        key: its kind and size, as "RSA-4096".
        begins: Unix time from which it is valid.
        ends: Unix time until which it is valid.
    """

    key: str
    begins: float
    ends: float


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a node.

    Attributes:
        name: base name.
        at: when it arrived, or was refused; Unix time.
        reason: why it was refused; "" if it waits.
        detail: the fault, one line.
    """

    name: str
    at: float
    reason: str = ""
    detail: str = ""


class NodeDetail(msgspec.Struct, frozen=True, kw_only=True):
    """All about one node; None stands for a value that is not known.

    Attributes:
        row: as in the list of nodes.
        server: name of this policy server.
        role: what this one is, "root" or "relay".
        way: names of the relays from here to the node, without both.
        trouble: why there is no way.
        certificates: of the node; it may have several while its key changes.
        key_hash: whether the nodes list has a hash of its key.
        reports: of its last run.
        config_id: of its last run.
        ahead_s: seconds by which its clock is ahead, at least.
        inventory: what became of its last inventory.
        inventory_at: when that was, Unix time.
        waiting: the first files that wait.
        failed: the last files that were refused.
        database: start of its last run in the database, Unix time; only where run logs are stored.
    """

    row: NodeRow
    server: str
    role: str
    way: tuple[str, ...] = ()
    trouble: str | None = None
    certificates: tuple[CertificateFacts, ...] = ()
    key_hash: bool = False
    reports: int | None = None
    config_id: str | None = None
    ahead_s: float | None = None
    inventory: str | None = None
    inventory_at: float | None = None
    waiting: tuple[FileFacts, ...] = ()
    failed: tuple[FileFacts, ...] = ()
    database: float | None = None


def node_detail(
    sources: Sources,
    node_id: str,
    role: str,
    waiting: tuple[FileFacts, ...],
    failed: tuple[FileFacts, ...],
    database: float | None = None,
) -> NodeDetail:
    """Return all about a node of the nodes list; see `NodeDetail` for the arguments."""
    nodes = sources.nodes
    record = sources.record(node_id) or NodeRecord(node_id=node_id)
    node = nodes.get(node_id)
    way, trouble = _way(nodes, node_id)
    return NodeDetail(
        row=node_row(sources, node_id, record),
        server=name_of(nodes, nodes.my_id),
        role=role,
        way=way,
        trouble=trouble,
        certificates=_certificates(nodes, node_id),
        key_hash=node is not None and node.key_hash is not None,
        reports=record.reports,
        config_id=record.config_id,
        ahead_s=record.ahead_s,
        inventory=record.inventory,
        inventory_at=record.inventory_at,
        waiting=waiting,
        failed=failed,
        database=database,
    )


def _way(nodes: Nodes, node_id: str) -> tuple[tuple[str, ...], str | None]:
    if node_id == nodes.my_id:
        return (), None
    try:
        route = nodes.route(node_id)
    except NodesError as error:
        return (), str(error)
    return tuple(name_of(nodes, one) for one in route[:-1]), None


def _certificates(nodes: Nodes, node_id: str) -> tuple[CertificateFacts, ...]:
    return tuple(
        CertificateFacts(key=describe_key(certificate.spki), begins=begin, ends=end)
        for certificate, (begin, end) in zip(
            nodes.certificates(node_id), nodes.validity(node_id), strict=True
        )
    )
