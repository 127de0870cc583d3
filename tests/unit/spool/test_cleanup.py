"""What keeps the spool from growing."""

import os
import time
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from relayd.errors import Reason, Refused
from relayd.spool import cleanup
from relayd.spool.cleanup import (
    CleanupPlan,
    run_cleanup,
    shrink_failed,
    sweep,
    sweep_failed,
    sweep_leftovers,
)
from relayd.spool.failed.quarantine import RefusedFile, quarantine
from relayd.spool.layout import Spool
from relayd.system.clock import WallClock
from relayd.telemetry.metrics import Metrics

EXTENSIONS = frozenset({"gz", "zip", "log"})
DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
#: Space on disk of a file that takes one block of usual file systems.
BLOCK = 4096
NOW = 1_800_000_000.0


def put(path: Path, *, days: float, now: float = NOW) -> None:
    """A file untouched for some days."""
    path.touch()
    os.utime(path, (now - days * DAY_S,) * 2)


def names(directory: Path) -> list[str]:
    """What is in a directory, sorted."""
    return sorted(path.name for path in directory.iterdir())


def plan(watched: Path, *, retention: float = WEEK_S, frequency: float = 3600) -> CleanupPlan:
    """The cleanup of a watched directory and of the `failed` next to it."""
    spool = Spool(watched.parent, (watched.name,), EXTENSIONS)
    spool.failed.mkdir(exist_ok=True)
    return CleanupPlan(spool, frequency, retention)


@pytest.mark.history(12)
def test_old_refused_files_go_with_their_reasons(tmp_path: Path) -> None:
    """Refused files beyond the retention are removed and counted; younger ones stay."""
    put(tmp_path / "old.log", days=8)
    put(tmp_path / "old.log.reason", days=8)
    put(tmp_path / "plain.log", days=8)
    put(tmp_path / "new.log", days=6)
    put(tmp_path / "new.log.reason", days=6)
    assert sweep_failed(tmp_path, WEEK_S, NOW) == 2
    assert names(tmp_path) == ["new.log", "new.log.reason"]


@pytest.mark.history(12)
def test_refused_files_are_bounded_in_size(tmp_path: Path) -> None:
    """Where all take too much, those refused first go with their reasons, until it fits."""
    for number in range(10):
        put(tmp_path / f"{number}.log", days=number)
        (tmp_path / f"{number}.log").write_bytes(b"x" * BLOCK)
        put(tmp_path / f"{number}.log.reason", days=9 - number)
        os.utime(tmp_path / f"{number}.log", (NOW, NOW))
    assert shrink_failed(tmp_path, 10 * BLOCK) == 0
    assert shrink_failed(tmp_path, 6 * BLOCK + 100) == 4
    kept = [f"{number}.log" for number in range(4, 10)]
    assert names(tmp_path) == sorted([*kept, *(f"{name}.reason" for name in kept)])


