"""The watcher on real directories, with the real kernel."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from relayd.spool.watching import watcher as module
from relayd.spool.watching.agenda import CATCHUP_AGE_S
from relayd.spool.watching.listing import Listing, oldest
from relayd.spool.watching.watcher import Arrival
from tests.support.spool import open_watcher

OLD_S = 100.0


def write(path: Path, *, age: float = 0.0) -> None:
    """Write a file in place, last modified `age` seconds ago."""
    path.write_text("x")
    if age:
        os.utime(path, (time.time() - age,) * 2)


def upload(path: Path) -> None:
    """Write a file as the web server does: under another name, then renamed."""
    temporary = path.with_name(".davfs.tmp000001")
    temporary.write_text("x")
    temporary.rename(path)


@pytest.mark.fault("N2")
async def test_start_takes_files_of_any_age(spool: Path, fast_clock: MockClock) -> None:
    """Files that exist at start are taken at once, the oldest first, including recent ones."""
    for number, age in enumerate([5.0, 500.0, 0.0, 50.0]):
        write(spool / f"{number}.log", age=age)
    async with open_watcher(spool) as watcher:
        assert await watcher.finish(4) == ["1.log", "3.log", "0.log", "2.log"]
        assert watcher.mode == "inotify"


@pytest.mark.fault("N2")
async def test_file_that_arrives_before_the_listing_is_taken_once(
    spool: Path, fast_clock: MockClock
) -> None:
    """A file that arrives between watching and listing is found, and only once."""
    async with open_watcher(spool, limit=0) as watcher:
        upload(spool / "a.log")  # the listing has not run yet: no checkpoint since the start
        assert (await watcher.take()).name == "a.log"
        assert await watcher.is_silent(5)


@pytest.mark.history(4)
async def test_the_loop_is_the_same_for_inventories(spool: Path, fast_clock: MockClock) -> None:
    """Temporary and foreign files do not stop the watcher, whatever its extensions."""
    async with open_watcher(spool, limit=0, extensions=frozenset({"xml", "ocs"})) as watcher:
        for name in (".davfs.tmp000002", "run.log", "notes"):
            write(spool / name)
        upload(spool / "node.xml")
        assert (await watcher.take()).name == "node.xml"
        upload(spool / "node.ocs")
        assert (await watcher.take()).name == "node.ocs"


@pytest.mark.history(3, 5, 6)
@pytest.mark.fault("N10")
async def test_upload_arrives_once_and_whole(spool: Path, fast_clock: MockClock) -> None:
    """Only the rename of an upload is reported, once, and it marks the file as complete."""
    async with open_watcher(spool, limit=0, settled=True) as watcher:
        for number in range(100):
            (spool / f".davfs.tmp{number:06}").write_text("")
            (spool / f"{number}.bak").write_text("")
        upload(spool / "a.log")
        assert await watcher.take() == Arrival("a.log", atomic=True)
        assert await watcher.is_silent(5)


async def test_file_written_in_place_is_not_known_to_be_whole(
    spool: Path, fast_clock: MockClock
) -> None:
    """A file announced by its closing may still grow, so it is not marked as atomic."""
    async with open_watcher(spool, settled=True) as watcher:
        write(spool / "a.log")
        assert await watcher.take() == Arrival("a.log", atomic=False)


@pytest.mark.fault("S17")
@pytest.mark.history(9)
async def test_file_in_flight_is_not_sent_again(spool: Path, fast_clock: MockClock) -> None:
    """Neither periodic listings nor requested ones send a file that is being worked on."""
    write(spool / "a.log", age=OLD_S)
    async with open_watcher(spool, frequency=1.0) as watcher:
        assert (await watcher.take()).name == "a.log"
        watcher.rescan.set()
        assert await watcher.is_silent(10)


@pytest.mark.fault("S3")
async def test_file_replaced_in_flight_is_sent_again(spool: Path, fast_clock: MockClock) -> None:
    """A newer file under a name in flight is sent when its predecessor is done."""
    async with open_watcher(spool, limit=0) as watcher:
        upload(spool / "a.log")
        assert (await watcher.take()).name == "a.log"
        upload(spool / "a.log")
        assert await watcher.is_silent(2)
        watcher.pending.release("a.log")
        assert (await watcher.take()).name == "a.log"


@pytest.mark.fault("N8")
async def test_event_of_a_vanished_file_is_a_hint(spool: Path, fast_clock: MockClock) -> None:
    """The name of a vanished file may be sent once, but not again after a listing."""
    async with open_watcher(spool, settled=True) as watcher:
        for _ in range(3):
            upload(spool / "a.log")
            (spool / "a.log").unlink()
        watcher.pending.release((await watcher.take()).name)
        assert await watcher.is_silent(5)
        upload(spool / "a.log")
        assert (await watcher.take()).name == "a.log"


@pytest.mark.fault("N9")
async def test_without_any_event_listings_find_the_file(
    spool: Path, tmp_path: Path, fast_clock: MockClock
) -> None:
    """A file without an event (here a hard link) is found within one interval."""
    write(tmp_path / "elsewhere", age=OLD_S)
    async with open_watcher(spool, frequency=10.0, settled=True) as watcher:
        os.link(tmp_path / "elsewhere", spool / "a.log")
        assert await watcher.take() == Arrival("a.log", atomic=False)


async def test_periodic_listing_leaves_young_files_alone(
    spool: Path, tmp_path: Path, fast_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files younger than 30 s are left to their events."""
    ages: list[float] = []

    def noted(*args: Any, min_age: float, **more: Any) -> Listing:
        ages.append(min_age)
        return oldest(*args, min_age=min_age, **more)

    monkeypatch.setattr(module, "oldest", noted)
    async with open_watcher(spool, frequency=1.0, settled=True) as watcher:
        while CATCHUP_AGE_S not in ages:  # a listing right after the first one takes all files too
            await trio.sleep(1.0)
        write(tmp_path / "elsewhere")
        os.link(tmp_path / "elsewhere", spool / "a.log")
        assert await watcher.is_silent(10)
        assert ages[-1] == CATCHUP_AGE_S


