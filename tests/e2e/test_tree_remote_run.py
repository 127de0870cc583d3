"""Remote run through a root server, a relay and a relay below it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import open_daemon
from tests.support.postgres import Database
from tests.support.remote_lines import Lines, run
from tests.support.tree import HOSTS, Tree, make_tree, open_fronts, open_tree

EVERYBODY = ("root", "relay", "sub", "node0", "node1", "node2")


@pytest.fixture
def tree(tmp_path: Path, database: Database) -> Tree:
    """Return the three members, written."""
    return make_tree(tmp_path, database.rudder)


def said(node: str, by: str) -> list[str]:
    """Return what the agents' command says for a machine."""
    host = HOSTS.get(node, f"{node}.test")
    return [f"{host}: begins, started by {by}", f"{host}: ends"]


@pytest.mark.history(46, 47, 48)
async def test_all(tree: Tree) -> None:
    """Every machine of the tree is run once, by its own policy server, with the conditions."""
    async with open_tree(tree), run(tree.root, "all", conditions="one,two") as lines:
        output = await lines.rest()
    expected = [
        *said("root", "root"),
        *said("relay", "root"),
        *said("node0", "root"),
        *said("sub", "relay"),
        *said("node1", "relay"),
        *said("node2", "sub"),
    ]
    assert Counter(output) == Counter(expected)
    for member, hosts in (
        (tree.root, {"127.0.0.1", "127.0.0.2", "node0.test"}),
        (tree.relay, {"127.0.0.3", "node1.test"}),
        (tree.sub, {"node2.test"}),
    ):
        (call,) = member.agent_calls()
        assert call.startswith("remote run -D one,two -- ")
        assert set(call.rpartition(" ")[2].split(",")) == hosts


@pytest.mark.history(49)
async def test_output_of_a_node_two_relays_away_comes_as_it_is_produced(tree: Tree) -> None:
    """The first line is at the top while the agent, two relays below, still waits."""
    hold = tree.sub.hold_agent()
    async with open_tree(tree), run(tree.root, "nodes/node2") as lines:
        assert await lines.next() == "node2.test: begins, started by sub"
        await hold.release()
        assert await lines.next() == "node2.test: ends"
        assert await lines.next() == ""
    assert tree.sub.agent_calls() == ["remote run -- node2.test"]
    assert tree.root.agent_calls() == tree.relay.agent_calls() == []


async def events(lines: Lines) -> list[dict[str, Any]]:
    """All events of a run."""
    return [json.loads(line) for line in await lines.rest()]


def verdicts(events: list[dict[str, Any]]) -> dict[str, tuple[str, str, int | None]]:
    """Kind, relay and exit code of the verdict of each node, which has one only."""
    found = [event for event in events if event["event"] in ("exit", "unreachable", "hop_error")]
    nodes = [event["node"] for event in found]
    assert len(set(nodes)) == len(nodes)
    return {event["node"]: (event["event"], event["relay"], event.get("code")) for event in found}


async def test_every_node_has_one_verdict(tree: Tree) -> None:
    """As events, each machine ends with one verdict, sent by the relay that ran it."""
    async with open_tree(tree), run(tree.root, "all", events=True) as lines:
        received = await events(lines)
    assert verdicts(received) == {
        "root": ("exit", "root", 0),
        "relay": ("exit", "root", 0),
        "node0": ("exit", "root", 0),
        "sub": ("exit", "relay", 0),
        "node1": ("exit", "relay", 0),
        "node2": ("exit", "sub", 0),
    }
    output = Counter(event["output"] for event in received if event["event"] == "output")
    assert output == Counter(
        line for node, (_, by, _) in verdicts(received).items() for line in said(node, by)
    )


async def test_a_relay_that_is_down_is_told_for_each_node_below(tree: Tree) -> None:
    """Where a relay on the way is away, its nodes' verdicts say so; the others are run."""
    async with (
        open_fronts(tree),
        open_daemon(tree.root),
        open_daemon(tree.relay),
        run(tree.root, "nodes", nodes="node0,node1,node2,stranger", events=True) as lines,
    ):
        found = verdicts(await events(lines))
    assert found["node0"] == ("exit", "root", 0)
    assert found["node1"] == ("exit", "relay", 0)
    assert found["node2"][:2] == ("hop_error", "sub")
    assert found["stranger"][0] == "unreachable"
    assert len(found) == 4


async def test_a_relay_that_dies_in_the_middle(tree: Tree) -> None:
    """Output from before its death arrives, its node's verdict says what happened, others go on."""
    hold = tree.sub.hold_agent()
    received: list[dict[str, Any]] = []
    async with (
        open_fronts(tree),
        open_daemon(tree.root),
        open_daemon(tree.relay),
        open_daemon(tree.sub) as sub,
        run(tree.root, "nodes", nodes="node1,node2", events=True) as lines,
    ):
        while "node2.test: begins, started by sub" not in [
            event.get("output") for event in received
        ]:
            received.append(json.loads(await lines.next()))
        sub.process.kill()
        received += await events(lines)
        await hold.release()  # its command outlives it
    found = verdicts(received)
    assert found["node1"] == ("exit", "relay", 0)
    assert found["node2"][0] == "hop_error"


@pytest.mark.parametrize("asynchronous", ["true", "false"])
async def test_without_output(tree: Tree, asynchronous: str) -> None:
    """Who does not want the output gets none, and the runs are made all the same."""
    hold = tree.sub.hold_agent() if asynchronous == "true" else None
    async with open_tree(tree) as daemons:
        async with run(
            tree.root, "nodes/node2", asynchronous=asynchronous, keep_output="false"
        ) as lines:
            assert await lines.rest() == []
        if hold is not None:
            # It was answered while the agent had not even begun to end.
            await hold.release()
        await daemons["sub"].saw(r"remote_run: remote run .*outcome=ok")
    assert tree.sub.agent_calls() == ["remote run -- node2.test"]
