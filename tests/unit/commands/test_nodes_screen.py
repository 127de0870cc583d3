"""What `relayd nodes` and `relayd node` print."""

import re
import shlex

import msgspec
import pytest

from relayd.commands.nodes.screen import node_lines, short_names
from relayd.overview.nodes import NodeRow
from relayd.overview.one_node import FileFacts, HopState, NodeDetail

NOW = 1_800_000_000.0
FULL = NodeDetail(
    row=NodeRow(
        node_id="5b1c0f5e-9f1d-4b43-8c1c-2a6bb0a1c0a9",
        hostname="web-12.example.com",
        last_arrival=NOW - 60,
        last_run=NOW - 90,
        outcome="refused",
        reason="unknown_signer",
        outcome_at=NOW - 59,
        waiting=120,
        failed=7,
        last_hour=1_000,
        troubles=("flooding", "failing"),
    ),
    server="root.example.com",
    role="root",
    way=("relay-paris.example.com", "relay-lyon.example.com"),
    config_id="20261128-081100-5e7a91c0",
    reports=72,
    waiting=(FileFacts(name="a", at=NOW - 600),),
    failed=tuple(
        FileFacts(name=str(n), at=NOW - 60, reason="unknown_signer", detail="x " * 40)
        for n in range(7)
    ),
    hops=(HopState(relay="r", hostname="relay-paris.example.com", trouble="not asked " * 9),),
)


@pytest.mark.parametrize("width", [80, 160])
def test_all_about_a_node_fits_and_no_command_is_divided(width: int) -> None:
    """Long rows go on below their text; each trouble has its command in one piece."""
    lines = [*node_lines(FULL, NOW, follow=True, width=width)]
    assert max(map(len, lines)) <= width
    assert lines[0] == "web-12.example.com   5b1c0f5e-9f1d-4b43-8c1c-2a6bb0a1c0a9"
    for command in (
        "relayd queue show --node web-12.example.com",
        "relayd queue hold --node web-12.example.com",
        "relayd failed show --node web-12.example.com",
        "there: relayd status",
    ):
        assert [line for line in lines if command in line], command
    assert "120 files, the oldest for 10 min" in "\n".join(lines)


def test_a_node_on_hold_says_so_and_how_to_release_it() -> None:
    """An arrival after the last outcome is that of another run log."""
    row = msgspec.structs.replace(FULL.row, outcome="stored", reason=None, last_arrival=NOW - 9)
    detail = msgspec.structs.replace(
        FULL, row=row, held=3, on_hold_since=NOW - 30, on_hold_by="root"
    )
    text = "\n".join(node_lines(detail, NOW, width=160))
    (line,) = [line for line in text.split("\n") if line.startswith("on hold")]
    assert line.startswith("on hold       3 files, and all that arrives, since ")
    assert line.endswith(" by root   relayd queue release --node web-12.example.com")
    assert re.search(r"started \S+, stored \S+, the next arrived \S+\n", text)


def test_a_node_of_which_nothing_is_known_can_be_started() -> None:
    """The next step for a node that never reported is to run its agent."""
    row = NodeRow(node_id="id", hostname="web-7.test")
    lines = [*node_lines(NodeDetail(row=row, server="root.test", role="relay"), NOW)]
    assert "last run log  none is known here   relayd run web-7.test" in lines


def test_a_command_with_a_hostile_name_is_safe_to_copy() -> None:
    """Nodes choose their host names; a shell takes each as one word."""
    row = NodeRow(node_id="id", hostname="a; reboot", waiting=1, failed=1, troubles=("flooding",))
    lines = [*node_lines(NodeDetail(row=row, server="root.test", role="relay"), NOW, width=160)]
    commands = [line.rpartition("relayd ")[2] for line in lines if "a; reboot'" in line]
    assert len(commands) == 4
    assert all(shlex.split(command)[-1] == "a; reboot" for command in commands), commands


@pytest.mark.parametrize(
    ("names", "short"),
    [
        ({"", "relay-1.test", "relay-2.test"}, {"", "relay-1", "relay-2"}),
        ({"relay.one", "relay.two"}, {"relay.one", "relay.two"}),
        ({"10.0.0.1", "relay.test"}, {"10.0.0.1", "relay"}),
    ],
)
def test_relays_have_short_names_where_those_differ(names: set[str], short: set[str]) -> None:
    """A domain is left out unless it is what tells two relays apart."""
    assert set(short_names(names).values()) == short
