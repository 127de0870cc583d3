"""PostgreSQL for tests: one server per session, a fresh database per test, a server to break."""

import csv
import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from relayd.commands.demo.postgres import schema
from relayd.commands.demo.postgres.opening import Postgres, open_postgres
from relayd.commands.demo.postgres.server import ConnectionInfo, Server

# What a test checks must survive the kill of processes, not of the machine: no fsync. (Commits
# stay synchronous: with `synchronous_commit = off` a killed server forgets the last of them.)
QUICK = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "autovacuum": "off",
}


@dataclass(frozen=True, slots=True)
class Database:
    """A database with Rudder's tables, of one test only.

    Attributes:
        rudder: connection with the rights that relayd has.
        superuser: connection of the superuser.
        server: the server that other tests use too; do not stop it.
    """

    rudder: ConnectionInfo
    superuser: ConnectionInfo
    server: Server

    def query(self, sql: str) -> list[tuple[str, ...]]:
        """Run SQL as the superuser; rows as text, NULL and '' both as ''."""
        return rows(self.server, sql, self.superuser.database)

    async def fetch(self, sql: str) -> list[tuple[str, ...]]:
        """Return the same without blocking the event loop."""
        return await trio.to_thread.run_sync(self.query, sql)


def rows(server: Server, sql: str, database: str = schema.DATABASE) -> list[tuple[str, ...]]:
    """Run SQL as the superuser of `server`; rows as text, NULL and '' both as ''."""
    return [tuple(row) for row in csv.reader(server.psql(sql, database=database).splitlines(True))]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One server for all tests of the session, started when the first of them needs it."""
    with tempfile.TemporaryDirectory(prefix="relayd-tests-") as directory:
        Path(directory).chmod(0o755)
        server = Server(Path(directory), extra={**QUICK, "max_connections": "200"})
        try:
            server.create()
            yield server
        finally:
            server.close()


_numbers = itertools.count(1)


@pytest.fixture
def database(postgres_server: Server) -> Iterator[Database]:
    """Yield an empty database with Rudder's tables on the session's server, dropped afterwards."""
    with fresh_database(postgres_server) as database:
        yield database


@contextmanager
def fresh_database(postgres_server: Server) -> Iterator[Database]:
    """Yield the same for as long as the block takes."""
    name = f"test_{next(_numbers)}"
    postgres_server.psql(f"CREATE DATABASE {name} TEMPLATE {schema.DATABASE}", database="postgres")
    postgres_server.psql(schema.RUDDER_RIGHTS, database=name)
    yield Database(
        rudder=replace(postgres_server.rudder, database=name),
        superuser=replace(postgres_server.superuser, database=name),
        server=postgres_server,
    )
    postgres_server.psql(f"DROP DATABASE {name} WITH (FORCE)", database="postgres")


@pytest.fixture
async def private_postgres() -> AsyncIterator[Postgres]:
    """Yield a server of this test alone, which it may stop, kill, suspend and start again."""
    with tempfile.TemporaryDirectory(prefix="relayd-private-") as directory:
        Path(directory).chmod(0o755)
        async with open_postgres(Path(directory), extra=QUICK) as postgres:
            yield postgres
