"""relayd as a process, with its own directory, fed like by a web server."""

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.corpus import Sample, SampleNode, write_nodes
from benchmarks.measure import children, cpu_seconds, peak_bytes
from relayd.commands.demo.postgres.server import ConnectionInfo
from relayd.commands.demo.processes.ports import free_port

_START_DEADLINE_S: Final = 30.0
_STOP_DEADLINE_S: Final = 20.0
_LAG: Final = "rudder_relayd_event_loop_lag_seconds_bucket"

_MAIN_CONF: Final = """\
[general]
node_id = "root"
nodes_list_file = "{directory}/nodeslist.json"
nodes_certs_file = "{directory}/allnodescerts.pem"
listen = "127.0.0.1:{port}"
state_directory = "{directory}"
control_socket = ""

[processing.reporting]
directory = "{directory}/reports"
output = "database"

[output.database]
url = "{url}"
password = '{password}'
"""

#: Upper bound of a histogram bucket in seconds → cumulative number of observations.
Buckets = dict[float, float]


class Daemon:
    """A running relayd.

    Attributes:
        pid: its main process.
        port: port of its HTTP API on 127.0.0.1.
        incoming: the directory to which run logs are uploaded.
    """

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, port: int) -> None:
        self._process = process
        self._directory = directory
        self.port = port
        self.pid = process.pid
        self.incoming = directory / "reports" / "incoming"

    def upload(self, written: Path, name: str) -> None:
        """Make a file appear in the spool as mod_dav does: temporary name, then rename.

        Args:
            written: a file only for this upload, written in advance, as writing it is not part of
                relayd's cost; not a link, as relayd refuses those.
            name: its name in the spool.
        """
        part = self.incoming / f".davfs.tmp{name[:24]}"
        written.rename(part)
        part.rename(self.incoming / name)

    def waiting(self) -> bool:
        """Return whether the spool contains files; a file is removed only after its commit."""
        with os.scandir(self.incoming) as entries:
            return next(entries, None) is not None

    def wait_until_empty(self, deadline_s: float = 300.0) -> None:
        """Return when the spool is empty.

        Raises:
            TimeoutError: it was not empty before the deadline.
            RuntimeError: relayd has exited.
        """
        end = time.monotonic() + deadline_s
        while self.waiting():
            if self._process.poll() is not None:
                code = self._process.returncode
                raise RuntimeError(f"relayd exited with code {code}: {self.log()}")
            if time.monotonic() > end:
                raise TimeoutError(f"the spool is not empty after {deadline_s} s: {self.log()}")
            time.sleep(0.002)

    def workers(self) -> list[int]:
        """Return the process ids of its worker processes."""
        return children(self.pid)

    def cpu(self) -> tuple[float, float]:
        """Return the CPU seconds used so far by the main process and by all workers."""
        return cpu_seconds(self.pid), sum(cpu_seconds(worker) for worker in self.workers())

    def peaks(self) -> tuple[int, int]:
        """Return the peak memory in bytes of the main process and of the largest worker."""
        return peak_bytes(self.pid), max(map(peak_bytes, self.workers()), default=0)

    def lags(self) -> Buckets:
        """Return the event-loop lag so far, from relayd's metrics."""
        return {
            float(sample.labels["le"]): sample.value
            for family in text_string_to_metric_families(self._metrics())
            for sample in family.samples
            if sample.name == _LAG
        }

    def counter(self, name: str) -> float:
        """Return a counter without labels."""
        families = text_string_to_metric_families(self._metrics())
        return next(s.value for family in families for s in family.samples if s.name == name)

    def log(self) -> str:
        """Return the end of its log."""
        return (self._directory / "relayd.log").read_text(errors="replace")[-2000:]

    def _metrics(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            return answer.read().decode()
        finally:
            connection.close()

    def wait_until_up(self) -> None:
        """Return when its API answers.

        Raises:
            RuntimeError: it exited or did not answer in time; the text is its log.
        """
        end = time.monotonic() + _START_DEADLINE_S
        while True:
            try:
                self._metrics()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"relayd did not start: {self.log()}") from None
                time.sleep(0.05)
            else:
                return


@contextmanager
def run_daemon(
    directory: Path, nodes: Sequence[SampleNode], database: ConnectionInfo, extra: str = ""
) -> Iterator[Daemon]:
    """Run relayd with a real configuration; stop it and check its exit code at the end.

    Args:
        directory: directory for all its files.
        nodes: the nodes in its nodes list.
        database: the database that it writes to.
        extra: further tables of its configuration, in TOML.
    """
    port = free_port()
    (directory / "reports" / "incoming").mkdir(parents=True)
    write_nodes(list(nodes), directory)
    (directory / "logging.conf").write_text('[general]\nlevel = "info"\n')
    configuration = directory / "main.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(
        _MAIN_CONF.format(
            directory=directory, port=port, url=database.url, password=database.password
        )
        + extra
    )
    with (directory / "relayd.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "relayd", "run", "-c", directory],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    daemon = Daemon(process, directory, port)
    try:
        daemon.wait_until_up()
        yield daemon
        process.send_signal(signal.SIGTERM)
        if code := process.wait(_STOP_DEADLINE_S):
            raise RuntimeError(f"relayd exited with code {code}: {daemon.log()}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def stage(samples: Sequence[Sample], directory: Path) -> list[Path]:
    """Write samples to a directory from which the uploads of each round are made."""
    directory.mkdir()
    paths = []
    for sample in samples:
        path = directory / sample.name
        path.write_bytes(sample.message)
        paths.append(path)
    return paths


def quantile(before: Buckets, after: Buckets, part: float) -> float:
    """Return a quantile of the observations in between, in seconds, linear within its bucket."""
    counts = [(bound, after[bound] - before[bound]) for bound in sorted(after)]
    wanted = counts[-1][1] * part
    low, below = 0.0, 0.0
    for bound, count in counts:
        if count >= wanted and count > below:
            return low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return low


def highest(before: Buckets, after: Buckets) -> float:
    """Return the upper bound of the highest bucket with an observation in between, in seconds."""
    total = max(after[bound] - before[bound] for bound in after)
    return min(bound for bound in after if after[bound] - before[bound] >= total)
