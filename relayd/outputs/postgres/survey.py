"""Properties of a database, for `relayd check`; nothing that it does stays.

Unlike the check of the writer, which stops at the first thing that is missing, a survey lists all.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec
import trio_asyncio

from relayd.errors import DatabaseError
from relayd.outputs.postgres import statements as sql
from relayd.outputs.postgres.connecting.surroundings import Surroundings
from relayd.outputs.postgres.connection import (
    Connection,
    Patience,
    connect,
    transaction_limits,
)
from relayd.outputs.postgres.faults import FAULTS, explain
from relayd.outputs.postgres.known_good import known_good
from relayd.outputs.postgres.storing import store
from relayd.outputs.postgres.tables import Tables, read_tables
from relayd.runlog.model import RunLog

TABLES: Final = ("ruddersysevents", "reportsexecution")
SEQUENCE: Final = "serial"

#: The numbers follow server_version_num: 130004 is 13.4 (PostgreSQL manual, 20.15).
_SERVER: Final = """
SELECT current_setting('server_version_num')::int AS version,
       pg_encoding_to_char(d.encoding)::text AS encoding,
       pg_is_in_recovery() AS standby,
       current_setting('transaction_read_only') = 'on' AS read_only,
       r.rolsuper AS superuser,
       current_user::text AS account,
       current_setting('search_path') AS search_path,
       (SELECT count(*)::int FROM pg_stat_replication
         WHERE coalesce(application_name, '') !~ '^(pg_basebackup|pg_receivewal|barman)'
       ) AS standbys,
       current_setting('synchronous_standby_names') <> '' AS synchronous,
       extract(epoch FROM clock_timestamp())::float8 AS now
FROM pg_database AS d, pg_roles AS r
WHERE d.datname = current_database() AND r.rolname = current_user
"""

_COLUMNS: Final = """
SELECT c.relname::text AS table_name, a.attname::text AS column_name,
       format_type(a.atttypid, NULL) AS type,
       coalesce(pg_get_expr(d.adbin, d.adrelid), '') AS default_value,
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS must_be_given
FROM pg_attribute AS a
JOIN pg_class AS c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.oid IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)
  AND a.attnum > 0 AND NOT a.attisdropped
"""

#: What exists, but not where the session looks for it.
_ELSEWHERE: Final = """
SELECT c.relname::text AS name, min(n.nspname)::text AS schema_name
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = ANY($1::text[]) AND c.relkind IN ('r', 'p', 'S')
  AND to_regclass(c.relname) IS NULL
GROUP BY c.relname
"""

_INDEXES: Final = """
SELECT c.relname::text AS table_name, i.indisunique AND i.indpred IS NULL AS is_unique,
       i.indpred IS NULL AS whole,
       ARRAY(SELECT a.attname::text
               FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
               JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
              ORDER BY k.place) AS columns
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid
WHERE c.oid IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name) AND i.indisvalid
"""

_RIGHTS: Final = """
SELECT name || ' ' || kind AS what, has_table_privilege(to_regclass(name), kind) AS granted
FROM unnest($1::text[]) AS name, unnest('{SELECT,INSERT}'::text[]) AS kind
WHERE to_regclass(name) IS NOT NULL
UNION ALL
SELECT $2::text || ' USAGE', has_sequence_privilege(to_regclass($2::text), 'USAGE')
WHERE (SELECT relkind FROM pg_class WHERE oid = to_regclass($2::text)) = 'S'
UNION ALL
SELECT 'schema public USAGE', has_schema_privilege(to_regnamespace('public'), 'USAGE')
WHERE to_regnamespace('public') IS NOT NULL
"""


#: How far the sequence and the table are, where the account may know.
_SEQUENCE: Final = """
SELECT s.last_value::bigint AS last, s.max_value AS maximum, s.cycle
FROM pg_sequences AS s
JOIN pg_namespace AS n ON n.nspname = s.schemaname
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = s.sequencename
WHERE c.oid = to_regclass($1::text)
"""
_HIGHEST_ID: Final = "SELECT max(id) FROM ruddersysevents"


class Column(msgspec.Struct, frozen=True):
    """A column.

    Attributes:
        type: as PostgreSQL writes it.
        default: as PostgreSQL writes it; "" for none.
        must_be_given: whether a row without a value for it is refused.
    """

    type: str
    default: str = ""
    must_be_given: bool = False


class Index(msgspec.Struct, frozen=True):
    """An index.

    Attributes:
        table: what it is on.
        columns: in their order; expressions are left out.
        unique: whether it forbids duplicates in the whole table.
        whole: whether it covers all rows.
    """

    table: str
    columns: tuple[str, ...]
    unique: bool = False
    whole: bool = True


class Numbers(msgspec.Struct, frozen=True):
    """How far ids are.

    Attributes:
        last: number that the sequence gave last, None before the first.
        maximum: last number that the sequence can give.
        cycle: whether it begins again after that.
        highest: highest id in the table; None for an empty one, or without an index to ask.
    """

    last: int | None
    maximum: int
    cycle: bool
    highest: int | None = None


class Refusal(msgspec.Struct, frozen=True):
    """How the tables refused a run log that sound ones accept."""

    detail: str
    sqlstate: str


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        version: server_version_num, 130004 for 13.4.
        encoding: of the database, "UTF8" for example.
        standby: whether it replays what another server writes.
        read_only: whether a transaction may write nothing.
        superuser: whether the account may do everything.
        account: the role that the session has.
        now: the server's clock, unix time in seconds.
        standbys: servers that replicate from it.
        synchronous: whether commits wait for some of them.
        search_path: the schemas in which the session looks for tables.
        columns: by table and name, of the tables that the account can see.
        elsewhere: schema of each table or sequence that is in none of these schemas, by its name.
        indexes: of the same tables.
        rights: for example "ruddersysevents INSERT" → whether it is granted; what does not exist
            is absent.
        numbers: of rows; None if the account may not know.
        copy: whether rows can go in by COPY.
        refusal: how the tables refused a run log on trial; None if they did not, or could not be
            asked in time.
    """

    version: int
    encoding: str
    standby: bool
    read_only: bool
    superuser: bool
    account: str
    now: float
    standbys: int = 0
    synchronous: bool = False
    search_path: str = "public"
    columns: dict[str, dict[str, Column]]
    elsewhere: dict[str, str] = msgspec.field(default_factory=dict)
    indexes: tuple[Index, ...]
    rights: dict[str, bool]
    numbers: Numbers | None = None
    copy: bool = True
    refusal: Refusal | None = None


