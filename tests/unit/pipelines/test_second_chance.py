"""Run logs that the tables have refused come back once the tables are others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from relayd.errors import Reason, Refused
from relayd.pipelines.second_chance import SecondChance
from relayd.spool.disposal import Disposal, RefusedFile
from tests.support.daemon import eventually
from tests.support.pipeline import FakeDatabase

#: Seconds between two looks.
LOOK_S = 0.01


class Watched(FakeDatabase):
    """Counts how often its tables are looked at."""

    looks = 0

    async def definition(self) -> str:
        """As `Database.definition`."""
        self.looks += 1
        return await super().definition()


class Desk:
    """The parts that a second chance needs, on a real spool.

    Attributes:
        refused_some, waits_for_all, waits_for_tables: as of `Writer`.
        rescans: how often the spool was to be listed.
    """

    def __init__(self, root: Path) -> None:
        self.incoming, self.failed = root / "incoming", root / "failed"
        self.incoming.mkdir()
        self.disposal = Disposal(self.incoming, self.failed)
        self.database = Watched()
        self.refused_some = self.waits_for_all = self.waits_for_tables = False
        self.rescans = 0

    def rescan(self) -> None:
        """As `Line.rescan`."""
        self.rescans += 1

    async def refuse(self, name: str, token: str, reason: Reason = Reason.DATABASE) -> None:
        """Move a new file to `failed`."""
        (self.incoming / name).write_text("x")
        refused = Refused(reason, "")
        await self.disposal.quarantine([RefusedFile(name, None, refused, "node1", token)])

    async def looked_again(self) -> None:
        """Wait until two more looks are over."""
        looks = self.database.looks
        await eventually(lambda: self.database.looks > looks + 2)

    def back(self) -> list[str]:
        """Return what is in `incoming`."""
        return sorted(path.name for path in self.incoming.iterdir())


@asynccontextmanager
async def open_second_chance(desk: Desk) -> AsyncIterator[None]:
    """Look, as the pipeline does."""
    chance = SecondChance(desk.database, desk, desk, LOOK_S)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chance.run)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.fault("F5")
async def test_what_other_tables_refused_comes_back(desk: Desk) -> None:
    """At the start and after a change; what these tables refused stays, as do other refusals."""
    await desk.refuse("by an older relayd.log", "sha256:of a certificate")
    await desk.refuse("by these tables.log", desk.database.token)
    await desk.refuse("forged.log", desk.database.token, Reason.SIGNATURE)
    async with open_second_chance(desk):
        await eventually(lambda: desk.rescans == 1)
        assert desk.back() == ["by an older relayd.log"]
        await desk.looked_again()
        assert desk.rescans == 1
        desk.database.token = "tables:2"
        await eventually(lambda: desk.rescans == 2)
    assert desk.back() == ["by an older relayd.log", "by these tables.log"]


@pytest.mark.fault("F5")
async def test_nothing_is_asked_while_nothing_was_refused(desk: Desk) -> None:
    """After one question the database is left alone until it refuses a run log."""
    desk.failed.mkdir()
    async with open_second_chance(desk):
        await eventually(lambda: desk.database.looks == 1)
        await trio.sleep(10 * LOOK_S)
        assert desk.database.looks == 1
        desk.refused_some = True
        await eventually(lambda: desk.database.looks == 2)


@pytest.mark.fault("F5")
async def test_what_waits_is_retried(desk: Desk) -> None:
    """Held run logs are retried when the tables changed; whole batches at every look."""
    desk.waits_for_tables = True
    async with open_second_chance(desk):
        await desk.looked_again()
        assert desk.rescans == 0
        desk.database.token = "tables:2"
        await eventually(lambda: desk.rescans == 1)
        await desk.looked_again()
        assert desk.rescans == 1
        desk.waits_for_all = True
        await eventually(lambda: desk.rescans == 3)
