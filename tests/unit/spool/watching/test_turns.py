"""The order in which names leave the watcher."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from relayd.runlog.filename import run_of
from relayd.spool import holds
from relayd.spool.holds import Holds
from relayd.spool.pending import Pending
from relayd.spool.shares import NODE_BYTES, PACKED, Shares
from relayd.spool.watching.turns import Turns
from relayd.spool.watching.watcher import BATCH
from tests.support.spool import open_watcher


def name_of(node: str, minute: int) -> str:
    """The name of a node's run log."""
    start = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=minute)
    return f"{start.isoformat()}@{node}.log.gz"


def late(turns: Turns) -> list[str]:
    """Take all names of nodes with a backlog."""
    names = []
    while found := turns.pop_late():
        names.append(found[0])
    return names


@pytest.mark.fault("F18")
def test_nodes_take_turns_in_the_order_of_their_runs() -> None:
    """Each node's oldest run is next, and nodes follow each other."""
    turns = Turns(Holds())
    for minute in (3, 1, 2):
        for node in "ab":
            name = name_of(node, minute)
            turns.add(name, run_of(name), None)
    fresh = name_of("a", 9)
    turns.add(fresh, run_of(fresh), atomic=True)
    lone = name_of("c", 9)
    turns.add(lone, run_of(lone), atomic=True)
    assert turns.pop_fresh() == (lone, True)
    assert turns.pop_fresh() is None
    expected = [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3)]
    assert late(turns) == [name_of(*run) for run in expected]
    assert turns.pop_fresh() == (fresh, True)
    assert not len(turns)


@pytest.mark.fault("F18")
async def test_an_older_run_log_does_not_wait_with_newer_ones_of_its_node(
    autojump_clock: MockClock,
) -> None:
    """What holds up the newer ones is newer than the one that has just arrived."""
    del autojump_clock
    kept = Holds()
    turns = Turns(kept)
    kept.add(name_of("a", 5))
    for minute in (6, 4):
        name = name_of("a", minute)
        turns.add(name, run_of(name), atomic=True)
        taken = turns.pop_fresh()
        assert taken == (None if minute == 6 else (name, True))
    assert turns.pop_fresh() is None
    assert len(turns) == 1


@pytest.mark.fault("F18")
async def test_run_log_that_waits_holds_up_newer_ones_for_a_minute(
    autojump_clock: MockClock,
) -> None:
    """Newer runs of a node wait for one that is tried again, older ones and other nodes do not."""
    pending = Pending()
    turns = Turns(pending.holds)
    pending.claim(name_of("a", 2))
    pending.retry(name_of("a", 2))
    names = [name_of("a", 1), name_of("a", 3), name_of("b", 3)]
    for name in names:
        turns.add(name, run_of(name), None)
    assert late(turns) == [names[0], names[2]]
    begun = trio.current_time()
    pending.claim(name_of("a", 2))
    turns.free()
    assert late(turns) == [names[1]]
    turns.add(names[1], run_of(names[1]), None)
    pending.retry(name_of("a", 2), floor=1000.0)
    assert late(turns) == []
    await trio.sleep_until(turns.next_free())
    turns.free()
    assert late(turns) == [names[1]]
    assert trio.current_time() == begun + holds.HOLD_S


@pytest.mark.fault("F18")
async def test_backlog_larger_than_a_listing_keeps_the_order(
    spool: Path, fast_clock: MockClock
) -> None:
    """Fresh runs come after the older ones of their node, also those beyond a listing."""
    for minute in range(40):
        for node in "abc":
            (spool / name_of(node, minute)).touch()
    sent: list[str] = []
    async with open_watcher(spool, ordered=True, listing_size=16) as watcher:
        for number in range(124):
            sent.append((await watcher.take()).name)
            if number == 30:
                for node in "abcd":
                    temporary = spool / ".davfs.tmp1"
                    temporary.touch()
                    temporary.rename(spool / name_of(node, 99))
            (spool / sent[-1]).unlink()
            watcher.pending.release(sent[-1])
    for node in "abcd":
        runs = [name for name in sent if f"@{node}." in name]
        assert runs == sorted(runs)
    assert len(set(sent)) == 124
    assert sent.index(name_of("d", 99)) < 100


