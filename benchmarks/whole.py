"""Benchmarks with a real PostgreSQL, compared with psql and the naive pipeline."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio
import trio_asyncio

from benchmarks.corpus import Sample
from benchmarks.daemon import Buckets, Daemon, highest, quantile, stage
from benchmarks.measure import (
    Rounds,
    children,
    cpu_seconds,
    ended_children_cpu,
    median,
    ratio,
    say,
    take_turns,
)
from benchmarks.pure import parsed
from benchmarks.table import Figure
from relayd.commands.demo.postgres.server import Server
from relayd.outputs.postgres.database import Database
from relayd.outputs.results import Stored
from relayd.runlog.model import COLUMNS, RunLog

#: Run logs per transaction, as in relayd with a backlog.
BATCH: Final = 128
#: The naive pipeline gets one of this many run logs: it is slow, and its rate does not change.
NAIVE_SHARE: Final = 8
#: Run logs in the tables before each measurement.
SEED: Final = 400

#: Run logs per second of 50,000 nodes that run every five minutes.

STEADY_RATE: Final = 167.0
CORES: Final = 2


@dataclass
class Use:
    """CPU seconds used by a contender, by process, and the number of run logs."""

    run_logs: int = 0
    parts: dict[str, float] = field(default_factory=dict)

    def add(self, run_logs: int, **parts: float) -> None:
        """Add a round."""
        self.run_logs += run_logs
        for name, seconds in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + seconds

    def ms(self) -> dict[str, float]:
        """Return the milliseconds of each kind of process per run log."""
        return {name: seconds / self.run_logs * 1e3 for name, seconds in self.parts.items()}


@dataclass
class Bench:
    """The server, the run logs and the daemon of a run.

    Attributes:
        server: an embedded PostgreSQL with default settings.
        samples: the run logs of one round.
        directory: scratch space on the spool's filesystem.
        daemon: the running relayd.
    """

    server: Server
    samples: Sequence[Sample]
    directory: Path
    daemon: Daemon
    use: defaultdict[str, Use] = field(default_factory=lambda: defaultdict(Use))

    def prepare(self) -> None:
        """Parse the run logs, write them to files, fill the seed table."""
        say("preparing the run logs")
        self.run_logs: list[RunLog] = [parsed(sample) for sample in self.samples]
        self.staged = stage(self.samples, self.directory / "staged")
        self.rows = self.directory / "rows.copy"
        self.rows.write_bytes(b"".join(run_log.copy for run_log in self.run_logs))
        self._seed()

    def _seed(self) -> None:
        seed = self.directory / "seed.copy"
        lines = b"".join(run_log.copy for run_log in self.run_logs[:SEED])
        # The same reports from other nodes, so that no measured run log is a duplicate.
        seed.write_bytes(lines.replace(b"-5eed-", b"-01d0-"))
        self.server.psql(
            "CREATE TABLE seed AS SELECT * FROM ruddersysevents WITH NO DATA;\n"
            + _copy_from("seed", seed)
        )

    def reset(self) -> None:
        """Reset the tables to the same state for every contender: seed, analyse, checkpoint."""
        columns = ", ".join(COLUMNS)
        self.server.psql(
            "TRUNCATE ruddersysevents, reportsexecution;\n"
            f"INSERT INTO ruddersysevents ({columns}) SELECT {columns} FROM seed;\n"
            "VACUUM ANALYZE ruddersysevents, reportsexecution; CHECKPOINT;"
        )

    def check(self, run_logs: int, rows: int) -> None:
        """Fail if the tables do not contain exactly the expected rows."""
        found = self.server.psql(
            "SELECT count(*) FROM ruddersysevents WHERE nodeid LIKE '%-5eed-%';\n"
            "SELECT count(*) FROM reportsexecution;"
        ).split()
        if [int(count) for count in found] != [rows, run_logs]:
            raise ValueError(f"expected {rows} rows and {run_logs} executions, found {found}")

    def postgres_cpu(self) -> float:
        """Return the CPU seconds of all processes of the server, including ended ones."""
        pid = self.server.pid
        if pid is None:
            raise RuntimeError("PostgreSQL is not running")
        return cpu_seconds(pid, with_ended_children=True) + sum(map(cpu_seconds, children(pid)))

    def copy(self) -> float:
        """Return the run logs per second of psql's copy of all rows into the same table."""
        self.reset()
        postgres, psql = self.postgres_cpu(), ended_children_cpu()
        begin = time.perf_counter()
        self.server.psql(_copy_from("ruddersysevents", self.rows))
        seconds = time.perf_counter() - begin
        psql = ended_children_cpu() - psql
        postgres = self.postgres_cpu() - postgres
        self.use["copy"].add(len(self.samples), psql=psql, PostgreSQL=postgres)
        return len(self.samples) / seconds

    def insertion(self) -> float:
        """Return the run logs per second through relayd's database module, already parsed."""
        self.reset()
        seconds = trio.run(_insert_all, dict(self.server.rudder.keywords()), self.run_logs)
        self.check(len(self.samples), sum(run_log.rows for run_log in self.run_logs))
        return len(self.samples) / seconds

    def write_uploads(self, count: int) -> list[Path]:
        """Write a separate file for each of `count` uploads, outside the spool."""
        directory = self.directory / "uploads"
        directory.mkdir(exist_ok=True)
        written = [directory / staged.name for staged in self.staged[:count]]
        for staged, file in zip(self.staged, written, strict=False):
            shutil.copyfile(staged, file)
        return written

    def whole_path(self) -> float:
        """Return the run logs per second from the spool to committed rows and unlinked files."""
        self.reset()
        written = self.write_uploads(len(self.samples))
        (main, workers), postgres = self.daemon.cpu(), self.postgres_cpu()
        begin = time.perf_counter()
        for sample, file in zip(self.samples, written, strict=True):
            self.daemon.upload(file, sample.name)
        self.daemon.wait_until_empty()
        seconds = time.perf_counter() - begin
        now_main, now_workers = self.daemon.cpu()
        self.use["whole path"].add(
            len(self.samples),
            main=now_main - main,
            workers=now_workers - workers,
            PostgreSQL=self.postgres_cpu() - postgres,
        )
        self.check(len(self.samples), sum(run_log.rows for run_log in self.run_logs))
        return len(self.samples) / seconds

    def naive(self) -> float:
        """Return the run logs per second of the naive pipeline, in a separate process."""
        self.reset()
        count = len(self.samples) // NAIVE_SHARE
        spool = self.directory / "naive"
        spool.mkdir(exist_ok=True)
        for sample, staged in zip(self.samples[:count], self.staged[:count], strict=True):
            os.link(staged, spool / sample.name)
        certificates = self.directory / "allnodescerts.pem"
        postgres = self.postgres_cpu()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.naive", spool, certificates],
            input=json.dumps(self.server.rudder.keywords()),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        self.check(count, sum(run_log.rows for run_log in self.run_logs[:count]))
        used: dict[str, float] = json.loads(done.stdout)
        postgres = self.postgres_cpu() - postgres
        self.use["naive"].add(count, Python=used["cpu"], PostgreSQL=postgres)
        return count / used["seconds"]


