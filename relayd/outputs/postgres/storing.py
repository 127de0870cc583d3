"""Run logs of one transaction: which of them are stored already, and the rows of the others."""

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Final

import asyncpg
import msgspec

from relayd.outputs.postgres import statements as sql
from relayd.outputs.postgres.connection import Connection
from relayd.outputs.postgres.tables import Tables
from relayd.outputs.results import Stored
from relayd.runlog.copytext import read_columns
from relayd.runlog.model import COLUMNS, RunLog

#: Rows are passed to the connection in pieces of about this size.
COPY_CHUNK_BYTES: Final = 512 * 1024
#: Rows of one INSERT, where COPY is not possible.
INSERT_ROWS: Final = 1_000


class Facts(msgspec.Struct, frozen=True):
    """What the server reports of a transaction.

    Attributes:
        waited_s: seconds for which it waited for locks.
        synchronous: whether its commit waits for standbys.
        server: number of the server, its start and its timeline; 0 if it was not asked for.
        position: bytes of its WAL.
    """

    waited_s: float
    synchronous: bool
    server: int = 0
    position: int = 0


def rounds(batch: Sequence[RunLog]) -> Iterable[list[int]]:
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


def lock_keys(run_logs: Sequence[RunLog]) -> str:
    """Return the advisory locks of runs, sorted, for the statement that takes them."""
    return ",".join(map(str, sorted({_lock_key(run_log) for run_log in run_logs})))


def _lock_key(run_log: RunLog) -> int:
    """Return the advisory lock of a run: the same number in every relayd that writes here."""
    digest = hashlib.blake2b(f"{run_log.node_id}\0{run_log.start}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big", signed=True)


async def store(
    connection: Connection,
    tables: Tables,
    run_logs: Sequence[RunLog],
    *,
    where: bool = False,
) -> tuple[list[Stored], Facts]:
    """Store run logs of different runs inside the open transaction.

    Args:
        connection: in a transaction.
        tables: what they are like.
        run_logs: of different runs.
        where: whether to ask where the server is in its history.
    """
    facts, before, there = await _already_stored(connection, tables, run_logs, where=where)
    fresh = [
        run_log for index, run_log in enumerate(run_logs) if run_log.rows and index not in there
    ]
    if fresh:
        insert = _copy_rows if tables.copy else _insert_rows
        await insert(connection, fresh)
        await _insert_executions(connection, tables, fresh, before)
        if not tables.copy:
            await _check_visible(connection, tables, fresh)
    elif facts.synchronous and tables.message:
        await connection.execute(sql.WAIT_FOR_STANDBYS)
    return [_stored(run_log, there.get(index)) for index, run_log in enumerate(run_logs)], facts


async def _check_visible(
    connection: Connection, tables: Tables, run_logs: Sequence[RunLog]
) -> None:
    """Raise an error if a policy hides what was inserted: duplicates could not be recognized."""
    _, _, seen = await _already_stored(connection, tables, run_logs)
    if len(seen) < len(run_logs):
        raise asyncpg.InsufficientPrivilegeError(
            "row-level security hides the rows that relayd inserts; add a policy FOR SELECT"
        )


def _stored(run_log: RunLog, rows_there: int | None) -> Stored:
    if rows_there is None:
        return Stored(run_log.rows)
    return Stored(0, duplicate=True, missing=max(0, run_log.rows - rows_there))


async def _already_stored(
    connection: Connection, tables: Tables, run_logs: Sequence[RunLog], *, where: bool = False
) -> tuple[Facts, int, dict[int, int]]:
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
    point = (sql.POINT if tables.where else sql.POINT_BY_START) if where else ""
    rows = await connection.fetch(sql.STORED % (sql.FACTS % point), *_columns(probes))
    values = {row["number"]: row["value"] for row in rows}
    waited, synchronous = values.pop(-1) or 0, bool(values.pop(-2))
    facts = Facts(waited / 1e6, synchronous, values.pop(-3, 0), values.pop(-4, 0))
    before = values.pop(0)
    return facts, before, {owners[number - 1]: value for number, value in values.items()}


def _columns(rows: Sequence[tuple[str, ...]]) -> list[list[str]]:
    return [[row[place] for row in rows] for place in range(len(COLUMNS))]


async def _copy_rows(connection: Connection, run_logs: Sequence[RunLog]) -> None:
    await connection.copy_to_table(
        "ruddersysevents", source=_copy_source(run_logs), columns=COLUMNS
    )


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


async def _insert_rows(connection: Connection, run_logs: Sequence[RunLog]) -> None:
    rows = _rows(run_logs)
    while part := list(islice(rows, INSERT_ROWS)):
        await connection.execute(sql.ROWS, *_columns(part))


def _rows(run_logs: Sequence[RunLog]) -> Iterator[tuple[str, ...]]:
    for run_log in run_logs:
        for line in run_log.copy.splitlines():
            yield read_columns(line)


async def _insert_executions(
    connection: Connection, tables: Tables, run_logs: Sequence[RunLog], before: int
) -> None:
    places = accumulate((run_log.rows for run_log in run_logs), initial=1)
    complete = [
        (run_log.node_id, run_log.start, run_log.config_id, place)
        for run_log, place in zip(run_logs, places, strict=False)
        if run_log.complete
    ]
    if complete:
        rows = sum(run_log.rows for run_log in run_logs)
        columns = [list(column) for column in zip(*complete, strict=True)]
        statement = sql.EXECUTIONS if tables.key else sql.EXECUTIONS_WITHOUT_KEY
        await connection.execute(statement, *columns, before, rows)
