"""The nodes as an operator sees them: who has not reported, who is refused, through which relay."""

import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import nsmallest
from typing import Final, Literal

import msgspec

from relayd.errors import NodesError
from relayd.fleet.finding import find_node
from relayd.fleet.nodes import Nodes
from relayd.telemetry.nodes.records import NodeRecord, Outcome

#: A node floods if it sends this part of all run logs of an hour, and at least so many.
FLOOD_PART: Final = 0.1
FLOOD_LEAST: Final = 100

#: What nodes are sorted by.
Sort = Literal["silence", "waiting", "rate", "failed"]
_ROOT: Final = "root"
#: Why a node is listed.
Trouble = Literal["silent", "failing", "flooding", "waiting"]


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One node. Points in time are Unix times; None stands for a value that is not known.

    Attributes:
        node_id: its id.
        hostname: as in the nodes list.
        relay: host name of the relay below this server through which it reports, "" for none.
        last_arrival: when its last run log arrived here.
        last_run: start of the newest run that was stored or forwarded, by the clock of the node.
        outcome: "stored", "forwarded", "refused" or "postponed": what became of the last one.
        reason: why it was refused.
        outcome_at: when that was.
        failures: files that were refused or postponed since one went well.
        waiting: run logs in the spool.
        failed: refused files that are kept.
        last_hour: run logs of the last hour.
        lag_s: seconds from the start of the last run to the end of its output.
        troubles: what is unusual about it.
    """

    node_id: str
    hostname: str = ""
    relay: str = ""
    last_arrival: float | None = None
    last_run: float | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    outcome_at: float | None = None
    failures: int = 0
    waiting: int = 0
    failed: int = 0
    last_hour: int = 0
    lag_s: float | None = None
    troubles: tuple[Trouble, ...] = ()


class NodesChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which nodes are meant; one has to meet all conditions.

    Attributes:
        silent: seconds without a run log; None for any.
        failing: whether only those whose last run log was refused or waits for another attempt.
        relay: a part of the name or id of the relay through which they report; None for any.
        sort: by what: the longest silence, the most waiting files, run logs an hour, or refused
            files first.
        limit: maximum number of nodes.
    """

    silent: float | None = None
    failing: bool = False
    relay: str | None = None
    sort: Sort = "silence"
    limit: int = 1000


