"""The database: whether it can be reached, and has the tables and rights that relayd needs."""

import re
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Final

import trio_asyncio

from relayd.commands.check.checks.clock import seconds_ahead
from relayd.commands.check.model import Finding, Site, error, warning
from relayd.config.database_url import split_url
from relayd.config.main_conf import database_parameters
from relayd.errors import DatabaseError
from relayd.outputs.postgres.connection import Patience
from relayd.outputs.postgres.survey import SEQUENCE, TABLES, Survey, survey

#: Seconds: less than the check's own deadline, so that the reason is told.
PATIENCE: Final = Patience(connect=3.0, statement=1.5)

#: The first release that relayd is written for (server_version_num).
FIRST_VERSION: Final = 13_00_00

#: How Python begins what the system said.
_ERRNO: Final = re.compile(r"^\[Errno -?\d+\] ")

_TEXT: Final = "text"
_TIME: Final = "timestamp with time zone"
_NUMBER: Final = "bigint"

#: The columns that relayd uses, of the tables as Rudder's web application creates them.
COLUMNS: Final = {
    "ruddersysevents": {
        "id": _NUMBER,
        "executiondate": _TIME,
        "executiontimestamp": _TIME,
        "nodeid": _TEXT,
        "directiveid": _TEXT,
        "ruleid": _TEXT,
        "reportid": _TEXT,
        "component": _TEXT,
        "keyvalue": _TEXT,
        "eventtype": _TEXT,
        "policy": _TEXT,
        "msg": _TEXT,
    },
    "reportsexecution": {
        "nodeid": _TEXT,
        "date": _TIME,
        "nodeconfigid": _TEXT,
        "insertionid": _NUMBER,
    },
}
_RIGHTS: Final = {
    **{f"{table} {kind}": (kind, table) for table in TABLES for kind in ("SELECT", "INSERT")},
    f"{SEQUENCE} USAGE": ("USAGE", f"SEQUENCE {SEQUENCE}"),
    "schema public USAGE": ("USAGE", "SCHEMA public"),
}

_CREATE: Final = "let Rudder's web application create its tables: restart it and see its log"

#: What to do about the SQLSTATEs (PostgreSQL manual, appendix A) that a connection ends with.
_MENDS: Final = {
    "28P01": "correct output.database.password, or set it: ALTER ROLE {user} PASSWORD …",
    "28000": "create the role {user}, or let it in: a line for it in pg_hba.conf",
    "3D000": "correct the database's name in output.database.url, or create it",
    "42501": "GRANT CONNECT ON DATABASE {database} TO {user}",
    "53300": "raise max_connections of the server, or close what holds its connections",
    "57P03": "wait until the server has started; its log says how far it is",
}


async def check(site: Site) -> list[Finding]:
    """Ask the database, where run logs go there."""
    if not site.to_database:
        return []
    url = site.settings.output.database.url
    begun = time.time()
    found = await _survey(site)
    if isinstance(found, DatabaseError):
        return [judge_failure(found, url)]
    site.clocks[f"the database {_place(url)}"] = seconds_ahead(found.now, begun)
    return list(judge(found, _place(url)))


async def _survey(site: Site) -> Survey | DatabaseError:
    async with trio_asyncio.open_loop() as loop:
        # Connections that fail leave asyncio callbacks behind; the error is told already.
        loop.set_exception_handler(lambda _loop, _context: None)
        try:
            return await survey(database_parameters(site.settings), PATIENCE)
        except DatabaseError as failure:
            return failure


def judge_failure(failure: DatabaseError, url: str) -> Finding:
    """Tell why there is no connection, and what to do about that."""
    where, parts = _place(url), split_url(url)
    user, database = parts.username or "rudder", parts.path.lstrip("/") or "rudder"
    what = _ERRNO.sub("", str(failure))
    if failure.sqlstate:
        mend = _MENDS.get(failure.sqlstate, "see the server's log")
        what = f"{what} (SQLSTATE {failure.sqlstate})"
        code = "database.refused"
        return error(code, where, what, mend.format(user=user, database=database))
    mend = "start PostgreSQL there, or correct output.database.url"
    match failure.__cause__:
        case socket.gaierror():
            mend = "correct the host name in output.database.url"
        case ssl.SSLError() | ConnectionError() if "SSL" in what.upper():
            mend = "switch TLS on in the server, or change sslmode in output.database.url"
        case TimeoutError():
            mend = "see what is between here and there: a firewall, a route, a server that hangs"
    return error("database.unreachable", where, what, mend)


