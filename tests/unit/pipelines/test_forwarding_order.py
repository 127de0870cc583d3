"""Forwarding for many nodes: each one's run logs in order, and none waits for another one's."""

# ruff: noqa: D102 - an overridden method does what its base says

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

import pytest
import trio

from relayd.pipelines.forwarding import NO_NODE, NODE_INVENTORIES
from relayd.pipelines.gather import BATCH
from relayd.runlog.filename import run_of
from relayd.spool import holds
from tests.support.forwarding import HASTY, USUAL, Relay
from tests.support.proxy import Delay, Fault, open_proxy
from tests.support.signing import make_key_and_cert
from tests.support.tls_server import Behaviour, Exchange, Peer, open_peer

UPSTREAM = make_key_and_cert("upstream")
#: Too large to be read at once.
HUGE = 300_000


def run_log(node: str, minute: int) -> str:
    """The name of a node's run log."""
    return f"2026-03-01T12:{minute:02}:00+00:00@{node}.log.gz"


def inventory(node: int, number: int) -> str:
    """The name of a node's inventory; its host name has changed."""
    return f"host{number}-{node:08}-0000-4000-8000-000000000000.ocs.gz"


class Holding(Behaviour):
    """Takes no body of some files before it is allowed to."""

    def __init__(self, marker: str) -> None:
        self.marker = marker
        self.go = trio.Event()

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        if self.marker in exchange.target:
            await self.go.wait()
        await super().serve(peer, exchange)


@pytest.mark.parametrize(
    ("kind", "share"),
    [("one node", 1), ("no node", NO_NODE), ("inventories", NODE_INVENTORIES)],
)
async def test_huge_files_of_one_node_take_a_part_of_the_lanes(
    tmp_path: Path, kind: str, share: int
) -> None:
    """While the upstream takes none of its files, all others arrive; then its own do, in order."""
    names = {
        "one node": [run_log("flood", minute) for minute in range(40)],
        "no node": [f"flood-{number:02}.log" for number in range(40)],
        "inventories": [inventory(77, number) for number in range(40)],
    }[kind]
    others = [run_log(f"node{number}", minute) for minute in range(3) for number in range(20)]
    if kind == "inventories":
        others = [inventory(number, minute) for minute in range(3) for number in range(20)]
    async with open_peer(UPSTREAM) as peer:
        relay = Relay(tmp_path, peer, UPSTREAM, USUAL)
        place = relay.inventories if kind == "inventories" else relay.reports
        peer.behaviour = holding = Holding("-00000077-" if kind == "inventories" else "flood")
        for name in names:
            relay.arrive(place, name, b"x" * HUGE, age=500)
        for name in others[20:]:
            relay.arrive(place, name, b"other", age=100)
        async with relay.running():
            await peer.until(lambda: len(peer.uploads) == 40)
            for name in others[:20]:
                relay.arrive(place, name, b"other", age=100)
            await peer.until(lambda: len(peer.uploads) == 60)
            asked = Counter(holding.marker in request.target for request in peer.requests)
            assert asked[True] <= share
            holding.go.set()
            await relay.empty()
    assert {body for _, body in peer.uploads[:60]} == {b"other"}
    sent = [unquote(target).rpartition("/")[2] for target, _ in peer.uploads[60:]]
    assert sorted(sent) == sorted(names)
    assert kind != "one node" or sent == names


FLOOD = 5_000


@pytest.mark.fault("F18")
@pytest.mark.parametrize("distance_s", [0.0, 0.05])
async def test_a_flood_of_small_files_holds_up_no_other_node(
    tmp_path: Path, distance_s: float
) -> None:
    """Others' files that wait behind it, or arrive beside it, leave within a batch of its own."""
    waiting = [run_log(f"waits{number}", 0) for number in range(40)]
    arriving = [run_log(f"arrives{number}", 0) for number in range(40)]
    async with open_peer(UPSTREAM) as peer, open_proxy("127.0.0.1", peer.port) as proxy:
        proxy.fault = Delay(distance_s) if distance_s else Fault()
        relay = Relay(tmp_path, proxy, UPSTREAM, USUAL)
        for number in range(FLOOD):
            minute, second = divmod(number, 60)
            hour, minute = divmod(minute, 60)
            name = f"2026-02-01T{hour:02}:{minute:02}:{second:02}+00:00@flood.log"
            relay.arrive(relay.reports, name, b"flood", age=500)
        for name in waiting:
            relay.arrive(relay.reports, name, b"other", age=100)

        def others() -> int:
            return sum(body == b"other" for _, body in peer.uploads)

        async with relay.running():
            await peer.until(lambda: others() == len(waiting))
            assert len(peer.uploads) - others() <= BATCH
            for name in arriving:
                relay.arrive(relay.reports, name, b"other")
            begin = len(peer.uploads)
            await peer.until(lambda: others() == len(waiting) + len(arriving))
            among = [body for _, body in peer.uploads[begin:]]
            first = among.index(b"other")
            assert among[first:].count(b"flood") <= BATCH
            # The flood goes on until the arrivals are noticed, and far from its end.
            assert len(peer.uploads) < FLOOD // 2


