"""Run logs into PostgreSQL: whole or not at all, once, in order, many in one transaction.

asyncpg runs on asyncio; all that touches it stays in this package, and every public method crosses
the bridge (trio-asyncio) once. The calling task must run inside `open_asyncio`.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate
from typing import Any, Final

import asyncpg
import msgspec
import trio
import trio_asyncio

from relayd.config.main_conf import Settings, database_parameters
from relayd.errors import DatabaseError, Reason, Refused
from relayd.outputs.postgres import statements as sql
from relayd.outputs.postgres.connection import (
    Connection,
    HostOrder,
    Patience,
    connect,
    ms,
    peer,
    transaction_limits,
)
from relayd.outputs.postgres.faults import FAULTS, explain
from relayd.outputs.results import Stored, Written
from relayd.runlog.copytext import read_columns
from relayd.runlog.model import COLUMNS, RunLog
from relayd.telemetry.logs import get_logger

log = get_logger("database")

PROBE_TIMEOUT_S: Final = 2.0
#: Of these for finding a server, so that the reason is known when the time is over.
PROBE_SEARCH_S: Final = 1.5
#: Rows are passed to the connection in pieces of about this size.
COPY_CHUNK_BYTES: Final = 512 * 1024


_PATIENCE: Final = Patience()


CLOSE_TIMEOUT_S: Final = 2.0


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator["Database"]:
    """Open the database of a configuration, and close its connections at the end."""
    connections = settings.output.database.max_pool_size
    async with open_asyncio():
        database = Database(database_parameters(settings), connections=connections)
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

    One connection writes: a reader that follows "id > last seen" then never misses a row, because
    ids are committed in the order in which they were drawn.
    """

    name: str = "database"

    def __init__(
        self,
        parameters: Mapping[str, Any],
        patience: Patience = _PATIENCE,
        *,
        connections: int = 2,
    ) -> None:
        """Initialize; nothing is opened yet.

        Args:
            parameters: libpq's options, the password among them.
            patience: how long to wait for the server.
            connections: how many may be open at once. With one, `probe` waits until it is free.
        """
        self._patience = patience
        self.set_parameters(parameters)
        self._alone = connections < 2
        self._writing = asyncio.Lock()
        self._writer: Connection | None = None

    def reconfigure(self, settings: Settings) -> None:
        """Use the settings of a reloaded configuration from the next connection on."""
        self.set_parameters(database_parameters(settings))

    def set_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Use other parameters, a new password for example, from the next connection on."""
        self._parameters = dict(parameters)
        self._order = HostOrder()
        self._open_transaction = sql.OPEN % transaction_limits(parameters, self._patience)

    async def write(self, batch: Sequence[RunLog]) -> list[Written]:
        """Commit a batch; a run log that the server refuses does not harm the others.

        Args:
            batch: run logs, in the order in which their rows get their ids.

        Returns:
            What became of each, in the order of `batch`. All of it is committed.

        Raises:
            DatabaseError: transient or operator kind: nothing is known to be stored. Write the
                whole batch again; what was stored is then recognized as a duplicate.
        """
        result: list[Written] = await trio_asyncio.aio_as_trio(self._write)(batch)
        return result

    async def probe(self) -> None:
        """Check over a connection of its own whether run logs could be written now.

        Raises:
            DatabaseError: they could not; the text says why and never contains a password.
        """
        await trio_asyncio.aio_as_trio(self._probe)()

    async def aclose(self) -> None:
        """Close the writing connection, at once if the server does not answer."""
        await trio_asyncio.aio_as_trio(self._close)()

    async def _write(self, batch: Sequence[RunLog]) -> list[Written]:
        outcomes: dict[int, Written] = {}
        for part in _rounds(batch):
            await self._write_part(batch, part, outcomes)
        return [outcomes[index] for index in range(len(batch))]

    async def _write_part(
        self, batch: Sequence[RunLog], part: list[int], outcomes: dict[int, Written]
    ) -> None:
        """Write some run logs of a batch, by halves where one of them is refused."""
        try:
            stored = await self._transaction([batch[index] for index in part])
        except DatabaseError as error:
            if error.kind != "permanent":
                raise
            if len(part) == 1:
                detail = f"the database refused it: {error} (SQLSTATE {error.sqlstate})"
                outcomes[part[0]] = Refused(Reason.DATABASE, detail)
                return
            half = len(part) // 2
            await self._write_part(batch, part[:half], outcomes)
            await self._write_part(batch, part[half:], outcomes)
        else:
            outcomes.update(zip(part, stored, strict=True))

    async def _transaction(self, run_logs: Sequence[RunLog]) -> list[Stored]:
        size = sum(len(run_log.copy) for run_log in run_logs)
        patience = self._patience
        allowed = patience.statement + patience.per_mib * size / 2**20
        try:
            async with asyncio.timeout(allowed), self._writing:
                connection = await self._connected()
                await connection.execute(self._open_transaction + sql.LOCK % _lock_keys(run_logs))
                if allowed > 1.5 * patience.statement:
                    await connection.execute(
                        "SELECT set_config('statement_timeout', $1, true)", ms(allowed)
                    )
                stored = await _store(connection, run_logs)
                await connection.execute(sql.COMMIT)
                return stored
        except FAULTS as error:
            fault = explain(error)
            if fault.kind == "permanent":
                await self._roll_back()
            else:
                self._drop()
            raise fault from error
        except BaseException:
            # Cancelled in the middle: whether the server commits is unknown; the next attempt
            # finds out on a new connection.
            self._drop()
            raise

    async def _roll_back(self) -> None:
        """Roll back after data were refused: only the transaction failed, not the connection."""
        assert self._writer is not None
        try:
            async with asyncio.timeout(self._patience.connect):
                await self._writer.execute(sql.ROLLBACK)
        except FAULTS:
            self._drop()

    async def _connected(self) -> Connection:
        if self._writer is None or self._writer.is_closed():
            self._writer = None
            self._writer = await self._open(self._patience)
            log.info("connected", server=peer(self._writer))
        return self._writer

    async def _check(self, connection: Connection) -> None:
        await connection.execute(self._open_transaction)
        await _check(connection)
        await connection.execute(sql.ROLLBACK)

    async def _open(self, patience: Patience) -> Connection:
        """Return a usable connection; what prevents one is never the fault of a run log."""
        try:
            connection = await connect(self._parameters, patience, order=self._order)
            try:
                await self._check(connection)
            except BaseException:
                connection.terminate()
                raise
        except FAULTS as error:
            fault = explain(error)
            if fault.kind == "permanent":
                raise DatabaseError(str(fault), "operator", fault.sqlstate) from error
            raise fault from error
        return connection

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                if self._alone:
                    async with self._writing:
                        await self._check_writer()
                else:
                    brief = msgspec.structs.replace(self._patience, search=PROBE_SEARCH_S)
                    (await self._open(brief)).terminate()
        except FAULTS as error:
            raise explain(error) from error

    async def _check_writer(self) -> None:
        connection = await self._connected()
        try:
            await self._check(connection)
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.terminate()
            self._writer = None

    async def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            await writer.close(timeout=1.0)
        except FAULTS:
            writer.terminate()


async def _check(connection: Connection) -> None:
    """Raise if tables, columns or rights are not those that relayd needs."""
    for statement in sql.SCHEMA:
        await connection.execute(statement)
    row = await connection.fetchrow(sql.RIGHTS)
    missing = [name for name, there in row.items() if not there]
    if "writable" in missing:
        raise asyncpg.ReadOnlySQLTransactionError("the database is read-only (a standby?)")
    if missing:
        raise asyncpg.InsufficientPrivilegeError(
            f"the account lacks SELECT, INSERT or USAGE on: {', '.join(missing)}"
        )


def _rounds(batch: Sequence[RunLog]) -> Iterable[list[int]]:
    """Split a batch so that one run (node and START) is in a transaction at most once.

    Two versions of one run in a single transaction would not see each other in the duplicate
    check.
    """
    rounds: list[list[int]] = []
    seen: dict[tuple[str, str], int] = {}
    for index, run_log in enumerate(batch):
        run = (run_log.node_id, run_log.start)
        number = seen.get(run, 0)
        seen[run] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(index)
    return rounds


def _lock_keys(run_logs: Sequence[RunLog]) -> str:
    """Return the advisory locks of runs, sorted, for the statement that takes them."""
    return ",".join(map(str, sorted({_lock_key(run_log) for run_log in run_logs})))


def _lock_key(run_log: RunLog) -> int:
    """Return the advisory lock of a run: the same number in every relayd that writes here."""
    digest = hashlib.blake2b(f"{run_log.node_id}\0{run_log.start}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big", signed=True)


async def _store(connection: Connection, run_logs: Sequence[RunLog]) -> list[Stored]:
    """Store run logs of different runs inside the open transaction."""
    before, there = await _already_stored(connection, run_logs)
    fresh = [
        run_log for index, run_log in enumerate(run_logs) if run_log.rows and index not in there
    ]
    if fresh:
        await _insert(connection, fresh, before)
    return [_stored(run_log, there.get(index)) for index, run_log in enumerate(run_logs)]


def _stored(run_log: RunLog, rows_there: int | None) -> Stored:
    if rows_there is None:
        return Stored(run_log.rows)
    return Stored(0, duplicate=True, missing=max(0, run_log.rows - rows_there))


async def _already_stored(
    connection: Connection, run_logs: Sequence[RunLog]
) -> tuple[int, dict[int, int]]:
    """Return an id before those of new rows, and the rows of run logs stored before, by index.

    The first report decides. Where it is of a type that is not inserted, the first one that is
    inserted decides too.
    """
    owners: list[int] = []
    probes: list[tuple[str, ...]] = []
    for index, run_log in enumerate(run_logs):
        if not run_log.rows:
            continue
        owners.append(index)
        probes.append(run_log.first)
        if run_log.rows != run_log.reports:
            owners.append(index)
            probes.append(read_columns(run_log.copy[: run_log.copy.index(b"\n")]))
    columns = [[probe[place] for probe in probes] for place in range(len(COLUMNS))]
    rows = await connection.fetch(sql.STORED, *columns)
    values = {row["number"]: row["value"] for row in rows}
    before = values.pop(0)
    return before, {owners[number - 1]: value for number, value in values.items()}


async def _insert(connection: Connection, run_logs: Sequence[RunLog], before: int) -> None:
    await connection.copy_to_table(
        "ruddersysevents", source=_copy_source(run_logs), columns=COLUMNS
    )
    places = accumulate((run_log.rows for run_log in run_logs), initial=1)
    complete = [
        (run_log.node_id, run_log.start, run_log.config_id, place)
        for run_log, place in zip(run_logs, places, strict=False)
        if run_log.complete
    ]
    if complete:
        rows = sum(run_log.rows for run_log in run_logs)
        columns = [list(column) for column in zip(*complete, strict=True)]
        await connection.execute(sql.EXECUTIONS, *columns, before, rows)


async def _copy_source(run_logs: Sequence[RunLog]) -> AsyncIterator[bytes]:
    """Yield the rows in large chunks: each costs a turn of the event loop."""
    chunk: list[bytes] = []
    size = 0
    for run_log in run_logs:
        chunk.append(run_log.copy)
        size += len(run_log.copy)
        if size >= COPY_CHUNK_BYTES:
            yield b"".join(chunk)
            chunk, size = [], 0
    if chunk:
        yield b"".join(chunk)
