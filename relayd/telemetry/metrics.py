"""Every metric of relayd, in one place.

Names, labels and units are an interface: dashboards and alerts of an installed Rudder read them.
`docs/metrics.md` is their table for operators.
"""

import math
import re
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, get_args

from relayd.config.in_force import MODIFIED, RESTART_KEYS, File
from relayd.errors import Reason
from relayd.system.lean import lean
from relayd.telemetry.lag import Lag
from relayd.telemetry.rates import Totals

with lean("prometheus_client"):
    from prometheus_client import (
        CollectorRegistry,
        Counter,
        Gauge,
        Histogram,
        ProcessCollector,
        disable_created_metrics,
    )
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
    from prometheus_client.metrics_core import CounterMetricFamily, Metric
    from prometheus_client.registry import Collector

#: `Content-Type` of the result of `Metrics.render`.
CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

#: Stages that can postpone a file. These and the following are closed sets, hence bounded labels.
Stage = Literal["examine", "database", "forward"]
WATCH_MODES: Final = ("inotify", "poll")
#: What an operator can stop, as in `relayd.overview.model.Kind`.
PAUSABLE: Final = ("reporting", "inventories")
#: Why refused files are removed eventually: too old, or too many bytes in total.
REMOVALS: Final = ("age", "size")
#: How a remote run ends; `relayd.remote_run.audit` explains each of them.
RunOutcome = Literal["ok", "incomplete", "timeout", "stopped", "refused"]

#: Upper bounds. A run log takes milliseconds, or as long as the database is unavailable.
_DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300)
#: 1 KiB to 64 MiB, as uploaded (an ordinary run log has a few KiB, the limit is 50 MiB).
_SIZES: Final = tuple(1024 * 4**power for power in range(9))
_LAGS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
#: A whole number as the bound of a bucket, as the library writes it: `1.0`, `1.048576e+06`.
_WHOLE_BOUND: Final = re.compile(rb'(?<=le=")[0-9.]+(?:\.0|e\+[0-9]+)(?=")')


class UploadOutcome(StrEnum):
    """The outcomes of an upload to the shared files."""

    STORED = "stored"
    FORWARDED = "forwarded"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    SIGNATURE = "signature"
    MISMATCH = "mismatch"
    NO_SPACE = "no_space"
    QUOTA = "quota"
    STORE = "store"
    UPSTREAM = "upstream"
    BUSY = "busy"
    SLOW = "slow"


class DoorOutcome(StrEnum):
    """The outcomes of an upload to the front door."""

    STORED = "stored"
    UNAUTHORIZED = "unauthorized"
    REFUSED = "refused"
    BUSY = "busy"
    NO_SPACE = "no_space"
    SLOW = "slow"
    CUT = "cut"
    ERROR = "error"