@pytest.mark.fault("F18")
@pytest.mark.parametrize("size", [16, 10_000])
async def test_a_node_that_floods_delays_others_by_one_batch(
    spool: Path, fast_clock: MockClock, size: int
) -> None:
    """Its backlog may be older than all other files, and many times as long as a listing."""
    for minute in range(400):
        (spool / name_of("flood", minute)).touch()
    for minute in (500, 501, 502):
        for node in "ab":
            (spool / name_of(node, minute)).touch()
    sent: list[str] = []
    async with open_watcher(spool, ordered=True, listing_size=size) as watcher:
        for number in range(200):
            sent.append((await watcher.take()).name)
            if number == 60:
                temporary = spool / ".davfs.tmp1"
                temporary.touch()
                temporary.rename(spool / name_of("c", 600))
            (spool / sent[-1]).unlink()
            watcher.pending.release(sent[-1])
    for node in ("flood", "a", "b"):
        runs = [name for name in sent if f"@{node}." in name]
        assert runs == sorted(runs)
    for node in "ab":
        assert sent.index(name_of(node, 502)) < 60
    assert sent.index(name_of("c", 600)) <= 60 + 2 * BATCH


@pytest.mark.fault("F18")
async def test_a_node_that_floods_with_huge_files_has_few_in_flight(
    spool: Path, fast_clock: MockClock
) -> None:
    """While none of them gets on, the others' files are sent, listed or fresh; then its own are."""
    huge = [name_of("flood", minute) for minute in range(20)]
    for name in huge:
        with (spool / name).open("wb") as file:
            file.truncate(NODE_BYTES // PACKED // 4)
    for minute in (50, 51):
        (spool / name_of("a", minute)).touch()
    pending = Pending(shares=Shares(size=NODE_BYTES))
    async with open_watcher(spool, ordered=True, pending=pending) as watcher:
        sent = [(await watcher.take()).name for _ in range(6)]
        temporary = spool / ".davfs.tmp1"
        temporary.touch()
        temporary.rename(spool / name_of("b", 60))
        assert (await watcher.take()).name == name_of("b", 60)
        assert sorted(sent) == sorted([*huge[:4], name_of("a", 50), name_of("a", 51)])
        for name in huge[:4]:
            (spool / name).unlink()
            pending.release(name)
        assert await watcher.finish(16) == huge[4:]


async def test_a_share_is_used_up_whenever_files_leave(spool: Path, fast_clock: MockClock) -> None:
    """One that leaves between two steps of the watcher lets another one follow as well."""
    for number in range(12):
        (spool / f"{number:02}.log").touch()
    pending = Pending(shares=Shares(no_node=4))
    async with open_watcher(spool, ordered=True, pending=pending) as watcher:
        sent = [(await watcher.take()).name for _ in range(4)]
        for name in [*sent]:
            (spool / name).unlink()
        pending.release(sent[0])
        real = pending.claim

        def claim(name: str) -> bool:
            if pending.is_in_flight(sent[1]):
                pending.release(sent[1])
            return real(name)

        pending.claim = claim  # type: ignore[method-assign]
        sent += [(await watcher.take()).name for _ in range(2)]
        assert pending.in_flight == 4
        assert len(set(sent)) == 6


@pytest.mark.fault("F18")
async def test_on_a_relay_one_run_log_of_a_node_is_in_flight(autojump_clock: MockClock) -> None:
    """The next one waits for however long that takes, also behind one that was given up before."""
    pending = Pending(one_by_one=True)
    turns = Turns(pending.holds, pending.shares)
    names = [name_of("a", minute) for minute in range(4)]
    for name in names[1:]:
        turns.add(name, run_of(name), None)
    pending.claim(names[0])
    await trio.sleep(10 * holds.HOLD_S)
    assert late(turns) == []
    pending.let_follow(names[0])
    turns.free()
    assert turns.pop_late() == (names[1], False)
    pending.claim(names[1])
    pending.release(names[0])
    await trio.sleep(10 * holds.HOLD_S)
    turns.free()
    assert late(turns) == []
    pending.retry(names[1], floor=1000.0)
    turns.free()
    assert late(turns) == []
    await trio.sleep_until(turns.next_free())
    turns.free()
    assert turns.pop_late() == (names[2], False)
    pending.claim(names[2])
    assert turns.must_wait(names[1], run_of(names[1]))
    pending.retry(names[2], alone=True)
    turns.free()
    assert turns.pop_late() == (names[3], False)


@pytest.mark.fault("F33")
@pytest.mark.parametrize("limit", [0, 50])
async def test_gauges_are_true_at_once(spool: Path, fast_clock: MockClock, limit: int) -> None:
    """Without a listing, the gauges show what arrived, what is in flight and what waits."""
    async with open_watcher(spool, ordered=True, limit=limit, settled=True) as watcher:
        for number in range(60):
            temporary = spool / ".davfs.tmp1"
            temporary.touch()
            temporary.rename(spool / name_of(f"n{number % 5}", number))
        first = (await watcher.take()).name
        assert watcher.value("spool_files") == 60
        watcher.pending.retry(first)
        assert watcher.value("spool_files") == 60
        await watcher.take()
        (spool / first).unlink()
        assert watcher.pending.claim(first)
        watcher.pending.release(first)
        assert watcher.value("spool_files") == 59
        assert 0 <= watcher.value("spool_oldest_seconds") < 60
