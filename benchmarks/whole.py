"""Insertion and the whole path with a real PostgreSQL, next to psql and the naive pipeline."""

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

#: Run logs in one transaction, as relayd has them under backlog.
BATCH: Final = 128
#: The naive pipeline gets this share of the run logs: it is slow and its rate does not change.
NAIVE_SHARE: Final = 8
#: Run logs that are in the tables before anything is measured.
SEED: Final = 400

STEADY_RATE: Final = 167.0
CORES: Final = 2


@dataclass
class Use:
    """CPU seconds that a contender has used, by process, for so many run logs."""

    run_logs: int = 0
    parts: dict[str, float] = field(default_factory=dict)

    def add(self, run_logs: int, **parts: float) -> None:
        """Add a round."""
        self.run_logs += run_logs
        for name, seconds in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + seconds

    def ms(self) -> dict[str, float]:
        """Return milliseconds of each kind of process for one run log."""
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
        """Parse and stages the run logs, fills the seed tables."""
        say("parsing and staging the run logs")
        self.run_logs: list[RunLog] = [parsed(sample) for sample in self.samples]
        self.staged = stage(self.samples, self.directory / "staged")
        self.rows = self.directory / "rows.copy"
        self.rows.write_bytes(b"".join(run_log.copy for run_log in self.run_logs))
        self._seed()

    def _seed(self) -> None:
        seed = self.directory / "seed.copy"
        lines = b"".join(run_log.copy for run_log in self.run_logs[:SEED])
        # The same reports as of other nodes, so that nothing measured is a duplicate of them.
        seed.write_bytes(lines.replace(b"-5eed-", b"-01d0-"))
        self.server.psql(
            "CREATE TABLE seed AS SELECT * FROM ruddersysevents WITH NO DATA;\n"
            + _copy_from("seed", seed)
        )

    def reset(self) -> None:
        """Return every contender the same tables: some rows, analysed, a checkpoint done."""
        columns = ", ".join(COLUMNS)
        self.server.psql(
            "TRUNCATE ruddersysevents, reportsexecution;\n"
            f"INSERT INTO ruddersysevents ({columns}) SELECT {columns} FROM seed;\n"
            "VACUUM ANALYZE ruddersysevents, reportsexecution; CHECKPOINT;"
        )

    def check(self, run_logs: int, rows: int) -> None:
        """Fail when the tables do not hold exactly what was put in."""
        found = self.server.psql(
            "SELECT count(*) FROM ruddersysevents WHERE nodeid LIKE '%-5eed-%';\n"
            "SELECT count(*) FROM reportsexecution;"
        ).split()
        if [int(count) for count in found] != [rows, run_logs]:
            raise ValueError(f"expected {rows} rows of {run_logs} run logs, found {found}")

    def postgres_cpu(self) -> float:
        """CPU seconds of the server with all its processes, ended ones included."""
        pid = self.server.pid
        if pid is None:
            raise RuntimeError("PostgreSQL has ended")
        return cpu_seconds(pid, with_ended_children=True) + sum(map(cpu_seconds, children(pid)))

    def copy(self) -> float:
        """Run logs per second of one copy by psql of all rows into the same indexed table."""
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
        """Run logs per second through relayd's database module, parsed beforehand."""
        self.reset()
        seconds = trio.run(_insert_all, dict(self.server.rudder.keywords()), self.run_logs)
        self.check(len(self.samples), sum(run_log.rows for run_log in self.run_logs))
        return len(self.samples) / seconds

    def write_uploads(self, count: int) -> list[Path]:
        """Write the files of so many uploads, each its own, beside the spool."""
        directory = self.directory / "uploads"
        directory.mkdir(exist_ok=True)
        written = [directory / staged.name for staged in self.staged[:count]]
        for staged, file in zip(self.staged, written, strict=False):
            shutil.copyfile(staged, file)
        return written

    def whole_path(self) -> float:
        """Run logs per second from the spool to committed rows and an unlinked file."""
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
        """Run logs per second of the naive pipeline, in a process of its own."""
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
        told: dict[str, float] = json.loads(done.stdout)
        postgres = self.postgres_cpu() - postgres
        self.use["naive"].add(count, Python=told["cpu"], PostgreSQL=postgres)
        return count / told["seconds"]


def measure_load(bench: Bench, rounds: int) -> list[Figure]:
    """Rate, CPU, memory and lag under full load."""
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
    """CPU at the pace of 50,000 nodes with one run log each in five minutes."""
    count = min(len(bench.samples), int(STEADY_RATE * seconds))
    say(f"steady: {count} run logs at {STEADY_RATE:.0f}/s")
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
            f"{STEADY_RATE:.0f} run logs/s for {took:.0f} s: CPU of {CORES} cores",
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
        Figure(f"insertion, {BATCH} run logs in a transaction", inserted, copy, share),
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
    ours = use["whole path"].ms()
    total = sum(ours.values())
    figures = [Figure("CPU per run log, by process", f"{total:.2f} ms", _told(ours))]
    for name in ("copy", "naive"):
        theirs = use[name].ms()
        against = f"{name}: {sum(theirs.values()):.2f} ms ({_told(theirs)})"
        figures.append(
            Figure("", f"{total:.2f} ms", against, f"{total / sum(theirs.values()):.2f} x")
        )
    return figures


def _told(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {part:.2f}" for name, part in parts.items())


def _memory(daemon: Daemon) -> list[Figure]:
    main, worker = (size / 1e6 for size in daemon.peaks())
    return [
        Figure("peak memory, main", f"{main:.0f} MB", "", "", "≤ 90 MB", main <= 90),
        Figure("peak memory, worker", f"{worker:.0f} MB", "", "", "≤ 60 MB", worker <= 60),
    ]


def _lag(before: Buckets, after: Buckets) -> list[Figure]:
    p50, p99 = (quantile(before, after, part) * 1e3 for part in (0.5, 0.99))
    return [
        Figure(
            "event-loop lag p99 in these rounds",
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
                raise ValueError("the database refuses a run log of the benchmark")
        seconds = time.perf_counter() - begin
        await database.aclose()
    return seconds
