"""The database writer against a real PostgreSQL."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_asyncio

from relayd.commands.demo.postgres.opening import Postgres, open_postgres
from relayd.commands.demo.postgres.server import ConnectionInfo
from relayd.config.main_conf import database_parameters, load_settings
from relayd.errors import DatabaseError, Reason, Refused
from relayd.outputs.postgres.connection import Patience, connect
from relayd.outputs.postgres.database import Database
from relayd.outputs.results import Stored
from relayd.runlog.model import RunLog
from tests.support import postgres
from tests.support.proxy import BlackHole, Fault, LoseReply, LoseRequest, open_proxy
from tests.support.rows import make_rows, messages

PATIENCE = Patience()


@asynccontextmanager
async def open_database(
    connection: ConnectionInfo, patience: Patience = PATIENCE, **options: str
) -> AsyncIterator[Database]:
    """Yield a writer on this connection's database."""
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(lambda _loop, _context: None)
        database = Database({**connection.keywords(), **options}, patience)
        try:
            yield database
        finally:
            await database.aclose()


def stored(outcome: object) -> Stored:
    """Return the outcome, which must be success."""
    assert isinstance(outcome, Stored), outcome
    return outcome


async def test_rows_keep_their_order_and_columns(database: postgres.Database) -> None:
    """Rows of a batch get increasing ids in the order of the run logs, columns unchanged."""
    batch = [make_rows("a"), make_rows("b", message="tab\tback\\slash\nnewline\rreturn")]
    async with open_database(database.rudder) as writer:
        outcomes = await writer.write(batch)
    assert [stored(outcome).rows for outcome in outcomes] == [4, 4]
    found = await database.fetch(
        "SELECT nodeid, replace(msg, chr(13), '<CR>') FROM ruddersysevents ORDER BY id"
    )
    expected = [
        (log.node_id, text.replace("\r", "<CR>")) for log in batch for text in messages(log)
    ]
    assert found == expected


@pytest.mark.history(14)
async def test_stamp_and_start_have_their_columns(database: postgres.Database) -> None:
    """The stamp is the execution date, START the execution timestamp, never the other way."""

    def later(number: int, columns: dict[str, str]) -> None:
        columns["executiondate"] = f"2026-03-01T12:00:0{number + 1}+00:00"

    async with open_database(database.rudder) as writer:
        await writer.write([make_rows(edit=later)])
    found = await database.fetch(
        "SELECT executiondate - executiontimestamp FROM ruddersysevents ORDER BY id"
    )
    assert found == [(f"00:00:0{second}",) for second in (1, 2, 3, 4)]


async def test_complete_runs_get_their_execution(database: postgres.Database) -> None:
    """A complete run log gets an execution with its first row's id, a partial one none."""
    batch = [make_rows("a"), make_rows("b", complete=False), make_rows("c")]
    async with open_database(database.rudder) as writer:
        await writer.write(batch)
    found = await database.fetch(
        "SELECT nodeid, nodeconfigid, insertionid, compliancecomputationdate,"
        " date = '2026-03-01T12:00:00Z' FROM reportsexecution ORDER BY nodeid"
    )
    first_ids = await database.fetch("SELECT nodeid, min(id) FROM ruddersysevents GROUP BY nodeid")
    firsts = {row[0]: row[1] for row in first_ids}
    assert found == [
        ("a", "config-1", firsts["a"], "", "t"),
        ("c", "config-1", firsts["c"], "", "t"),
    ]


async def test_a_second_session_on_the_sequence_does_not_confuse_ids(
    database: postgres.Database,
) -> None:
    """Executions point at the right rows when ids of a batch are not one range."""
    await database.fetch(
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " $$ BEGIN IF NEW.component = 'component-2' THEN PERFORM nextval('serial'); END IF;"
        " RETURN NEW; END $$;"
        "CREATE TRIGGER skip BEFORE INSERT ON ruddersysevents FOR EACH ROW EXECUTE FUNCTION skip()"
    )
    async with open_database(database.rudder) as writer:
        await writer.write([make_rows("a"), make_rows("b")])
    wrong = await database.fetch(
        "SELECT nodeid FROM reportsexecution AS e WHERE insertionid <>"
        " (SELECT min(id) FROM ruddersysevents AS r WHERE r.nodeid = e.nodeid)"
    )
    gaps = await database.fetch("SELECT max(id) - min(id) FROM ruddersysevents")
    assert wrong == []
    assert gaps == [("9",)]


