"""The database: can it be reached, and does it have the tables and privileges relayd needs?"""

import time
from collections.abc import Iterator, Mapping
from typing import Final

import trio_asyncio

from relayd.commands.check.checks.clock import seconds_ahead
from relayd.commands.check.model import Finding, Level, Site, error, warning
from relayd.commands.check.service_user.permissions import check_file
from relayd.commands.check.settings.database import judge_losses, judge_partitions
from relayd.config.database_url import DatabaseUrl
from relayd.config.main_conf import database_parameters
from relayd.errors import DatabaseError
from relayd.outputs.postgres.connecting.surroundings import Surroundings
from relayd.outputs.postgres.connection import Patience
from relayd.outputs.postgres.faults import ConnectError, Step
from relayd.outputs.postgres.survey.model import SEQUENCE, TABLES, Column, Refusal, Survey
from relayd.outputs.postgres.survey.questions import survey

#: Seconds; less than the deadline of the check, so that the reason is reported.
PATIENCE: Final = Patience(connect=3.0, search=3.0, statement=1.5)

#: The oldest supported release (server_version_num).
FIRST_VERSION: Final = 13_00_00

_TEXT: Final = "text"
_TIME: Final = "timestamp with time zone"
_NUMBER: Final = "bigint"

#: The columns that relayd uses, as Rudder's web application creates them.
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

_CREATE: Final = "restart Rudder's web application, which creates its tables, and check its log"

#: Fixes for the SQLSTATEs (PostgreSQL manual, appendix A) of refused connections.
_FIXES: Final = {
    "28P01": "correct output.database.password, or set it: ALTER ROLE {user} PASSWORD …",
    "28000": "CREATE ROLE {user} LOGIN or ALTER ROLE {user} LOGIN, or allow it in pg_hba.conf",
    "3D000": "correct the database name in output.database.url, or create the database",
    "42501": "GRANT CONNECT ON DATABASE {database} TO {user}",
    "53300": "raise the limit of connections of the server, role or database, or close others",
    "55000": "ALTER DATABASE {database} ALLOW_CONNECTIONS true",
    "57P03": "wait until the server has started; its log shows the progress",
}


#: Fixes for connections that no server refused.
_STEP_FIXES: Final = {
    Step.OPTION: "correct output.database.url, or the variable in the service's environment",
    Step.FILE: "correct the file, or its option in output.database.url",
    Step.NAME: "correct the host name in output.database.url",
    Step.REACH: "start PostgreSQL there, or correct output.database.url",
    Step.TIME: "check the firewall and the route to the server, and whether it hangs",
    Step.TLS: "correct TLS on the server, or sslmode and sslrootcert in output.database.url",
    Step.LOGIN: "correct output.database.password, or pg_hba.conf of the server",
}
_REFUSAL_FIX: Final = "undo what was changed in the tables that Rudder's web application created"
#: Fixes for the SQLSTATEs of refused rows.
_REFUSAL_FIXES: Final = {
    "23514": "create the partition, or drop the constraint",
    "23503": "drop the foreign key, or add what it refers to",
    "P0001": "drop the trigger, or correct it",
    "42501": "let the role insert rows and read them, by a policy of each kind for both tables:"
    " CREATE POLICY … FOR INSERT WITH CHECK (true); CREATE POLICY … FOR SELECT USING (true);"
    " and RESET row_security if it is set",
}


async def check(site: Site) -> list[Finding]:
    """Check the database if run logs go there."""
    if not site.to_database:
        return []
    url = site.settings.output.database.url
    files = DatabaseUrl.parse(url).files
    unreadable = [
        fault for path in files for fault in check_file(site, path, "database.file", device=True)
    ]
    if unreadable:  # root could read them, and its connection would prove nothing
        return unreadable
    begun = time.time()
    found = await _survey(site)
    if isinstance(found, DatabaseError):
        return [judge_failure(found, url)]
    site.clocks[f"the database {_place(url)}"] = seconds_ahead(found.now, begun)
    place = _place(url)
    hold = site.settings.output.database.hold
    return [
        *judge(found, place),
        *judge_losses(found, place, hold),
        *judge_partitions(found, place),
    ]


