"""What the tables are like: the rights on them, how rows go in, and a token of their definition.

Others may have changed them: a restore left a key out, an administrator added a policy or made a
view of them. relayd then writes in another way where that is possible.
"""

from collections.abc import Mapping
from typing import Final

import asyncpg
import msgspec

from relayd.outputs.postgres import statements as sql
from relayd.outputs.postgres.connection import Connection

#: Begins every token, so that it is never taken for a trust token of a node.
TOKEN_PREFIX: Final = "tables:"  # noqa: S105 - no secret


class Tables(msgspec.Struct, frozen=True):
    """What was found when the connection was made.

    Attributes:
        copy: whether COPY may be used. It may not under row-level security, nor with a view.
        key: whether `reportsexecution` has its key, so that it refuses duplicates itself.
        where: whether it may be asked where the server is in its history, see `sql.WHERE`.
        partitioned: whether `ruddersysevents` has partitions.
        message: whether a transaction that inserts nothing may be made to wait for standbys.
        token: differs once columns, constraints, indexes, triggers, policies or partitions do.
    """

    copy: bool
    key: bool
    where: bool
    partitioned: bool
    message: bool
    token: str


async def check_tables(connection: Connection) -> None:
    """Check that the tables are there.

    Raises:
        asyncpg.PostgresError: tables, columns or rights are not those that relayd needs.
    """
    for statement in sql.SCHEMA:
        await connection.execute(statement)
    _judge_rights(await connection.fetchrow(sql.RIGHTS))


async def read_tables(connection: Connection) -> Tables:
    """Return what the tables are like; some 10 ms of the server's time.

    Raises:
        asyncpg.PostgresError: as `check_tables`.
    """
    await check_tables(connection)
    row = await connection.fetchrow(sql.TABLES)
    token = f"{TOKEN_PREFIX}{row['definition'] & (2**64 - 1):016x}"
    return Tables(row["copy"], row["key"], row["where_"], row["partitioned"], row["message"], token)


def _judge_rights(row: Mapping[str, bool]) -> None:
    missing = [name for name, there in row.items() if not there]
    if "writable" in missing:
        raise asyncpg.ReadOnlySQLTransactionError("the database is read-only (a standby?)")
    if missing:
        raise asyncpg.InsufficientPrivilegeError(f"the account lacks {', '.join(missing)}")