def measure_load(bench: Bench, rounds: int) -> list[Figure]:
    """Measure rate, CPU, memory and lag under full load."""
    bench.prepare()
    say("warming up")
    bench.whole_path()
    bench.use.clear()
    before = bench.daemon.lags()
    figures = take_turns(
        {
            "copy": bench.copy,
            "insertion": bench.insertion,
            "whole path": bench.whole_path,
            "naive": bench.naive,
        },
        rounds,
    )
    lag = (before, bench.daemon.lags())
    return [*_rates(figures), *_cpu(bench.use), *_memory(bench.daemon), *_lag(*lag)]


def measure_steady(bench: Bench, seconds: float) -> list[Figure]:
    """Measure CPU at the rate of 50,000 nodes that run every five minutes."""
    count = min(len(bench.samples), int(STEADY_RATE * seconds))
    say(f"steady rate: {count} run logs at {STEADY_RATE:.0f}/s")
    bench.reset()
    written = bench.write_uploads(count)
    (main, workers), postgres = bench.daemon.cpu(), bench.postgres_cpu()
    begin = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, begin + number / STEADY_RATE - time.perf_counter()))
        bench.daemon.upload(written[number], bench.samples[number].name)
    bench.daemon.wait_until_empty()
    took = time.perf_counter() - begin
    now_main, now_workers = bench.daemon.cpu()
    used = (now_main - main, now_workers - workers, bench.postgres_cpu() - postgres)
    bench.check(count, sum(run_log.rows for run_log in bench.run_logs[:count]))
    parts = zip(("main", "workers", "PostgreSQL"), used, strict=True)
    share = sum(used) / took / CORES
    return [
        Figure(
            f"CPU of {CORES} cores at {STEADY_RATE:.0f} run logs/s for {took:.0f} s",
            f"{share:.1%}",
            ", ".join(f"{name} {seconds / took / CORES:.1%}" for name, seconds in parts),
            "",
            "≤ 10 %",
            share <= 0.1,
        )
    ]


