"""Remote runs that have to wait: accepted, queued, started in a fair order, and said at a stop."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from relayd.remote_run.runs import RELAY_CALLS
from tests.support.agent import agent
from tests.support.http import Answer, eventually
from tests.support.remote_run import EVENTS, Lab, make_nodes, open_lab
from tests.support.signing import make_key_and_cert
from tests.support.tls_server import Behaviour, Exchange, Peer, open_peer

FLEET = [f"n{number}" for number in range(520)]
RELAY = make_key_and_cert("r1")


class Gate:
    """A command that writes down its hosts, the first time after waiting for the gate to open."""

    def __init__(self, place: Path) -> None:
        self.calls = place / "calls"
        self.calls.touch()
        self._pipe = place / "pipe"
        os.mkfifo(self._pipe)
        wait = f"[ -e {place / 'open'} ] || {{ read line < {self._pipe}; : > {place / 'open'}; }}"
        self.command = agent(place / "rudder", f'for a; do :; done; {wait}; echo "$a" >> calls')
        os.chdir(place)

    async def open(self) -> None:
        """Let the first command go on."""
        await trio.to_thread.run_sync(self._pipe.write_text, "go\n", abandon_on_cancel=True)

    def hosts(self) -> list[str]:
        """Hosts of all commands, in order."""
        return [line.removesuffix(".test") for line in self.calls.read_text().split()]


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Return a command that has to wait, started in the directory of its files."""
    monkeypatch.chdir(tmp_path)
    return Gate(tmp_path)


async def trigger(lab: Lab, node: str) -> Answer:
    """Ask as the web application does, for each node, to start the agents of all nodes."""
    return await lab.post(f"nodes/{node}", classes="", keep_output=False, asynchronous=True)


async def ended(lab: Lab, number: int, outcome: str = "ok") -> None:
    """Wait until so many runs have ended."""
    line = f'rudder_relayd_remote_runs_total{{outcome="{outcome}"}} {number}.0'.encode()
    await eventually(lambda: line in lab.metrics.render())


@pytest.mark.fault("F3")
async def test_one_run_for_each_node_of_a_fleet(gate: Gate) -> None:
    """Each of 520 runs is accepted while one command runs, and started when it is its turn."""
    async with open_lab(gate.command, make_nodes(FLEET), max_commands=1) as lab:
        for node in FLEET:
            answer = await trigger(lab, node)
            assert (answer.status, answer.body) == (200, b"")
        assert b"rudder_relayd_remote_runs_queued 519.0" in lab.metrics.render()
        assert gate.hosts() == []
        await gate.open()
        await ended(lab, len(FLEET))
        assert gate.hosts() == FLEET
        assert b"rudder_relayd_remote_runs_queued 0.0" in lab.metrics.render()


@pytest.mark.fault("F3")
@pytest.mark.parametrize(
    ("asynchronous", "keep_output"), [(True, False), (False, True), (True, True)]
)
async def test_a_wait_is_not_part_of_the_time(
    tmp_path: Path, *, asynchronous: bool, keep_output: bool
) -> None:
    """A run whose command has to wait for longer than its deadline is not cut."""
    command = agent(tmp_path / "rudder", "sleep 0.2; echo done")
    nodes = FLEET[:12]
    async with open_lab(command, make_nodes(nodes), max_commands=1, timeout=2.0) as lab:
        bodies: list[bytes] = []

        async def one(node: str) -> None:
            answer = await lab.post(
                f"nodes/{node}", asynchronous=asynchronous, keep_output=keep_output
            )
            bodies.append(answer.body)

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(one, node)
        await ended(lab, len(nodes))
    assert bodies == [b"done\n" if keep_output else b""] * len(nodes)


