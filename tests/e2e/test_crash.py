"""relayd killed at any moment: whatever happens, each run log ends in one place, once."""

import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import pytest
import trio

from tests.support.daemon import PATIENCE_S, Daemon, Site, eventually, open_daemon
from tests.support.ledger import SEED, Ledger
from tests.support.postgres import Database
from tests.support.strace import Point, children, open_record, open_strace, threads

#: Calls by which relayd reads the spool, changes it, talks to the database or to a worker.
SEEN: Final = frozenset(
    {
        "connect",
        "fsync",
        "mkdir",
        "newfstatat",
        "openat",
        "read",
        "recvfrom",
        "rename",
        "sendto",
        "unlink",
        "write",
    }
)


#: The spool is listed only at start.
pytestmark = pytest.mark.site(extra={"processing.reporting.catchup": 'frequency = "1h"'})


async def campaign(site: Site, database: Database, kills: int) -> None:
    """Kills relayd at random moments of its start and of its work, while uploads go on."""
    ledger = Ledger(site)
    moments = random.Random(SEED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.keep_sending)
        for _ in range(kills):
            # Without work a start takes about half a second: three kills of four hit work.
            ready = "started" if moments.random() < 0.75 else None
            async with open_daemon(site, ready=ready) as daemon:
                await trio.sleep(moments.uniform(0.0, 0.5))
                assert await daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        nursery.cancel_scope.cancel()
    async with open_daemon(site) as daemon:
        # Uploads are faster than a relayd that is killed every second.
        await eventually(lambda: not site.waiting(), patience=PATIENCE_S + kills)
        await daemon.idle()
        assert await daemon.stop() == 0
    await ledger.balance(database)


@pytest.mark.fault("L6")
async def test_killed_at_random_under_load(site: Site, database: Database) -> None:
    """After twelve kills each run log is in the database once; only bad ones are in `failed`."""
    await campaign(site, database, 12)


@pytest.mark.torture
@pytest.mark.fault("L6")
async def test_killed_at_random_500_times(site: Site, database: Database) -> None:
    """The same after 500 kills, with files that are held for two seconds."""
    site.extra["output.database"] = 'hold = "2s"'
    site.write_conf()
    await campaign(site, database, 500)


def alive(daemon: Daemon) -> bool:
    """Whether its end has not been noticed yet."""
    return daemon.process.returncode is None


Who = Callable[[int], list[int]]


def event_loop(pid: int) -> list[int]:
    """Return the thread that talks to the database."""
    return threads(pid)[:1]


def other_threads(pid: int) -> list[int]:
    """Those that read, remove and move files."""
    return threads(pid)[1:]


def worker(pid: int) -> list[int]:
    """Return the process that examines files."""
    return children(pid)


class Killer:
    """Kills some threads right before one of the system calls that a file's way takes.

    Attributes:
        reached: the points at which that happened.
        missed: those that the file's way did not come to.
    """

    def __init__(self, site: Site, database: Database, who: Who, *, forged: bool = False) -> None:
        self.ledger = Ledger(site)
        self.reached: list[Point] = []
        self.missed: list[Point] = []
        self._site = site
        self._database = database
        self._who = who
        self._send = self.ledger.send_forged if forged else self.ledger.send

    async def record(self) -> Counter[str]:
        """Return the calls that one file's way takes."""
        async with open_daemon(self._site) as daemon:
            await self._pass_one(daemon)
            async with open_record(self._who(daemon.process.pid), self._site.root) as counts:
                await self._pass_one(daemon)
            assert await daemon.stop() == 0
        return counts

    async def kill_daemon(self, points: Sequence[Point], *, warm: bool = True) -> None:
        """Kills relayd at each point; the start after it has to put things right.

        Args:
            points: where.
            warm: a file has passed before, so that there are a connection and threads.
        """
        for point in points:
            async with open_daemon(self._site) as daemon:
                await self._recovered(daemon)
                if warm:
                    await self._pass_one(daemon)
                await self._kill(daemon, point)
        async with open_daemon(self._site) as daemon:
            await self._recovered(daemon)
            assert await daemon.stop() == 0
        assert len(self.missed) <= len(points) // 4

    async def kill_workers(self, points: Sequence[Point]) -> None:
        """Kills the worker process at each point; relayd itself has to put things right."""
        async with open_daemon(self._site) as daemon:
            for point in points:
                await self._pass_one(daemon)
                await self._kill(daemon, point)
                await self._recovered(daemon)
                await eventually(lambda: len(self._who(daemon.process.pid)) == 1)
            assert await daemon.stop() == 0
        assert not self.missed

    async def _pass_one(self, daemon: Daemon) -> None:
        self._send()
        await daemon.emptied()

    async def _kill(self, daemon: Daemon, point: Point) -> None:
        tids = self._who(daemon.process.pid)
        async with open_strace(tids, *point.kill):
            # Further files bring the calls that the first one may have needed less of.
            for _ in range(4):
                self._send()
                await eventually(lambda: not alive(daemon) or not self._site.waiting())
                if not (alive(daemon) and tids == self._who(daemon.process.pid)):
                    self.reached.append(point)
                    return
            self.missed.append(point)

    async def _recovered(self, daemon: Daemon) -> None:
        try:
            await daemon.settled()
            await self.ledger.balance(self._database)
        except AssertionError as error:
            error.add_note(f"killed at {self.reached[-1:]}")
            raise


