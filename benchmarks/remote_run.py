"""`python -m benchmarks.remote_run`: what 200 streams of remote runs cost the ingestion.

Each stream is a run of its own whose command prints a line whenever the benchmark says so. The CPU
that the streams take by themselves, their clients here included, is measured without run logs.
Ingestion may lose no more than that, as a part of the CPU that all of us get meanwhile: others may
be busy on the machine, too.
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
LINE: Final = b"node.example.com: R: @@Common@@log_info@@a line of an agent, as long as they are\n"
CORES: Final = os.cpu_count() or 1
_TABLE: Final = """
[remote_run]
command = "{command}"
use_sudo = false
timeout = "1h"
max_commands = {streams}
"""


class Streams:
    """Clients that follow remote runs, and what they have read.

    Attributes:
        received: bytes, of all clients, heads of answers included.
        printing: while it is set, commands print.
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
        """Return when every command runs."""
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + 60
        while len(self._commands()) < len(self._sockets):
            if time.monotonic() > end:
                raise TimeoutError(f"only {len(self._commands())} commands run")
            time.sleep(0.05)

    def _commands(self) -> list[int]:
        return [pid for pid in children(self._daemon.pid) if _name(pid) == "tail"]

    def cpu(self) -> float:
        """CPU seconds so far of relayd, of all commands and of this process with its clients."""
        return (
            cpu_seconds(self._daemon.pid)
            + sum(map(cpu_seconds, children(self._daemon.pid)))
            + time.process_time()
        )

    def end(self) -> None:
        """Leave; the commands go on until relayd stops."""
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
                # As a web server would: what has come meanwhile is read in one go.
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
    """Measure and prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remote_run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, medians are taken of")
    parser.add_argument("--run-logs", type=int, default=2000, help="run logs in a round")
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--pace", type=float, default=PACE, help="lines per second of a stream")
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
    say(f"beginning {count} streams")
    streams = Streams(daemon, node, feed, count, pace)
    streams.begin()
    try:
        yield streams
    finally:
        streams.end()


def _ingest(bench: Bench, streams: Streams, loads: list[float] | None) -> float:
    """Run logs per second, from the spool to committed rows.

    Args:
        bench: what ingests.
        streams: that are open meanwhile.
        loads: None: they are silent. Else they print, and the cores that everything of ours has
            used together is added to it.
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
    """Return cores that the streams use, and lines per second, without run logs."""
    cpu, received, begin = streams.cpu(), streams.received, time.perf_counter()
    time.sleep(IDLE_S)
    seconds = time.perf_counter() - begin
    lines = (streams.received - received) / len(LINE)
    return (streams.cpu() - cpu) / seconds, lines / seconds


def _figures(figures: Rounds, used: float, rate: float, share: float) -> list[Figure]:
    """Return the table.

    Args:
        figures: run logs per second, with silent and with printing streams.
        used: cores that printing streams use by themselves.
        rate: lines per second of all of them.
        share: what part that is of all cores that were to be had beside them.
    """
    kept = ratio(figures, "printing", "silent")
    return [
        Figure("streams of remote runs, by themselves", f"{used:.2f} cores", f"{rate:.0f} lines/s"),
        Figure(
            "ingestion while they print",
            f"{median(figures, 'printing'):.0f} run logs/s",
            f"while they are silent {median(figures, 'silent'):.0f} run logs/s",
            f"{kept:.2f}",
            f"≥ {1 - share:.2f}",
            kept >= 1 - share,
        ),
    ]


if __name__ == "__main__":
    main()