class Recording(Behaviour):
    """Answers some files otherwise, and takes note of the order.

    Attributes:
        answers: status of the next attempts with a file, by name; 201 after these.
        tried: node, time and status of each attempt, in order.
    """

    def __init__(self, answers: dict[str, list[int]]) -> None:
        self.answers = answers
        self.tried: list[tuple[str, float, int]] = []

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        body = await exchange.body()
        name = unquote(exchange.target).rpartition("/")[2]
        run = run_of(name)
        assert run is not None
        answers = self.answers.get(name) or [201]
        status = answers.pop(0)
        self.tried.append((*run, status))
        if status == 201:
            peer.store(exchange, body)
        else:
            peer.ring()
        await exchange.reply(status)


def check_order(tried: Iterable[tuple[str, float, int]], refused: int = 0) -> None:
    """Assert that no run is sent before the older ones of its node have arrived."""
    last: dict[str, tuple[float, int]] = {}
    for node, date, status in tried:
        if status == refused:
            continue
        before, known = last.get(node, (0.0, 201))
        assert date > before if known == 201 else date == before, (node, date, before, known)
        last[node] = date, status


@pytest.mark.fault("F18")
async def test_each_nodes_run_logs_are_forwarded_in_the_order_of_their_start(
    tmp_path: Path,
) -> None:
    """Also when some are put off, others refused, when fresh ones arrive, and after a restart.

    A run log that is refused for what it is holds up none of its node.
    """
    nodes = [f"node{number}" for number in range(6)]
    bad = run_log("node2", 1)
    answers = {run_log(node, 2): [503, 500, 429] for node in nodes[:3]}
    recording = Recording(answers | {bad: [422] * 1000})
    async with open_peer(UPSTREAM) as peer:
        relay = Relay(tmp_path, peer, UPSTREAM, HASTY)
        peer.behaviour = recording
        for minute in reversed(range(8)):
            for node in nodes:
                relay.arrive(relay.reports, run_log(node, minute), b"waits", age=minute)
        async with relay.running():
            await peer.until(lambda: len(peer.uploads) >= 20)
            for minute in (8, 9):
                for node in nodes:
                    relay.arrive(relay.reports, run_log(node, minute), b"fresh")
            await peer.until(lambda: len(peer.uploads) >= 40)
        async with relay.running():
            await relay.empty(bad)
            assert relay.forwarding.lines[0].pending.has_failed(bad)
            recording.answers[bad] = []
            await relay.empty()
    assert not any(answers.values())
    assert len(peer.uploads) == 60
    assert recording.tried[-1][2] == 201
    check_order(recording.tried[:-1], refused=422)


@pytest.mark.fault("F18")
async def test_after_an_outage_nodes_take_turns_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it lasted, nothing is overtaken, and nobody waits behind a node's backlog."""
    monkeypatch.setattr(holds, "HOLD_S", 1.0)
    nodes = [f"node{number}" for number in range(10)]

    def others(tried: Iterable[tuple[str, float, int]]) -> int:
        return sum(node != "backlog" for node, _, _ in tried)

    class Away(Recording):
        away = True

        async def serve(self, peer: Peer, exchange: Exchange) -> None:
            if not self.away:
                if "backlog" in exchange.target:
                    await peer.until(lambda: others(self.tried) == 40)
                await super().serve(peer, exchange)
                return
            await exchange.digest()
            await exchange.reply(503)

    async with open_peer(UPSTREAM) as peer:
        relay = Relay(tmp_path, peer, UPSTREAM, HASTY)
        peer.behaviour = away = Away({})
        for minute in range(60):
            relay.arrive(relay.reports, run_log("backlog", minute), b"x", age=500)
        for minute in range(3):
            for node in nodes:
                relay.arrive(relay.reports, run_log(node, minute), b"x", age=100)
        async with relay.running():
            await peer.until(lambda: len(peer.requests) >= 60)
            for node in nodes:
                relay.arrive(relay.reports, run_log(node, 3), b"x")
            await peer.until(lambda: len(peer.requests) >= 80)
            waiting = relay.forwarding.lines[0].pending.holds
            await relay.until(lambda: waiting.outage_s > holds.HOLD_S)
            away.away = False
            await relay.empty()
    check_order(away.tried)
    assert len(away.tried) == 100


@pytest.mark.parametrize("kind", ["run logs", "inventories"])
async def test_what_waits_for_an_upstream_that_is_away_is_handed_to_an_operator(
    tmp_path: Path, kind: str
) -> None:
    """A recall during an outage claims what waits for the gate, and the rest is sent after it."""
    names = [
        run_log(f"node{n}", 0) if kind == "run logs" else inventory(n, 0) for n in range(10, 60)
    ]
    async with open_peer(UPSTREAM) as peer:
        relay = Relay(tmp_path, peer, UPSTREAM, USUAL)
        place = relay.reports if kind == "run logs" else relay.inventories
        peer.behaviour = Closed()
        for name in names:
            relay.arrive(place, name, b"waits", age=100)
        async with relay.running():
            stages = next(one for one in relay.forwarding._stages if one.line.path == place)
            await relay.until(lambda: stages.gate.trouble is not None)
            await relay.until(lambda: all(name in stages.line.pending for name in names))
            claimed = await stages.line.pending.recall(names, 20.0)
            assert sorted(claimed) == names
            for name in names[:25]:
                (place / name).unlink()
            peer.behaviour = Behaviour()
            stages.line.pending.give_back(names[:25], names[25:])
            relay.forwarding.retry()
            await relay.empty()
    sent = [unquote(target).rpartition("/")[2] for target, _ in peer.uploads]
    assert sorted(sent) == names[25:]


class Closed(Behaviour):
    """Answers nothing but that it is out of order."""

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(503)