@pytest.mark.fault("S2")
async def test_a_duplicate_changes_nothing(database: postgres.Database) -> None:
    """A run log whose first report is stored counts as success and inserts nothing."""
    async with open_database(database.rudder) as writer:
        await writer.write([make_rows()])
        again = await writer.write([make_rows(), make_rows("b")])
    assert again == [Stored(0, duplicate=True), Stored(4)]
    assert await database.fetch("SELECT count(*) FROM ruddersysevents") == [("8",)]
    assert await database.fetch("SELECT count(*) FROM reportsexecution") == [("2",)]


async def test_twice_in_one_batch_is_stored_once(database: postgres.Database) -> None:
    """Two copies of a run log in one batch become one."""
    async with open_database(database.rudder) as writer:
        outcomes = await writer.write([make_rows(), make_rows(), make_rows("b")])
    assert outcomes == [Stored(4), Stored(0, duplicate=True), Stored(4)]


@pytest.mark.fault("D21", "C24")
async def test_a_longer_version_of_a_run_is_reported(database: postgres.Database) -> None:
    """A run log with the first report of a stored, shorter one says how many rows it misses."""
    async with open_database(database.rudder) as writer:
        await writer.write([make_rows(rows=2)])
        outcome = await writer.write([make_rows(rows=5)])
    assert outcome == [Stored(0, duplicate=True, missing=3)]


@pytest.mark.fault("D15")
async def test_a_second_run_with_the_same_start_keeps_the_execution(
    database: postgres.Database,
) -> None:
    """Another run of the same node and START inserts its reports, the execution row stays."""
    async with open_database(database.rudder) as writer:
        await writer.write([make_rows()])
        before = await database.fetch("SELECT * FROM reportsexecution")
        outcome = await writer.write([make_rows(message="something else")])
    assert outcome == [Stored(4)]
    assert await database.fetch("SELECT count(*) FROM ruddersysevents") == [("8",)]
    assert await database.fetch("SELECT * FROM reportsexecution") == before


@pytest.mark.fault("D18")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(frozenset(), frozenset({"log_info"}), id="more skipped"),
        pytest.param(frozenset({"log_info"}), frozenset(), id="less skipped"),
        pytest.param(
            frozenset({"control"}), frozenset({"control", "log_info"}), id="first one skipped"
        ),
        pytest.param(frozenset(), frozenset({"control"}), id="first one skipped later"),
    ],
)
async def test_other_skipped_types_do_not_hide_a_duplicate(
    database: postgres.Database, before: frozenset[str], after: frozenset[str]
) -> None:
    """A run log is recognized although other event types are skipped by now."""
    async with open_database(database.rudder) as writer:
        await writer.write([make_rows(skip=before)])
        outcome = await writer.write([make_rows(skip=after)])
    assert stored(outcome[0]).duplicate
    assert stored(outcome[0]).rows == 0


@pytest.mark.fault("D19")
async def test_nothing_left_is_success(database: postgres.Database) -> None:
    """A run log all of whose event types are skipped inserts nothing and succeeds."""
    everything = frozenset({"control", "log_info", "result_success"})
    async with open_database(database.rudder) as writer:
        outcomes = await writer.write([make_rows(skip=everything), make_rows("b")])
    assert outcomes == [Stored(0), Stored(4)]
    assert await database.fetch("SELECT DISTINCT nodeid FROM ruddersysevents") == [("b",)]


@pytest.mark.fault("D20")
@pytest.mark.history(30)
async def test_a_run_log_of_a_hundred_thousand_reports(database: postgres.Database) -> None:
    """Any number of reports goes in as one transaction, and the first id is right."""
    async with open_database(database.rudder) as writer:
        outcomes = await writer.write([make_rows("small"), make_rows("big", rows=100_000)])
    assert outcomes == [Stored(4), Stored(100_000)]
    found = await database.fetch(
        "SELECT count(*), count(DISTINCT xmin::text), min(id) ="
        " (SELECT insertionid FROM reportsexecution WHERE nodeid = 'big')"
        " FROM ruddersysevents WHERE nodeid = 'big'"
    )
    assert found == [("100000", "1", "t")]


def _empty_component(number: int, columns: dict[str, str]) -> None:
    if number == 1:
        columns["component"] = ""