@pytest.mark.fault("F3")
async def test_runs_take_turns(gate: Gate) -> None:
    """A small run does not wait for the whole of a large one, or for a fleet of small ones."""
    nodes = make_nodes(FLEET[:60])
    large, small = FLEET[30:59], FLEET[59]
    async with open_lab(gate.command, nodes, max_commands=1) as lab:
        for node in FLEET[:30]:
            await trigger(lab, node)
        async with (
            lab.begun("nodes", EVENTS, nodes=large, asynchronous=True) as first,
            lab.begun(f"nodes/{small}", asynchronous=True, keep_output=True) as second,
        ):
            # All three wait for the one command, the large run for its next one only.
            await eventually(lambda: lab.waiting() == 3)
            await gate.open()
            assert (await second.answer("POST")).status == 200
            assert (await first.answer("POST")).status == 200
            await ended(lab, 32)
        hosts = gate.hosts()
        assert sorted(hosts) == sorted(FLEET[:60])
        assert hosts.index(small) <= 4
        assert hosts.index(large[9]) < hosts.index(FLEET[20])


@pytest.mark.fault("F3")
async def test_a_stop_says_what_it_drops(gate: Gate) -> None:
    """Runs that are still queued when relayd stops are logged and counted, each as stopped."""
    async with open_lab(gate.command, make_nodes(FLEET), max_commands=1) as lab:
        for node in FLEET[:40]:
            await trigger(lab, node)
        with capture_logs() as logs:
            await lab.stop()
        await ended(lab, 40, "stopped")
    [line] = [entry for entry in logs if "dropped" in entry["event"]]
    assert (line["runs"], line["nodes"].split(",")) == (39, FLEET[1:21])
    assert {entry["outcome"] for entry in logs if "outcome" in entry} == {"stopped"}
    assert gate.hosts() == []


class Mute(Behaviour):
    """A relay that takes requests and never answers."""

    def __init__(self) -> None:
        self.asked = 0

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        """Reads the form."""
        await exchange.body()
        self.asked += 1
        await trio.sleep_forever()


class Prompt(Behaviour):
    """A relay that answers at once."""

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        """Answers without content."""
        await exchange.body()
        await exchange.reply(200, [], b"")


@asynccontextmanager
async def two_relays() -> AsyncIterator[tuple[Peer, Peer]]:
    """Yield two relays with the same port."""
    async with open_peer(RELAY) as peer, open_peer(RELAY, "127.0.0.2", peer.port) as other:
        yield peer, other


@pytest.mark.fault("F3")
async def test_runs_for_a_silent_relay_do_not_hold_up_others(gate: Gate) -> None:
    """Runs through a relay that never answers wait for each other, and nothing else does."""
    nodes = make_nodes(
        ["near"], {"r1": ["a1"], "r2": FLEET[:50]}, hosts={"r1": "127.0.0.1", "r2": "127.0.0.2"}
    )
    pins = {"r1": (RELAY.cert_der,), "r2": (RELAY.cert_der,)}
    async with (
        two_relays() as (prompt, mute),
        open_lab(gate.command, nodes, pins=pins, https_port=prompt.port) as lab,
    ):
        prompt.behaviour = Prompt()
        mute.behaviour = silent = Mute()
        for node in FLEET[:50]:
            assert (await trigger(lab, node)).status == 200
        await eventually(lambda: silent.asked == RELAY_CALLS)
        assert (await trigger(lab, "a1")).status == 200
        await ended(lab, 1)
        assert len(prompt.requests) == 1
        assert (await trigger(lab, "near")).status == 200
        await gate.open()
        await ended(lab, 2)


@pytest.mark.fault("F3")
async def test_a_queued_run_uses_the_nodes_of_its_start(gate: Gate) -> None:
    """A reload while runs are queued loses none of them, and what it changed is used."""
    known = [make_nodes(["n0", "n1", "n2"])]
    async with open_lab(gate.command, lambda: known[-1], max_commands=1) as lab:
        for node in FLEET[:3]:
            await trigger(lab, node)
        known.append(make_nodes(["n0", "n1", "n2"], hosts={"n1": "moved.test"}))
        await gate.open()
        await ended(lab, 3)
    assert gate.hosts() == ["n0", "moved", "n2"]
