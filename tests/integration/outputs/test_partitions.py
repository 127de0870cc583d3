"""Partitions of ruddersysevents: the shipped script, pg_partman, and what relayd says of gaps."""

import math
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import trio_asyncio

from relayd.commands.demo.postgres.server import Server
from relayd.errors import Retry
from relayd.outputs.postgres.connecting.surroundings import Surroundings
from relayd.outputs.postgres.connection import Patience
from relayd.outputs.postgres.database import Database
from relayd.outputs.postgres.session import Notes
from relayd.outputs.postgres.survey.questions import survey
from relayd.outputs.results import Stored
from relayd.runlog.model import RunLog
from tests.support import postgres
from tests.support.postgres import QUICK, fresh_database
from tests.support.project import CONF
from tests.support.rows import make_rows

SCRIPT: Final = (CONF / "postgresql" / "partitions.sql").read_text()
TODAY: Final = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)

#: What distinguishes a table from another one with the same columns.
DEFINITION: Final = """
SELECT pg_get_constraintdef(oid), conname FROM pg_constraint
 WHERE conrelid = 'ruddersysevents'::regclass
UNION ALL
SELECT pg_get_indexdef(indexrelid), '' FROM pg_index WHERE indrelid = 'ruddersysevents'::regclass
UNION ALL
SELECT relacl::text, relowner::regrole::text FROM pg_class WHERE oid = 'ruddersysevents'::regclass
ORDER BY 1, 2
"""
#: Rows of each partition that has some.
COUNTS: Final = (
    "SELECT tableoid::regclass::text, count(*) FROM ruddersysevents GROUP BY 1 ORDER BY 1"
)
PARTITIONS: Final = """
SELECT c.relname, c.relowner::regrole FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'ruddersysevents'::regclass ORDER BY 1
"""


def step(database: postgres.Database, name: str, **variables: int) -> None:
    """Run a step of the script as an administrator does."""
    variables_ = {"step": name, **variables}
    database.query("".join(f"\\set {key} {value}\n" for key, value in variables_.items()) + SCRIPT)


def at(node: str, days: float) -> RunLog:
    """Return a run log of so many days from the beginning of today."""
    return make_rows(node, start=(TODAY + timedelta(days=days)).isoformat())


def name_of(days: int) -> str:
    """Return the name of the partition of a day."""
    return f"ruddersysevents_p{TODAY + timedelta(days=days):%Y_%m_%d}"


@asynccontextmanager
async def open_database(
    database: postgres.Database, notes: Notes | None = None
) -> AsyncIterator[Database]:
    """Yield a writer that has just connected."""
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(lambda _loop, _context: None)
        writer = Database(database.rudder.keywords(), notes=notes or Notes())
        try:
            yield writer
        finally:
            await writer.aclose()


async def end_of(database: postgres.Database) -> float:
    """Return until when relayd knows partitions, in days from today."""
    ends: list[float] = []
    async with open_database(database, Notes(partitions_end=ends.append)) as writer:
        await writer.definition()
    return (ends[-1] - TODAY.timestamp()) / 86400


async def tomorrow_of(database: postgres.Database) -> str:
    """Return where `relayd check` expects the rows of tomorrow."""
    async with trio_asyncio.open_loop():
        found = await survey(database.rudder.keywords(), Patience(), Surroundings.of_process())
    assert found.refusal is None
    return found.tomorrow


async def test_a_table_moves_to_partitions_and_back(database: postgres.Database) -> None:
    """While relayd writes, the table gets partitions and loses them; no row and no rule is lost."""
    before = database.query(DEFINITION)
    async with open_database(database) as writer:
        await writer.write([at("old", -9), at("today", 0)])
        step(database, "prepare")
        assert await writer.write([at("between", 0)]) == [Stored(4)]
        step(database, "switch")
        again, *fresh = await writer.write(
            [at("today", 0), at("soon", 2.5), at("late", 30), at("1960", -24000)]
        )
        assert (again, fresh) == (Stored(0, duplicate=True), [Stored(4)] * 3)
        assert database.query(COUNTS) == [
            ("ruddersysevents_before", "12"),
            ("ruddersysevents_default", "8"),
            (name_of(2), "4"),
        ]
        # Rudder's web application asks for the first.
        sizes = (
            "SELECT pg_total_relation_size('ruddersysevents'), sum(pg_total_relation_size(relid))"
            " > 0 FROM pg_partition_tree('ruddersysevents')"
        )
        assert database.query(sizes) == [("0", "t")]
        assert {owner for _, owner in database.query(PARTITIONS)} == {"rudder_owner"}
        step(database, "maintain", ahead=40)
        assert (name_of(30), "4") in database.query(COUNTS)
        assert await writer.write([at("late", 30)]) == [Stored(0, duplicate=True)]
        assert await writer.write([at("later", 39)]) == [Stored(4)]
        step(database, "back")
        assert await writer.write([at("later", 39), at("end", 0)]) == [
            Stored(0, duplicate=True),
            Stored(4),
        ]
    assert database.query(DEFINITION) == before
    # All but what was dated before the days that are kept, and was not in the old table.
    assert database.query("SELECT count(*), count(DISTINCT id) FROM ruddersysevents") == [
        ("28", "28")
    ]


