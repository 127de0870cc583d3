"""Verdicts and deadlines of remote runs: true for each node, and put off by progress."""

from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from relayd.remote_run.commands import watch
from relayd.remote_run.events import NOTE
from relayd.remote_run.helper.limits import Limits
from tests.support.agent import Commands, agent
from tests.support.http import eventually
from tests.support.remote_run import make_nodes, open_lab

NODES = make_nodes(["n1", "n2", "n3"])
#: Fails if one of its hosts is n2.
ONE_FAILS = 'for a; do :; done; echo "$a"; case "$a" in *n2*) echo broken >&2; exit 4; esac'


@pytest.mark.fault("F39")
async def test_a_verdict_is_that_of_its_node(tmp_path: Path) -> None:
    """Of three nodes one fails: its exit code is its own, and the others have theirs."""
    command = agent(tmp_path / "rudder", ONE_FAILS)
    async with open_lab(command, NODES) as lab:
        answer = await lab.events("nodes", nodes="n1,n2,n3", keep_output=True)
    ends = {
        event["node"]: (event["code"], event["nodes"], event.get("detail", ""))
        for event in answer.of("exit")
    }
    assert ends == {"n1": (0, 1, ""), "n2": (4, 1, "broken"), "n3": (0, 1, "")}
    assert {event["node"]: event["output"] for event in answer.of("output")} == {
        node: f"{node}.test" for node in ("n1", "n2", "n3")
    }


@pytest.mark.fault("F39")
async def test_text_comes_from_one_command(tmp_path: Path) -> None:
    """For text all nodes share a command, as in the original, and the audit blames none of them."""
    command = agent(tmp_path / "rudder", ONE_FAILS)
    async with open_lab(command, NODES) as lab:
        with capture_logs() as logs:
            answer = await lab.post("nodes", nodes="n1,n2,n3", keep_output=True)
    assert answer.body == b"n1.test,n2.test,n3.test\n"
    [audit] = [entry for entry in logs if entry["event"] == "remote run"]
    assert (audit["outcome"], audit["verdicts"]) == ("incomplete", "some_failed=3")


@pytest.mark.fault("F51")
@pytest.mark.parametrize(
    ("nodes", "script"),
    [
        ("n1", "for i in 1 2 3 4 5 6; do sleep 0.2; echo $i; done"),
        ("n1", "for i in 1 2 3 4 5 6; do sleep 0.2; echo $i >&2; done; echo 6"),
        ("n1,n2,n3", "sleep 1.2; echo 6"),
    ],
    ids=["output", "errors", "one node after the other"],
)
async def test_progress_is_not_cut(tmp_path: Path, nodes: str, script: str) -> None:
    """A command that goes on for longer than the deadline, and shows it or has nodes left, ends."""
    command = agent(tmp_path / "rudder", script)
    async with open_lab(command, NODES, timeout=0.6) as lab:
        with capture_logs() as logs:
            answer = await lab.post("nodes", nodes=nodes, keep_output=True)
    assert answer.body.endswith(b"6\n")
    assert [entry["outcome"] for entry in logs if "outcome" in entry] == ["ok"]


@pytest.mark.fault("F51")
@pytest.mark.parametrize("asynchronous", [True, False])
async def test_text_that_was_cut_says_so(tmp_path: Path, *, asynchronous: bool) -> None:
    """The last line of an answer in text names the nodes whose command was terminated."""
    command = agent(tmp_path / "rudder", "printf 'one\\ntw'; sleep 1000")
    async with open_lab(command, NODES, timeout=0.5) as lab:
        answer = await lab.post("nodes", nodes="n1,n2", keep_output=True, asynchronous=asynchronous)
        empty = await lab.post("nodes", nodes="n1,n2")
    assert answer.body.decode().splitlines() == [
        "one",
        "tw",
        f"{NOTE}2 nodes (n1, n2): terminated: no output for 1 s",
    ]
    assert empty.body == b""


@pytest.mark.fault("F51")
@pytest.mark.parametrize("script", ["yes", "yes >&2"])
async def test_a_flood_is_no_progress(
    commands: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
) -> None:
    """A command that prints without end is terminated, whether anybody wants its output or not."""
    monkeypatch.setattr(watch, "PROGRESS_BYTES", 20_000)
    async with open_lab(agent(tmp_path / "rudder", script), NODES, timeout=0.3) as lab:
        with capture_logs() as logs:
            await lab.post("nodes/n1")
    assert [entry["outcome"] for entry in logs if "outcome" in entry] == ["timeout"]
    await eventually(lambda: not commands())


@pytest.fixture
def commands() -> Commands:
    """The commands started from here on."""
    return Commands()


@pytest.mark.fault("F51")
async def test_a_slow_reader_costs_no_time() -> None:
    """While a command waits for its reader, its deadline does not come nearer."""
    guard = watch.Watch(Limits(0.1, 60.0))
    taken = False
    with guard.scope:
        with guard.passing_on(1):
            await trio.sleep(0.3)
            guard.sign()
            await trio.sleep(0.3)
        taken = True
        await trio.sleep_forever()
    assert taken
    assert guard.cut
