"""What the page shows of all nodes together, without a row for each of them."""

import math
from array import array
from collections.abc import Iterable
from heapq import nsmallest
from statistics import median
from typing import Final

import msgspec

from relayd.overview.nodes import (
    NO_RECORD,
    NodeRow,
    Sources,
    floods,
    is_silent,
    name_of,
    node_row,
    relay_of,
    reporting_nodes,
)
from relayd.telemetry.nodes.records import NodeRecord

#: Nodes of one list.
_SHOWN: Final = 8


class RelayRow(msgspec.Struct, frozen=True):
    """The nodes that report through one relay.

    Attributes:
        name: host name of the relay.
        nodes: how many they are.
        silent: how many have sent no run log for a while.
        lag_s: seconds from the start of the run to the end of its output, median; None if unknown.
        waiting: their files in the spool, as far as these were counted.
        failed: their refused files that are kept.
    """

    name: str
    nodes: int
    silent: int
    lag_s: float | None
    waiting: int = 0
    failed: int = 0


class Relays(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes, by the relay through which they report.

    Attributes:
        relays: by name; the one without a name has the nodes that report here themselves.
    """

    relays: tuple[RelayRow, ...]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes as they were a short while ago.

    Attributes:
        silent: those that were silent for longest.
        failing: those with refused files, those with most of them first.
        flooding: those that send most of all run logs.
        relays: below this server, by name.
    """

    silent: tuple[NodeRow, ...] = ()
    failing: tuple[NodeRow, ...] = ()
    flooding: tuple[NodeRow, ...] = ()
    relays: tuple[RelayRow, ...] = ()


class _Relay:
    """Counts the nodes of one relay."""

    def __init__(self) -> None:
        self.nodes = 0
        self.silent = 0
        self.waiting = 0
        self.failed = 0
        self.lags = array("f")

    def add(self, sources: Sources, node_id: str, record: NodeRecord, limit: float) -> None:
        self.nodes += 1
        self.silent += is_silent(record, limit)
        self.waiting += sources.waiting.get(node_id, 0)
        self.failed += sources.failed.get(node_id, 0)
        if record.lag_s is not None:
            self.lags.append(record.lag_s)

    def row(self, name: str) -> RelayRow:
        lag_s = median(self.lags) if self.lags else None
        return RelayRow(name, self.nodes, self.silent, lag_s, self.waiting, self.failed)


def count_relays(sources: Sources, silent_s: float) -> Relays:
    """Return how the nodes of each relay are, and of those that report here themselves.

    Args:
        sources: of the facts.
        silent_s: seconds without a run log that are unusual.
    """
    relays: dict[str, _Relay] = {}
    for node_id in reporting_nodes(sources.nodes):
        record = sources.record(node_id) or NO_RECORD
        relay = relays.setdefault(relay_of(sources.nodes, node_id) or "", _Relay())
        relay.add(sources, node_id, record, sources.now - silent_s)
    return Relays(relays=_relay_rows(sources, relays))


def summarize(sources: Sources, silent_s: float) -> Summary:
    """Return what there is to say of all nodes.

    Args:
        sources: of the facts; how many files wait is not needed.
        silent_s: seconds without a run log that are unusual.
    """
    limit = sources.now - silent_s
    silent: list[tuple[float, str]] = []
    failing: list[tuple[int, str]] = []
    flooding: list[tuple[int, str]] = []
    relays: dict[str, _Relay] = {}
    for node_id in reporting_nodes(sources.nodes):
        record = sources.record(node_id) or NO_RECORD
        if is_silent(record, limit):
            silent.append((-math.inf if record.arrived is None else record.arrived, node_id))
        failures = record.failures + sources.failed.get(node_id, 0)
        if failures:
            failing.append((-failures, node_id))
        if floods(record, sources):
            flooding.append((-record.last_hour, node_id))
        hop = relay_of(sources.nodes, node_id)
        if hop is not None:
            relays.setdefault(hop, _Relay()).add(sources, node_id, record, limit)
    return Summary(
        silent=_first(sources, silent, silent_s),
        failing=_first(sources, failing, silent_s),
        flooding=_first(sources, flooding, silent_s),
        relays=_relay_rows(sources, relays),
    )


def _first(
    sources: Sources, found: Iterable[tuple[float, str]], silent_s: float
) -> tuple[NodeRow, ...]:
    return tuple(
        node_row(sources, node_id, sources.record(node_id) or NO_RECORD, silent_s)
        for _, node_id in nsmallest(_SHOWN, found)
    )


def _relay_rows(sources: Sources, relays: dict[str, _Relay]) -> tuple[RelayRow, ...]:
    rows = (
        relay.row(name_of(sources.nodes, node_id) if node_id else "")
        for node_id, relay in relays.items()
    )
    return tuple(sorted(rows, key=lambda row: row.name))