@pytest.mark.history(12)
def test_many_refused_files_go_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many have to go, no more than a batch of them is put in order at a time."""
    monkeypatch.setattr(cleanup, "_BATCH", 3)
    for number in range(10):
        put(tmp_path / f"{number}.log", days=10 - number)
        (tmp_path / f"{number}.log").write_bytes(b"x" * BLOCK)
        os.utime(tmp_path / f"{number}.log", (number, number))
    assert shrink_failed(tmp_path, BLOCK) == 9
    assert names(tmp_path) == ["9.log"]


@pytest.mark.history(12)
async def test_removed_files_are_counted(spool: Path, fast_clock: MockClock) -> None:
    """Files that cleanup removes are counted by cause, so that operators can find out."""
    todo = msgspec.structs.replace(plan(spool), max_size=BLOCK)
    put(todo.spool.failed / "old.log", days=8, now=time.time())
    for name in ("a.log", "b.log"):
        put(todo.spool.failed / name, days=1, now=time.time())
        (todo.spool.failed / name).write_bytes(b"x" * BLOCK)
        os.utime(todo.spool.failed / name, (time.time() - 86_400,) * 2)
    metrics = Metrics()
    line = b'rudder_relayd_failed_removed_total{cause="%s"} 1.0'
    async with trio.open_nursery() as nursery:
        await nursery.start(run_cleanup, todo, WallClock(WEEK_S), metrics)
        while line % b"size" not in metrics.render():
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert line % b"age" in metrics.render()
    assert names(todo.spool.failed) == ["b.log"]


@pytest.mark.fault("F25")
def test_sparse_file_counts_with_what_it_takes(tmp_path: Path) -> None:
    """A file whose size is far larger than its space on disk does not evict the others."""
    for number in range(3):
        (tmp_path / f"{number}.log").write_bytes(b"x" * BLOCK)
    os.truncate(tmp_path / "2.log", 2**40)
    assert shrink_failed(tmp_path, 4 * BLOCK) == 0
    assert len(names(tmp_path)) == 3


def test_retention_begins_with_the_refusal(spool: Path) -> None:
    """A file that was old when it was refused stays for the whole retention."""
    put(spool / "a.log", days=30, now=time.time())
    failed = plan(spool).spool.failed
    refused = Refused(Reason.EXPIRED, "")
    quarantine(spool, failed, RefusedFile("a.log", None, refused, "", ""))
    assert sweep_failed(failed, WEEK_S, time.time() + WEEK_S - 60) == 0
    assert sweep_failed(failed, WEEK_S, time.time() + WEEK_S + 60) == 1
    assert names(failed) == []


@pytest.mark.fault("T1")
def test_refused_file_from_the_future_goes_too(spool: Path) -> None:
    """A modification time ahead of the clock does not keep a refused file for ever."""
    put(spool / "a.log", days=-9999, now=time.time())
    failed = plan(spool).spool.failed
    quarantine(spool, failed, RefusedFile("a.log", None, Refused(Reason.EMPTY, ""), "", ""))
    assert sweep_failed(failed, WEEK_S, time.time() + WEEK_S + 60) == 1


def test_reason_left_alone_goes_by_its_age(tmp_path: Path) -> None:
    """A reason whose file is gone is removed when it is old, and what a crash left of a move."""
    put(tmp_path / "a.log.reason", days=8)
    put(tmp_path / "b.log.reason", days=6)
    put(tmp_path / ".relayd.tmp.1.1", days=8)
    sweep_failed(tmp_path, WEEK_S, NOW)
    assert names(tmp_path) == ["b.log.reason"]


@pytest.mark.fault("S7", "S10")
def test_leftovers_go_and_our_files_stay(tmp_path: Path) -> None:
    """Of a watched directory only old files that are not ours are removed."""
    for name in (".davfs.tmp1", "notes.txt", "a.log.bak", "log"):
        put(tmp_path / name, days=8)
    put(tmp_path / ".davfs.tmp2", days=6)
    for name in ("a.log", "b.log.gz", "c.zip"):
        put(tmp_path / name, days=80)
    assert sweep_leftovers(tmp_path, EXTENSIONS, WEEK_S, NOW) == 4
    assert names(tmp_path) == [".davfs.tmp2", "a.log", "b.log.gz", "c.zip"]


def test_directories_and_links_stay(tmp_path: Path) -> None:
    """Neither sweep touches directories or links, what is in them or what they lead to."""
    (tmp_path / "target").touch()
    swept = tmp_path / "swept"
    (swept / "dir").mkdir(parents=True)
    put(swept / "dir" / "inner", days=30)
    (swept / "link").symlink_to(tmp_path / "target")
    os.utime(swept / "link", (NOW - 30 * DAY_S,) * 2, follow_symlinks=False)
    os.utime(swept / "dir", (NOW - 30 * DAY_S,) * 2)
    assert sweep_failed(swept, WEEK_S, NOW) == 0
    assert sweep_leftovers(swept, EXTENSIONS, WEEK_S, NOW) == 0
    assert names(swept) == ["dir", "link"]
    assert names(swept / "dir") == ["inner"]


@pytest.mark.history(8)
def test_unreadable_directory_does_not_hold_up_the_others(spool: Path) -> None:
    """A directory that cannot be read is given up for this pass, and the next one is cleaned."""
    put(spool / "notes.txt", days=8)
    todo = plan(spool)
    todo.spool.failed.rmdir()
    sweep(todo, NOW)
    assert names(spool) == []


@pytest.mark.history(8)
async def test_unreadable_directory_is_tried_again_at_the_next_tick(
    spool: Path, fast_clock: MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    """A lasting error costs one line for each pass, and a pass only comes with its time."""
    todo = plan(spool, frequency=10)
    todo.spool.failed.rmdir()
    async with trio.open_nursery() as nursery:
        await nursery.start(run_cleanup, todo, WallClock(WEEK_S), Metrics())
        await trio.sleep(25)
        todo.spool.failed.mkdir()
        put(todo.spool.failed / "old.log", days=8, now=time.time())
        while names(todo.spool.failed):
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert 3 <= capfd.readouterr().err.count("cannot be cleaned") <= 4


@pytest.mark.fault("T2")
async def test_nothing_is_removed_after_the_clock_was_set(
    spool: Path, fast_clock: MockClock
) -> None:
    """A clock that jumped eight days ahead makes no file old enough to go."""
    todo = plan(spool, frequency=10)
    put(todo.spool.failed / "old.log", days=8, now=time.time())
    put(spool / ".davfs.tmp1", days=8, now=time.time())
    walls = [time.time() - 8 * DAY_S]
    clock = WallClock(WEEK_S, wall=lambda: walls[-1])
    walls.append(time.time())
    put(spool / "a.log", days=8, now=time.time())
    with trio.move_on_after(35):
        await run_cleanup(todo, clock, Metrics())
    assert names(todo.spool.failed) == ["old.log"]
    assert names(spool) == [".davfs.tmp1", "a.log"]
