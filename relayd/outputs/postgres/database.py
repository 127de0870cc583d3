"""Run logs into PostgreSQL: whole or not at all, once, in order, many in one transaction.

asyncpg runs on asyncio; all that touches it stays in this package, and every public method crosses
the bridge (trio-asyncio) once. The calling task must run inside `open_asyncio`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
import trio_asyncio

from relayd.config.main_conf import Settings, database_parameters
from relayd.outputs.postgres.batches import Batches
from relayd.outputs.postgres.connection import Patience
from relayd.outputs.postgres.session import Notes, Session
from relayd.outputs.results import ServerFacts, Written
from relayd.runlog.model import RunLog
from relayd.spool.committed import WalPoint
from relayd.telemetry.logs import get_logger

log = get_logger("database")

CLOSE_TIMEOUT_S: Final = 2.0

_PATIENCE: Final = Patience()
_NOTES: Final = Notes()


@asynccontextmanager
async def open_database(settings: Settings, notes: Notes) -> AsyncIterator["Database"]:
    """Open the database of a configuration, and close its connections at the end.

    Args:
        settings: the configuration.
        notes: where it notes what it measures.
    """
    own = settings.output.database
    async with open_asyncio():
        database = Database(
            database_parameters(settings),
            connections=own.max_pool_size,
            locates=own.hold > 0,
            notes=notes,
        )
        try:
            yield database
        finally:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await database.aclose()


@asynccontextmanager
async def open_asyncio() -> AsyncIterator[None]:
    """Run an asyncio loop under Trio; databases are used inside it."""
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_log_asyncio_error)
        yield


def _log_asyncio_error(_loop: object, context: dict[str, Any]) -> None:
    """Log what stray tasks of asyncpg leave when a server vanishes, instead of crashing."""
    log.debug("asyncio", detail=str(context.get("message")), error=repr(context.get("exception")))


class Database:
    """One connection that writes, and short ones for probes.

    One connection writes, and one of all relayd at a time: a reader that follows "id > last seen"
    then never misses a row, because ids are committed in the order in which they were drawn.

    Attributes:
        moved: set when the database is found at another history than before.
    """

    name: str = "database"

    def __init__(
        self,
        parameters: Mapping[str, Any],
        patience: Patience = _PATIENCE,
        *,
        connections: int = 2,
        locates: bool = False,
        notes: Notes = _NOTES,
    ) -> None:
        """Initialize; nothing is opened yet.

        Args:
            parameters: libpq's options, the password among them.
            patience: how long to wait for the server.
            connections: how many may be open at once. With one, `probe` waits until it is free.
            locates: whether what is stored says where in its history the database was.
            notes: where it notes what it measures.
        """
        self._session = Session(
            parameters, patience, connections=connections, locates=locates, notes=notes
        )
        self._batches = Batches(self._session)
        self.moved = self._session.moved

    @property
    def server(self) -> ServerFacts | None:
        """The server that was reached last; None before the first."""
        return self._session.server

    def reconfigure(self, settings: Settings) -> None:
        """Use the settings of a reloaded configuration from the next connection on."""
        self.set_parameters(database_parameters(settings))

    def set_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Use other parameters, a new password for example, from the next connection on."""
        self._session.set_parameters(parameters)

    async def write(self, batch: Sequence[RunLog]) -> list[Written]:
        """Commit a batch; a run log that the server refuses does not harm the others.

        Args:
            batch: run logs, in the order in which their rows get their ids.

        Returns:
            What became of each, in the order of `batch`. All that is stored is committed.

        Raises:
            DatabaseError: transient or operator kind: nothing is known to be stored. Write the
                whole batch again; what was stored is then recognized as a duplicate. If it says
                `all_alike`, every run log of the batch and a good one were refused.
        """
        result: list[Written] = await trio_asyncio.aio_as_trio(self._batches.write)(batch)
        return result

    async def probe(self) -> None:
        """Check over a connection of its own whether run logs could be written now.

        Raises:
            DatabaseError: they could not; the text says why and never contains a password.
        """
        await trio_asyncio.aio_as_trio(self._session.probe)()

    async def look(self) -> None:
        """Check the same over the connection that writes, if it is open; do nothing if it writes.

        Raises:
            DatabaseError: run logs could not be written now.
        """
        await trio_asyncio.aio_as_trio(self._session.look_when_idle)()

    async def definition(self) -> str:
        """Return a token that differs once what the tables refuse may have changed.

        Raises:
            DatabaseError: the database could not be asked, or run logs could not be written now.
        """
        await trio_asyncio.aio_as_trio(self._session.probe)(read=True)
        return self._session.token

    async def last_run(self, node_id: str) -> float | None:
        """Return the start of the last stored run of a node, Unix time; None if there is none.

        Asks over a connection of its own, like `probe`, for two seconds at most.

        Raises:
            DatabaseError: the database could not be asked, or did not answer in time.
        """
        result: float | None = await trio_asyncio.aio_as_trio(self._session.last_run)(node_id)
        return result

    async def locate(self) -> WalPoint:
        """Return where in its history the database is now.

        Raises:
            DatabaseError: it could not be asked, or run logs could not be written now.
        """
        result: WalPoint = await trio_asyncio.aio_as_trio(self._session.locate)()
        return result

    async def aclose(self) -> None:
        """Close the writing connection, at once if the server does not answer."""
        await trio_asyncio.aio_as_trio(self._session.close)()