class NodesPage(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes that are meant.

    Attributes:
        rows: the first of them, those that were silent for longest first.
        total: how many there are.
        known: nodes in the nodes list.
        observed_s: seconds for which arrivals are known: silence cannot be longer.
    """

    rows: tuple[NodeRow, ...]
    total: int
    known: int
    observed_s: float


class Sources(msgspec.Struct, frozen=True):
    """Where the rows come from.

    Attributes:
        nodes: the nodes list.
        record: returns the record of a node.
        last_hour: run logs of all nodes in the last hour.
        since: Unix time since which records go back.
        waiting: files in the spool, by node.
        failed: refused files, by node.
        now: Unix time.
    """

    nodes: Nodes
    record: Callable[[str], NodeRecord | None]
    last_hour: int
    since: float
    waiting: Mapping[str, int]
    failed: Mapping[str, int]
    now: float


def list_nodes(sources: Sources, choice: NodesChoice, part: str = "") -> NodesPage:
    """Return the nodes that are meant.

    Args:
        sources: of the facts.
        choice: which nodes are meant.
        part: of their names or ids, in any case; "" for any.

    Raises:
        NoSuchNodeError: no relay has the name that was given.
    """
    ids = reporting_nodes(sources.nodes)
    found = array("L", _matching(sources, ids, choice))
    if part:
        wanted = part.casefold()
        found = array("L", (one for one in found if _has(sources.nodes, ids[one], wanted)))
    key = _SORTED[choice.sort]
    first = nsmallest(choice.limit, found, lambda place: key(sources, ids[place]))
    return NodesPage(
        rows=tuple(_row(sources, ids[place], choice) for place in first),
        total=len(found),
        known=len(ids),
        observed_s=max(0.0, sources.now - sources.since),
    )


#: Of a node of which nothing was heard.
NO_RECORD: Final = NodeRecord(node_id="")


def _record(sources: Sources, node_id: str) -> NodeRecord:
    return sources.record(node_id) or NO_RECORD


_SORTED: Final[dict[Sort, Callable[[Sources, str], float]]] = {
    "silence": lambda sources, node_id: _record(sources, node_id).arrived or -math.inf,
    "waiting": lambda sources, node_id: -sources.waiting.get(node_id, 0),
    "rate": lambda sources, node_id: -_record(sources, node_id).last_hour,
    "failed": lambda sources, node_id: -sources.failed.get(node_id, 0),
}


def _row(sources: Sources, node_id: str, choice: NodesChoice) -> NodeRow:
    return node_row(sources, node_id, _record(sources, node_id), choice.silent)


def _matching(sources: Sources, ids: Sequence[str], choice: NodesChoice) -> Iterator[int]:
    """Yield the places of the nodes that are meant; a large fleet has no object for each node."""
    relays = _relays(sources.nodes, choice.relay)
    limit = None if choice.silent is None else sources.now - choice.silent
    for place, node_id in enumerate(ids):
        if limit is not None and not is_silent(_record(sources, node_id), limit):
            continue
        if choice.failing and not (
            sources.failed.get(node_id) or _record(sources, node_id).failures
        ):
            continue
        if relays is None or relay_of(sources.nodes, node_id) in relays:
            yield place


def _has(nodes: Nodes, node_id: str, part: str) -> bool:
    return part in node_id.casefold() or part in _hostname(nodes, node_id).casefold()


def is_silent(record: NodeRecord, limit: float) -> bool:
    """Return whether the last run log of a node arrived before a Unix time, if ever."""
    return record.arrived is None or record.arrived < limit


def node_row(
    sources: Sources, node_id: str, record: NodeRecord, silent_s: float | None = None
) -> NodeRow:
    """Return one node.

    Args:
        sources: of the facts.
        node_id: the node.
        record: its record.
        silent_s: seconds without a run log that are unusual; None if none are.
    """
    waiting, failed = sources.waiting.get(node_id, 0), sources.failed.get(node_id, 0)
    troubles: dict[Trouble, bool] = {
        "silent": silent_s is not None and is_silent(record, sources.now - silent_s),
        "failing": bool(record.failures or failed),
        "flooding": floods(record, sources),
        "waiting": bool(waiting),
    }
    return NodeRow(
        node_id=node_id,
        hostname=_hostname(sources.nodes, node_id),
        relay=_relay_name(sources.nodes, node_id),
        last_arrival=record.arrived,
        last_run=record.run,
        outcome=record.outcome,
        reason=record.reason.value if record.reason is not None else None,
        outcome_at=record.outcome_at,
        failures=record.failures,
        waiting=waiting,
        failed=failed,
        last_hour=record.last_hour,
        lag_s=record.lag_s,
        troubles=tuple(trouble for trouble, applies in troubles.items() if applies),
    )


def floods(record: NodeRecord, sources: Sources) -> bool:
    """Return whether a node sends too large a part of all run logs."""
    return record.last_hour >= max(FLOOD_LEAST, FLOOD_PART * sources.last_hour)


def _relay_name(nodes: Nodes, node_id: str) -> str:
    relay = relay_of(nodes, node_id)
    return "" if relay is None else name_of(nodes, relay)


def name_of(nodes: Nodes, node_id: str) -> str:
    """Return the host name of a node, or its id without one."""
    return _hostname(nodes, node_id) or node_id


def _hostname(nodes: Nodes, node_id: str) -> str:
    node = nodes.get(node_id)
    return "" if node is None else node.hostname


def _relays(nodes: Nodes, part: str | None) -> frozenset[str] | None:
    """Return the relays that are meant, None for any."""
    if part is None:
        return None
    servers = {node.policy_server for node in map(nodes.get, nodes.ids()) if node is not None}
    relays = [node for node in map(nodes.get, servers - {nodes.my_id}) if node is not None]
    return frozenset({find_node(part, {node.id: node.hostname for node in relays}, "--relay")})


def reporting_nodes(nodes: Nodes) -> list[str]:
    """Return the ids of the nodes whose run logs come here.

    A relay has its own run logs sent to its policy server; the root server is its own.
    """
    return [one for one in nodes.ids() if one != nodes.my_id or one == _ROOT]


def relay_of(nodes: Nodes, node_id: str) -> str | None:
    """Return the relay below this server through which a node reports; None for a neighbour."""
    if node_id == nodes.my_id:
        return None
    try:
        hop = nodes.next_hop(node_id)
    except NodesError:
        return None
    return None if hop == node_id else hop
