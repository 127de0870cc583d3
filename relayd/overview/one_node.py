"""All about one node at this server: its record, its way, its certificates, its files."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from relayd.errors import NodesError
from relayd.fleet.nodes import Nodes
from relayd.overview.nodes import NodeRow, Sources, name_of, node_row
from relayd.runlog.signature.keys import describe_key
from relayd.spool.operations.rules import Rule
from relayd.telemetry.nodes.records import NodeRecord, Outcome

#: Files that are named.
NAMED: Final = 20

#: Bounds of what other relays say. Until the year 9000, so that any time can be shown.
_UnixTime = Annotated[float, Meta(ge=0.0, le=2.2e11)]
_Seconds = Annotated[float, Meta(ge=-1e9, le=1e9)]
_Number = Annotated[int, Meta(ge=0, le=10**9)]
_Word = Annotated[str, Meta(max_length=40, pattern=r"^[0-9A-Za-z._+~-]*\Z")]
_Name = Annotated[str, Meta(max_length=200)]
_Line = Annotated[str, Meta(max_length=500)]


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


class HopState(msgspec.Struct, frozen=True, kw_only=True):
    """What a relay on the way to a node says of that node; None stands for what it does not know.

    Attributes:
        relay: its node id.
        hostname: as in the nodes list of who asks.
        version: of the relay's relayd.
        last_arrival: when the last run log of the node arrived there, Unix time.
        outcome: what became of the one that was processed last, see `NodeRow`.
        reason: why it was refused.
        outcome_at: when that was, Unix time.
        waiting: files of the node in its spool.
        failed: refused files of the node that it keeps.
        lag_s: seconds from the start of the last run until the relay had forwarded it.
        trouble: why it could not be asked; all else is unknown then.
    """

    relay: _Name
    hostname: str = ""
    version: _Word = ""
    last_arrival: _UnixTime | None = None
    outcome: Outcome | None = None
    reason: _Word | None = None
    outcome_at: _UnixTime | None = None
    waiting: _Number = 0
    failed: _Number = 0
    lag_s: _Seconds | None = None
    trouble: _Line | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What others say of a node.

    Attributes:
        database: start of its last run in the database, Unix time.
        database_trouble: why the database could not be asked.
        hops: what the relays on the way say, that of the first one first; None if none was asked.
    """

    database: float | None = None
    database_trouble: str | None = None
    hops: tuple[HopState, ...] | None = None


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
        held: its files that operators have put on hold.
        on_hold_since: Unix time since which all that arrives of it is put on hold.
        on_hold_by: user who asked for that.
        database: start of its last run in the database, Unix time; only where run logs are stored.
        database_trouble: why the database could not be asked.
        hops: what the relays on the way say of it, see `HopState`; None if they were not asked.
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
    held: int = 0
    on_hold_since: float | None = None
    on_hold_by: str | None = None
    database: float | None = None
    database_trouble: str | None = None
    hops: tuple[HopState, ...] | None = None


def node_detail(
    sources: Sources,
    node_id: str,
    role: str,
    waiting: tuple[FileFacts, ...],
    failed: tuple[FileFacts, ...],
    held: tuple[int, Rule | None],
    asked: Asked,
) -> NodeDetail:
    """Return all about a node of the nodes list; see `NodeDetail` for the arguments."""
    nodes = sources.nodes
    record = sources.record(node_id) or NodeRecord(node_id=node_id)
    node = nodes.get(node_id)
    way, trouble = _way(nodes, node_id)
    number, rule = held
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
        held=number,
        on_hold_since=rule.since if rule is not None else None,
        on_hold_by=rule.by if rule is not None else None,
        database=asked.database,
        database_trouble=asked.database_trouble,
        hops=asked.hops,
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
