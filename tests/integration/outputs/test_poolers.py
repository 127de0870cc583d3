"""Run logs through PgBouncer as it comes, and past hosts that do not answer."""

import asyncio
import os
import pwd
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_asyncio

from relayd.commands.demo.postgres.opening import Postgres
from relayd.errors import DatabaseError
from relayd.outputs.postgres.connecting.surroundings import Surroundings
from relayd.outputs.postgres.connection import Patience, connect
from relayd.outputs.postgres.database import Database
from relayd.outputs.postgres.survey.questions import survey
from relayd.outputs.results import Stored
from tests.support import postgres
from tests.support.pgbouncer import PoolMode, open_pgbouncer
from tests.support.rows import make_rows

PATIENCE = Patience()
MODES = pytest.mark.parametrize("mode", ["session", "transaction"])


@asynccontextmanager
async def open_databases(
    parameters: Mapping[str, Any], count: int, patience: Patience = PATIENCE
) -> AsyncIterator[list[Database]]:
    """Yield so many writers."""
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(lambda _loop, _context: None)
        databases = [Database(parameters, patience) for _ in range(count)]
        try:
            yield databases
        finally:
            for database in databases:
                await database.aclose()
            # Connections that were given up close in the next turn of the loop.
            await trio_asyncio.aio_as_trio(asyncio.sleep)(0)


@asynccontextmanager
async def open_database(
    parameters: Mapping[str, Any], patience: Patience = PATIENCE
) -> AsyncIterator[Database]:
    """Yield a writer."""
    async with open_databases(parameters, 1, patience) as (database,):
        yield database


@MODES
@pytest.mark.fault("F9")
async def test_run_logs_pass_through_pgbouncer(database: postgres.Database, mode: PoolMode) -> None:
    """Nothing that relayd does needs a session of its own: two of them share one, or two."""
    size = 1 if mode == "transaction" else 4
    with open_pgbouncer(database.rudder, mode, pool_size=size) as port:
        parameters = replace(database.rudder, port=port).keywords()
        async with open_databases(parameters, 2) as (one, two):
            await one.probe()

            async def write(writer: Database, name: str) -> None:
                for number in range(5):
                    batch = [make_rows(f"{name}{number}"), make_rows(f"both{number}")]
                    first, _ = await writer.write(batch)
                    assert first == Stored(4)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, one, "one")
                nursery.start_soon(write, two, "two")
            await two.probe()
            surroundings = Surroundings.of_process()
            found = await survey(parameters, PATIENCE, surroundings)
            options = {"options": "-c work_mem=5MB"}
            direct = await survey(database.rudder.keywords() | options, PATIENCE, surroundings)
    assert (found.account, found.pooled, found.lost_settings) == ("rudder", True, ())
    assert (direct.pooled, direct.lost_settings) == (False, ())
    assert await database.fetch("SELECT count(*) FROM ruddersysevents") == [("60",)]


async def test_settings_that_a_pooler_drops_are_known(database: postgres.Database) -> None:
    """A pooler that ignores the options of a connection gives it a session without them."""
    ignored = "ignore_startup_parameters = options"
    with open_pgbouncer(database.rudder, "transaction", ignored) as port:
        options = "-c work_mem=5MB -c client_min_messages=error"
        parameters = replace(database.rudder, port=port).keywords() | {"options": options}
        async with trio_asyncio.open_loop():
            found = await survey(parameters, PATIENCE, Surroundings.of_process())
    assert (found.pooled, found.lost_settings) == (True, ("work_mem",))


