"""How much disk and write-ahead log a run log costs, by settings of the server."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio
import trio_asyncio

from benchmarks.corpus import REPORTS
from benchmarks.measure import say
from benchmarks.table import Figure, show
from benchmarks.whole import BATCH
from relayd.commands.demo.fleet.runlogs import make_runlog
from relayd.commands.demo.postgres.server import Server
from relayd.config.logging_conf import LoggingGeneral, LoggingSettings
from relayd.outputs.postgres.database import Database
from relayd.runlog.model import RunLog
from relayd.runlog.parser import parse
from relayd.telemetry.logs import configure

VARIANTS: Final[dict[str, dict[str, str]]] = {
    "default settings": {},
    "full_page_writes = off": {"full_page_writes": "off"},
    "wal_compression = pglz": {"wal_compression": "pglz"},
    "wal_compression = lz4": {"wal_compression": "lz4"},
}
_START: Final = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)
_SIZES: Final = """
SELECT pg_table_size('ruddersysevents'), pg_indexes_size('ruddersysevents'),
       pg_total_relation_size('reportsexecution'), pg_current_wal_lsn() - '0/0'::pg_lsn
"""


class Sizes(NamedTuple):
    """Bytes of rows, of their indexes, of the executions, and of the WAL so far."""

    rows: int
    indexes: int
    executions: int
    wal: int


def main(words: Sequence[str] | None = None) -> None:
    """Run the benchmark; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks capacity", description=__doc__)
    parser.add_argument("--nodes", type=int, default=500, help="nodes (default: 500)")
    parser.add_argument("--runs", type=int, default=20, help="runs of each node (default: 20)")
    arguments = parser.parse_args(words)
    configure(LoggingSettings(general=LoggingGeneral(level="off")))
    figures: list[Figure] = []
    for name, settings in VARIANTS.items():
        say(name)
        begin, end, checkpoint, last = _measure(settings, arguments.nodes, arguments.runs)
        count = arguments.nodes * arguments.runs
        rows, indexes, executions, wal = (
            (after - before) / count / 1e3 for before, after in zip(begin, end, strict=True)
        )
        after_checkpoint = (last.wal - checkpoint.wal) / arguments.nodes / 1e3
        figures.append(
            Figure(
                name,
                f"{rows + indexes + executions:.1f} kB of disk",
                f"rows {rows:.1f} kB, indexes {indexes:.1f} kB, execution {executions:.2f} kB",
                f"WAL {wal:.1f} kB, {after_checkpoint:.1f} kB after a checkpoint",
            )
        )
    show(f"per run log of {REPORTS} reports, {arguments.nodes} nodes", figures)


def _measure(
    settings: Mapping[str, str], nodes: int, runs: int
) -> tuple[Sizes, Sizes, Sizes, Sizes]:
    """Store some runs of each node, and one more after a checkpoint.

    By then each node has pages of its own in the indexes, and a checkpoint makes each of them be
    written to the WAL as a whole once more.
    """
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as scratch:
        Path(scratch).chmod(0o755)
        server = Server(Path(scratch), extra={**settings, "autovacuum": "off"})
        try:
            server.create()
            keywords = server.rudder.keywords()
            begin = _sizes(server)
            trio.run(_insert, keywords, nodes, range(runs))
            end = _sizes(server)
            server.psql("CHECKPOINT")
            checkpoint = _sizes(server)
            trio.run(_insert, keywords, nodes, range(runs, runs + 1))
            return begin, end, checkpoint, _sizes(server)
        finally:
            server.close()


def _sizes(server: Server) -> Sizes:
    return Sizes(*map(int, server.psql(_SIZES).strip().split(",")))


async def _insert(parameters: Mapping[str, Any], nodes: int, runs: range) -> None:
    async with trio_asyncio.open_loop():
        database = Database(parameters)
        for run in runs:
            for begin in range(0, nodes, BATCH):
                await database.write(
                    [_run_log(node, run) for node in range(begin, min(begin + BATCH, nodes))]
                )
        await database.aclose()


def _run_log(node: int, run: int) -> RunLog:
    """Return a run log of a node whose id is spread like a random one."""
    node_id = f"{node * 2654435761 % 2**32:08x}-5eed-4000-8000-be7c6a11ed00"
    start = _START + timedelta(minutes=5 * run, seconds=node % 300)
    result = parse(make_runlog(node_id, start, reports=REPORTS), node_id)
    assert isinstance(result, RunLog)
    return result


if __name__ == "__main__":
    main()
