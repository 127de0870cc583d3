"""Measure relayd's speed, CPU, memory and event-loop lag, and print one table."""

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

from benchmarks import capacity, door, writers
from benchmarks.corpus import Sample, SampleNode, make_nodes, make_samples
from benchmarks.daemon import run_daemon
from benchmarks.measure import say
from benchmarks.pure import measure_parser, measure_verification
from benchmarks.table import Figure, show
from benchmarks.whole import STEADY_RATE, Bench, measure_load, measure_steady
from relayd.commands.demo.postgres.server import Server
from relayd.config.logging_conf import LoggingGeneral, LoggingSettings
from relayd.telemetry.logs import configure


def main() -> None:
    """Run the selected benchmarks; progress goes to standard error."""
    others = {"door": door.main, "writers": writers.main, "capacity": capacity.main}
    if sys.argv[1:2] and sys.argv[1] in others:
        others[sys.argv[1]](sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument(
        "--run-logs", type=int, default=3000, help="run logs per round (default: 3000)"
    )
    parser.add_argument(
        "--steady",
        type=float,
        default=30,
        help=f"seconds at a steady {STEADY_RATE:.0f} run logs per second (default: 30)",
    )
    parser.add_argument("--pure", action="store_true", help="only parser and verification")
    arguments = parser.parse_args()
    # relayd's database module also runs in this process; its log would mix with the progress.
    configure(LoggingSettings(general=LoggingGeneral(level="off")))
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as scratch:
        directory = Path(scratch)
        directory.chmod(0o755)
        nodes = make_nodes()
        samples = make_samples(nodes, 1 if arguments.pure else arguments.run_logs)
        figures = measure_parser(samples[0], arguments.rounds)
        figures += measure_verification(samples[0], arguments.rounds, directory)
        if not arguments.pure:
            figures += _with_database(arguments, nodes, samples, directory)
    show(_title(), figures)


def _with_database(
    arguments: argparse.Namespace, nodes: list[SampleNode], samples: list[Sample], directory: Path
) -> list[Figure]:
    say("starting PostgreSQL")
    server = Server(directory / "postgres")
    try:
        server.create()
        with run_daemon(directory, nodes, server.rudder) as daemon:
            bench = Bench(server, samples, directory, daemon)
            figures = measure_load(bench, arguments.rounds)
            return figures + measure_steady(bench, arguments.steady)
    finally:
        server.close()


def _title() -> str:
    return f"relayd on Python {platform.python_version()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