@pytest.mark.history(10, 11)
async def test_failed_file_is_retried_with_periodic_listings_off(
    spool: Path, fast_clock: MockClock
) -> None:
    """With a limit of 0, a file that existed at start and fails is retried until it is done."""
    write(spool / "a.log", age=86_400)
    async with open_watcher(spool, limit=0) as watcher:
        for _ in range(4):
            assert (await watcher.take()).name == "a.log"
            watcher.pending.retry("a.log")
        assert await watcher.finish(1) == ["a.log"]


async def test_rescan_does_not_wait_for_delays(spool: Path, fast_clock: MockClock) -> None:
    """After a rescan request, all files are retried at once, whatever their delay."""
    write(spool / "a.log")
    async with open_watcher(spool, limit=0) as watcher:
        watcher.pending.retry((await watcher.take()).name, floor=100_000)
        watcher.rescan.set()
        assert (await watcher.take()).name == "a.log"


async def test_no_name_is_sent_after_its_file_was_done(spool: Path, fast_clock: MockClock) -> None:
    """Listings taken while files leave the directory do not return any of them."""
    for number in range(200):
        write(spool / f"{number:03}.log", age=1000 - number)
    async with open_watcher(spool, limit=5, listing_size=40) as watcher:
        for _ in range(200):
            name = (await watcher.take()).name
            (spool / name).unlink()  # fails for a name that comes twice
            watcher.pending.release(name)
            await trio.sleep(0.1)


@pytest.mark.fault("S18")
async def test_backlog_larger_than_a_listing_is_sent_completely(
    spool: Path, fast_clock: MockClock
) -> None:
    """A full listing is followed by the next one; all files are sent in order, each once."""
    for number in range(35):
        write(spool / f"{number:02}.log", age=1000 - number)
    async with open_watcher(spool, frequency=100_000, limit=5, listing_size=10) as watcher:
        assert await watcher.finish(35) == [f"{number:02}.log" for number in range(35)]


async def test_live_files_go_before_the_backlog(spool: Path, fast_clock: MockClock) -> None:
    """A file that arrives waits for at most one batch of the backlog, not for all of it."""
    for number in range(30):
        write(spool / f"{number:02}.log", age=OLD_S)
    async with open_watcher(spool, limit=5) as watcher:
        await watcher.take()
        upload(spool / "live.log")
        await trio.testing.wait_all_tasks_blocked()
        names = [(await watcher.take()).name for _ in range(10)]
    assert "live.log" in names[:6]


