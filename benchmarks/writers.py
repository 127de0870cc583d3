"""Several relayd write to one database, and a reader follows them as Rudder's web application does.

Also what the lock that keeps ids in order costs a single writer.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import asyncpg
import trio
import trio_asyncio

from benchmarks.corpus import REPORTS, Sample, make_nodes, make_samples
from benchmarks.daemon import Daemon, run_daemon
from benchmarks.measure import say
from benchmarks.pure import parsed
from benchmarks.table import Figure, show
from benchmarks.whole import BATCH
from relayd.commands.demo.postgres.server import Server
from relayd.config.logging_conf import LoggingGeneral, LoggingSettings
from relayd.outputs.postgres import statements
from relayd.outputs.postgres.database import Database
from relayd.runlog.model import RunLog
from relayd.telemetry.logs import configure

WRITERS: Final = (1, 2, 3)
_LOCK_WAIT: Final = "rudder_relayd_database_lock_wait_seconds_total"
#: `statements.LOCK` without the lock that is the same for all relayd.
_CONSTANT: Final = "SELECT pg_advisory_xact_lock(1919249529, 1);\n"


class Round(NamedTuple):
    """A round.

    Attributes:
        rate: rows per second.
        missed: rows that the reader has not seen.
        waited: seconds of lock wait per second, of all writers.
        fairness: time after which the first writer had finished its share, of the time of all.
    """

    rate: float
    missed: int
    waited: float
    fairness: float


def main(words: Sequence[str] | None = None) -> None:
    """Run the benchmark; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks writers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument(
        "--run-logs", type=int, default=1536, help="run logs per round (default: 1536)"
    )
    arguments = parser.parse_args(words)
    configure(LoggingSettings(general=LoggingGeneral(level="off")))
    nodes = make_nodes()
    samples = make_samples(nodes, arguments.run_logs)
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as scratch, ExitStack() as stack:
        directory = Path(scratch)
        directory.chmod(0o755)
        server = Server(directory / "postgres")
        stack.callback(server.close)
        server.create()
        figures = _measure_lock(server, samples, arguments.rounds)
        daemons = []
        for number in WRITERS:
            own = directory / f"relayd{number}"
            own.mkdir()
            daemons.append(stack.enter_context(run_daemon(own, nodes, server.rudder)))
        rounds: dict[int, list[Round]] = {count: [] for count in WRITERS}
        for number in range(arguments.rounds):
            for count in WRITERS if number % 2 == 0 else reversed(WRITERS):
                rounds[count].append(_measure(server, daemons[:count], samples, directory))
                say(f"round {number + 1}, {count} writers: {rounds[count][-1]}")
    figures += [_figure(count, rounds[count]) for count in WRITERS]
    show(f"several writers, {arguments.run_logs} run logs of {REPORTS} reports", figures)


def _reset(server: Server) -> None:
    server.psql(
        "TRUNCATE ruddersysevents, reportsexecution;"
        " VACUUM ANALYZE ruddersysevents, reportsexecution; CHECKPOINT"
    )


def _measure(
    server: Server, daemons: Sequence[Daemon], samples: Sequence[Sample], directory: Path
) -> Round:
    """Write all run logs by these relayd, in equal shares."""
    _reset(server)
    staged = directory / "staged"
    staged.mkdir(exist_ok=True)
    shares = [samples[number :: len(daemons)] for number in range(len(daemons))]
    paths = [[(staged / sample.name, sample) for sample in share] for share in shares]
    for path, sample in (pair for share in paths for pair in share):
        path.write_bytes(sample.message)
    context = multiprocessing.get_context("spawn")
    finished, ready = context.Event(), context.Event()
    seen = context.Queue()
    reader = context.Process(target=_read, args=(server.superuser.dsn, ready, finished, seen))
    reader.start()
    ready.wait()
    waited = sum(daemon.counter(_LOCK_WAIT) for daemon in daemons)
    begun = time.perf_counter()
    for share, daemon in zip(paths, daemons, strict=True):
        for path, sample in share:
            daemon.upload(path, sample.name)
    ends = _wait_for_all(daemons, begun)
    finished.set()
    missed = len(samples) * REPORTS - seen.get()
    reader.join()
    waited = sum(daemon.counter(_LOCK_WAIT) for daemon in daemons) - waited
    seconds = max(ends)
    return Round(len(samples) * REPORTS / seconds, missed, waited / seconds, min(ends) / max(ends))


