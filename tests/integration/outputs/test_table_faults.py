"""Who is at fault when the tables refuse rows: each row of the map in docs/database.md."""

import secrets
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

import pytest
import trio_asyncio

from relayd.errors import DatabaseError, Refused, Retry
from relayd.outputs.postgres.database import Database
from relayd.outputs.results import Stored, Written
from relayd.runlog.model import RunLog
from tests.support import postgres
from tests.support.rows import make_rows, messages

#: Changes the columns of the report with this number.
Edit = Callable[[int, dict[str, str]], None]

LATER: Final = "2027-03-01T12:00:00+00:00"

RAISE: Final = """
CREATE FUNCTION raises() RETURNS trigger LANGUAGE plpgsql AS
 $$ BEGIN RAISE EXCEPTION 'not here'; END $$;
CREATE TRIGGER raises BEFORE INSERT ON ruddersysevents FOR EACH ROW {when}
 EXECUTE FUNCTION raises()
"""
#: The table by dates; the rows of `make_rows` have no partition, those of `LATER` have.
PARTITIONED: Final = """
ALTER TABLE ruddersysevents RENAME TO plain;
CREATE TABLE ruddersysevents (LIKE plain INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
 PARTITION BY RANGE (executiontimestamp);
GRANT SELECT, INSERT ON ruddersysevents TO rudder
"""
WITHIN: Final = "PARTITION OF ruddersysevents FOR VALUES FROM ('{}') TO ('{}')"
MANAGED: Final = """
CREATE TABLE managed (nodeid text PRIMARY KEY); INSERT INTO managed VALUES ('good');
ALTER TABLE ruddersysevents ADD CONSTRAINT known FOREIGN KEY (nodeid) REFERENCES managed {when}
"""
AUDIT: Final = """
CREATE TABLE audit (short varchar(3)); GRANT INSERT ON audit TO rudder;
CREATE FUNCTION audits() RETURNS trigger LANGUAGE plpgsql AS
 $$ BEGIN INSERT INTO audit VALUES (NEW.nodeid); RETURN NEW; END $$;
CREATE TRIGGER audits AFTER INSERT ON ruddersysevents FOR EACH ROW EXECUTE FUNCTION audits()
"""
DROP_TRIGGER: Final = "DROP TRIGGER {} ON ruddersysevents"


class Fault(NamedTuple):
    """A fault of the tables: SQL that makes it, its SQLSTATE, and SQL that repairs it."""

    broken: str
    sqlstate: str
    repaired: str


def column(name: str, kind: str) -> str:
    """Change the type of a column."""
    return f"ALTER TABLE ruddersysevents ALTER {name} TYPE {kind}"