async def _survey(site: Site) -> Survey | DatabaseError:
    async with trio_asyncio.open_loop() as loop:
        # Failed connections leave asyncio callbacks behind; their error is reported already.
        loop.set_exception_handler(lambda _loop, _context: None)
        try:
            surroundings = Surroundings.of_user(site.account.uid)
            return await survey(database_parameters(site.settings), PATIENCE, surroundings)
        except DatabaseError as failure:
            return failure


def judge_failure(failure: DatabaseError, url: str) -> Finding:
    """Return the finding for a failed connection."""
    options = DatabaseUrl.parse(url).options
    where, what = _place(url), failure.detail
    cause = failure.__cause__
    if isinstance(cause, ConnectError) and "," not in where:
        what = cause.reason  # the place names the host already
    if failure.sqlstate:
        user, database = options.get("user", "rudder"), options.get("dbname", "rudder")
        fix = _FIXES.get(failure.sqlstate, "check the server's log")
        what = f"{what} (SQLSTATE {failure.sqlstate})"
        code = "database.refused"
        return error(code, where, what, fix.format(user=user, database=database))
    step = cause.step if isinstance(cause, ConnectError) else Step.TIME
    return error("database.unreachable", where, what, _STEP_FIXES[step])


def judge(found: Survey, where: str) -> Iterator[Finding]:
    """Yield a finding for each thing that is not as relayd needs it."""
    findings = [
        *_judge_server(found, where),
        *_judge_columns(found, where),
        *_judge_numbers(found, where),
        *_judge_rights(found, where),
        *_judge_indexes(found, where),
    ]
    yield from findings
    # An error that was found already is most likely the cause.
    if found.refusal is not None and all(f.level is not Level.ERROR for f in findings):
        yield _judge_refusal(found.refusal, where)


def _judge_server(found: Survey, where: str) -> Iterator[Finding]:
    if found.version < FIRST_VERSION:
        what = f"PostgreSQL {found.version // 10_000} is too old; 13 or later is required"
        yield error("database.version", where, what, "upgrade the server")
    if found.standby:
        fix = "name the primary in output.database.url, or all with target_session_attrs=primary"
        yield error("database.standby", where, "it is a standby, which is read-only", fix)
    elif found.read_only:
        fix = f"ALTER ROLE {found.account} RESET default_transaction_read_only, or for the database"
        yield error("database.read_only", where, "transactions are read-only by default", fix)
    if found.encoding != "UTF8":
        make = warning if found.encoding == "SQL_ASCII" else error
        what = f"its encoding {found.encoding} cannot represent all text of run logs"
        yield make("database.encoding", where, what, "dump it and restore it into one with UTF8")
    if found.superuser:
        what = f"role {found.account} is a superuser, but relayd only needs SELECT and INSERT"
        fix = "use a role with fewer privileges in output.database.url, such as rudder"
        yield warning("database.superuser", where, what, fix)


def _judge_columns(found: Survey, where: str) -> Iterator[Finding]:
    if not found.rights.get("schema public USAGE", True) and "public" in found.elsewhere.values():
        return  # nothing in it can be seen before the right is granted
    for table, columns in COLUMNS.items():
        existing = found.columns.get(table)
        if existing is None:
            what, fix = _judge_missing(found, "table", table)
            yield error("database.table", where, what, fix)
            continue
        for name, kind in columns.items():
            if name not in existing:
                what = f"table {table} has no column {name}"
                yield error("database.column", where, what, _CREATE)
            elif existing[name].type != kind:
                what = f"column {table}.{name} is {existing[name].type}, expected {kind}"
                fix = f"ALTER TABLE {table} ALTER COLUMN {name} TYPE {kind}"
                yield error("database.column", where, what, fix)
        if columns.keys() <= existing.keys():
            yield from _judge_other_columns(table, existing, where)
    number = found.columns.get("ruddersysevents", {}).get("id")
    if f"{SEQUENCE} USAGE" not in found.rights:
        what, fix = _judge_missing(found, "sequence", SEQUENCE)
        yield error("database.sequence", where, what, fix)
    elif number is not None and SEQUENCE not in number.default:
        what = f"the default of ruddersysevents.id is not from sequence {SEQUENCE}"
        fix = f"ALTER TABLE ruddersysevents ALTER COLUMN id SET DEFAULT nextval('{SEQUENCE}')"
        yield error("database.sequence", where, what, fix)


