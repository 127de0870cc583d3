"""The session with the server: one connection that writes, and short ones for probes.

Runs on asyncio, as asyncpg does; callers cross from Trio.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, Final

import asyncpg
import msgspec

from relayd.errors import DatabaseError
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
from relayd.outputs.postgres.sqlstate import READ_ONLY
from relayd.outputs.postgres.storing import Facts, lock_keys, store
from relayd.outputs.postgres.tables import TOKEN_PREFIX, Tables, check_tables, read_tables
from relayd.outputs.results import ServerFacts, Stored
from relayd.runlog.model import RunLog
from relayd.spool.committed import WalPoint
from relayd.system.addresses import bracketed
from relayd.system.wake import Wake
from relayd.telemetry.logs import get_logger

log = get_logger("database")

PROBE_TIMEOUT_S: Final = 2.0
#: Of these for finding a server, so that the reason is known when the time is over.
PROBE_SEARCH_S: Final = 1.5

#: Seconds between two looks at how far partitions reach, on a connection that stays open.
PARTITIONS_S: Final = 600.0


def _ignore(_value: object) -> None:
    """Note nothing."""


class Notes(msgspec.Struct, frozen=True):
    """Where a session notes what it measures.

    Attributes:
        waited: gets the seconds for which each transaction waited for other writers.
        committed: gets the seconds that each commit took.
        connected: gets the server, with each connection that writes.
        found: gets the server, each time that it is looked at.
        partitions_end: gets the unix time in seconds until when there are partitions, NaN if that
            is unknown or there are none.
    """

    waited: Callable[[float], None] = _ignore
    committed: Callable[[float], None] = _ignore
    connected: Callable[[ServerFacts], None] = _ignore
    found: Callable[[ServerFacts], None] = _ignore
    partitions_end: Callable[[float], None] = _ignore


class Session:
    """One connection that writes, and short ones for probes.

    Attributes:
        moved: set when the database is found at another history than before.
        server: the server that was reached last; None before the first.
        tables: what the tables are like, None before the first connection.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        patience: Patience,
        *,
        connections: int,
        locates: bool,
        notes: Notes,
    ) -> None:
        """Initialize; nothing is opened yet. The arguments are those of `Database`."""
        self.moved = Wake()
        self.server: ServerFacts | None = None
        self.tables: Tables | None = None
        self._history = History()
        self._locates = locates
        self._notes = notes
        self._patience = patience
        self.set_parameters(parameters)
        self._alone = connections < 2
        self._writing = asyncio.Lock()
        self._partitions_due = 0.0
        self._writer: Connection | None = None

    def set_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Use other parameters, a new password for example, from the next connection on."""
        self._parameters = dict(parameters)
        self._order = HostOrder()
        self._open_transaction = sql.OPEN % transaction_limits(parameters, self._patience)

    @property
    def token(self) -> str:
        """The token of the tables, `TOKEN_PREFIX` alone before the first connection."""
        return TOKEN_PREFIX if self.tables is None else self.tables.token

    async def ask(self, statement: Callable[[Tables], str], *values: object) -> Any:
        """Return the first row of a statement, None without any, over the writing connection.

        Args:
            statement: returns it, for tables that are like this.
            values: its parameters.

        Raises:
            DatabaseError: it could not be asked.
        """
        try:
            async with asyncio.timeout(self._patience.statement) as deadline, self._writing:
                connection = await self._connected()
                assert self.tables is not None  # read when the connection was made
                async with self._unless_silent(connection, deadline):
                    await connection.execute(self._open_transaction)
                    row = await connection.fetchrow(statement(self.tables), *values)
                    await connection.execute(sql.ROLLBACK)
        except FAULTS as error:
            self._drop()
            raise _not_of_a_run_log(explain(error)) from error
        except BaseException:
            self._drop()
            raise
        return row

    async def transaction(self, run_logs: Sequence[RunLog], *, trial: bool = False) -> list[Stored]:
        """Store run logs of different runs in one transaction.

        Args:
            run_logs: of different runs.
            trial: whether to roll back at the end.

        Raises:
            DatabaseError: of kind permanent or table if one of them was refused.
        """
        size = sum(len(run_log.copy) for run_log in run_logs)
        patience = self._patience
        allowed = patience.statement + patience.per_mib * size / 2**20
        commits = False
        try:
            async with asyncio.timeout(allowed) as deadline, self._writing:
                connection = await self._connected()
                async with self._unless_silent(connection, deadline):
                    await self._note_partitions(connection)
                    await connection.execute(
                        self._open_transaction + sql.LOCK % lock_keys(run_logs)
                    )
                    if allowed > 1.5 * patience.statement:
                        await connection.execute(
                            "SELECT set_config('statement_timeout', $1, true)", ms(allowed)
                        )
                    assert self.tables is not None  # read when the connection was made
                    stored, facts = await store(
                        connection, self.tables, run_logs, where=self._locates
                    )
                    self._notes.waited(facts.waited_s)
                    if trial:
                        await connection.execute(sql.UNDO)
                        return stored
                    commits = facts.synchronous
                    await self._commit(connection, facts)
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

    async def _commit(self, connection: Connection, facts: Facts) -> None:
        begun = time.perf_counter()
        try:
            await commit(connection, synchronous=facts.synchronous)
        finally:
            self._notes.committed(time.perf_counter() - begun)

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

    async def locate(self) -> WalPoint:
        """Return where in its history the database is, see `Database.locate`."""
        row = await self.ask(lambda tables: sql.WHERE if tables.where else sql.WHERE_BY_START)
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
            self._partitions_due = 0.0
            self._writer = await self._open(self._patience)
            log.info("connected", server=peer(self._writer))
            assert self.server is not None  # found with the connection
            self._notes.connected(self.server)
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
        if read or self.tables is None:
            self.tables = await read_tables(connection)
        else:
            await check_tables(connection)
        if self.tables.where:
            timeline = int(await connection.fetchval(sql.TIMELINE), 16)
            server = msgspec.structs.replace(server, timeline=timeline)
        self.server = server
        self._notes.found(server)
        await connection.execute(sql.ROLLBACK)
        await self._note_partitions(connection)

    async def _note_partitions(self, connection: Connection) -> None:
        """Note how far partitions reach, which others make while a connection stays open.

        Outside of a transaction: bounds that cannot be read as dates must not abort one.
        """
        if self.tables is None or time.monotonic() < self._partitions_due:
            return
        self._partitions_due = time.monotonic() + PARTITIONS_S
        end = None
        if self.tables.partitioned:
            with suppress(asyncpg.PostgresError):
                end = await connection.fetchval(sql.PARTITIONS_END)
        self._notes.partitions_end(math.nan if end is None else end)

    async def probe(self, *, read: bool = False) -> None:
        """Check whether run logs could be written now, see `Database.probe`.

        Args:
            read: whether to read what the tables are like, too.
        """
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                if self._alone:
                    async with self._writing:
                        await self._look_again(read=read)
                else:
                    (await self._open(self._brief(), read=read)).terminate()
        except FAULTS as error:
            raise _not_of_a_run_log(explain(error)) from error

    async def look_when_idle(self) -> None:
        """Check the same over the connection that writes, see `Database.look`."""
        if self._writing.locked():
            return
        if self._writer is not None and not self._writer.is_closed():
            with suppress(*FAULTS):  # the server may just have been restarted
                async with asyncio.timeout(PROBE_TIMEOUT_S), self._writing:
                    await self._look_again(read=False)
                return
        await self.probe()

    async def last_run(self, node_id: str) -> float | None:
        """Return the start of the last stored run of a node, see `Database.last_run`."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                if self._alone:
                    async with self._writing:
                        return await self._last_run(await self._connected(), node_id)
                connection = await self._open(self._brief(), read=False)
                try:
                    return await self._last_run(connection, node_id)
                finally:
                    connection.terminate()
        except FAULTS as error:
            raise _not_of_a_run_log(explain(error)) from error

    async def _last_run(self, connection: Connection, node_id: str) -> float | None:
        try:
            await connection.execute(sql.OPEN % transaction_limits(self._parameters, self._brief()))
            found: float | None = await connection.fetchval(sql.LAST_RUN, node_id)
            await connection.execute(sql.ROLLBACK)
        except BaseException:
            if connection is self._writer:
                self._drop()
            raise
        return found

    def _brief(self) -> Patience:
        """Return the patience of a probe."""
        return msgspec.structs.replace(
            self._patience, search=PROBE_SEARCH_S, statement=PROBE_TIMEOUT_S
        )

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

    async def close(self) -> None:
        """Close the connection that writes, at once if the server does not answer."""
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