def _huge_rule(number: int, columns: dict[str, str]) -> None:
    if number == 1:
        # Random, so that it cannot be compressed below the limit of an index row.
        columns["ruleid"] = secrets.token_urlsafe(10_000)


def _nul(number: int, columns: dict[str, str]) -> None:
    if number == 1:
        columns["msg"] = "a\0b"


def _far_future(number: int, columns: dict[str, str]) -> None:
    if number == 1:
        columns["executiondate"] = "300000-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("edit", "sqlstate"),
    [
        pytest.param(_empty_component, "23514", id="empty component"),
        pytest.param(_huge_rule, "54000", id="huge rule id", marks=pytest.mark.fault("D13")),
        pytest.param(_nul, "22021", id="NUL", marks=pytest.mark.fault("D14")),
        pytest.param(_far_future, "22008", id="date overflow", marks=pytest.mark.fault("D14")),
    ],
)
@pytest.mark.parametrize("place", [0, 3, 8])
async def test_one_bad_run_log_does_not_harm_its_batch(
    database: postgres.Database, edit: Any, sqlstate: str, place: int
) -> None:
    """Data that the server refuses cost one run log only, whose reason names the SQLSTATE."""
    batch = [make_rows(f"node{number}") for number in range(9)]
    batch[place] = make_rows("bad", edit=edit)
    async with open_database(database.rudder) as writer:
        outcomes = await writer.write(batch)
    refused = outcomes.pop(place)
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.DATABASE
    assert sqlstate in refused.detail
    assert outcomes == [Stored(4)] * 8
    assert await database.fetch("SELECT count(*) FROM ruddersysevents") == [("32",)]
    assert await database.fetch("SELECT count(*) FROM reportsexecution") == [("8",)]


@pytest.mark.fault("D17")
async def test_two_writers_of_one_run_log_make_one_copy(database: postgres.Database) -> None:
    """Two relayd that insert the same run logs at the same moment store each of them once."""
    batch = [make_rows(f"node{number}") for number in range(20)]
    outcomes: list[list[Any]] = []

    async def write(writer: Database, own: list[RunLog]) -> None:
        outcomes.append(await writer.write(own))

    async with open_database(database.rudder) as one:
        two = Database(database.rudder.keywords())
        # Both hold a connection already, so that their transactions really meet.
        await one.write([make_rows("warm-1")])
        await two.write([make_rows("warm-2")])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, one, batch)
            nursery.start_soon(write, two, list(reversed(batch)))
        await two.aclose()
    fresh = sum(stored(outcome).rows for part in outcomes for outcome in part)
    assert fresh == 80
    found = await database.fetch(
        "SELECT count(*) FROM ruddersysevents WHERE nodeid LIKE 'node%' GROUP BY nodeid"
    )
    assert found == [("4",)] * 20


@pytest.mark.fault("D3")
async def test_a_terminated_backend_is_a_matter_of_trying_again(
    database: postgres.Database,
) -> None:
    """After the server ends the session, the next attempt works on a fresh connection."""
    async with open_database(database.rudder) as writer:
        await writer.write([make_rows("a")])
        await database.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'relayd'"
        )
        outcome = await _write_until_done(writer, make_rows("b"))
    assert outcome.rows == 4


async def _write_until_done(writer: Database, run_log: RunLog, attempts: int = 3) -> Stored:
    for _ in range(attempts):
        try:
            return stored((await writer.write([run_log]))[0])
        except DatabaseError as error:
            assert error.kind == "transient", error  # noqa: PT017 - the loop goes on after it
    raise AssertionError("every attempt failed")


def _commit(seen: bytes) -> bool:
    return b"COMMIT;" in seen


@pytest.mark.fault("D4")
async def test_a_commit_whose_answer_is_lost_is_found_again(database: postgres.Database) -> None:
    """A committed batch that seems to have failed is a duplicate at the next attempt: one copy."""
    async with open_proxy(database.rudder.host, database.rudder.port) as proxy:
        proxy.fault = LoseReply(_commit)
        connection = replace(database.rudder, port=proxy.port)
        async with open_database(connection) as writer:
            with pytest.raises(DatabaseError) as caught:
                await writer.write([make_rows("a"), make_rows("b")])
            assert caught.value.kind == "transient"
            assert await database.fetch("SELECT count(*) FROM ruddersysevents") == [("8",)]
            again = await writer.write([make_rows("a"), make_rows("b")])
    assert again == [Stored(0, duplicate=True)] * 2
    assert await database.fetch("SELECT count(*) FROM ruddersysevents") == [("8",)]


