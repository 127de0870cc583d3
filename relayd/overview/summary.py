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
    name_of,
    node_row,
    relay_of,
    reporting_nodes,
)

#: Nodes of one list.
_SHOWN: Final = 8


class RelayRow(msgspec.Struct, frozen=True):
    """The nodes that report through one relay.

    Attributes:
        name: host name of the relay.
        nodes: how many they are.
        silent: how many have sent no run log for a while.
        lag_s: seconds from the start of the run to the end of its output, median; None if unknown.
    """

    name: str
    nodes: int
    silent: int
    lag_s: float | None


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
        self.lags = array("f")


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
        is_silent = record.arrived is None or record.arrived < limit
        if is_silent:
            silent.append((-math.inf if record.arrived is None else record.arrived, node_id))
        failures = record.failures + sources.failed.get(node_id, 0)
        if failures:
            failing.append((-failures, node_id))
        if floods(record, sources):
            flooding.append((-record.last_hour, node_id))
        hop = relay_of(sources.nodes, node_id)
        if hop is not None:
            relay = relays.setdefault(hop, _Relay())
            relay.nodes += 1
            relay.silent += is_silent
            if record.lag_s is not None:
                relay.lags.append(record.lag_s)
    return Summary(
        silent=_first(sources, silent, silent_s),
        failing=_first(sources, failing, silent_s),
        flooding=_first(sources, flooding, silent_s),
        relays=tuple(sorted(_relay_rows(sources, relays), key=lambda row: row.name)),
    )


def _first(
    sources: Sources, found: Iterable[tuple[float, str]], silent_s: float
) -> tuple[NodeRow, ...]:
    return tuple(
        node_row(sources, node_id, sources.record(node_id) or NO_RECORD, silent_s)
        for _, node_id in nsmallest(_SHOWN, found)
    )


def _relay_rows(sources: Sources, relays: dict[str, _Relay]) -> Iterable[RelayRow]:
    for node_id, relay in relays.items():
        lag_s = median(relay.lags) if relay.lags else None
        yield RelayRow(name_of(sources.nodes, node_id), relay.nodes, relay.silent, lag_s)
