"""Properties of a database, for `relayd check`; nothing that it does stays.

Unlike the check of the writer, which stops at the first thing that is missing, a survey lists all.
"""

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import trio_asyncio

from relayd.outputs.postgres import statements as sql
from relayd.outputs.postgres.connecting.surroundings import Surroundings
from relayd.outputs.postgres.connecting.target import chosen_settings
from relayd.outputs.postgres.connection import (
    Connection,
    Patience,
    connect,
    transaction_limits,
)
from relayd.outputs.postgres.faults import FAULTS, explain
from relayd.outputs.postgres.survey.model import SEQUENCE, TABLES, Column, Index, Numbers, Survey
from relayd.outputs.postgres.survey.trials import trial, try_run_logs

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
       current_setting('synchronous_commit') AS synchronous_commit,
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

#: Settings of the client that have not reached the session; "session" are relayd's own.
_LOST: Final = """
SELECT name FROM pg_settings
WHERE name = ANY($1::text[]) AND source NOT IN ('client', 'session')
"""


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
                return await _ask(connection, _wanted(parameters))
            finally:
                connection.terminate()
    except FAULTS as error:
        raise explain(error) from error


def _wanted(parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that the session should have."""
    options = str(parameters.get("options") or os.environ.get("PGOPTIONS", ""))
    return sorted(chosen_settings(options))


async def _ask(connection: Connection, wanted: list[str]) -> Survey:
    server = await connection.fetchrow(_SERVER)
    # A pooler gives its clients numbers of its own.
    pooled = await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid()
    lost = [name for (name,) in await connection.fetch(_LOST, wanted)] if wanted else []
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
    tables, refusal, tomorrow = await try_run_logs(connection)
    return Survey(
        **dict(server),
        pooled=pooled,
        lost_settings=tuple(lost),
        columns=columns,
        elsewhere=elsewhere,
        indexes=tuple(indexes),
        rights=rights,
        numbers=numbers,
        copy=tables is None or tables.copy,
        partitioned=tables is not None and tables.partitioned,
        refusal=refusal,
        tomorrow=tomorrow,
    )


async def _numbers(connection: Connection, indexes: list[Index]) -> Numbers | None:
    row = await connection.fetchrow(_SEQUENCE, SEQUENCE)
    if row is None:
        return None
    highest = None
    if any(i.table == TABLES[0] and i.whole and i.columns[:1] == ("id",) for i in indexes):
        with suppress(*FAULTS):
            async with trial(connection):
                highest = await connection.fetchval(_HIGHEST_ID)
    return Numbers(row["last"], row["maximum"], row["cycle"], highest)
