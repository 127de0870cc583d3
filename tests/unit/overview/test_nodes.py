"""The nodes as an operator sees them."""

from typing import Any

import pytest

from relayd.errors import Reason
from relayd.fleet.finding import NoSuchNodeError
from relayd.fleet.nodes import Node, Nodes
from relayd.overview.nodes import (
    NodesChoice,
    NodesPage,
    Sources,
    list_nodes,
    relay_of,
)
from relayd.overview.summary import RelayRow, count_relays, summarize
from relayd.telemetry.nodes.records import NodeRecord

NOW = 1_000_000.0
FLEET = Nodes(
    "root",
    {
        node.id: node
        for node in (
            Node("root", "root.test", "root"),
            Node("r1", "relay-paris.test", "root"),
            Node("r2", "relay-lyon.test", "r1"),
            Node("a", "web-1.test", "root"),
            Node("b", "web-12.test", "r1"),
            Node("c", "web-2.test", "r2"),
            Node("d", "db-1.test", "gone"),
        )
    },
)
RECORDS = {
    "a": NodeRecord(node_id="a", arrived=NOW - 60, last_hour=990),
    "b": NodeRecord(
        node_id="b",
        arrived=NOW - 3600,
        outcome="refused",
        reason=Reason.SIGNATURE,
        failures=2,
        last_hour=10,
        lag_s=7.0,
    ),
    "r1": NodeRecord(node_id="r1", arrived=NOW - 30),
}


SOURCES = Sources(
    nodes=FLEET,
    record=RECORDS.get,
    last_hour=1000,
    since=NOW - 7200,
    waiting={"c": 5},
    failed={"b": 2, "d": 1},
    now=NOW,
)


def _list(part: str = "", **choice: Any) -> NodesPage:
    return list_nodes(SOURCES, NodesChoice(**choice), part)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, ["root", "c", "d", "r2", "b", "a", "r1"]),
        ({"silent": 900.0}, ["root", "c", "d", "r2", "b"]),
        ({"silent": 900.0, "failing": True}, ["d", "b"]),
        ({"relay": "paris"}, ["c", "r2", "b"]),
        ({"relay": "r1", "sort": "waiting"}, ["c", "r2", "b"]),
        ({"sort": "rate", "limit": 2}, ["a", "b"]),
    ],
)
def test_choice_and_order(choice: dict[str, Any], expected: list[str]) -> None:
    """Each condition leaves out nodes; those that were never heard of are silent for longest."""
    ids = [row.node_id for row in _list(**choice).rows]
    assert sorted(ids) == sorted(expected)
    if "sort" in choice or not choice:
        assert ids[-2:] == expected[-2:]


@pytest.mark.parametrize(
    ("part", "expected"),
    [("WEB-1", {"a", "b"}), ("paris", {"r1"}), ("r2", {"r2"}), ("none", set())],
)
def test_a_part_of_a_name_or_id_is_enough(part: str, expected: set[str]) -> None:
    """Names are found in any case, together with the conditions, and all of them are counted."""
    page = _list(part)
    assert {row.node_id for row in page.rows} == expected
    assert page.total == len(expected)
    assert {row.node_id for row in _list("web", silent=900.0, limit=1).rows} < {"b", "c"}
    assert _list("web", silent=900.0, limit=1).total == 2


def test_summary_agrees_with_the_list() -> None:
    """What is said of all nodes together is what the rows of the list add up to."""
    summary = summarize(SOURCES, 900.0)
    rows = {row.node_id: row for row in _list(silent=900.0).rows}
    assert {row.node_id: row for row in summary.silent} == rows
    assert [row.node_id for row in summary.failing] == ["b", "d"]
    assert [row.node_id for row in summary.flooding] == ["a"]
    (relay,) = summary.relays
    through = [row for row in _list().rows if row.relay == relay.name]
    assert (relay.name, relay.nodes, relay.silent) == ("relay-paris.test", len(through), 3)
    assert relay.lag_s == 7.0


def test_row_says_what_is_unusual() -> None:
    """A row names the relay below this server, and what is wrong with the node."""
    rows = {row.node_id: row for row in _list(silent=900.0).rows}
    assert rows["b"].troubles == ("silent", "failing")
    assert (rows["b"].reason, rows["b"].relay) == ("signature", "relay-paris.test")
    assert rows["c"].troubles == ("silent", "waiting")
    page = _list()
    assert {row.node_id: row.troubles for row in page.rows}["a"] == ("flooding",)
    assert (page.total, page.known, page.observed_s) == (7, 7, 7200.0)


def test_an_unknown_relay_is_an_error_that_names_the_option() -> None:
    """Only relays are candidates, and the message says which option is wrong."""
    with pytest.raises(NoSuchNodeError, match=r"^--relay relay-: 2 nodes fit: relay-"):
        _list(relay="relay-")
    with pytest.raises(NoSuchNodeError, match=r"^--relay web-1\.test: no node has this"):
        _list(relay="web-1.test")


def test_relay_of_a_node() -> None:
    """The relay is the first hop; a neighbour and a node without a way have none."""
    assert [relay_of(FLEET, node) for node in "abcd"] == [None, "r1", "r1", None]


def test_relays_count_the_nodes_behind_them() -> None:
    """Each node counts for the relay through which it reports here, or for none; once."""
    assert count_relays(SOURCES, 900.0).relays == (
        RelayRow("", nodes=4, silent=2, lag_s=None, waiting=0, failed=1),
        RelayRow("relay-paris.test", nodes=3, silent=3, lag_s=7.0, waiting=5, failed=2),
    )