async def test_backlog_is_not_starved_by_live_files(spool: Path, fast_clock: MockClock) -> None:
    """While files keep arriving, batches of the backlog are sent as well."""
    for number in range(20):
        write(spool / f"old{number}.log", age=OLD_S)
    async with open_watcher(spool, limit=5) as watcher:
        names = []
        for number in range(80):
            upload(spool / f"live{number}.log")
            names += await watcher.finish(1)
    assert sum(name.startswith("old") for name in names) == 20


async def test_full_pipeline_holds_the_watcher(spool: Path, fast_clock: MockClock) -> None:
    """At most one name is in flight for a receiver that takes none."""
    for number in range(10):
        write(spool / f"{number}.log")
    async with open_watcher(spool) as watcher:
        await trio.sleep(20)
        assert watcher.pending.in_flight == 1
        assert watcher.arrivals.statistics().current_buffer_used == 0


async def test_more_live_names_than_are_kept_are_left_to_a_listing(
    spool: Path, fast_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the pipeline is full, a bounded number of names is kept; others are found later."""
    monkeypatch.setattr("relayd.spool.watching.watcher.LIVE_NAMES", 20)
    names = {f"{number}.log" for number in range(100)}
    async with open_watcher(spool, limit=0, settled=True) as watcher:
        for name in sorted(names):
            write(spool / name)
        await trio.testing.wait_all_tasks_blocked()
        assert set(await watcher.finish(len(names))) == names


def run_log(number: int) -> str:
    """Return the name of a node's run log, seconds apart by number."""
    return f"2026-03-01T12:00:{number:02}+00:00@web.log"


@pytest.mark.fault("F18")
async def test_live_runs_wait_for_older_ones_that_are_left_to_a_listing(
    spool: Path, fast_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that arrives once names fit in again does not overtake those that were left out."""
    monkeypatch.setattr("relayd.spool.watching.watcher.LIVE_NAMES", 3)
    async with open_watcher(spool, limit=0, settled=True, ordered=True) as watcher:
        for number in range(10):
            upload(spool / run_log(number))
        assert await watcher.finish(3) == [run_log(number) for number in range(3)]
        upload(spool / run_log(10))
        assert await watcher.finish(8) == [run_log(number) for number in range(3, 11)]


@pytest.mark.fault("F18")
async def test_after_a_rescan_is_requested_newer_runs_wait_for_the_listing(
    spool: Path, fast_clock: MockClock
) -> None:
    """A file that came back without its event having been read goes before a newer one."""
    async with open_watcher(spool, limit=0, settled=True, ordered=True) as watcher:
        # Which task of the watcher runs first is left to chance each time.
        for older in range(0, 20, 2):
            names = [run_log(older), run_log(older + 1)]
            watcher.pending.claim(names[1])
            upload(spool / names[1])
            upload(spool / names[0])
            watcher.rescan.set()
            watcher.pending.put_back(names[1])
            assert await watcher.finish(2) == names


@pytest.mark.fault("F18")
async def test_newer_runs_wait_for_those_that_an_operator_has_claimed(
    spool: Path, fast_clock: MockClock
) -> None:
    """Given back, also after a mere look, they go first; if they have left, the newer ones do."""
    async with open_watcher(spool, limit=0, settled=True, ordered=True) as watcher:
        names = [run_log(number) for number in range(4)]
        assert watcher.pending.take_over(names[:3]) == names[:3]
        for name in names[:2] + names[3:]:
            upload(spool / name)
        upload(spool / "other.log")
        assert await watcher.finish(1) == ["other.log"]
        assert await watcher.is_silent(5)
        watcher.pending.give_back([names[2]], names[:2])
        assert await watcher.finish(3) == [*names[:2], names[3]]


async def test_what_one_listing_found_is_not_lost_by_another(
    spool: Path, fast_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A periodic listing, which passes over young files, keeps those of an earlier listing."""
    monkeypatch.setattr("relayd.spool.watching.watcher.LIVE_NAMES", 20)
    monkeypatch.setattr("relayd.spool.watching.agenda.CATCHUP_AGE_S", 1e9)
    names = {f"{number}.log" for number in range(100)}
    async with open_watcher(spool, frequency=2.0, settled=True) as watcher:
        for name in sorted(names):
            upload(spool / name)
        await trio.sleep(10)  # of a fast clock: several listings, while the channel is full
        taken = [(await watcher.take()).name for _ in range(100)]
        assert set(taken) == names


async def test_files_beyond_the_retry_table_are_found_by_a_listing(
    spool: Path, fast_clock: MockClock
) -> None:
    """Files that fail while the retry table is full are still retried."""
    for number in range(12):
        write(spool / f"{number}.log")
    async with open_watcher(spool, limit=0) as watcher:
        watcher.pending.remembered = 8
        for _ in range(12):
            watcher.pending.retry((await watcher.take()).name, floor=10)
        assert len(set(await watcher.finish(12))) == 12


@pytest.mark.fault("N1")
async def test_overflow_is_counted_and_followed_by_a_listing(
    spool: Path, fast_clock: MockClock
) -> None:
    """When the kernel drops events, all files are still found, without any periodic listing."""
    queued = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    async with open_watcher(spool, limit=0, settled=True) as watcher:
        here, there = spool / "1.tmp", spool / "2.tmp"
        write(here)
        for _ in range(queued // 2 + 1):
            here.rename(there)
            there.rename(here)
        write(spool / "lost.log")
        assert await watcher.finish(1) == ["lost.log"]
        assert watcher.value("watch_overflows") == 1


@pytest.mark.fault("N3")
async def test_directory_deleted_and_made_again(spool: Path, fast_clock: MockClock) -> None:
    """After the directory was deleted and made again, its files and new events are noticed."""
    async with open_watcher(spool, limit=0, settled=True) as watcher:
        spool.rmdir()
        spool.mkdir()
        upload(spool / "a.log")
        assert await watcher.finish(1) == ["a.log"]
        spool.rmdir()
        await trio.sleep(5)
        spool.mkdir()
        upload(spool / "b.log")
        assert await watcher.finish(1) == ["b.log"]
        await watcher.see_events()


@pytest.mark.fault("N4")
async def test_directory_moved_away(spool: Path, fast_clock: MockClock) -> None:
    """After the directory was moved and replaced, only the new one is watched."""
    async with open_watcher(spool, limit=0, settled=True) as watcher:
        moved = spool.rename(spool.with_name("moved"))
        spool.mkdir()
        upload(spool / "a.log")
        assert await watcher.finish(1) == ["a.log"]
        upload(moved / "other.log")
        await watcher.see_events()


async def test_directory_that_does_not_exist_yet(tmp_path: Path, fast_clock: MockClock) -> None:
    """A directory that appears later is watched from then on, and its files are found."""
    async with open_watcher(tmp_path / "a" / "incoming", limit=0) as watcher:
        await trio.sleep(3)
        (tmp_path / "b" / "incoming").mkdir(parents=True)
        upload(tmp_path / "b" / "incoming" / "a.log")
        (tmp_path / "b").rename(tmp_path / "a")
        assert await watcher.finish(1) == ["a.log"]


async def test_gauges_show_the_backlog(spool: Path, fast_clock: MockClock) -> None:
    """The gauges show size and age of the backlog, even without periodic listings."""
    write(spool / "a.log", age=500)
    write(spool / "b.log")
    (spool / ".davfs.tmp1").touch()
    async with open_watcher(spool, limit=0) as watcher:
        await watcher.take()
        assert watcher.value("spool_files") == 2
        assert watcher.value("spool_oldest_seconds") == pytest.approx(500, abs=60)
        (spool / "b.log").unlink()
        fast_clock.rate = 1000
        await trio.sleep(130)
        assert watcher.value("spool_files") == 1


async def test_stop_closes_the_channel(spool: Path, fast_clock: MockClock) -> None:
    """When stopped, the watcher closes its channel and releases a name that was not received."""
    write(spool / "a.log")
    async with open_watcher(spool) as watcher:
        while not watcher.pending.in_flight:
            await trio.sleep(0.1)
        watcher.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        assert [arrival async for arrival in watcher.arrivals] == []
        assert watcher.pending.in_flight == 0


async def test_descriptors_are_closed(spool: Path, fast_clock: MockClock) -> None:
    """A stopped watcher leaves no descriptor open, however often its directory was replaced."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    async with open_watcher(spool) as watcher:
        for _ in range(3):
            spool.rmdir()
            spool.mkdir()
            upload(spool / "a.log")
            await watcher.finish(1)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