@pytest.mark.fault("D5")
async def test_a_commit_that_never_arrives_is_done_again(database: postgres.Database) -> None:
    """A batch whose COMMIT was lost on its way is inserted by the next attempt, once."""
    async with open_proxy(database.rudder.host, database.rudder.port) as proxy:
        proxy.fault = LoseRequest(_commit)
        connection = replace(database.rudder, port=proxy.port)
        async with open_database(connection) as writer:
            with pytest.raises(DatabaseError) as caught:
                await writer.write([make_rows("a")])
            assert caught.value.kind == "transient"
            assert await database.fetch("SELECT count(*) FROM ruddersysevents") == [("0",)]
            assert await writer.write([make_rows("a")]) == [Stored(4)]


@pytest.mark.fault("D6")
async def test_a_silent_server_is_given_up_in_bounded_time(database: postgres.Database) -> None:
    """A server that accepts and never answers costs one deadline, then the next attempt works."""
    async with open_proxy(database.rudder.host, database.rudder.port) as proxy:
        connection = replace(database.rudder, port=proxy.port)
        async with open_database(connection, Patience(statement=1.0)) as writer:
            await writer.write([make_rows("a")])
            proxy.fault = BlackHole()
            with trio.fail_after(20), pytest.raises(DatabaseError, match="did not answer"):
                await writer.write([make_rows("b")])
            proxy.fault = Fault()
            assert await writer.write([make_rows("b")]) == [Stored(4)]


