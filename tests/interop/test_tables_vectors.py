"""Tables as they were found at real sites, if Rudder's test data are available."""

import pytest
import trio_asyncio

from relayd.outputs.postgres.database import Database
from relayd.outputs.results import Stored
from tests.support import postgres
from tests.support.project import VECTORS
from tests.support.rows import make_rows

TABLES = VECTORS / "field" / "database-without-primary-key"

pytestmark = pytest.mark.skipif(not TABLES.is_dir(), reason="Rudder's test data are not here")


@pytest.mark.fault("F14")
@pytest.mark.parametrize("change", ["alter.sql", "rls.sql"])
async def test_run_logs_go_into_changed_tables(database: postgres.Database, change: str) -> None:
    """Without the key of `reportsexecution`, or with row-level security, run logs are stored."""
    await database.fetch((TABLES / change).read_text())
    async with trio_asyncio.open_loop():
        writer = Database(database.rudder.keywords())
        assert await writer.write([make_rows()]) == [Stored(4)]
        assert await writer.write([make_rows()]) == [Stored(0, duplicate=True)]
        await writer.aclose()
    assert await database.fetch("SELECT count(*) FROM reportsexecution") == [("1",)]