class Metrics:
    """All metrics of one service, in its own registry.

    Two services in one process (as in tests) do not share any value. Every label value of a closed
    set exists at 0 from the start, so that `rate()` sees the first event.

    Attributes:
        reports: run logs by outcome `status`: invalid, ok, error, forward_ok, forward_error.
        inventories: inventories by outcome `status`: forward_ok, forward_error.
        managed_nodes: nodes whose policy server is this one.
        sub_nodes: nodes in the nodes list, whatever their policy server is.
        processing_seconds: seconds from taking up a run log to the end of its output.
        report_bytes: bytes of a run log as uploaded.
        refused: files moved to `failed` by `reason`, one of `relayd.errors.Reason`.
        retried: files postponed by `stage`.
        reports_rows: rows inserted.
        totals: run logs of all nodes, for those who read them often.
        lag: how long run logs take, hop by hop.
        reports_broken: malformed reports in run logs that were accepted.
        duplicates: run logs that were already in the database.
        lock_wait_seconds: seconds for which transactions waited for other writers.
        commit_wait_seconds: seconds that commits took, the wait for standbys included.
        database_connections: connections made to write to the database.
        database_server: 1 for the `server` that was reached last, with its `role`.
        database_timeline: its timeline; NaN if it is unknown.
        partitions_end: unix time until when there are partitions; NaN without them.
        held_files: committed files that are kept for a while.
        held_bytes: their bytes.
        held_replayed: kept files that were processed again after a change of the database.
        held_missing: those of them that the database had lost.
        held_released_early: kept files that were removed before their time, for want of space.
        spool_files: files waiting in the spool.
        spool_oldest_seconds: age of the oldest of them in seconds.
        drain_rate: run logs that leave the spool in a second.
        drain_seconds: seconds until the waiting files are gone at this rate.
        shared_files: uploads to the shared files by `outcome`.
        uploads: uploads to the front door by `outcome`.
        in_flight: files taken up and not yet disposed of.
        unremovable: processed files that cannot be removed from the spool.
        paused: 1 while an operator has stopped the taking of a kind of files.
        failed_removed: refused files removed from `failed` by `cause`, one of `REMOVALS`.
        queue: fill of the channel in front of `stage`.
        watch_overflows: inotify queue overflows.
        watch_mode: 1 for the `mode` in use: inotify or poll.
        event_loop_lag_seconds: how late the event loop woke up, in seconds.
        log_dropped: log lines dropped because their reader was too slow.
        peer_authentication_disabled: 1 when certificates of peers are not verified.
        database_up: 1 while the database accepts run logs; NaN before the first attempt.
        upstream_up: 1 while the upstream takes files, 0 while it is unreachable or refuses one file
            after the other; NaN before the first.
        upstream_certificate_expiry: Unix time at which the pinned certificate expires, or the last
            one of several.
        remote_runs: remote runs by `outcome`, one of `RunOutcome`.
        remote_run_commands: commands of remote runs that are running.
        remote_runs_queued: remote runs that wait for a free command or relay.
        certificate_expired: node certificates past their notAfter.
        certificate_not_yet_valid: node certificates before their notBefore.
        file_modified: unix time at which the version in use of a `file` of the configuration had
            been modified.
        restart_needed_keys: keys that were changed and need a restart.
        reads: how often all metrics were read.
    """

    def __init__(self) -> None:
        # A process-wide switch of the library; its `_created` series are not used anywhere.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self.reads = 0
        self._spools: list[Callable[[], tuple[int, float | None]]] = []
        self._watches: dict[str, str] = {}
        self._counts: list[Callable[[], int]] = []
        self._unremovable: list[Callable[[], int]] = []
        ProcessCollector(registry=self._registry)
        threads = Gauge("process_threads", "Threads of the process", registry=self._registry)
        threads.set_function(_count_threads)
        self._make_outcomes()
        self._make_database()
        self._make_held()
        self._make_nodes()
        self._make_spool()
        self._make_shared_files()
        self._make_health()
        self._make_remote_run()
        self._make_configuration()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format 0.0.4, to be sent as `CONTENT_TYPE`.

        Bounds of buckets identify series, so they are written as the original does: `1`, not `1.0`.
        """
        self.reads += 1
        text = generate_latest(self._registry)
        return _WHOLE_BOUND.sub(lambda found: b"%d" % float(found[0]), text)

    def count_spool(self, count: Callable[[], tuple[int, float | None]]) -> None:
        """Add the files of one watched directory to the gauges, which are counted when asked.

        Args:
            count: returns their number, and the Unix time since which the oldest of them waits.
        """
        self._spools.append(count)
        self.spool_files.set_function(lambda: self.waiting)
        self.spool_oldest_seconds.set_function(self.oldest_age)

    def oldest_age(self) -> float:
        """Return for how many seconds the oldest file waits in the spool."""
        since = [oldest for _, oldest in (one() for one in self._spools) if oldest is not None]
        return max(0.0, time.time() - min(since)) if since else 0.0

    @property
    def waiting(self) -> int:
        """Files waiting in the spool."""
        return sum(files for files, _ in (one() for one in self._spools))

    def note_file(self, file: File, modified_at: float) -> None:
        """Record which version of a file of the configuration is in use."""
        self.file_modified.labels(file).set(modified_at)

    def note_server(self, address: str, role: str, timeline: int | None) -> None:
        """Record which server of the database was reached last."""
        self.database_server.clear()
        self.database_server.labels(address, role).set(1)
        self.database_timeline.set(math.nan if timeline is None else timeline)

    def note_watch(self, directory: str, mode: str) -> None:
        """Record how one directory is watched; the gauge shows every mode that is in use."""
        self._watches[directory] = mode
        for known in WATCH_MODES:
            self.watch_mode.labels(known).set(known in self._watches.values())

    def count_in_flight(self, count: Callable[[], int]) -> None:
        """Add the files that one pipeline has in flight to the gauge."""
        self._counts.append(count)
        self.in_flight.set_function(lambda: sum(one() for one in self._counts))

    def count_unremovable(self, count: Callable[[], int]) -> None:
        """Add the files that one pipeline cannot remove to the gauge."""
        self._unremovable.append(count)
        self.unremovable.set_function(lambda: sum(one() for one in self._unremovable))

    def _make_outcomes(self) -> None:
        self.reports = self._counter("reports", "Run logs by outcome", "status")
        for status in ("invalid", "ok", "error", "forward_ok", "forward_error"):
            self.reports.labels(status)
        self.inventories = self._counter("inventories", "Inventories by outcome", "status")
        for status in ("forward_ok", "forward_error"):
            self.inventories.labels(status)
        self.refused = self._counter("refused", "Files moved to failed, by reason", "reason")
        for reason in Reason:
            self.refused.labels(reason.value)
        self.retried = self._counter("retried", "Files postponed, by stage", "stage")
        for stage in get_args(Stage):
            self.retried.labels(stage)
        self.reports_rows = self._counter("reports_rows", "Rows inserted into the database")
        self.reports_broken = self._counter(
            "reports_broken", "Malformed reports in accepted run logs, which are not stored"
        )
        self.duplicates = self._counter("duplicates", "Run logs already in the database")
        self.processing_seconds = self._histogram(
            "reports_processing_duration_seconds",
            "Seconds from taking up a run log to the end of its output",
            _DURATIONS,
        )
        self.totals = Totals()
        self._registry.register(_Arrived(self.totals))
        self.lag = Lag(self._registry)
        self.report_bytes = self._histogram(
            "reports_size_bytes", "Size of a run log as uploaded, in bytes", _SIZES
        )

    def _make_database(self) -> None:
        self.lock_wait_seconds = self._counter(
            "database_lock_wait_seconds", "Seconds for which transactions waited for other writers"
        )
        self.commit_wait_seconds = self._counter(
            "database_commit_wait_seconds", "Seconds that commits took, waits for standbys included"
        )
        self.database_connections = self._counter(
            "database_connections", "Connections made to write to the database"
        )
        self.database_server = self._gauge(
            "database_server", "1 for the server of the database reached last", "server", "role"
        )
        self.database_timeline = self._gauge(
            "database_timeline", "Timeline of the server of the database reached last"
        )
        self.partitions_end = self._gauge(
            "database_partitions_end_timestamp_seconds",
            "Unix time until when the table has partitions",
        )
        for gauge in (self.database_timeline, self.partitions_end):
            gauge.set(math.nan)

    def _make_held(self) -> None:
        self.held_files = self._gauge("held_files", "Committed files that are kept for a while")
        self.held_bytes = self._gauge("held_bytes", "Bytes of these files")
        self.held_replayed = self._counter(
            "held_replayed", "Held files processed again after a change of the database"
        )
        self.held_missing = self._counter(
            "held_missing", "Held files that the database had lost, and that were stored again"
        )
        self.held_released_early = self._counter(
            "held_released_early", "Held files removed before their time, for want of space"
        )

    def _make_nodes(self) -> None:
        self.managed_nodes = self._gauge(
            "managed_nodes_total", "Nodes whose policy server is this one"
        )
        self.sub_nodes = self._gauge("sub_nodes_total", "Nodes in the nodes list")
        self.certificate_expired = self._gauge(
            "certificate_expired", "Node certificates past their notAfter date"
        )
        self.certificate_not_yet_valid = self._gauge(
            "certificate_not_yet_valid", "Node certificates before their notBefore date"
        )
        self.peer_authentication_disabled = self._gauge(
            "peer_authentication_disabled", "1 when certificates of peers are not verified"
        )

    def _make_spool(self) -> None:
        self.spool_files = self._gauge("spool_files", "Files waiting in the spool")
        self.spool_oldest_seconds = self._gauge(
            "spool_oldest_seconds", "Age of the oldest waiting file in seconds"
        )
        self.drain_rate = self._gauge(
            "spool_drain_files_per_second", "Run logs that left the spool in a second, lately"
        )
        self.drain_seconds = self._gauge(
            "spool_drain_seconds", "Seconds until the waiting files are gone at this rate"
        )
        self.in_flight = self._gauge("in_flight", "Files taken up and not yet disposed of")
        self.unremovable = self._gauge(
            "unremovable_files", "Processed files that cannot be removed from the spool"
        )
        self.failed_removed = self._counter(
            "failed_removed", "Refused files removed from failed, by cause", "cause"
        )
        for cause in REMOVALS:
            self.failed_removed.labels(cause)
        self.paused = self._gauge("paused", "1 while an operator has stopped the taking", "kind")
        for kind in PAUSABLE:
            self.paused.labels(kind).set(0)
        self.queue = self._gauge("queue", "Fill of the channel in front of a stage", "stage")
        self.watch_overflows = self._counter("watch_overflows", "Overflows of the inotify queue")
        self.watch_mode = self._gauge(
            "watch_mode", "1 for each way in which the spool is watched", "mode"
        )
        for mode in WATCH_MODES:
            self.watch_mode.labels(mode)

    def _make_shared_files(self) -> None:
        self.shared_files = self._counter(
            "shared_files", "Uploads to the shared files, by outcome", "outcome"
        )
        for outcome in UploadOutcome:
            self.shared_files.labels(outcome.value)
        self.uploads = self._counter("uploads", "Uploads to the front door, by outcome", "outcome")
        for door_outcome in DoorOutcome:
            self.uploads.labels(door_outcome.value)

    def _make_health(self) -> None:
        self.database_up = self._gauge("database_up", "1 while the database accepts run logs")
        self.upstream_up = self._gauge("upstream_up", "1 when the upstream takes files")
        self.upstream_certificate_expiry = self._gauge(
            "upstream_certificate_expiry_timestamp_seconds",
            "Unix time at which the pinned certificate of the upstream expires",
        )
        # Neither up nor down where the output is not in use, so that an alert on 0 stays silent.
        for gauge in (self.database_up, self.upstream_up, self.upstream_certificate_expiry):
            gauge.set(math.nan)
        self.output_up = {"database": self.database_up, "upstream": self.upstream_up}
        self.event_loop_lag_seconds = self._histogram(
            "event_loop_lag_seconds", "How late the event loop woke up, in seconds", _LAGS
        )
        self.log_dropped = self._counter(
            "log_dropped", "Log lines dropped because their reader was too slow"
        )

    def _make_remote_run(self) -> None:
        self.remote_runs = self._counter("remote_runs", "Remote runs by outcome", "outcome")
        for outcome in get_args(RunOutcome):
            self.remote_runs.labels(outcome)
        self.remote_run_commands = self._gauge(
            "remote_run_commands", "Commands of remote runs that are running"
        )
        self.remote_runs_queued = self._gauge(
            "remote_runs_queued", "Remote runs that wait for a free command or relay"
        )

    def _make_configuration(self) -> None:
        self.file_modified = self._gauge(
            MODIFIED, "Unix time at which the file, as it is in use, had been modified", "file"
        )
        self.restart_needed_keys = self._gauge(
            RESTART_KEYS, "Keys of main.conf that were changed and need a restart"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"rudder_relayd_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"rudder_relayd_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"rudder_relayd_{name}", text, registry=self._registry, buckets=buckets)


class _Arrived(Collector):
    """The counter of arrivals, which is kept where each of them is noted."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def collect(self) -> Iterable[Metric]:
        """Implement `Collector`."""
        text = "Run logs that arrived in the spool since the start"
        name = "rudder_relayd_reports_arrived"
        yield CounterMetricFamily(name, text, value=self._totals.arrived)


def _count_threads() -> int:
    """Return the number of threads of this process; proc(5), `num_threads` in stat."""
    stat = Path("/proc/self/stat").read_bytes()
    return int(stat.rpartition(b")")[2].split()[17])
