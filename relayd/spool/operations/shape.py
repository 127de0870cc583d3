"""Who waits, and for how long: a table of nodes by age, as of Postfix's qshape."""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from relayd.spool.operations.entries import Entry

#: Upper ends of the columns, seconds; the last column has no end.
EDGES: Final = (60.0, 300.0, 900.0, 3_600.0, 21_600.0)
LABELS: Final = ("<1m", "<5m", "<15m", "<1h", "<6h", "older")
#: Columns of the last hour.
_LAST_HOUR: Final = 4

#: A node floods if it has this share of all files of the last hour, and this many: five times what
#: an agent sends that runs every five minutes.
FLOOD_SHARE: Final = 0.1
FLOOD_FILES: Final = 60
#: Nodes and relays that are shown.
ROWS: Final = 10


class Row(msgspec.Struct, frozen=True):
    """The files of a node or a relay by age.

    Attributes:
        node: its id.
        hostname: may be empty.
        total: how many files.
        ages: how many in each column, see `LABELS`.
        flood: its share of all files of the last hour, if it sends too many; else 0.
    """

    node: str
    hostname: str
    total: int
    ages: tuple[int, ...]
    flood: float = 0.0


class Shape(msgspec.Struct, frozen=True):
    """The files by node and age.

    Attributes:
        total: all files; its node is empty.
        nodes: those with the most files.
        relays: the relays through which the most files come; only those that are neighbours.
        other_nodes: how many more nodes have files.
        held: files that were set aside, which are not counted otherwise.
    """

    total: Row
    nodes: list[Row]
    relays: list[Row]
    other_nodes: int
    held: int


class Names(msgspec.Struct, frozen=True):
    """What is said about nodes besides their ids.

    Attributes:
        hostname: returns the host name of a node, "" if unknown.
        relay: returns the id of the relay through which a node's files come, "" if none.
    """

    hostname: Callable[[str], str]
    relay: Callable[[str], str]


def measure(entries: Iterable[Entry], names: Names, now: float, rows: int = ROWS) -> Shape:
    """Count files by node and age.

    Args:
        entries: the files.
        names: of the nodes.
        now: Unix time.
        rows: nodes, and relays, that are counted by themselves.
    """
    held = 0
    by_node: dict[str, list[int]] = {}
    for entry in entries:
        if entry.layer:
            held += 1
            continue
        counts = by_node.get(entry.node_id)
        if counts is None:
            by_node[entry.node_id] = counts = [0] * len(LABELS)
        counts[bisect_right(EDGES, now - entry.dated)] += 1
    total = [sum(column) for column in zip(*by_node.values(), strict=True)] or [0] * len(LABELS)
    by_relay: dict[str, list[int]] = {}
    for node_id, counts in by_node.items():
        if relay := names.relay(node_id):
            sums = by_relay.setdefault(relay, [0] * len(LABELS))
            sums[:] = [one + other for one, other in zip(sums, counts, strict=True)]
    hour = sum(total[:_LAST_HOUR])
    nodes = _largest(by_node, names, rows, hour)
    # A relay has many nodes: what it sends is no flood.
    relays = _largest(by_relay, names, rows, 0)
    return Shape(
        Row("", "", sum(total), tuple(total)), nodes, relays, len(by_node) - len(nodes), held
    )


def _largest(counts: dict[str, list[int]], names: Names, rows: int, hour: int) -> list[Row]:
    """Return a row for each node that has the most files, and for each that floods."""
    order = sorted(counts, key=lambda node_id: (-sum(counts[node_id]), node_id))
    shown = [
        node_id
        for place, node_id in enumerate(order)
        if place < rows or _flood(counts[node_id], hour)
    ]
    return [
        Row(
            node_id,
            names.hostname(node_id),
            sum(counts[node_id]),
            tuple(counts[node_id]),
            _flood(counts[node_id], hour),
        )
        for node_id in shown
    ]


def _flood(counts: list[int], hour: int) -> float:
    files = sum(counts[:_LAST_HOUR])
    share = files / hour if hour else 0.0
    return share if files >= FLOOD_FILES and share >= FLOOD_SHARE else 0.0
