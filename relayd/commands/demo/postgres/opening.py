"""The embedded PostgreSQL server for Trio: starts and stops without blocking the event loop."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

import trio

from relayd.commands.demo.postgres.server import ConnectionInfo, Keywords, Server, StopMode

__all__ = ["ConnectionInfo", "Keywords", "Postgres", "StopMode", "open_postgres"]

_CLEANUP_DEADLINE: Final = 60.0
_NO_SETTINGS: Final[Mapping[str, str]] = MappingProxyType({})


class Postgres:
    """A server that was started by `open_postgres`.

    Attributes:
        server: the synchronous core, with `psql` for statements as the superuser.
    """

    def __init__(self, server: Server) -> None:
        self.server = server

    @property
    def rudder(self) -> ConnectionInfo:
        """Connection of the role `rudder`, which has the rights that relayd has in production."""
        return self.server.rudder

    @property
    def superuser(self) -> ConnectionInfo:
        """Connection of the superuser."""
        return self.server.superuser

    @property
    def dsn(self) -> str:
        """`postgres://` URL of `rudder`, password included."""
        return self.server.rudder.dsn

    @property
    def params(self) -> Keywords:
        """The same, as keyword arguments of `asyncpg.connect`."""
        return self.server.rudder.keywords()

    @property
    def log_file(self) -> Path:
        """The server's log."""
        return self.server.log_file

    async def start(self) -> None:
        """Start the server again, on the same data and port, and wait until it is ready.

        Raises:
            StartError: it did not start.
        """
        await trio.to_thread.run_sync(self.server.start)

    async def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait for its end: `fast`, or `immediate`, like a crash."""
        await trio.to_thread.run_sync(self.server.stop, mode)

    def kill(self) -> None:
        """Kill all its processes (SIGKILL) and wait, some milliseconds, until they are gone."""
        self.server.kill()

    def suspend(self) -> None:
        """Suspend all its processes (SIGSTOP)."""
        self.server.suspend()

    def resume(self) -> None:
        """Resume suspended processes (SIGCONT)."""
        self.server.resume()


@asynccontextmanager
async def open_postgres(
    directory: Path, *, port: int | None = None, extra: Mapping[str, str] = _NO_SETTINGS
) -> AsyncIterator[Postgres]:
    """Run a PostgreSQL server with Rudder's tables until the block ends.

    Owns the server: at the end it is stopped, whatever state the block leaves it in, and its data
    are removed if they had to be put outside `directory`.

    Args:
        directory: where it may write; created if missing, not removed.
        port: TCP port on 127.0.0.1; None: a free one.
        extra: settings of `postgresql.conf`, for example {"max_connections": "5"}.

    Yields:
        The running server, with tables, rights and passwords in place.

    Raises:
        StartError: PostgreSQL is not installed or did not start.
    """
    server = await trio.to_thread.run_sync(_make_server, directory, port, extra)
    try:
        await trio.to_thread.run_sync(server.create)
        yield Postgres(server)
    finally:
        with trio.move_on_after(_CLEANUP_DEADLINE, shield=True):
            await trio.to_thread.run_sync(server.close)


def _make_server(directory: Path, port: int | None, extra: Mapping[str, str]) -> Server:
    return Server(directory, port=port, extra=extra)