@MODES
@pytest.mark.fault("F9", "D7")
async def test_waits_are_bounded_behind_pgbouncer(
    database: postgres.Database, mode: PoolMode
) -> None:
    """The server ends a wait for a lock by relayd's own limits, which stay in the transaction."""
    with open_pgbouncer(database.rudder, mode, pool_size=1) as port:
        parameters = replace(database.rudder, port=port).keywords()
        async with open_database(parameters, Patience(lock=0.3)) as writer:
            await writer.write([make_rows("a")])
            holder = await trio_asyncio.aio_as_trio(connect)(
                database.superuser.keywords(), PATIENCE
            )
            run = trio_asyncio.aio_as_trio(holder.execute)
            await run("BEGIN; LOCK TABLE ruddersysevents IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(DatabaseError) as caught:
                await writer.write([make_rows("b")])
            assert (caught.value.sqlstate, caught.value.kind) == ("55P03", "transient")
            await trio_asyncio.aio_as_trio(holder.close)()
            assert await writer.write([make_rows("b")]) == [Stored(4)]
            await writer.aclose()
            # The session is the pooler's; another client gets it next.
            other = await trio_asyncio.aio_as_trio(connect)(parameters, PATIENCE)
            row = await trio_asyncio.aio_as_trio(other.fetchrow)(
                "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
            )
            await trio_asyncio.aio_as_trio(other.close)()
    assert tuple(row) == ("0", "0")


@contextmanager
def silent_host() -> Iterator[socket.socket]:
    """Yield a listener whose connections are never answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def visits(listener: socket.socket) -> int:
    """Return how many connections have come since the last call."""
    count = 0
    with suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def through(database: postgres.Database, *ports: int) -> dict[str, Any]:
    """Return options that name a host for each port, then the database itself."""
    own = database.rudder.keywords()
    hosts = ",".join(["127.0.0.1"] * (len(ports) + 1))
    return {**own, "host": hosts, "port": ",".join(map(str, (*ports, own["port"])))}


@pytest.mark.fault("F29")
async def test_a_frozen_host_costs_its_own_time_once(database: postgres.Database) -> None:
    """Each host has a timeout; later attempts begin with the one that answered last."""
    with silent_host() as frozen:
        port = frozen.getsockname()[1]
        parameters = through(database, port, port)
        async with open_database(parameters, Patience(connect=0.2)) as writer:
            assert await writer.write([make_rows("a")]) == [Stored(4)]
            assert visits(frozen) == 2
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rudder'"
            await database.fetch(end)
            with suppress(DatabaseError):
                await writer.write([make_rows("b")])
            await writer.write([make_rows("b")])
            await writer.probe()
            assert visits(frozen) == 0


@pytest.mark.fault("F29", "A21")
async def test_a_probe_looks_past_a_suspended_server(
    database: postgres.Database, private_postgres: Postgres
) -> None:
    """A server that hangs, although it is first, does not use up the two seconds of a probe."""
    private_postgres.server.suspend()
    async with open_database(through(database, private_postgres.rudder.port)) as writer:
        await writer.probe()
        assert await writer.write([make_rows()]) == [Stored(4)]
    private_postgres.server.resume()


@pytest.mark.fault("F29")
async def test_hosts_that_fail_are_all_named(database: postgres.Database) -> None:
    """The reason names each host; it may end by itself if that of one of them may."""
    parameters = {**database.rudder.keywords(), "host": "nowhere.invalid,127.0.0.1", "port": "1"}
    async with open_database(parameters) as writer:
        with pytest.raises(DatabaseError) as caught:
            await writer.probe()
    assert caught.value.kind == "transient"
    for part in ("nowhere.invalid:1: ", "127.0.0.1:1: Connection refused"):
        assert part in str(caught.value)


@pytest.mark.fault("F10")
def test_a_home_that_cannot_be_read_is_no_obstacle(database: postgres.Database) -> None:
    """The default files below a HOME of another user count as absent, as for libpq."""
    if os.geteuid() != 0:
        pytest.skip("only root can give away its rights")
    program = f"""
        import asyncio, concurrent.futures.thread, encodings.idna, os
        from relayd.outputs.postgres.connection import Patience, connect

        async def main():
            connection = await connect({dict(database.rudder.keywords())!r}, Patience())
            print(await connection.fetchval("SELECT current_user"))
            connection.terminate()

        os.setgroups([])
        os.setgid({pwd.getpwnam("nobody").pw_gid})
        os.setuid({pwd.getpwnam("nobody").pw_uid})
        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": "/root", "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert Path("/root").stat().st_mode & 0o007 == 0
    assert (done.stdout, done.stderr) == ("rudder\n", "")