def _rates(figures: Rounds) -> list[Figure]:
    to_copy = ratio(figures, "whole path", "copy")
    to_naive = ratio(figures, "whole path", "naive")
    whole = f"{median(figures, 'whole path'):.0f} run logs/s"
    copy = f"`\\copy`: {median(figures, 'copy'):.0f} run logs/s"
    inserted = f"{median(figures, 'insertion'):.0f} run logs/s"
    share = f"{ratio(figures, 'insertion', 'copy'):.0%}"
    naive = f"naive: {median(figures, 'naive'):.0f} run logs/s"
    return [
        Figure(f"insertion, {BATCH} run logs per transaction", inserted, copy, share),
        Figure(
            "whole path, spool to commit and unlink",
            whole,
            copy,
            f"{to_copy:.0%}",
            "≥ 65 %",
            to_copy >= 0.65,
        ),
        Figure("", whole, naive, f"{to_naive:.1f} x faster", "≥ 7 x", to_naive >= 7),
    ]


def _cpu(use: dict[str, Use]) -> list[Figure]:
    relayd = use["whole path"].ms()
    total = sum(relayd.values())
    figures = [Figure("CPU per run log, by process", f"{total:.2f} ms", _listed(relayd))]
    for name, title in (("copy", "`\\copy`"), ("naive", "naive")):
        other = use[name].ms()
        sum_of_other = sum(other.values())
        reference = f"{title}: {sum_of_other:.2f} ms ({_listed(other)})"
        figures.append(Figure("", f"{total:.2f} ms", reference, f"{total / sum_of_other:.2f} x"))
    return figures


def _listed(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {part:.2f}" for name, part in parts.items())


def _memory(daemon: Daemon) -> list[Figure]:
    main, worker = (size / 1e6 for size in daemon.peaks())
    return [
        Figure("peak memory, main process", f"{main:.0f} MB", "", "", "≤ 90 MB", main <= 90),
        Figure("peak memory, worker", f"{worker:.0f} MB", "", "", "≤ 60 MB", worker <= 60),
    ]


def _lag(before: Buckets, after: Buckets) -> list[Figure]:
    p50, p99 = (quantile(before, after, part) * 1e3 for part in (0.5, 0.99))
    return [
        Figure(
            "event-loop lag, p99 under full load",
            f"{p99:.1f} ms",
            f"p50 {p50:.1f} ms, max ≤ {highest(before, after) * 1e3:.0f} ms",
            "",
            "< 10 ms",
            p99 < 10,
        )
    ]


def _copy_from(table: str, path: Path) -> str:
    return f"\\copy {table} ({', '.join(COLUMNS)}) FROM '{path}'\n"


async def _insert_all(parameters: dict[str, Any], run_logs: Sequence[RunLog]) -> float:
    async with trio_asyncio.open_loop():
        database = Database(parameters)
        await database.probe()
        begin = time.perf_counter()
        for at in range(0, len(run_logs), BATCH):
            outcomes = await database.write(run_logs[at : at + BATCH])
            if not all(isinstance(outcome, Stored) for outcome in outcomes):
                raise ValueError("the database refused a run log of the benchmark")
        seconds = time.perf_counter() - begin
        await database.aclose()
    return seconds