def _judge_missing(found: Survey, kind: str, name: str) -> tuple[str, str]:
    """Return what is wrong with a table or sequence that the session does not see, and the fix."""
    schema = found.elsewhere.get(name)
    if schema is None:
        return f"{kind} {name} does not exist", _CREATE
    what = f"{kind} {name} is in schema {schema}, but the search_path is {found.search_path}"
    fix = f"ALTER ROLE {found.account} SET search_path = {schema}; or correct the database's URL"
    return what, fix


def _judge_other_columns(
    table: str, existing: Mapping[str, Column], where: str
) -> Iterator[Finding]:
    for name, column in existing.items():
        if column.must_be_given and name not in COLUMNS[table]:
            what = f"column {table}.{name}, which is not Rudder's, needs a value in each row"
            fix = f"ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL, or give it a default"
            yield error("database.column", where, what, fix)


def _judge_numbers(found: Survey, where: str) -> Iterator[Finding]:
    numbers = found.numbers
    if numbers is None:
        return
    last = numbers.last or 0
    if numbers.highest is not None and last < numbers.highest:
        what = (
            f"sequence {SEQUENCE} is at {last}, behind the highest id {numbers.highest} of"
            " ruddersysevents, so rows are refused as duplicates (a restore leaves it so)"
        )
        fix = f"SELECT setval('{SEQUENCE}', max(id)) FROM ruddersysevents"  # noqa: S608 - shown
        yield error("database.sequence", where, what, fix)
    elif last >= numbers.maximum and not numbers.cycle:
        what = f"sequence {SEQUENCE} has given its last number, {numbers.maximum}"
        yield error("database.sequence", where, what, f"ALTER SEQUENCE {SEQUENCE} NO MAXVALUE")


def _judge_refusal(refusal: Refusal, where: str) -> Finding:
    """Return the finding for tables that refuse a run log that Rudder's own would accept."""
    what = f"the tables refuse run logs: {refusal.detail} (SQLSTATE {refusal.sqlstate})"
    fix = _REFUSAL_FIXES.get(refusal.sqlstate, _REFUSAL_FIX)
    return error("database.insert", where, what, fix)


def _judge_rights(found: Survey, where: str) -> Iterator[Finding]:
    for right, granted in sorted(found.rights.items()):
        if not granted:
            kind, thing = _RIGHTS[right]
            what = f"role {found.account} lacks {kind} on {thing.lower()}"
            fix = f"GRANT {kind} ON {thing} TO {found.account}"
            yield error("database.rights", where, what, fix)


def _judge_indexes(found: Survey, where: str) -> Iterator[Finding]:
    if "ruddersysevents" in found.columns and not any(
        index.whole and index.columns[:2] == ("nodeid", "executiontimestamp")
        for index in found.indexes
        if index.table == "ruddersysevents"
    ):
        columns = "ruddersysevents (nodeid, executiontimestamp)"
        # A partitioned table refuses CONCURRENTLY.
        how = "CREATE INDEX ON" if found.partitioned else "CREATE INDEX CONCURRENTLY ON"
        what = f"there is no index on {columns}, so the search for duplicates is slow"
        yield warning("database.index", where, what, f"{how} {columns}")
    if "reportsexecution" in found.columns and not any(
        index.unique and set(index.columns) == {"nodeid", "date"}
        for index in found.indexes
        if index.table == "reportsexecution"
    ):
        what = (
            "reportsexecution has no primary key (nodeid, date), so nothing but relayd itself keeps"
            " a run from being stored twice (a restore may leave it out)"
        )
        fix = "remove duplicates, then ALTER TABLE reportsexecution ADD PRIMARY KEY (nodeid, date)"
        yield warning("database.index", where, what, fix)
    if not found.copy:
        what = "ruddersysevents has row-level security or is a view, so rows go in without COPY"
        fix = "exempt the role from the policies (BYPASSRLS), or accept that it is slower"
        yield warning("database.copy", where, what, fix)


def _place(url: str) -> str:
    """Return hosts and database of a URL, without user and options."""
    return DatabaseUrl.parse(url).place