#: These refuse every run log.
OF_ALL: Final = {
    "sequence behind the table": Fault(
        "SELECT setval('serial', 200); INSERT INTO ruddersysevents SELECT g, now(), 'x', 'x', 'x',"
        " 'x', 'x', 'x', now(), 'x', 'x', 'x' FROM generate_series(201, 900) AS g",
        "23505",
        "SELECT setval('serial', (SELECT max(id) FROM ruddersysevents))",
    ),
    "sequence exhausted": Fault(
        "SELECT setval('serial', 300); ALTER SEQUENCE serial MAXVALUE 300",
        "2200H",
        "ALTER SEQUENCE serial NO MAXVALUE",
    ),
    "id too narrow": Fault(
        f"{column('id', 'integer')}; SELECT setval('serial', 2147483647)",
        "22003",
        column("id", "bigint"),
    ),
    "no default for the id": Fault(
        "ALTER TABLE ruddersysevents ALTER id DROP DEFAULT",
        "23502",
        "ALTER TABLE ruddersysevents ALTER id SET DEFAULT nextval('serial')",
    ),
    "identity column of another sequence": Fault(
        "ALTER TABLE ruddersysevents ALTER id DROP DEFAULT;"
        "INSERT INTO ruddersysevents SELECT 1, now(), 'x', 'x', 'x', 'x', 'x', 'x', now();"
        "ALTER TABLE ruddersysevents ALTER id ADD GENERATED ALWAYS AS IDENTITY (MAXVALUE 9);"
        "DO $$ BEGIN PERFORM setval('ruddersysevents_id_seq', 9); END $$;"
        "GRANT USAGE ON SEQUENCE ruddersysevents_id_seq TO rudder",
        "2200H",
        "ALTER TABLE ruddersysevents ALTER id DROP IDENTITY;"
        "ALTER TABLE ruddersysevents ALTER id SET DEFAULT nextval('serial')",
    ),
    "no partition": Fault(
        PARTITIONED, "23514", f"CREATE TABLE days {WITHIN.format('2000-01-01', '2100-01-01')}"
    ),
    "column of others": Fault(
        "ALTER TABLE ruddersysevents ADD site text NOT NULL DEFAULT 'x';"
        "ALTER TABLE ruddersysevents ALTER site DROP DEFAULT",
        "23502",
        "ALTER TABLE ruddersysevents DROP site",
    ),
    "column of others, executions": Fault(
        "ALTER TABLE reportsexecution ADD site text NOT NULL DEFAULT 'x';"
        "ALTER TABLE reportsexecution ALTER site DROP DEFAULT",
        "23502",
        "ALTER TABLE reportsexecution DROP site",
    ),
    "trigger that raises": Fault(
        RAISE.format(when=""), "P0001", DROP_TRIGGER.format("raises")
    ),
    "trigger that fails": Fault(AUDIT, "22001", DROP_TRIGGER.format("audits")),
    "column narrowed": Fault(column("directiveid", "varchar(2) USING 'x'"), "22001",
                             column("directiveid", "text")),
    "column of another type": Fault(
        "ALTER TABLE ruddersysevents ALTER policy TYPE integer USING NULL", "42883",
        column("policy", "text"),
    ),
    "column of another type, a date": Fault(
        "ALTER TABLE ruddersysevents ALTER policy TYPE date USING NULL", "42883",
        column("policy", "text"),
    ),
    "foreign key": Fault(
        "CREATE TABLE managed (nodeid text PRIMARY KEY);"
        "ALTER TABLE reportsexecution ADD CONSTRAINT known FOREIGN KEY (nodeid) REFERENCES managed"
        " NOT VALID",
        "23503",
        "ALTER TABLE reportsexecution DROP CONSTRAINT known",
    ),
    "foreign key, deferred": Fault(
        "CREATE TABLE managed (nodeid text PRIMARY KEY);"
        "ALTER TABLE reportsexecution ADD CONSTRAINT known FOREIGN KEY (nodeid) REFERENCES managed"
        " DEFERRABLE INITIALLY DEFERRED NOT VALID",
        "23503",
        "ALTER TABLE reportsexecution DROP CONSTRAINT known",
    ),
    "check": Fault(
        "ALTER TABLE ruddersysevents ADD CONSTRAINT never CHECK (id < 0) NOT VALID", "23514",
        "ALTER TABLE ruddersysevents DROP CONSTRAINT never",
    ),
    "domain": Fault(
        "CREATE DOMAIN short AS text CHECK (length(VALUE) < 3);"
        + column("ruleid", "short USING 'x'"),
        "23514",
        column("ruleid", "text"),
    ),
    "exclusion": Fault(
        "ALTER TABLE ruddersysevents ADD CONSTRAINT one EXCLUDE USING btree ((1) WITH =)",
        "23P01",
        "ALTER TABLE ruddersysevents DROP CONSTRAINT one",
    ),
    "policy": Fault(
        "ALTER TABLE ruddersysevents ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY reads ON ruddersysevents FOR SELECT USING (true)",
        "42501",
        "CREATE POLICY writes ON ruddersysevents FOR INSERT WITH CHECK (true)",
    ),
}  # fmt: skip


@pytest.fixture
async def writer(database: postgres.Database) -> AsyncIterator[Database]:
    """Yield a writer on the database of the test."""
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(lambda _loop, _context: None)
        writer = Database(database.rudder.keywords())
        try:
            yield writer
        finally:
            await writer.aclose()


@pytest.mark.fault("F5")
@pytest.mark.parametrize("fault", OF_ALL.values(), ids=list(OF_ALL))
async def test_a_fault_of_the_tables_waits_for_an_operator(
    database: postgres.Database, writer: Database, fault: Fault
) -> None:
    """Tables that refuse a good run log too refuse none for good; repaired, all go in."""
    await writer.write([make_rows("before", rows=1)])
    await database.fetch(fault.broken)
    batch = [make_rows(f"node{number}") for number in range(3)]
    with pytest.raises(DatabaseError, match="refuse every run log") as caught:
        await writer.write(batch)
    assert (caught.value.kind, caught.value.sqlstate) == ("operator", fault.sqlstate)
    await database.fetch(fault.repaired)
    assert await writer.write(batch) == [Stored(4)] * 3


def poison(number: int, columns: dict[str, str]) -> None:
    """Make a report one that others do not want, in each of several ways."""
    if number == 1:
        columns["msg"] = "poison"
        columns["keyvalue"] = "a key that is longer than twenty characters"


def huge(number: int, columns: dict[str, str]) -> None:
    """Make a report that no index on the rule takes: random, so that it cannot be compressed."""
    if number == 1:
        columns["ruleid"] = secrets.token_urlsafe(10_000)


