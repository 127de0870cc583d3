"""A primary and a standby that streams from it, on this machine."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from relayd.commands.demo.postgres.opening import Postgres
from relayd.commands.demo.postgres.server import ConnectionInfo, Server
from tests.support.daemon import eventually
from tests.support.postgres import QUICK, rows


class Standby(Server):
    """A server on a copy of another one's data, which follows that one.

    Attributes:
        name: by which the primary knows it.
    """

    def __init__(self, directory: Path, primary: Server, name: str = "standby") -> None:
        super().__init__(directory, extra=QUICK)
        self._primary = primary
        self.name = name

    def create(self) -> None:
        """Copy the primary and start."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._home = home = self._make_home()
        source = f"host={self._primary._need_home()} port={self._primary.superuser.port}"
        conninfo = f"{source} user=postgres application_name={self.name}"
        subprocess.run(
            [
                self._programs / "pg_basebackup",
                *("-d", conninfo, "-D", home / "data", "-R", "-X", "stream", "-c", "fast", "-N"),
            ],
            check=True,
            capture_output=True,
            cwd=home,
            **self._account.credentials(),
        )
        (home / "data").chmod(0o700)
        self.rudder = replace(self._primary.rudder, port=self.rudder.port)
        self.superuser = replace(self._primary.superuser, port=self.superuser.port)
        self.start()


class Pair:
    """A primary and its standby.

    Attributes:
        primary: the server that was the primary at first.
        standby: the other one.
    """

    def __init__(self, primary: Postgres, standby: Standby) -> None:
        self.primary = primary.server
        self.standby = standby
        self._source = ""

    @property
    def url(self) -> str:
        """URL of both, without the password."""
        one, two = self.primary.rudder, self.standby.rudder
        hosts = f"{one.host}:{one.port},{two.host}:{two.port}"
        return f"postgres://{one.user}@{hosts}/{one.database}?target_session_attrs=read-write"

    @property
    def rudder(self) -> ConnectionInfo:
        """Connection of the role `rudder` to the first primary."""
        return self.primary.rudder

    async def query(self, server: Server, sql: str) -> list[tuple[str, ...]]:
        """Run SQL as the superuser of one of the two."""
        return await trio.to_thread.run_sync(rows, server, sql)

    async def caught_up(self) -> None:
        """Wait until the standby has all that the primary has committed."""
        ((end,),) = await self.query(self.primary, "SELECT pg_current_wal_lsn()")
        sql = f"SELECT pg_last_wal_replay_lsn() >= '{end}'"
        await eventually(lambda: rows(self.standby, sql) == [("t",)])

    async def cut(self) -> None:
        """End the replication: from now on the standby gets nothing."""
        ((self._source,),) = await self.query(self.standby, "SHOW primary_conninfo")
        await self._follow("", receivers=0)

    async def join(self) -> None:
        """Let the standby follow again."""
        await self._follow(self._source, receivers=1)

    async def _follow(self, source: str, receivers: int) -> None:
        quoted = source.replace("'", "''")
        await self.query(self.standby, f"ALTER SYSTEM SET primary_conninfo = '{quoted}'")
        await self.query(self.standby, "SELECT pg_reload_conf()")
        sql = "SELECT count(*) FROM pg_stat_wal_receiver"
        await eventually(lambda: rows(self.standby, sql) == [(str(receivers),)])

    async def wait_for_standbys(self) -> None:
        """Make the replication synchronous."""
        name = self.standby.name
        await self.query(self.primary, f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        await self.query(self.primary, "SELECT pg_reload_conf()")
        sql = "SELECT current_setting('synchronous_standby_names') <> ''"
        await eventually(lambda: rows(self.primary, sql) == [("t",)])

    async def fail_over(self) -> None:
        """Kill the primary and promote the standby."""
        self.primary.kill()
        await self.promote()

    async def promote(self) -> None:
        """Promote the standby."""
        await self.query(self.standby, "SELECT pg_promote()")


@asynccontextmanager
async def open_pair(directory: Path, primary: Postgres) -> AsyncIterator[Pair]:
    """Add a standby to a server until the block ends."""
    standby = Standby(directory / "standby", primary.server)
    try:
        await trio.to_thread.run_sync(standby.create)
        yield Pair(primary, standby)
    finally:
        with trio.move_on_after(60, shield=True):
            await trio.to_thread.run_sync(standby.close)