async def survey(
    parameters: Mapping[str, Any], patience: Patience, surroundings: Surroundings
) -> Survey:
    """Survey a database over a connection of its own; must run inside `open_asyncio`.

    Args:
        parameters: libpq's options, the password among them.
        patience: `search` bounds the connection, `statement` all questions.
        surroundings: of the process whose connection this is like.

    Raises:
        DatabaseError: the survey failed; the text says why and never contains a password.
    """
    result: Survey = await trio_asyncio.aio_as_trio(_survey)(parameters, patience, surroundings)
    return result


async def _survey(
    parameters: Mapping[str, Any], patience: Patience, surroundings: Surroundings
) -> Survey:
    try:
        async with asyncio.timeout(patience.search + patience.statement):
            connection = await connect(parameters, patience, surroundings=surroundings)
            try:
                # One transaction, so that a pooler between keeps the same server.
                await connection.execute(sql.OPEN % transaction_limits(parameters, patience))
                return await _ask(connection)
            finally:
                connection.terminate()
    except FAULTS as error:
        raise explain(error) from error


async def _ask(connection: Connection) -> Survey:
    server = await connection.fetchrow(_SERVER)
    columns: dict[str, dict[str, Column]] = {}
    for table, name, *properties in await connection.fetch(_COLUMNS, TABLES):
        columns.setdefault(table, {})[name] = Column(*properties)
    indexes = [
        Index(table, tuple(names), unique, whole)
        for table, unique, whole, names in await connection.fetch(_INDEXES, TABLES)
    ]
    rights = dict(map(tuple, await connection.fetch(_RIGHTS, TABLES, SEQUENCE)))
    elsewhere = dict(map(tuple, await connection.fetch(_ELSEWHERE, (*TABLES, SEQUENCE))))
    numbers = await _numbers(connection, indexes)  # before others are drawn on trial
    tables, refusal = await _try(connection)
    return Survey(
        **dict(server),
        columns=columns,
        elsewhere=elsewhere,
        indexes=tuple(indexes),
        rights=rights,
        numbers=numbers,
        copy=tables is None or tables.copy,
        refusal=refusal,
    )


@asynccontextmanager
async def _trial(connection: Connection) -> AsyncIterator[None]:
    """Undo what the block did, failed or not; the transaction around it goes on."""
    await connection.execute(sql.BEGIN_TRIAL)
    try:
        yield
    finally:
        await connection.execute(sql.UNDO_TRIAL)


async def _numbers(connection: Connection, indexes: list[Index]) -> Numbers | None:
    row = await connection.fetchrow(_SEQUENCE, SEQUENCE)
    if row is None:
        return None
    highest = None
    if any(i.table == TABLES[0] and i.whole and i.columns[:1] == ("id",) for i in indexes):
        with suppress(*FAULTS):
            async with _trial(connection):
                highest = await connection.fetchval(_HIGHEST_ID)
    return Numbers(row["last"], row["maximum"], row["cycle"], highest)


async def _try(connection: Connection) -> tuple[Tables | None, Refusal | None]:
    """Insert a good run log and roll back; what only takes too long is no refusal."""
    tables, refusal = None, None
    try:
        async with _trial(connection):
            tables = await read_tables(connection)
        async with _trial(connection):
            row = await connection.fetchrow(sql.REPORT_OF_ANOTHER, "")
        for run_log in known_good(None if row is None else tuple(row), "root"):
            try:
                await _insert(connection, tables, run_log)
            except DatabaseError as error:
                refusal = Refusal(str(error), error.sqlstate)
            else:
                return tables, None
    except FAULTS as error:
        # What stops the survey here stops the daemon too.
        fault = explain(error)
        transient = fault.kind == "transient"
        return tables, None if transient else Refusal(str(fault), fault.sqlstate)
    return tables, refusal


async def _insert(connection: Connection, tables: Tables, run_log: RunLog) -> None:
    """Insert a run log and roll back; raises `DatabaseError` if it is refused."""
    try:
        async with _trial(connection):
            await store(connection, tables, [run_log])
            await connection.execute(sql.CHECK_CONSTRAINTS)
    except FAULTS as error:
        fault = explain(error)
        if fault.kind == "transient":
            raise
        raise fault from error