def no_date(number: int, columns: dict[str, str]) -> None:
    """Give a report a date beyond PostgreSQL's."""
    if number == 1:
        columns["executiondate"] = "300000-01-01T00:00:00+00:00"


GOOD: Final = make_rows("good", start=LATER)
ODD: Final = make_rows("odd", edit=poison)

#: These refuse some run logs only: of a table that accepts others, this one is held ...
OF_SOME: Final = {
    "no partition": Fault(
        f"{PARTITIONED}; CREATE TABLE later {WITHIN.format('2026-06-01', '2100-01-01')}",
        "23514",
        f"CREATE TABLE rest {WITHIN.format('2000-01-01', '2026-06-01')}",
    ),
    "foreign key": Fault(
        MANAGED.format(when="NOT VALID"), "23503", "INSERT INTO managed VALUES ('odd')"
    ),
    "column narrowed": Fault(
        column("keyvalue", "varchar(20)"), "22001", column("keyvalue", "text")
    ),
    "unique index": Fault(
        "CREATE UNIQUE INDEX one ON ruddersysevents (nodeid) WHERE nodeid = 'odd'",
        "23505",
        "DROP INDEX one",
    ),
    "policy": Fault(
        "ALTER TABLE ruddersysevents ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY most ON ruddersysevents USING (nodeid <> 'odd')",
        "42501",
        "DROP POLICY most ON ruddersysevents; CREATE POLICY all_ ON ruddersysevents USING (true)",
    ),
}
#: ... and here it is refused, since a rule of others looks like a bad run log.
RULES: Final = {
    "check": Fault(
        "ALTER TABLE ruddersysevents ADD CONSTRAINT own CHECK (msg <> 'poison')",
        "23514",
        "ALTER TABLE ruddersysevents DROP CONSTRAINT own",
    ),
    "trigger": Fault(
        RAISE.format(when="WHEN (NEW.msg = 'poison')"), "P0001", DROP_TRIGGER.format("raises")
    ),
}


@pytest.mark.fault("F5")
@pytest.mark.parametrize("alone", [False, True], ids=["in a batch", "alone"])
@pytest.mark.parametrize("fault", (OF_SOME | RULES).values(), ids=list(OF_SOME | RULES))
async def test_a_run_log_that_changed_tables_refuse_is_held(
    database: postgres.Database, writer: Database, fault: Fault, alone: bool
) -> None:
    """A run log that Rudder's own tables would take holds nothing up and is never refused."""
    if alone:  # what was accepted before a restart is in the table only
        await database.fetch(
            "INSERT INTO ruddersysevents SELECT 1, now(), 'good', 'x', 'x', 'x', 'x', 'x',"
            " '2027-01-01'"
        )
    await database.fetch(fault.broken)
    outcomes = await writer.write([ODD] if alone else [GOOD, ODD])
    if not alone:
        assert outcomes.pop(0) == Stored(4)
    (held,) = outcomes
    assert isinstance(held, Retry)
    assert fault.sqlstate in held.detail
    await database.fetch(fault.repaired)
    assert await writer.write([ODD]) == [Stored(4)]
    assert await database.fetch("SELECT count(*) FROM reportsexecution WHERE nodeid = 'odd'") == [
        ("1",)
    ]


@pytest.mark.fault("F5")
@pytest.mark.parametrize(
    ("edit", "sqlstate"), [(huge, "54000"), (no_date, "22008")], ids=["huge rule id", "no date"]
)
async def test_a_run_log_at_fault_is_refused_though_it_is_alone(
    database: postgres.Database, writer: Database, edit: Edit, sqlstate: str
) -> None:
    """On a quiet server nothing else goes in: a good run log on trial shows who is at fault."""
    (refused,) = await writer.write([make_rows("bad", edit=edit)])
    assert isinstance(refused, Refused)
    assert sqlstate in refused.detail
    assert await database.fetch("SELECT count(*) FROM ruddersysevents") == [("0",)]
    assert await database.fetch("SELECT count(*) FROM reportsexecution") == [("0",)]


@pytest.mark.fault("F5", "F18")
async def test_newer_runs_wait_behind_one_that_the_tables_refuse(
    database: postgres.Database, writer: Database
) -> None:
    """Within a batch too, a node's newer runs do not overtake one that waits; others do."""
    fault = RULES["check"]
    await database.fetch(fault.broken)
    newer = make_rows("odd", start=LATER)
    first, behind, other = await writer.write([ODD, newer, GOOD])
    assert isinstance(first, Retry)
    assert isinstance(behind, Retry)
    assert not behind.attempted
    assert other == Stored(4)
    await database.fetch(fault.repaired)
    assert await writer.write([ODD, newer]) == [Stored(4), Stored(4)]