def judge(found: Survey, where: str) -> Iterator[Finding]:
    """Tell what is not as relayd needs it."""
    yield from _judge_server(found, where)
    yield from _judge_columns(found, where)
    yield from _judge_rights(found, where)
    yield from _judge_indexes(found, where)


def _judge_server(found: Survey, where: str) -> Iterator[Finding]:
    if found.version < FIRST_VERSION:
        what = f"PostgreSQL {found.version // 10_000} is too old, 13 is the first that does"
        yield error("database.version", where, what, "upgrade the server")
    if found.standby:
        mend = "name the primary in output.database.url, or all with target_session_attrs=primary"
        yield error("database.standby", where, "it is a standby: it can only be read", mend)
    elif found.read_only:
        mend = (
            f"ALTER ROLE {found.account} RESET default_transaction_read_only, or for the database"
        )
        yield error("database.read_only", where, "transactions are read-only by default", mend)
    if found.encoding != "UTF8":
        make = warning if found.encoding == "SQL_ASCII" else error
        what = f"its encoding is {found.encoding}: it cannot hold every text of a run log"
        yield make("database.encoding", where, what, "dump it, and restore it into one with UTF8")
    if found.superuser:
        what = f"role {found.account} is a superuser, relayd needs SELECT and INSERT only"
        mend = "name a role with fewer rights in output.database.url, rudder for example"
        yield warning("database.superuser", where, what, mend)


def _judge_columns(found: Survey, where: str) -> Iterator[Finding]:
    for table, columns in COLUMNS.items():
        there = found.columns.get(table)
        if there is None:
            yield error("database.table", where, f"there is no table {table}", _CREATE)
            continue
        for name, kind in columns.items():
            if name not in there:
                what = f"table {table} has no column {name}"
                yield error("database.column", where, what, _CREATE)
            elif there[name].type != kind:
                what = f"column {table}.{name} is {there[name].type}, expected {kind}"
                mend = f"ALTER TABLE {table} ALTER COLUMN {name} TYPE {kind}"
                yield error("database.column", where, what, mend)
    number = found.columns.get("ruddersysevents", {}).get("id")
    if f"{SEQUENCE} USAGE" not in found.rights:
        yield error("database.sequence", where, f"there is no sequence {SEQUENCE}", _CREATE)
    elif number is not None and SEQUENCE not in number.default:
        what = f"ruddersysevents.id does not get its default from sequence {SEQUENCE}"
        mend = f"ALTER TABLE ruddersysevents ALTER COLUMN id SET DEFAULT nextval('{SEQUENCE}')"
        yield error("database.sequence", where, what, mend)


def _judge_rights(found: Survey, where: str) -> Iterator[Finding]:
    for right, granted in sorted(found.rights.items()):
        if not granted:
            kind, thing = _RIGHTS[right]
            what = f"role {found.account} lacks {kind} on {thing.lower()}"
            mend = f"GRANT {kind} ON {thing} TO {found.account}"
            yield error("database.rights", where, what, mend)


def _judge_indexes(found: Survey, where: str) -> Iterator[Finding]:
    if "ruddersysevents" in found.columns and not any(
        index.whole and index.columns[:2] == ("nodeid", "executiontimestamp")
        for index in found.indexes
        if index.table == "ruddersysevents"
    ):
        columns = "ruddersysevents (nodeid, executiontimestamp)"
        what = f"there is no index on {columns}: looking for duplicates is slow"
        yield warning("database.index", where, what, f"CREATE INDEX CONCURRENTLY ON {columns}")
    if "reportsexecution" in found.columns and not any(
        index.unique and set(index.columns) == {"nodeid", "date"}
        for index in found.indexes
        if index.table == "reportsexecution"
    ):
        what = "reportsexecution has no primary key (nodeid, date): a run could be stored twice"
        mend = "ALTER TABLE reportsexecution ADD PRIMARY KEY (nodeid, date)"
        yield error("database.index", where, what, mend)


def _place(url: str) -> str:
    """Return host and database of a URL, without user and options."""
    parts = split_url(url)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"