def _wait_for_all(daemons: Sequence[Daemon], begun: float) -> list[float]:
    """Return when each of them had finished, in seconds."""
    ends = [0.0] * len(daemons)
    while not all(ends):
        for number, daemon in enumerate(daemons):
            if not ends[number] and not daemon.waiting():
                ends[number] = time.perf_counter() - begun
        time.sleep(0.005)
    return ends


def _read(dsn: str, ready: Event, finished: Event, seen: "multiprocessing.Queue[int]") -> None:
    """Follow the table in a process of its own: rows above the last id that was seen."""

    async def follow() -> int:
        client = await asyncpg.connect(dsn)
        last, rows, done = 0, 0, False
        ready.set()
        while not done:
            done = finished.is_set()
            row = await client.fetchrow(
                "SELECT count(*) AS rows, max(id) AS last FROM ruddersysevents WHERE id > $1", last
            )
            rows += row["rows"]
            last = row["last"] or last
            await asyncio.sleep(0.02)
        await client.close()
        return rows

    seen.put(asyncio.run(follow()))


def _measure_lock(server: Server, samples: Sequence[Sample], rounds: int) -> list[Figure]:
    """Compare batches of a single writer with the constant lock and without it, in pairs."""
    run_logs = [parsed(sample) for sample in samples]
    without = statements.LOCK.replace(_CONSTANT, "")
    assert without != statements.LOCK
    pairs: list[tuple[float, float]] = []
    for number in range(4 * rounds):
        _reset(server)
        locks = (statements.LOCK, without)
        times = trio.run(_time_batches, server.rudder.keywords(), run_logs, locks, number % 2)
        pairs += zip(*times, strict=False)
    share = statistics.median(other / locked for locked, other in pairs)
    locked, other = (BATCH / statistics.median(times) for times in zip(*pairs, strict=True))
    return [
        Figure(
            f"{BATCH} run logs with the lock of all writers, {len(pairs)} pairs",
            f"{locked:.0f}/s",
            f"without: {other:.0f}/s",
            f"{share:.3f}",
            "≥ 0.97",
            share >= 0.97,
        )
    ]


async def _time_batches(
    parameters: Mapping[str, Any], run_logs: Sequence[RunLog], locks: Sequence[str], first: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of each batch with the first of two locks, and with the second one."""
    times: tuple[list[float], list[float]] = ([], [])
    async with trio_asyncio.open_loop():
        database = Database(parameters)
        await database.probe()
        await database.write(run_logs[:BATCH])
        for number, begin in enumerate(range(BATCH, len(run_logs), BATCH)):
            # A pair one way, the next one the other way.
            which = (first + number + number // 2) % 2
            with mock.patch.object(statements, "LOCK", locks[which]):
                begun = time.perf_counter()
                await database.write(run_logs[begin : begin + BATCH])
                times[which].append(time.perf_counter() - begun)
        await database.aclose()
    return times


def _figure(count: int, rounds: Sequence[Round]) -> Figure:
    rate, _, waited, fairness = (statistics.median(column) for column in zip(*rounds, strict=True))
    missed = sum(one.missed for one in rounds)
    return Figure(
        f"{count} writer{'s' * (count > 1)}",
        f"{rate:.0f} rows/s",
        f"lock wait {waited:.2f} s/s; first done after {fairness:.0%} of the time",
        f"{missed} missed",
        "0 missed",
        missed == 0,
    )


if __name__ == "__main__":
    main()
