"""The embedded PostgreSQL server: what it lets `rudder` do, and its life and deaths."""

import asyncio
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
import trio

from relayd.commands.demo.postgres.opening import Postgres, open_postgres
from relayd.commands.demo.postgres.programs import server_account, server_programs
from relayd.commands.demo.postgres.server import ConnectionInfo, Server
from relayd.errors import StartError
from tests.support.postgres import QUICK, Database, rows

INSERT = (
    "INSERT INTO ruddersysevents (executiondate, nodeid, directiveid, ruleid, reportid, component,"
    " executiontimestamp) VALUES (now(), 'n', 'd', 'r', '0', 'c', now()) RETURNING id"
)


async def run(connection: ConnectionInfo, sql: str) -> object:
    """Return the first value that `sql` gives, by a client of its own."""
    return await trio.to_thread.run_sync(asyncio.run, _fetch_value(connection.dsn, sql))


async def _fetch_value(dsn: str, sql: str) -> object:
    client = await asyncpg.connect(dsn)
    try:
        return await client.fetchval(sql)
    finally:
        await client.close()


async def test_rudder_inserts_and_selects(database: Database) -> None:
    """The role of relayd inserts a report and reads it back."""
    first = await run(database.rudder, INSERT)
    assert await run(database.rudder, "SELECT id FROM ruddersysevents") == first
    assert await database.fetch("SELECT nodeid FROM ruddersysevents") == [("n",)]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM ruddersysevents",
        "UPDATE ruddersysevents SET msg = ''",
        "TRUNCATE reportsexecution",
        "DROP TABLE ruddersysevents",
        "ALTER TABLE reportsexecution ADD x int",
        "SELECT setval('serial', 1)",
        "CREATE TABLE t (x int)",
        "CREATE TEMPORARY TABLE t (x int)",
    ],
)
async def test_rudder_may_do_nothing_more(database: Database, sql: str) -> None:
    """Whatever is not SELECT, INSERT or the sequence is refused to the role of relayd."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run(database.rudder, sql)


async def test_passwords_are_checked(database: Database) -> None:
    """A wrong password is refused over TCP."""
    wrong = replace(database.rudder, password="wrong")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await run(wrong, "SELECT 1")


async def test_each_test_has_an_empty_database(database: Database) -> None:
    """Rows of one test are not seen by another."""
    assert await database.fetch("SELECT count(*) FROM ruddersysevents") == [("0",)]


def test_only_the_dsn_carries_the_password(database: Database) -> None:
    """Neither the URL for the configuration nor the text form has the secret in it."""
    assert database.rudder.password not in database.rudder.url
    assert database.rudder.password not in repr(database.rudder)


async def test_committed_rows_survive_a_kill(private_postgres: Postgres) -> None:
    """After SIGKILL of all its processes the server comes back on the same port with its rows."""
    await run(private_postgres.rudder, INSERT)
    private_postgres.kill()
    with pytest.raises(ConnectionRefusedError):
        await run(private_postgres.rudder, "SELECT 1")
    await private_postgres.start()
    assert await run(private_postgres.rudder, "SELECT count(*) FROM ruddersysevents") == 1


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_stop_and_start_again(private_postgres: Postgres, mode: str) -> None:
    """A stopped server refuses connections and starts again on the same data."""
    await run(private_postgres.rudder, INSERT)
    await private_postgres.stop("immediate" if mode == "immediate" else "fast")
    assert private_postgres.server.pid is None
    with pytest.raises(ConnectionRefusedError):
        await run(private_postgres.rudder, "SELECT 1")
    await private_postgres.start()
    assert await run(private_postgres.rudder, "SELECT count(*) FROM ruddersysevents") == 1


async def test_suspended_server_accepts_but_never_answers(private_postgres: Postgres) -> None:
    """A suspended server leaves a client without an answer until it is resumed."""
    private_postgres.suspend()
    stream = await trio.open_tcp_stream("127.0.0.1", private_postgres.rudder.port)
    async with stream:
        await stream.send_all(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.3):
            await stream.receive_some()
        private_postgres.resume()
        assert await stream.receive_some() == b"N"


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """When the block ends the process is gone, even if it was suspended."""
    async with open_postgres(tmp_path, extra=QUICK) as postgres:
        pid = postgres.server.pid
        assert rows(postgres.server, "SELECT 1") == [("1",)]
        postgres.suspend()
    assert not Path(f"/proc/{pid}").exists()


async def test_a_port_in_use_is_a_start_error(private_postgres: Postgres, tmp_path: Path) -> None:
    """A port that another server holds is refused in one line."""
    with pytest.raises(StartError, match=r"^PostgreSQL did not start: .*$"):
        async with open_postgres(tmp_path, port=private_postgres.rudder.port, extra=QUICK):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
def test_unreadable_programs_are_copied_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that the server's account cannot reach are copied to where it can, once."""
    programs = server_programs(server_account())
    package = programs.parent.parent
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    for source in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(source, hidden / source.name, ignore=shutil.ignore_patterns("*.a"))
    unreachable = hidden / programs.relative_to(package.parent)
    monkeypatch.setenv("RELAYD_POSTGRES_BIN", str(unreachable))
    with tempfile.TemporaryDirectory(prefix="relayd-tests-") as open_to_all:
        Path(open_to_all).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", open_to_all)
        server = Server(tmp_path / "server", extra=QUICK)
        try:
            server.create()
            assert rows(server, "SELECT 1") == [("1",)]
        finally:
            server.close()
        (copy,) = Path(open_to_all).iterdir()
        assert server_programs(server_account()).is_relative_to(copy)
        assert list(Path(open_to_all).iterdir()) == [copy]


def test_without_an_installation_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the server's programs the error names the extra to install."""
    monkeypatch.delenv("RELAYD_POSTGRES_BIN", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(StartError, match=r"pip install 'relayd\[demo\]'"):
        Server(tmp_path)
