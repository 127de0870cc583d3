"""Run logs into PostgreSQL: whole or not at all, once, in order, many in one transaction.

asyncpg runs on asyncio; all that touches it stays in this package, and every public method crosses
the bridge (trio-asyncio) once. The calling task must run inside `open_asyncio`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any, Final

import msgspec
import trio
import trio_asyncio

from relayd.config.main_conf import Settings, database_parameters
from relayd.errors import DatabaseError, Reason, Refused, Retry
from relayd.outputs.postgres import statements as sql
from relayd.outputs.postgres.committing import commit
from relayd.outputs.postgres.connecting.liveness import unless_silent
from relayd.outputs.postgres.connection import (
    Connection,
    HostOrder,
    Patience,
    connect,
    has_several,
    ms,
    peer,
    place,
    transaction_limits,
)
from relayd.outputs.postgres.faults import FAULTS, explain
from relayd.outputs.postgres.history import History
from relayd.outputs.postgres.known_good import known_good
from relayd.outputs.postgres.sqlstate import READ_ONLY
from relayd.outputs.postgres.storing import Facts, lock_keys, rounds, store
from relayd.outputs.postgres.tables import TOKEN_PREFIX, Tables, check_tables, read_tables
from relayd.outputs.results import BEHIND, ServerFacts, Stored, Written
from relayd.runlog.model import RunLog
from relayd.spool.committed import WalPoint
from relayd.system.addresses import bracketed
from relayd.system.wake import Wake
from relayd.telemetry.logs import get_logger

log = get_logger("database")

PROBE_TIMEOUT_S: Final = 2.0
#: Of these for finding a server, so that the reason is known when the time is over.
PROBE_SEARCH_S: Final = 1.5


_PATIENCE: Final = Patience()


CLOSE_TIMEOUT_S: Final = 2.0


@asynccontextmanager
async def open_database(
    settings: Settings, note_wait: Callable[[float], None]
) -> AsyncIterator["Database"]:
    """Open the database of a configuration, and close its connections at the end.

    Args:
        settings: the configuration.
        note_wait: gets the seconds for which each transaction waited for other writers.
    """
    own = settings.output.database
    async with open_asyncio():
        database = Database(
            database_parameters(settings),
            connections=own.max_pool_size,
            locates=own.hold > 0,
            note_wait=note_wait,
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


class _Attempt(msgspec.Struct):
    """An attempt with one batch.

    Attributes:
        batch: the run logs.
        judged_by: token of the tables by which run logs are judged; `TOKEN_PREFIX` alone, which no
            tables have, if they changed meanwhile: such a judgement is soon made again.
        outcomes: what became of them so far, by index.
        sound: whether the tables are known to accept run logs.
        looked: whether it was checked what the tables are like now.
        waiting: nodes of which a run log waits; their newer ones wait behind it.
    """

    batch: Sequence[RunLog]
    judged_by: str
    outcomes: dict[int, Written] = msgspec.field(default_factory=dict)
    sound: bool = False
    looked: bool = False
    waiting: set[str] = msgspec.field(default_factory=set)


class Database:
    """One connection that writes, and short ones for probes.

    One connection writes, and one of all relayd at a time: a reader that follows "id > last seen"
    then never misses a row, because ids are committed in the order in which they were drawn.

    Attributes:
        moved: set when the database is found at another history than before.
        server: the server that was reached last; None before the first.
    """

    name: str = "database"

    def __init__(
        self,
        parameters: Mapping[str, Any],
        patience: Patience = _PATIENCE,
        *,
        connections: int = 2,
        locates: bool = False,
        note_wait: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """Initialize; nothing is opened yet.

        Args:
            parameters: libpq's options, the password among them.
            patience: how long to wait for the server.
            connections: how many may be open at once. With one, `probe` waits until it is free.
            locates: whether what is stored says where in its history the database was.
            note_wait: gets the seconds for which each transaction waited for other writers.
        """
        self.moved = Wake()
        self.server: ServerFacts | None = None
        self._history = History()
        self._locates = locates
        self._note_wait = note_wait
        self._patience = patience
        self.set_parameters(parameters)
        self._alone = connections < 2
        self._writing = asyncio.Lock()
        self._writer: Connection | None = None
        self._tables: Tables | None = None
        self._accepted: tuple[str, ...] | None = None

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
            What became of each, in the order of `batch`. All that is stored is committed.

        Raises:
            DatabaseError: transient or operator kind: nothing is known to be stored. Write the
                whole batch again; what was stored is then recognized as a duplicate. If it says
                `all_alike`, every run log of the batch and a good one were refused.
        """
        result: list[Written] = await trio_asyncio.aio_as_trio(self._write)(batch)
        return result

    async def probe(self) -> None:
        """Check over a connection of its own whether run logs could be written now.

        Raises:
            DatabaseError: they could not; the text says why and never contains a password.
        """
        await trio_asyncio.aio_as_trio(self._probe)()

    async def look(self) -> None:
        """Check the same over the connection that writes, if it is open; do nothing if it writes.

        Raises:
            DatabaseError: run logs could not be written now.
        """
        await trio_asyncio.aio_as_trio(self._look_when_idle)()

    async def definition(self) -> str:
        """Return a token that differs once what the tables refuse may have changed.

        Raises:
            DatabaseError: the database could not be asked, or run logs could not be written now.
        """
        await trio_asyncio.aio_as_trio(self._probe)(read=True)
        return self._token()

    async def locate(self) -> WalPoint:
        """Return where in its history the database is now.

        Raises:
            DatabaseError: it could not be asked, or run logs could not be written now.
        """
        result: WalPoint = await trio_asyncio.aio_as_trio(self._locate)()
        return result

    async def aclose(self) -> None:
        """Close the writing connection, at once if the server does not answer."""
        await trio_asyncio.aio_as_trio(self._close)()

    async def _write(self, batch: Sequence[RunLog]) -> list[Written]:
        attempt = _Attempt(batch, self._token())
        for part in rounds(batch):
            await self._write_part(attempt, part)
        return [attempt.outcomes[index] for index in range(len(batch))]

    def _token(self) -> str:
        return TOKEN_PREFIX if self._tables is None else self._tables.token

    async def _write_part(self, attempt: _Attempt, part: list[int]) -> None:
        """Write some run logs of a batch, by halves where one of them is refused."""
        behind = [index for index in part if attempt.batch[index].node_id in attempt.waiting]
        attempt.outcomes.update(dict.fromkeys(behind, BEHIND))
        part = [index for index in part if index not in attempt.outcomes]
        if not part:
            return
        try:
            stored = await self._transaction([attempt.batch[index] for index in part])
        except DatabaseError as error:
            if error.kind not in ("permanent", "table"):
                raise
            if not attempt.looked and await self._must_write_otherwise(attempt):
                await self._write_part(attempt, part)
                return
            if len(part) == 1:
                verdict = await self._judge(attempt, part[0], error)
                attempt.outcomes[part[0]] = verdict
                if isinstance(verdict, Retry):
                    attempt.waiting.add(attempt.batch[part[0]].node_id)
                return
            half = len(part) // 2
            await self._write_part(attempt, part[:half])
            await self._write_part(attempt, part[half:])
        else:
            attempt.outcomes.update(zip(part, stored, strict=True))
            for index, outcome in zip(part, stored, strict=True):
                if outcome.rows:
                    attempt.sound = True
                    self._accepted = attempt.batch[index].first

    async def _must_write_otherwise(self, attempt: _Attempt) -> bool:
        """Look at the tables once more, which others may have changed since the connection."""
        attempt.looked = True
        before = self._tables
        await self._probe(read=True)
        now = self._tables
        assert before is not None
        assert now is not None
        if before.token != now.token:
            attempt.judged_by = TOKEN_PREFIX
        return (before.copy, before.key) != (now.copy, now.key)

    async def _judge(self, attempt: _Attempt, index: int, error: DatabaseError) -> Refused | Retry:
        """Return what becomes of a run log that was refused by itself.

        Raises:
            DatabaseError: the tables refuse a good run log too, so it says nothing of this one.
        """
        if not attempt.sound:
            await self._insert_known_good(attempt.batch[index].node_id)
            attempt.sound = True
        reason = f"{error} (SQLSTATE {error.sqlstate})"
        if error.kind == "table":
            return Retry(f"the tables refuse it, but Rudder's own would not: {reason}")
        detail = f"the database refused it: {reason}"
        return Refused(Reason.DATABASE, detail, judged_by=attempt.judged_by)

    async def _insert_known_good(self, node_id: str) -> None:
        """Insert a good run log and roll back.

        Raises:
            DatabaseError: it was refused, too.
        """
        if self._accepted is None:
            await self._fetch_accepted(node_id)
        fault: DatabaseError | None = None
        for run_log in known_good(self._accepted, node_id):
            try:
                await self._transaction([run_log], trial=True)
            except DatabaseError as error:
                if error.kind not in ("permanent", "table"):
                    raise
                fault = error
            else:
                return
        assert fault is not None
        detail = f"the tables refuse every run log: {fault}"
        raise DatabaseError(detail, "operator", fault.sqlstate, all_alike=True) from fault

    async def _fetch_accepted(self, node_id: str) -> None:
        """Find a report of another node, which was accepted before this relayd was started."""
        row = await self._ask(lambda _tables: sql.REPORT_OF_ANOTHER, node_id)
        self._accepted = None if row is None else tuple(row)

    async def _ask(self, statement: Callable[[Tables], str], *values: object) -> Any:
        """Return the first row of a statement, None without any, over the writing connection.

        Args:
            statement: returns it, for tables that are like this.
            values: its parameters.
        """
        try:
            async with asyncio.timeout(self._patience.statement) as deadline, self._writing:
                connection = await self._connected()
                assert self._tables is not None  # read when the connection was made
                async with self._unless_silent(connection, deadline):
                    await connection.execute(self._open_transaction)
                    row = await connection.fetchrow(statement(self._tables), *values)
                    await connection.execute(sql.ROLLBACK)
        except FAULTS as error:
            self._drop()
            raise _not_of_a_run_log(explain(error)) from error
        except BaseException:
            self._drop()
            raise
        return row

    async def _transaction(
        self, run_logs: Sequence[RunLog], *, trial: bool = False
    ) -> list[Stored]:
        size = sum(len(run_log.copy) for run_log in run_logs)
        patience = self._patience
        allowed = patience.statement + patience.per_mib * size / 2**20
        commits = False
        try:
            async with asyncio.timeout(allowed) as deadline, self._writing:
                connection = await self._connected()
                async with self._unless_silent(connection, deadline):
                    await connection.execute(
                        self._open_transaction + sql.LOCK % lock_keys(run_logs)
                    )
                    if allowed > 1.5 * patience.statement:
                        await connection.execute(
                            "SELECT set_config('statement_timeout', $1, true)", ms(allowed)
                        )
                    assert self._tables is not None  # read when the connection was made
                    stored, facts = await store(
                        connection, self._tables, run_logs, where=self._locates
                    )
                    self._note_wait(facts.waited_s)
                    if trial:
                        await connection.execute(sql.UNDO)
                        return stored
                    commits = facts.synchronous
                    await commit(connection, synchronous=facts.synchronous)
                return self._located(stored, facts)
        except FAULTS as error:
            fault = explain(error)
            if commits and isinstance(error, TimeoutError):
                detail = "the commit was not confirmed in time: is a synchronous standby missing?"
                fault = DatabaseError(detail, "transient")
            if fault.kind in ("permanent", "table"):
                await self._roll_back()
            else:
                self._drop()
            raise fault from error
        except BaseException:
            # Cancelled in the middle: whether the server commits is unknown; the next attempt
            # finds out on a new connection.
            self._drop()
            raise

    def _unless_silent(
        self, connection: Connection, deadline: asyncio.Timeout
    ) -> AbstractAsyncContextManager[None]:
        """Give a silent server up early where there is another one to go to."""
        if not has_several(self._parameters):
            return nullcontext()
        quiet = self._patience.connect
        return unless_silent(place(connection), deadline, quiet, self._order.pass_over)

    def _located(self, stored: list[Stored], facts: Facts) -> list[Stored]:
        """Note where it was stored, before the file is disposed of."""
        if not self._locates:
            return stored
        point = self._note_point(facts.server, facts.position)
        return [msgspec.structs.replace(one, point=point) for one in stored]

    def _note_point(self, server: int, position: int) -> WalPoint:
        before = self._history.at
        point = self._history.note(server, position)
        if before is None or before.history != point.history:
            self.moved.set()
        return point

    async def _locate(self) -> WalPoint:
        row = await self._ask(lambda tables: sql.WHERE if tables.where else sql.WHERE_BY_START)
        return self._note_point(row["server"], row["position"])

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

    async def _open(self, patience: Patience, *, read: bool = True) -> Connection:
        """Return a usable connection; what prevents one is never the fault of a run log."""
        try:
            connection = await connect(self._parameters, patience, order=self._order)
            try:
                await self._look(connection, read=read)
            except BaseException:
                connection.terminate()
                raise
        except FAULTS as error:
            fault = explain(error)
            if fault.sqlstate == READ_ONLY:
                self._order.pass_over()  # another host may be the primary
            raise _not_of_a_run_log(fault) from error
        return connection

    async def _look(self, connection: Connection, *, read: bool) -> None:
        """Check the tables, or read what they are like; note which server has them."""
        await connection.execute(self._open_transaction)
        self.server = server = await _describe(connection)
        if read:
            self._tables = await read_tables(connection)
        else:
            await check_tables(connection)
        if self._tables is not None and self._tables.where:
            timeline = int(await connection.fetchval(sql.TIMELINE), 16)
            self.server = msgspec.structs.replace(server, timeline=timeline)
        await connection.execute(sql.ROLLBACK)

    async def _probe(self, *, read: bool = False) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                if self._alone:
                    async with self._writing:
                        await self._look_again(read=read)
                else:
                    brief = msgspec.structs.replace(self._patience, search=PROBE_SEARCH_S)
                    (await self._open(brief, read=read)).terminate()
        except FAULTS as error:
            raise _not_of_a_run_log(explain(error)) from error

    async def _look_when_idle(self) -> None:
        if self._writing.locked():
            return
        if self._writer is not None and not self._writer.is_closed():
            with suppress(*FAULTS):  # the server may just have been restarted
                async with asyncio.timeout(PROBE_TIMEOUT_S), self._writing:
                    await self._look_again(read=False)
                return
        await self._probe()

    async def _look_again(self, *, read: bool) -> None:
        connection = await self._connected()
        try:
            await self._look(connection, read=read)
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


async def _describe(connection: Connection) -> ServerFacts:
    """Return which server this is; behind a pooler, the one that is really used."""
    row = await connection.fetchrow(sql.ROLE)
    address = f"{bracketed(row['host'])}:{row['port']}" if row["host"] else peer(connection)
    return ServerFacts(address, "standby" if row["standby"] else "primary")


def _not_of_a_run_log(fault: DatabaseError) -> DatabaseError:
    """Return a fault that no run log can have caused."""
    if fault.kind in ("permanent", "table"):
        return DatabaseError(str(fault), "operator", fault.sqlstate)
    return fault
