"""Measure how much 200 streams of remote runs slow down the ingestion of run logs.

Each stream is a separate run whose command prints lines when the benchmark writes them. The CPU
used by the streams alone, including their clients in this process, is measured without run logs.
Ingestion may only slow down by that share of the CPU that all processes of the benchmark get; other
programs may be using the machine, too.
"""

import argparse
import os
import platform
import selectors
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.corpus import make_nodes, make_samples
from benchmarks.daemon import Daemon, run_daemon
from benchmarks.measure import Rounds, children, cpu_seconds, median, ratio, say, take_turns
from benchmarks.table import Figure, show
from benchmarks.whole import Bench
from relayd.commands.demo.postgres.server import Server
from relayd.config.logging_conf import LoggingGeneral, LoggingSettings
from relayd.telemetry.logs import configure

STREAMS: Final = 200
#: Lines per second of each stream.
PACE: Final = 10.0
IDLE_S: Final = 10.0
LINE: Final = b"node.example.com: R: @@Common@@log_info@@a line of an agent, of a typical length\n"
CORES: Final = os.cpu_count() or 1
_TABLE: Final = """
[remote_run]
command = "{command}"
use_sudo = false
timeout = "1h"
max_commands = {streams}
"""


class Streams:
    """Clients of remote runs that read the output.

    Attributes:
        received: bytes received by all clients, including the heads of the answers.
        printing: while it is set, the commands print.
    """

    def __init__(self, daemon: Daemon, node: str, feed: Path, count: int, pace: float) -> None:
        self._daemon = daemon
        self._feed = feed
        self._pause = 1 / pace
        self._stop = threading.Event()
        self.printing = threading.Event()
        self.received = 0
        self._sockets = [_ask(daemon.port, node) for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._write, daemon=True),
        ]

    def begin(self) -> None:
        """Start the threads and return when every command is running."""
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + 60
        while len(self._commands()) < len(self._sockets):
            if time.monotonic() > end:
                raise TimeoutError(f"only {len(self._commands())} commands are running")
            time.sleep(0.05)

    def _commands(self) -> list[int]:
        return [pid for pid in children(self._daemon.pid) if _name(pid) == "tail"]

    def cpu(self) -> float:
        """Return the CPU seconds used so far by relayd, the commands and this process."""
        return (
            cpu_seconds(self._daemon.pid)
            + sum(map(cpu_seconds, children(self._daemon.pid)))
            + time.process_time()
        )

    def end(self) -> None:
        """Disconnect the clients; the commands run until relayd stops."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for client in self._sockets:
            client.close()

    def _write(self) -> None:
        with self._feed.open("ab", buffering=0) as feed:
            while not self._stop.wait(self._pause):
                if self.printing.is_set():
                    feed.write(LINE)

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            for client in self._sockets:
                selector.register(client, selectors.EVENT_READ)
            while not self._stop.is_set():
                for key, _ in selector.select(0.2):
                    data = os.read(key.fd, 65536)
                    self.received += len(data)
                # Like a web server, read everything that has arrived meanwhile at once.
                time.sleep(0.05)


def _ask(port: int, node: str) -> socket.socket:
    form = b"asynchronous=true&keep_output=true"
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(
        f"POST /rudder/relay-api/1/remote-run/nodes/{node} HTTP/1.1\r\nHost: relay\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(form)}\r\n\r\n".encode()
        + form
    )
    return client


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remote_run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument(
        "--run-logs", type=int, default=2000, help="run logs per round (default: 2000)"
    )
    parser.add_argument(
        "--streams",
        type=int,
        default=STREAMS,
        help=f"number of concurrent remote runs (default: {STREAMS})",
    )
    parser.add_argument(
        "--pace",
        type=float,
        default=PACE,
        help=f"lines per second of each stream (default: {PACE:.0f})",
    )
    arguments = parser.parse_args()
    configure(LoggingSettings(general=LoggingGeneral(level="off")))
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as scratch:
        directory = Path(scratch)
        directory.chmod(0o755)
        figures = _measure(directory, arguments)
    show(f"relayd on Python {platform.python_version()}, {CORES} cores", figures)


def _measure(directory: Path, arguments: argparse.Namespace) -> list[Figure]:
    nodes = make_nodes()
    samples = make_samples(nodes, arguments.run_logs)
    feed, command = directory / "feed", directory / "rudder"
    feed.touch()
    command.write_text(f"#!/bin/sh\nexec tail -n 0 -f {feed}\n")
    command.chmod(0o755)
    say("starting PostgreSQL")
    server = Server(directory / "postgres")
    try:
        server.create()
        table = _TABLE.format(command=command, streams=arguments.streams)
        with run_daemon(directory, nodes, server.rudder, table) as daemon:
            bench = Bench(server, samples, directory, daemon)
            bench.prepare()
            bench.whole_path()
            with _streaming(
                daemon, nodes[0].id, feed, arguments.streams, arguments.pace
            ) as streams:
                streams.printing.set()
                used, rate = _idle(streams)
                loads: list[float] = []
                contenders = {
                    "silent": partial(_ingest, bench, streams, None),
                    "printing": partial(_ingest, bench, streams, loads),
                }
                figures = take_turns(contenders, arguments.rounds)
    finally:
        server.close()
    return _figures(figures, used, rate, used / statistics.median(loads))


@contextmanager
def _streaming(daemon: Daemon, node: str, feed: Path, count: int, pace: float) -> Iterator[Streams]:
    say(f"starting {count} streams")
    streams = Streams(daemon, node, feed, count, pace)
    streams.begin()
    try:
        yield streams
    finally:
        streams.end()


def _ingest(bench: Bench, streams: Streams, loads: list[float] | None) -> float:
    """Return the run logs ingested per second, from the spool to committed rows.

    Args:
        bench: the benchmark to run.
        streams: the streams that are open meanwhile.
        loads: None: the streams are silent. Otherwise they print, and the number of cores used by
            all processes of the benchmark is appended.
    """
    if loads is None:
        streams.printing.clear()
        return bench.whole_path()
    streams.printing.set()
    cpu, begin = streams.cpu() + bench.postgres_cpu(), time.perf_counter()
    rate = bench.whole_path()
    used = streams.cpu() + bench.postgres_cpu() - cpu
    loads.append(used / (time.perf_counter() - begin))
    return rate


def _idle(streams: Streams) -> tuple[float, float]:
    """Return the cores used by printing streams, and lines per second, without run logs."""
    cpu, received, begin = streams.cpu(), streams.received, time.perf_counter()
    time.sleep(IDLE_S)
    seconds = time.perf_counter() - begin
    lines = (streams.received - received) / len(LINE)
    return (streams.cpu() - cpu) / seconds, lines / seconds


def _figures(figures: Rounds, used: float, rate: float, share: float) -> list[Figure]:
    """Return the rows of the table.

    Args:
        figures: run logs per second, with silent and with printing streams.
        used: cores used by printing streams without ingestion.
        rate: lines per second of all streams.
        share: `used` as a share of the cores used by all processes during ingestion.
    """
    kept = ratio(figures, "printing", "silent")
    return [
        Figure("remote-run streams alone", f"{used:.2f} cores", f"{rate:.0f} lines/s"),
        Figure(
            "ingestion with printing streams",
            f"{median(figures, 'printing'):.0f} run logs/s",
            f"with silent streams: {median(figures, 'silent'):.0f} run logs/s",
            f"{kept:.2f}",
            f"≥ {1 - share:.2f}",
            kept >= 1 - share,
        ),
    ]


if __name__ == "__main__":
    main()
