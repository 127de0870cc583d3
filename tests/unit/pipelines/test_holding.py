"""The task that releases kept files or offers them again, with a store that is faked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from relayd.outputs.results import Stored
from relayd.pipelines import holding as module
from relayd.pipelines.holding import Holding
from relayd.pipelines.outcomes import Repeats, StoredOutcomes
from relayd.pipelines.ticket import Finished, Ticket
from relayd.spool.committed import WalPoint
from relayd.spool.identity import identity_at
from relayd.spool.kept import KeepRules, Kept
from relayd.spool.pending import Pending
from relayd.telemetry.metrics import Metrics
from tests.support.daemon import eventually
from tests.support.metrics import value
from tests.support.pipeline import IDENTITY, FakeDatabase, transient

HERE = WalPoint("1", 1)
THERE = WalPoint("2", 1)


class Desk:
    """What the task needs.

    Attributes:
        incoming: the watched directory.
        held: where files are kept.
    """

    def __init__(self, root: Path, rules: KeepRules = KeepRules(3600.0)) -> None:  # noqa: B008
        self.incoming, self.held = root / "incoming", root / "held"
        self.incoming.mkdir(exist_ok=True)
        self.held.mkdir(exist_ok=True)
        self.database = FakeDatabase()
        self.kept = Kept(self.held, self.incoming, rules)
        self.metrics = Metrics()
        self.repeats = Repeats(self.kept.offered)
        self.outcomes = StoredOutcomes(self.metrics, self.repeats)
        self.pending = Pending()
        self.holding = Holding(self.database, self.kept, self.repeats, self.pending, self.metrics)

    def put(self, name: str) -> None:
        """Commit a file."""
        (self.incoming / name).write_text("x")
        self.kept.put_all([(name, identity_at(self.incoming / name), HERE)])

    def process(self, *, rows: int) -> int:
        """Process what is in `incoming`, of which these rows were missing; return how many."""
        names = [path.name for path in self.incoming.iterdir()]
        for name in names:
            (self.incoming / name).unlink()
            done = Stored(rows, duplicate=not rows)
            self.outcomes.finished(Finished(Ticket(name, True, 0.0), IDENTITY, done), 0.0)
        return len(names)

    def value(self, name: str) -> float:
        """One value of its metrics."""
        return value(self.metrics.render(), f"rudder_relayd_{name}")

    def has_released(self, files: int) -> bool:
        """Whether this many were removed too early."""
        return self.value("held_released_early_total") >= files

    def waiting(self) -> int:
        """How many files are in the watched directory."""
        return len(list(self.incoming.iterdir()))


@asynccontextmanager
async def running(desk: Desk) -> AsyncIterator[None]:
    """Run the task until the block ends."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.holding.run)
        yield
        nursery.cancel_scope.cancel()


async def test_another_server_gets_everything_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a change all files are offered in parts; the missing ones are counted and logged."""
    monkeypatch.setattr(module, "OFFERED", 4)
    monkeypatch.setattr(module, "OFFER_S", 0.01)
    desk = Desk(tmp_path)
    for number in range(10):
        desk.put(f"{number}.log")
    with capture_logs() as logs:
        async with running(desk):
            await eventually(lambda: desk.kept.at is not None)
            assert desk.waiting() == 0
            desk.database.point = THERE
            desk.database.moved.set()
            done = 0
            while done < 10:
                await eventually(lambda: desk.waiting() > 0)
                assert desk.waiting() <= 4
                done += desk.process(rows=3 if done < 4 else 0)
            await eventually(lambda: any("processed again" in one["event"] for one in logs))
    missing = desk.value("held_missing_total")
    assert 0 < missing <= 4
    assert desk.value("held_replayed_total") == 10
    assert desk.value("duplicates_total") == 0
    numbers = desk.holding.numbers()
    assert (numbers.files, numbers.replayed, numbers.missing) == (0, 10, missing)
    (end,) = [one for one in logs if "processed again" in one["event"]]
    assert (end["files"], end["missing"]) == (10, missing)


async def test_a_server_that_is_away_releases_nothing(tmp_path: Path) -> None:
    """Files outlive their time until the database answers; then they are removed."""
    desk = Desk(tmp_path, KeepRules(0.04))
    desk.database.point = transient()
    desk.put("a.log")
    async with running(desk):
        await eventually(lambda: desk.database.locations > 10)
        assert desk.kept.files == 1
        desk.database.point = HERE
        await eventually(lambda: desk.kept.files == 0)
    assert desk.waiting() == 0


async def test_what_is_left_of_a_hold_that_is_off_is_offered(tmp_path: Path) -> None:
    """Without a hold the files of an earlier one are processed once more, and the task ends."""
    Desk(tmp_path).put("a.log")
    desk = Desk(tmp_path, KeepRules(0.0))
    desk.database.point = transient()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.holding.run)
        await eventually(lambda: desk.waiting() == 1)
        desk.process(rows=0)
        with trio.fail_after(30):
            while nursery.child_tasks:
                await trio.sleep(0.01)
    assert list(desk.held.iterdir()) == []


async def test_a_directory_that_cannot_be_read_is_read_later(tmp_path: Path) -> None:
    """What an earlier process has kept is found once its directory can be used."""
    Desk(tmp_path).put("a.log")
    desk = Desk(tmp_path, KeepRules(0.4))
    desk.database.point = transient()
    away = desk.held.rename(tmp_path / "away")
    with capture_logs() as logs:
        async with running(desk):
            await eventually(lambda: any("cannot be used" in one["event"] for one in logs))
            away.rename(desk.held)
            await eventually(lambda: desk.kept.files == 1)


async def test_early_releases_are_logged_at_most_once_a_minute(tmp_path: Path) -> None:
    """Beyond the bound files are removed, counted, and summed up in one warning."""
    desk = Desk(tmp_path, KeepRules(0.4, max_files=2))
    with capture_logs() as logs:
        async with running(desk):
            for released in (3, 8, 13):
                for number in range(5):
                    desk.put(f"{released}-{number}.log")
                await eventually(partial(desk.has_released, released))
    warnings = [one for one in logs if "too many held files" in one["event"]]
    assert len(warnings) == 1
