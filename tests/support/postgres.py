"""PostgreSQL for tests: one server per session, a fresh database per test, a server to break."""

import csv
import itertools
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from relayd.commands.demo.postgres import schema
from relayd.commands.demo.postgres.opening import Postgres
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


class CopiedServer(Server):
    """A server that begins with a copy of another's data, which takes less than making them."""

    def __init__(self, origin: Server, directory: Path, extra: Mapping[str, str]) -> None:
        """Prepare it; the origin was created, and does not run while this one is created."""
        super().__init__(directory, extra=extra)
        self._origin = origin
        self.rudder = replace(self.rudder, password=origin.rudder.password)
        self.superuser = replace(self.superuser, password=origin.superuser.password)

    def create(self) -> None:
        """Copy the data and start the server."""
        self._home = self._make_home()
        data = self._origin._need_home() / "data"
        subprocess.run(["cp", "-a", data, self._home], check=True)
        self.start()


@pytest.fixture(scope="session")
def created_postgres() -> Iterator[Server]:
    """Yield a server with Rudder's tables that does not run; others begin with its data."""
    with tempfile.TemporaryDirectory(prefix="relayd-origin-") as directory:
        Path(directory).chmod(0o755)
        server = Server(Path(directory), extra=QUICK)
        try:
            server.create()
            server.stop()
            yield server
        finally:
            server.close()


@pytest.fixture(scope="session")
def postgres_server(created_postgres: Server) -> Iterator[Server]:
    """One server for all tests of the session, started when the first of them needs it."""
    with tempfile.TemporaryDirectory(prefix="relayd-tests-") as directory:
        Path(directory).chmod(0o755)
        server = CopiedServer(
            created_postgres, Path(directory), {**QUICK, "max_connections": "200"}
        )
        try:
            server.create()
            yield server
        finally:
            server.close()


_numbers = itertools.count(1)
#: Databases of tests that have ended, by server: the next test drops them with the statements that
#: it runs anyway.
_ended: defaultdict[Server, list[str]] = defaultdict(list)
#: Rights on a database are not copied from its template, as those on what is in it are.
_MAKE = f"""
CREATE DATABASE %(name)s TEMPLATE {schema.DATABASE};
REVOKE ALL ON DATABASE %(name)s FROM PUBLIC;
GRANT CONNECT ON DATABASE %(name)s TO {schema.ROLE};
"""


@pytest.fixture
def database(postgres_server: Server) -> Iterator[Database]:
    """Yield an empty database with Rudder's tables on the session's server."""
    with fresh_database(postgres_server) as database:
        yield database


@contextmanager
def fresh_database(postgres_server: Server) -> Iterator[Database]:
    """Yield the same for as long as the block takes."""
    name = f"test_{next(_numbers)}"
    ended = _ended.pop(postgres_server, [])
    drop = "".join(f"DROP DATABASE {old} WITH (FORCE);\n" for old in ended)
    postgres_server.psql(drop + _MAKE % {"name": name}, database="postgres")
    yield Database(
        rudder=replace(postgres_server.rudder, database=name),
        superuser=replace(postgres_server.superuser, database=name),
        server=postgres_server,
    )
    _ended[postgres_server].append(name)


@pytest.fixture
def private_postgres(created_postgres: Server) -> Iterator[Postgres]:
    """Yield a server of this test alone, which it may stop, kill, suspend and start again."""
    with tempfile.TemporaryDirectory(prefix="relayd-private-") as directory:
        Path(directory).chmod(0o755)
        server = CopiedServer(created_postgres, Path(directory), QUICK)
        try:
            server.create()
            yield Postgres(server)
        finally:
            server.close()