@pytest.mark.fault("D7")
async def test_a_held_table_lock_is_transient(database: postgres.Database) -> None:
    """Waiting for another session's table lock ends with lock_not_available, to be tried again."""
    async with open_database(database.rudder, Patience(lock=0.2)) as writer:
        await writer.write([make_rows("a")])
        connection = await trio_asyncio.aio_as_trio(connect)(
            database.superuser.keywords(), PATIENCE
        )
        run = trio_asyncio.aio_as_trio(connection.execute)
        await run("BEGIN; LOCK TABLE ruddersysevents IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseError) as caught:
            await writer.write([make_rows("b")])
        assert (caught.value.sqlstate, caught.value.kind) == ("55P03", "transient")
        await run("ROLLBACK")
        connection.terminate()
        assert await writer.write([make_rows("b")]) == [Stored(4)]


@pytest.mark.fault("D16")
async def test_a_deadlock_is_transient_and_leaves_nothing(database: postgres.Database) -> None:
    """A transaction that the server aborts for a conflict is recognized and leaves no rows."""
    await database.fetch(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION USING ERRCODE = TG_ARGV[0]; END $$;"
        "CREATE TRIGGER fail AFTER INSERT ON reportsexecution"
        " FOR EACH ROW EXECUTE FUNCTION fail('40P01')"
    )
    async with open_database(database.rudder) as writer:
        with pytest.raises(DatabaseError) as caught:
            await writer.write([make_rows()])
        assert (caught.value.sqlstate, caught.value.kind) == ("40P01", "transient")
        assert await database.fetch("SELECT count(*) FROM ruddersysevents") == [("0",)]
        await database.fetch("DROP TRIGGER fail ON reportsexecution")
        assert await writer.write([make_rows()]) == [Stored(4)]


@pytest.mark.fault("D8", "D24")
async def test_no_connection_left_is_transient(tmp_path: Path) -> None:
    """A server without a free connection is tried again, and used when one is free."""
    tmp_path.chmod(0o755)
    extra = {**postgres.QUICK, "max_connections": "4", "superuser_reserved_connections": "1"}
    async with (
        open_postgres(tmp_path / "pg", extra=extra) as server,
        open_database(server.rudder) as writer,
    ):
        connections = [
            await trio_asyncio.aio_as_trio(connect)(server.params, PATIENCE) for _ in range(3)
        ]
        with pytest.raises(DatabaseError) as caught:
            await writer.write([make_rows()])
        assert (caught.value.sqlstate, caught.value.kind) == ("53300", "transient")
        for connection in connections:
            connection.terminate()
        assert await _write_eventually(writer, make_rows()) == Stored(4)


async def _write_eventually(writer: Database, run_log: RunLog) -> Stored:
    """Terminated sessions take the server a moment to bury."""
    with trio.fail_after(20):
        while True:
            try:
                return stored((await writer.write([run_log]))[0])
            except DatabaseError:
                await trio.sleep(0.05)


@pytest.mark.fault("D10")
@pytest.mark.parametrize(
    "wanted", ["any", pytest.param("read-write", marks=pytest.mark.fault("D22"))]
)
async def test_a_read_only_server_waits_for_an_operator(
    database: postgres.Database, wanted: str
) -> None:
    """A read-only server refuses nothing for good: files are kept, an operator is needed.

    It is called the same where the URL wants another kind of server, as during a failover.
    """
    name = database.rudder.database
    await database.fetch(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with open_database(database.rudder, target_session_attrs=wanted) as writer:
        with pytest.raises(DatabaseError, match=r"read-only|not read-write") as caught:
            await writer.write([make_rows()])
        assert (caught.value.sqlstate, caught.value.kind) == ("25006", "operator")
        await database.fetch(
            "SET default_transaction_read_only = off;"
            f" ALTER DATABASE {name} RESET default_transaction_read_only"
        )
        assert await writer.write([make_rows()]) == [Stored(4)]


@pytest.mark.fault("D11")
@pytest.mark.history(33)
@pytest.mark.parametrize(
    ("harm", "fix", "sqlstate", "says"),
    [
        pytest.param(
            "REVOKE INSERT ON ruddersysevents FROM rudder",
            "GRANT INSERT ON ruddersysevents TO rudder",
            "42501",
            "lacks INSERT on ruddersysevents$",
            id="right",
            marks=pytest.mark.fault("F42"),
        ),
        pytest.param(
            "ALTER TABLE reportsexecution RENAME TO away",
            "ALTER TABLE away RENAME TO reportsexecution",
            "42P01",
            'relation "reportsexecution" does not exist',
            id="table",
        ),
        pytest.param(
            "ALTER TABLE ruddersysevents RENAME COLUMN policy TO away",
            "ALTER TABLE ruddersysevents RENAME COLUMN away TO policy",
            "42703",
            'column "policy" does not exist',
            id="column",
        ),
    ],
)
async def test_what_an_operator_must_fix_is_named(
    database: postgres.Database, harm: str, fix: str, sqlstate: str, says: str
) -> None:
    """A missing right, table or column is named, and relayd goes on once it exists."""
    await database.fetch(harm)
    async with open_database(database.rudder) as writer:
        with pytest.raises(DatabaseError, match=says) as caught:
            await writer.write([make_rows()])
        assert (caught.value.sqlstate, caught.value.kind) == (sqlstate, "operator")
        await database.fetch(fix)
        assert await writer.write([make_rows()]) == [Stored(4)]


async def test_an_option_that_the_server_refuses_blames_no_run_log(
    database: postgres.Database,
) -> None:
    """A wrong session setting in the database URL waits for an operator; nothing is refused."""
    good = database.rudder.keywords()
    async with open_database(database.rudder) as writer:
        writer.set_parameters({**good, "options": "-c work_mem=lots"})
        for attempt in (writer.write([make_rows()]), writer.probe()):
            with pytest.raises(DatabaseError, match="work_mem") as caught:
                await attempt
            assert (caught.value.sqlstate, caught.value.kind) == ("22023", "operator")
        writer.set_parameters(good)
        assert await writer.write([make_rows()]) == [Stored(4)]


@pytest.mark.fault("D11", "D22")
async def test_a_new_password_serves_without_restart(database: postgres.Database) -> None:
    """A wrong password or database is reported without the password; a right one works at once."""
    async with open_database(replace(database.rudder, password="hush-hush")) as writer:
        with pytest.raises(DatabaseError) as caught:
            await writer.write([make_rows()])
        assert (caught.value.sqlstate, caught.value.kind) == ("28P01", "operator")
        assert "hush-hush" not in str(caught.value)
        writer.set_parameters(replace(database.rudder, database="nowhere").keywords())
        with pytest.raises(DatabaseError, match="nowhere") as caught:
            await writer.write([make_rows()])
        assert (caught.value.sqlstate, caught.value.kind) == ("3D000", "operator")
        writer.set_parameters(database.rudder.keywords())
        assert await writer.write([make_rows()]) == [Stored(4)]


@pytest.mark.fault("D22")
async def test_a_server_that_moves_is_followed(
    database: postgres.Database, private_postgres: Postgres
) -> None:
    """When the address leads to another server, the next connection goes there."""
    async with open_proxy(database.rudder.host, database.rudder.port) as proxy:
        connection = replace(
            private_postgres.rudder, port=proxy.port, password=database.rudder.password
        )
        async with open_database(replace(connection, database=database.rudder.database)) as writer:
            await writer.write([make_rows("a")])
            proxy.target = (private_postgres.rudder.host, private_postgres.rudder.port)
            writer.set_parameters(replace(private_postgres.rudder, port=proxy.port).keywords())
            proxy.reset()
            assert (await _write_until_done(writer, make_rows("b"))).rows == 4
    there = await trio.to_thread.run_sync(
        postgres.rows, private_postgres.server, "SELECT DISTINCT nodeid FROM ruddersysevents"
    )
    assert there == [("b",)]


async def test_the_probe_reports_what_a_write_would(database: postgres.Database) -> None:
    """Asking for the status finds a missing right without writing anything."""
    async with open_database(database.rudder) as writer:
        await writer.probe()
        await database.fetch("REVOKE USAGE ON SEQUENCE serial FROM rudder")
        with pytest.raises(DatabaseError, match="sequence"):
            await writer.probe()


async def test_a_look_uses_the_open_connection(database: postgres.Database) -> None:
    """An idle database is asked over the connection that writes, else over a short one."""
    wrong = replace(database.rudder, password="wrong").keywords()
    async with open_database(database.rudder) as writer:
        await writer.look()
        await writer.write([make_rows()])
        writer.set_parameters(wrong)
        await writer.look()
        await database.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rudder'"
            " AND datname = current_database()"
        )
        with pytest.raises(DatabaseError, match="password"):
            await writer.look()
        writer.set_parameters(database.rudder.keywords())
        await writer.look()


@pytest.mark.history(31, 32)
async def test_passwords_and_options_reach_the_server(
    database: postgres.Database, tmp_path: Path
) -> None:
    """A password of any characters and the options of the URL are handed on as they are."""
    odd = "p@ss/w?rd#%41 'ü\""
    await database.fetch(
        "CREATE ROLE odd LOGIN PASSWORD '" + odd.replace("'", "''") + "' IN ROLE rudder"
    )
    (tmp_path / "main.conf").write_text(
        '[general]\nnode_id = "root"\n[output.database]\n'
        f'url = "postgres://odd@{database.rudder.host}:{database.rudder.port}/'
        f'{database.rudder.database}?sslmode=prefer&application_name=relayd-7"\n'
        'password = "p@ss/w?rd#%41 \'ü\\""\n'
    )
    settings, _ = load_settings(tmp_path)
    async with trio_asyncio.open_loop():
        writer = Database(database_parameters(settings))
        assert await writer.write([make_rows()]) == [Stored(4)]
        named = await database.fetch(
            "SELECT application_name FROM pg_stat_activity WHERE usename = 'odd'"
        )
        await writer.aclose()
    await database.fetch("DROP ROLE odd")
    assert named == [("relayd-7",)]


@pytest.mark.parametrize("connections", [1, 2])
async def test_the_last_run_of_a_node_is_asked_with_a_deadline(
    database: postgres.Database, connections: int
) -> None:
    """Its start in Unix time; a table that is locked is an error in time, and writing goes on."""
    async with trio_asyncio.open_loop():
        writer = Database(database.rudder.keywords(), PATIENCE, connections=connections)
        await writer.write([make_rows("a"), make_rows("a", "2026-03-01T13:00:00+01:00")])
        await writer.write([make_rows("a", "2026-03-01T12:05:00+00:00")])
        assert await writer.last_run("a") == 1_772_366_700.0
        assert await writer.last_run("b") is None
        connection = await trio_asyncio.aio_as_trio(connect)(
            database.superuser.keywords(), PATIENCE
        )
        run = trio_asyncio.aio_as_trio(connection.execute)
        await run("BEGIN; LOCK TABLE reportsexecution IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseError) as caught:
            await writer.last_run("a")
        assert caught.value.kind == "transient"
        await run("ROLLBACK")
        connection.terminate()
        assert [stored(one).rows for one in await writer.write([make_rows("b")])] == [4]
        await writer.aclose()
