"""What the tables do with a run log: it is inserted on trial, and all is rolled back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from relayd.errors import DatabaseError
from relayd.outputs.postgres import statements as sql
from relayd.outputs.postgres.connection import Connection
from relayd.outputs.postgres.faults import FAULTS, explain
from relayd.outputs.postgres.known_good import known_good
from relayd.outputs.postgres.sqlstate import NO_PARTITION
from relayd.outputs.postgres.storing import store
from relayd.outputs.postgres.survey.model import Refusal, Tomorrow
from relayd.outputs.postgres.tables import Tables, read_tables
from relayd.runlog.model import RunLog

#: Whether a run log is in a default partition, or in one of its partitions.
_IN_DEFAULT: Final = """
SELECT bool_or(EXISTS (
    SELECT FROM pg_partition_ancestors(r.tableoid) AS a JOIN pg_class AS c ON c.oid = a.relid
     WHERE pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT'))
FROM ruddersysevents AS r WHERE r.nodeid = $1 AND r.executiontimestamp = $2::text::timestamptz
"""


@asynccontextmanager
async def trial(connection: Connection) -> AsyncIterator[None]:
    """Undo what the block did, failed or not; the transaction around it goes on."""
    await connection.execute(sql.BEGIN_TRIAL)
    try:
        yield
    finally:
        await connection.execute(sql.UNDO_TRIAL)


async def try_run_logs(
    connection: Connection,
) -> tuple[Tables | None, Refusal | None, Tomorrow]:
    """Insert a good run log and roll back, and one of tomorrow if there are partitions.

    What only takes too long is no refusal.
    """
    tables, refusal = None, None
    try:
        async with trial(connection):
            tables = await read_tables(connection)
        async with trial(connection):
            row = await connection.fetchrow(sql.REPORT_OF_ANOTHER, "")
        for run_log in known_good(None if row is None else tuple(row), "root"):
            try:
                await _insert(connection, tables, run_log)
            except DatabaseError as error:
                refusal = Refusal(str(error), error.sqlstate)
            else:
                return tables, None, await _try_tomorrow(connection, tables, run_log)
    except FAULTS as error:
        # What stops the survey here stops the daemon too.
        fault = explain(error)
        transient = fault.kind == "transient"
        return tables, None if transient else Refusal(str(fault), fault.sqlstate), "ready"
    return tables, refusal, "ready"


async def _try_tomorrow(connection: Connection, tables: Tables, accepted: RunLog) -> Tomorrow:
    """Return where the run log would go tomorrow."""
    if not tables.partitioned:
        return "ready"
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    run_log = next(known_good(accepted.first, accepted.node_id, tomorrow))
    try:
        async with trial(connection):
            await store(connection, tables, [run_log])
            in_default = await connection.fetchval(_IN_DEFAULT, run_log.node_id, run_log.start)
    except FAULTS as error:
        if explain(error).sqlstate != NO_PARTITION:
            raise
        return "missing"
    return "default" if in_default else "ready"


async def _insert(connection: Connection, tables: Tables, run_log: RunLog) -> None:
    """Insert a run log and roll back; raises `DatabaseError` if it is refused."""
    try:
        async with trial(connection):
            await store(connection, tables, [run_log])
            await connection.execute(sql.CHECK_CONSTRAINTS)
    except FAULTS as error:
        fault = explain(error)
        if fault.kind == "transient":
            raise
        raise fault from error
