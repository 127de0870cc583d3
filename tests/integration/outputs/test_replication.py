"""The database writer with a synchronous standby, and with other writers beside it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest
import trio
import trio_asyncio

from relayd.commands.demo.postgres.opening import Postgres
from relayd.commands.demo.postgres.server import ConnectionInfo
from relayd.errors import DatabaseError
from relayd.outputs.postgres.connecting.surroundings import Surroundings
from relayd.outputs.postgres.connection import Patience
from relayd.outputs.postgres.database import Database
from relayd.outputs.postgres.session import Notes
from relayd.outputs.postgres.survey.questions import survey
from relayd.outputs.results import ServerFacts, Stored
from relayd.spool.committed import WalPoint
from tests.support import postgres
from tests.support.daemon import eventually
from tests.support.postgres import rows
from tests.support.proxy import Fault, Link, Way, open_proxy
from tests.support.replication import Pair, open_pair
from tests.support.rows import make_rows

SHORT = Patience(statement=1.0, lock=0.5)
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@asynccontextmanager
async def open_databases(*databases: Database) -> AsyncIterator[None]:
    """Run an asyncio loop for these, and close them."""
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(lambda _loop, _context: None)
        try:
            yield
        finally:
            for database in databases:
                await database.aclose()
            # Connections that were given up close in the next turn of the loop.
            await trio_asyncio.aio_as_trio(asyncio.sleep)(0)


@pytest.fixture
async def pair(private_postgres: Postgres) -> AsyncIterator[Pair]:
    """Yield a primary that waits for a standby that gets nothing."""
    async with open_pair(private_postgres.log_file.parent, private_postgres) as pair:
        await pair.wait_for_standbys()
        await pair.cut()
        yield pair


async def waits(pair: Pair) -> None:
    """Wait until a commit waits for the standby."""
    await eventually(lambda: rows(pair.primary, WAITING) != [("0",)])


async def test_an_interrupted_wait_is_not_a_commit(pair: Pair) -> None:
    """A commit that somebody cancels fails; the next attempt waits, though it only finds rows."""
    writer = Database(pair.rudder.keywords())
    async with open_databases(writer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_fault, writer, "the wait for a synchronous standby")
            await waits(pair)
            await pair.query(
                pair.primary,
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
            )
        outcomes: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write, writer, outcomes)
            await waits(pair)
            assert outcomes == []
            await pair.join()
        assert outcomes == [Stored(0, duplicate=True)]
        await pair.caught_up()
        found = await survey(pair.rudder.keywords(), Patience(), Surroundings.of_process())
        assert (found.standbys, found.synchronous) == (1, True)
    assert await pair.query(pair.standby, "SELECT count(*) FROM ruddersysevents") == [("4",)]


@pytest.mark.parametrize("how", ["deadline", pytest.param("cancelled", marks=pytest.mark.torture)])
async def test_a_commit_is_never_cancelled(pair: Pair, how: str) -> None:
    """A commit that takes too long is left to itself: the server goes on waiting."""
    writer = Database(pair.rudder.keywords(), SHORT)
    async with open_databases(writer):
        if how == "deadline":
            await _expect_fault(writer, "the commit was not confirmed in time")
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_write, writer, [])
                await waits(pair)
                nursery.cancel_scope.cancel()
        # A request to cancel would have arrived before the refusal of the lock.
        await _expect_fault(writer, "lock timeout")
        assert rows(pair.primary, WAITING) == [("1",)]
        await pair.join()
        await eventually(lambda: rows(pair.primary, WAITING) == [("0",)])
        outcomes: list[object] = []
        await _write(writer, outcomes)
    assert outcomes == [Stored(0, duplicate=True)]
    assert "canceling wait for synchronous replication" not in pair.primary.log_file.read_text()


async def _write(writer: Database, outcomes: list[object]) -> None:
    outcomes += await writer.write([make_rows()])


async def _expect_fault(writer: Database, text: str) -> None:
    with pytest.raises(DatabaseError, match=text) as fault:
        await writer.write([make_rows()])
    assert fault.value.kind == "transient"


async def test_a_standby_is_passed_over(pair: Pair) -> None:
    """Of several hosts, one that turns out to be a standby is left for the next; both are named."""
    one, two = pair.standby.rudder, pair.primary.rudder
    writer = Database(several(one, two))
    async with open_databases(writer):
        with pytest.raises(DatabaseError, match="read-only"):
            await writer.definition()
        assert writer.server == ServerFacts(f"{one.host}:{one.port}", "standby")
        await writer.definition()
        assert writer.server == ServerFacts(f"{two.host}:{two.port}", "primary", 1)
        await pair.fail_over()
        await writer.definition()
        assert writer.server == ServerFacts(f"{one.host}:{one.port}", "primary", 2)


async def test_a_frozen_primary_is_given_up_for_another(pair: Pair) -> None:
    """A server that answers nobody is left, however long statements may take; a busy one is not."""
    patience = Patience(connect=0.5, statement=1000.0, lock=1000.0)
    writer = Database(several(pair.primary.rudder, pair.standby.rudder), patience)
    async with open_databases(writer):
        await pair.query(pair.primary, "ALTER SYSTEM SET synchronous_standby_names = ''")
        await pair.query(pair.primary, "SELECT pg_reload_conf()")
        await writer.write([make_rows("warm")])
        outcomes: list[object] = []
        async with trio.open_nursery() as nursery:
            lock = "BEGIN; LOCK TABLE ruddersysevents; SELECT pg_sleep(2); COMMIT"
            nursery.start_soon(pair.query, pair.primary, lock)
            sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            await eventually(lambda: rows(pair.primary, sql) == [("1",)])
            await _write(writer, outcomes)
        assert outcomes == [Stored(4)]
        await pair.promote()
        pair.primary.suspend()
        with pytest.raises(DatabaseError, match="in time"):
            await writer.write([make_rows("b")])
        assert await writer.write([make_rows("b")]) == [Stored(4)]
        assert writer.server == ServerFacts(_place(pair.standby.rudder), "primary", 2)


def several(*servers: ConnectionInfo) -> dict[str, object]:
    """Return libpq's options for several hosts."""
    hosts = ",".join(server.host for server in servers)
    ports = ",".join(str(server.port) for server in servers)
    first = servers[0]
    options = {"user": first.user, "password": first.password, "dbname": first.database}
    return {**options, "host": hosts, "port": ports}


