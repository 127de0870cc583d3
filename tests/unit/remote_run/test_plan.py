"""The division of a run among commands and relays."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.fleet.nodes import Node, Nodes
from relayd.remote_run.commands.runner import Target
from relayd.remote_run.hop import _read as read_event
from relayd.remote_run.plan import MAX_ARGUMENT, Plan, make_plan, orders
from relayd.remote_run.request import RunRequest
from tests.support.remote_run import make_nodes


def _hops(plan: Plan) -> dict[str, list[str]]:
    return {relay: hop.nodes for relay, hop in plan.hops.items()}


@pytest.mark.history(46, 48)
async def test_nodes_go_to_the_relay_they_are_below() -> None:
    """A node at any depth is assigned to the neighbour on the route to it."""
    nodes = make_nodes(["n1"], {"r1": ["r2", "m1"], "r2": ["k1"], "r9": ["j1"]})
    plan = await make_plan(RunRequest(("n1", "k1", "m1", "r2", "j1", "root", "x")), nodes)
    assert [target.node for target in plan.local] == ["n1", "root"]
    assert _hops(plan) == {"r1": ["k1", "m1", "r2"], "r9": ["j1"]}
    assert plan.unreachable == {"x": "unknown node"}


@pytest.mark.history(46)
async def test_all_of_a_relay_is_what_is_below_it() -> None:
    """A relay leaves out itself and those above it, and lists the nodes it cannot reach."""
    parents = {
        "root": "root", "r1": "root", "me": "r1", "n1": "me", "r2": "me", "m1": "r2",
        "a": "b", "b": "a", "o": "gone",
    }  # fmt: skip
    nodes = Nodes("me", {node: Node(node, node, parent) for node, parent in parents.items()})
    plan = await make_plan(RunRequest(None), nodes)
    assert [target.node for target in plan.local] == ["n1", "r2"]
    assert _hops(plan) == {"r2": ["m1"]}
    assert set(plan.unreachable) == {"a", "b", "o"}


@pytest.mark.fault("G9")
async def test_relays_in_a_loop_are_reported() -> None:
    """A node whose policy servers form a loop is unreachable."""
    parents = {"a": "b", "b": "c", "c": "a", "n": "a"}
    nodes = Nodes("root", {node: Node(node, node, parent) for node, parent in parents.items()})
    plan = await make_plan(RunRequest(None), nodes)
    assert set(plan.unreachable) == {"a", "b", "c", "n"}
    assert all("loop" in why for why in plan.unreachable.values())


@pytest.mark.parametrize(
    ("hostname", "host"),
    [
        ("r1.test", "r1.test"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("a/b", None),
        ("u@h", None),
        ("", None),
        ("-x", None),
        ("h:1/", None),
        ("é.test", "xn--9ca.test"),
        ("h.test.", "h.test."),
        ("fe80::1%eth0", "[fe80::1%eth0]"),
        ("[::1]", "[::1]"),
        *(
            pytest.param(name, None, marks=pytest.mark.fault("F6"))
            for name in [
                "a..b",
                "h:443",
                "https://h",
                "x" * 64,
                "::::",
                "1:2",
                "[h]",
                "\u5927\u2488",
                "h.test..",
                "é" * 300,
                "a b",
            ]
        ),
    ],
)
async def test_a_sub_relay_is_called_by_a_plain_host_only(hostname: str, host: str | None) -> None:
    """A host name that would be more than a host in a URL is not used."""
    nodes = make_nodes([], {"r1": ["m1"]}, hosts={"r1": hostname})
    plan = await make_plan(RunRequest(("m1",)), nodes)
    assert plan.hops["r1"].host == host


@pytest.mark.fault("A14")
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=255), max_size=60))
def test_orders_have_all_hosts_once_and_fit(hosts: list[str]) -> None:
    """All hosts are in the commands, in order, and no argument is too long."""
    local = [Target(str(number), host) for number, host in enumerate(hosts * 60)]
    made = list(orders(Plan("me", local), RunRequest(None, ("c",))))
    assert [target for order in made for target in order.targets] == local
    sizes = [len(",".join(target.host for target in order.targets).encode()) for order in made]
    assert max(sizes, default=0) <= MAX_ARGUMENT
    assert all(first + second > MAX_ARGUMENT - 1100 for first, second in pairwise(sizes))


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    "line", [b'{"event":"exit","relay":"r","x":' + b"[" * 30_000, b"{" * 9, b"\xff", b"[]", b""]
)
def test_event_that_cannot_be_decoded_is_none(line: bytes) -> None:
    """A line of a sub-relay that is no event, however deeply it is nested, raises nothing."""
    assert read_event(line) is None