def chosen(counts: Counter[str], step: int = 1) -> list[Point]:
    """Of the calls that others see every few, counted for each kind from its first."""
    return [
        Point(call, number)
        for call, count in sorted(counts.items())
        if call in SEEN
        for number in range(1, count + 1, step)
    ]


def all_of(counts: Counter[str]) -> list[Point]:
    """Every call; of those that nobody else sees there are fewer or more each time."""
    return chosen(counts) + [
        Point(call, number)
        for call, count in sorted(counts.items())
        if call not in SEEN
        for number in range(1, count // 2 + 1)
    ]


def set_cores(site: Site, cores: int) -> None:
    """With one, a thread examines files, with two a process does."""
    site.extra["general"] = f"core_threads = {cores}"
    site.write()


@pytest.mark.fault("S1", "S2")
@pytest.mark.parametrize(
    ("cores", "who", "step"),
    [(1, event_loop, 4), (1, other_threads, 1), (2, event_loop, 4), (2, other_threads, 2)],
)
async def test_killed_on_a_good_files_way(
    site: Site, database: Database, cores: int, who: Who, step: int
) -> None:
    """Killed before it reads, sends, commits or unlinks, relayd stores the run log once."""
    set_cores(site, cores)
    killer = Killer(site, database, who)
    counts = await killer.record()
    assert counts["sendto" if who is event_loop else "unlink"]
    await killer.kill_daemon(chosen(counts, step))


@pytest.mark.fault("S1", "S2")
async def test_killed_before_the_first_words_to_the_database(
    site: Site, database: Database
) -> None:
    """Killed while it connects, relayd stores the run log once."""
    killer = Killer(site, database, event_loop)
    await killer.kill_daemon(
        [Point("connect", 1), Point("sendto", 1), Point("sendto", 3)], warm=False
    )


@pytest.mark.fault("S1")
async def test_killed_on_a_refused_files_way(site: Site, database: Database) -> None:
    """Killed before it writes the reason, renames or syncs, relayd moves the file once."""
    killer = Killer(site, database, other_threads, forged=True)
    counts = await killer.record()
    assert counts["rename"] == 2
    await killer.kill_daemon(chosen(counts, 2))


@pytest.mark.fault("S1", "L6")
async def test_worker_killed_on_a_files_way(site: Site, database: Database) -> None:
    """Killed before any of its calls, a worker is replaced and the run log is stored once."""
    killer = Killer(site, database, worker)
    counts = await killer.record()
    assert counts["openat"] == 1
    await killer.kill_workers(chosen(counts))


@pytest.mark.torture
@pytest.mark.fault("S1", "S2")
@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("who", [event_loop, other_threads])
@pytest.mark.parametrize("cores", [1, 2])
async def test_killed_before_each_call(
    site: Site, database: Database, cores: int, who: Who, forged: bool
) -> None:
    """The same before every call on both ways, with a connection and without one."""
    set_cores(site, cores)
    killer = Killer(site, database, who, forged=forged)
    counts = await killer.record()
    await killer.kill_daemon(all_of(counts))
    await killer.kill_daemon(chosen(counts), warm=False)