async def test_rows_after_the_boundary_end_the_preparation(database: postgres.Database) -> None:
    """A row that is dated too late stops the first step, which leaves the table as it was."""
    before = database.query(DEFINITION)
    async with open_database(database) as writer:
        await writer.write([at("late", 30)])
        step(database, "prepare")
        assert database.query(DEFINITION) == before
        step(database, "prepare", first=31)
        step(database, "switch", ahead=32)
        assert await writer.write([at("later", 31)]) == [Stored(4)]
    assert database.query(COUNTS)[-1] == (name_of(31), "4")


async def test_how_far_partitions_reach_is_known(database: postgres.Database) -> None:
    """The end of the days that have partitions is known, and where the rows of tomorrow go."""
    assert math.isnan(await end_of(database))
    step(database, "prepare")
    step(database, "switch", ahead=5)
    assert (await end_of(database), await tomorrow_of(database)) == (6.0, "ready")
    # A gap in the middle is the end.
    database.query(f"DROP TABLE {name_of(4)}")
    assert await end_of(database) == 4.0
    # The oldest partition, which contains today and tomorrow, is dropped as one of old days.
    step(database, "maintain", ahead=5, keep=-2)
    assert "ruddersysevents_before" not in [name for name, _ in database.query(PARTITIONS)]
    assert (await end_of(database), await tomorrow_of(database)) == (6.0, "ready")
    database.query(f"DROP TABLE {name_of(0)}; DROP TABLE {name_of(1)}")
    assert 0 <= await end_of(database) < 1.01
    assert await tomorrow_of(database) == "default"
    database.query(
        f"DROP TABLE ruddersysevents_default; CREATE TABLE today PARTITION OF ruddersysevents"
        f" FOR VALUES FROM (MINVALUE) TO ('{TODAY + timedelta(days=1)}')"
    )
    assert (await end_of(database), await tomorrow_of(database)) == (1.0, "missing")


@pytest.mark.fault("F5")
async def test_a_run_log_without_a_partition_waits(database: postgres.Database) -> None:
    """It is not refused; the reason names the date, and with the partition it goes in."""
    step(database, "prepare")
    step(database, "switch")
    database.query("DROP TABLE ruddersysevents_default")
    late = at("late", 30)
    async with open_database(database) as writer:
        good, waits = await writer.write([at("good", 0), late])
        assert good == Stored(4)
        assert isinstance(waits, Retry)
        day = TODAY + timedelta(days=30)
        assert 'no partition of relation "ruddersysevents" found for row' in waits.detail
        assert f": executiontimestamp = {day:%Y-%m-%d %H:%M:%S}+00" in waits.detail
        database.query(
            f"CREATE TABLE more PARTITION OF ruddersysevents FOR VALUES FROM ('{day}')"
            f" TO ('{day + timedelta(days=1)}')"
        )
        assert await writer.write([late]) == [Stored(4)]


@pytest.fixture
def partman(monkeypatch: pytest.MonkeyPatch) -> Iterator[postgres.Database]:
    """Yield a database on an installed server with pg_partman."""
    found = sorted(Path("/usr/share/postgresql").glob("*/extension/pg_partman.control"))
    if not found:
        pytest.skip("pg_partman is not installed")
    monkeypatch.setenv("RELAYD_POSTGRES_BIN", f"/usr/lib/postgresql/{found[-1].parts[4]}/bin")
    with tempfile.TemporaryDirectory(prefix="relayd-partman-") as directory:
        Path(directory).chmod(0o755)
        server = Server(Path(directory), extra=QUICK)
        try:
            server.create()
            with fresh_database(server) as database:
                yield database
        finally:
            server.close()


async def test_partman_makes_partitions_and_drops_them(partman: postgres.Database) -> None:
    """pg_partman goes on where the script began; it takes no row with it that is not old."""
    maintain = "CALL partman.run_maintenance_proc()"
    async with open_database(partman) as writer:
        await writer.write([at("today", 0)])
        step(partman, "prepare")
        step(partman, "switch", ahead=4)
        step(partman, "partman", ahead=4)
        partman.query(maintain)
        # It would have dropped the oldest partition, by the date with which that begins.
        assert await writer.write([at("today", 0)]) == [Stored(0, duplicate=True)]
        await writer.write([at("late", 12)])
        # pg_partman cannot make a partition whose rows are in the default one; the script can.
        step(partman, "maintain", ahead=12)
        partman.query(f"UPDATE partman.part_config SET premake = 14; {maintain}")
        assert await end_of(partman) >= 14.0
        assert await writer.write([at("late", 12), at("more", 13)]) == [
            Stored(0, duplicate=True),
            Stored(4),
        ]
        assert partman.query(COUNTS) == [
            ("ruddersysevents_before", "4"),
            (name_of(12), "4"),
            (name_of(13), "4"),
        ]
        assert {owner for _, owner in partman.query(PARTITIONS)} == {"rudder_owner"}
        partman.query("DROP TABLE ruddersysevents_before")
        step(partman, "partman", keep=-6)
        partman.query(maintain)
    names = [name for name, _ in partman.query(PARTITIONS)]
    assert names[:2] == ["ruddersysevents_default", name_of(6)]
    assert await end_of(partman) < 1.01