def _place(server: ConnectionInfo) -> str:
    return f"{server.host}:{server.port}"


class HoldCommit(Fault):
    """Passes a COMMIT on only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = trio.Event()

    async def transfer(self, link: Link, way: Way, data: bytes) -> None:
        """Pass everything else on."""
        if way == "request" and b"COMMIT" in data:
            self.struck.set()
            await self.go_on.wait()
        await link.send(way, data)


async def write_in_turn(writer: Database, nodes: list[str]) -> None:
    """Write one run log after the other."""
    for node in nodes:
        await writer.write([make_rows(node)])


async def test_ids_become_visible_in_their_order(database: postgres.Database) -> None:
    """A writer draws no ids before the other one has committed; what it waits is measured.

    Nor is it starved: it comes before what the other one writes after that.
    """
    waited: list[float] = []
    commits: list[float] = []
    servers: list[ServerFacts] = []
    notes = Notes(waited=waited.append, committed=commits.append, connected=servers.append)
    async with open_proxy(database.rudder.host, database.rudder.port) as proxy:
        one = Database(replace(database.rudder, port=proxy.port).keywords())
        two = Database(database.rudder.keywords(), notes=notes)
        async with open_databases(one, two):
            await two.write([make_rows("before")])
            proxy.fault = hold = HoldCommit()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_in_turn, one, ["a", "c"])
                await hold.struck.wait()
                nursery.start_soon(two.write, [make_rows("b")])
                sql = (
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                    " AND database = (SELECT oid FROM pg_database"
                    " WHERE datname = current_database())"
                )
                await eventually(lambda: database.query(sql) == [("1",)])
                hold.go_on.set()
    found = await database.fetch(
        "SELECT nodeid FROM (SELECT DISTINCT ON (nodeid) nodeid, id FROM ruddersysevents"
        " ORDER BY nodeid, id) AS first ORDER BY id"
    )
    assert found == [("before",), ("a",), ("b",), ("c",)]
    assert waited[0] < waited[1]
    assert len(commits) == 2
    assert min(commits) > 0
    assert servers == [ServerFacts(_place(database.rudder), "primary", 1)]


class Reader:
    """Follows the table as the web application does: rows above the last id that it has seen.

    Attributes:
        seen: how many rows it got.
    """

    def __init__(self, connection: ConnectionInfo) -> None:
        self._connection = connection
        self._last = 0
        self.seen = 0

    async def follow(self, writers: "asyncio.Event") -> None:
        """Poll until the writers have finished, and once more."""
        client = await asyncpg.connect(self._connection.dsn)
        try:
            finished = False
            while not finished:
                finished = writers.is_set()
                found = await client.fetch(
                    "SELECT id FROM ruddersysevents WHERE id > $1 ORDER BY id", self._last
                )
                self.seen += len(found)
                self._last = found[-1]["id"] if found else self._last
                await asyncio.sleep(0)
        finally:
            await client.close()


@pytest.mark.fault("D17")
@pytest.mark.parametrize("batches", [20, pytest.param(400, marks=pytest.mark.torture)])
async def test_a_polling_reader_misses_no_row(database: postgres.Database, batches: int) -> None:
    """Two relayd write at once, and a reader that asks for rows above the last id gets all."""
    reader = Reader(database.superuser)
    writers = [Database(database.rudder.keywords()) for _ in range(2)]

    async def write(name: str, writer: Database) -> None:
        for number in range(batches):
            batch = [make_rows(f"{name}-{number}-{n}", rows=50) for n in range(20)]
            assert await writer.write(batch) == [Stored(50)] * 20

    async with open_databases(*writers):
        finished = asyncio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio_asyncio.aio_as_trio(reader.follow), finished)
            async with trio.open_nursery() as writing:
                for name, writer in zip("ab", writers, strict=True):
                    writing.start_soon(write, name, writer)
            finished.set()
    assert reader.seen == 2 * batches * 20 * 50


async def test_what_is_stored_says_where(database: postgres.Database) -> None:
    """With a hold, each run log knows the server and its position, which grows."""
    writer = Database(database.rudder.keywords(), locates=True)
    async with open_databases(writer):
        await writer.write([make_rows("a")])
        (again,) = await writer.write([make_rows("a")])
        here = await writer.locate()
        (other,) = await writer.write([make_rows("b")])
        later = await writer.locate()
        await database.fetch("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        limited = Database(database.rudder.keywords(), locates=True)
        (less,) = await limited.write([make_rows("c")])
        assert await limited.locate() == point_of(less)
        await limited.aclose()
    points = [point_of(outcome) for outcome in (again, other, less)]
    assert points[0].history == here.history == points[1].history == later.history
    assert points[0].position <= here.position <= points[1].position < later.position
    assert points[2].position == 0


def point_of(outcome: object) -> WalPoint:
    """Return where something was stored."""
    assert isinstance(outcome, Stored)
    assert outcome.point is not None
    return outcome.point