@pytest.mark.fault("F14")
async def test_a_policy_that_hides_rows_is_named(
    database: postgres.Database, writer: Database
) -> None:
    """Rows that cannot be found again would be stored twice: nothing is stored until they can."""
    await database.fetch(
        "ALTER TABLE ruddersysevents ENABLE ROW LEVEL SECURITY;"
        " CREATE POLICY in_only ON ruddersysevents FOR INSERT WITH CHECK (true)"
    )
    with pytest.raises(DatabaseError, match="add a policy FOR SELECT") as caught:
        await writer.write([GOOD])
    assert caught.value.kind == "operator"
    await database.fetch("CREATE POLICY seen ON ruddersysevents FOR SELECT USING (true)")
    assert await writer.write([GOOD]) == [Stored(4)]
    assert await writer.write([GOOD]) == [Stored(0, duplicate=True)]


#: Tables of which relayd must not expect what Rudder's own have.
UNUSUAL: Final = {
    "no key": "ALTER TABLE reportsexecution DROP CONSTRAINT reportsexecution_pkey",
    "deferrable key": "ALTER TABLE reportsexecution DROP CONSTRAINT reportsexecution_pkey,"
    " ADD PRIMARY KEY (nodeid, date) DEFERRABLE",
    "key that covers more": "ALTER TABLE reportsexecution DROP CONSTRAINT reportsexecution_pkey,"
    " ADD PRIMARY KEY (nodeid, date) INCLUDE (insertionid)",
    "no key of reports": "ALTER TABLE ruddersysevents DROP CONSTRAINT ruddersysevents_pkey",
    "row-level security": "ALTER TABLE ruddersysevents ENABLE ROW LEVEL SECURITY;"
    "ALTER TABLE ruddersysevents FORCE ROW LEVEL SECURITY;"
    "CREATE POLICY all_of_it ON ruddersysevents USING (true) WITH CHECK (true);"
    "ALTER TABLE reportsexecution ENABLE ROW LEVEL SECURITY;"
    "CREATE POLICY all_of_it ON reportsexecution USING (true) WITH CHECK (true)",
    "views": "ALTER TABLE ruddersysevents RENAME TO reports_;"
    "CREATE VIEW ruddersysevents AS SELECT * FROM reports_;"
    "ALTER VIEW ruddersysevents ALTER id SET DEFAULT nextval('serial');"
    "ALTER TABLE reportsexecution RENAME TO executions_;"
    "CREATE VIEW reportsexecution AS SELECT * FROM executions_;"
    "GRANT SELECT, INSERT ON ruddersysevents, reportsexecution TO rudder",
}


@pytest.mark.fault("F14")
@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("change", UNUSUAL.values(), ids=list(UNUSUAL))
async def test_tables_without_key_or_with_policies_take_run_logs(
    database: postgres.Database, writer: Database, change: str, when: str
) -> None:
    """Neither a key nor COPY is needed: rows, order, duplicates and executions stay the same."""
    if when == "meanwhile":
        await writer.write([make_rows("before")])
    await database.fetch(change)
    text = "tab\tback\\slash\nnewline, \\N and ünïcode"
    batch = [make_rows("a", message=text), make_rows("b", rows=1_001), make_rows("a", LATER)]
    again = [*batch, make_rows("a", message="another")]
    outcomes = await _write_soon(writer, batch)
    assert outcomes == [Stored(4), Stored(1_001), Stored(4)]
    assert await writer.write(again) == [*[Stored(0, duplicate=True)] * 3, Stored(4)]
    assert await database.fetch(
        "SELECT nodeid, date = '2026-03-01T12:00:00Z', nodeconfigid, insertionid ="
        " (SELECT min(id) FROM ruddersysevents AS r"
        "   WHERE r.nodeid = e.nodeid AND r.executiontimestamp = e.date)"
        " FROM reportsexecution AS e WHERE nodeid <> 'before' ORDER BY nodeid, date"
    ) == [("a", "t", "config-1", "t"), ("a", "f", "config-1", "t"), ("b", "t", "config-1", "t")]
    found = await database.fetch(
        "SELECT nodeid, msg FROM ruddersysevents WHERE nodeid <> 'before' ORDER BY id"
    )
    last = again[-1]
    assert found == [(log.node_id, line) for log in (*batch, last) for line in messages(log)]


async def _write_soon(writer: Database, batch: list[RunLog]) -> list[Written]:
    """Write; a connection that was made when the tables were others may have to be made again."""
    try:
        return await writer.write(batch)
    except DatabaseError as error:
        assert error.kind == "transient", error  # noqa: PT017 - the next attempt must go well
        return await writer.write(batch)
