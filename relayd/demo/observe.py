"""What relayd says about itself and what the database holds, at one moment."""

import csv
import http.client
import json
from dataclasses import dataclass
from typing import Final

import trio
from prometheus_client.parser import text_string_to_metric_families

from relayd.demo.daemon import API, Daemon
from relayd.demo.pgserver import Server

_PREFIX: Final = "rudder_relayd_"
_LAST_RUNS: Final = """\
SELECT nodeid, date, nodeconfigid, round(extract(epoch FROM insertiondate - date)::numeric, 1)
FROM reportsexecution ORDER BY insertionid DESC LIMIT 8
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One of the last rows of `reportsexecution`.

    Attributes:
        node_id: the node.
        date: START of the run, as PostgreSQL writes it.
        config_id: configuration id.
        delay: seconds from START to the insertion.
    """

    node_id: str
    date: str
    config_id: str
    delay: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """relayd's counters and state.

    Attributes:
        time: when it was taken, in Trio's clock (seconds).
        accepted: run logs that are in the database, those sent twice included.
        duplicates: how many of them were there already.
        rows: rows inserted.
        refused: run logs refused, by reason; only reasons that occurred.
        waiting: files in the spool at relayd's last look at it.
        in_flight: files it works on.
        oldest: age in seconds of the oldest waiting file.
        database: "success", or what is wrong with the database.
        runs: the last runs, the newest first.
    """

    time: float
    accepted: int
    duplicates: int
    rows: int
    refused: dict[str, int]
    waiting: int
    in_flight: int
    oldest: float
    database: str
    runs: tuple[Run, ...]

    @property
    def finished(self) -> int:
        """Files that have left `incoming`."""
        return self.accepted + sum(self.refused.values())


async def observe(daemon: Daemon, server: Server) -> Snapshot | None:
    """Asks relayd and the database; None when one of them does not answer now."""
    try:
        metrics = await daemon.get("/metrics")
        status = await daemon.get(f"{API}/system/status")
        runs = await trio.to_thread.run_sync(server.psql, _LAST_RUNS, abandon_on_cancel=True)
    except (OSError, http.client.HTTPException, RuntimeError):
        return None
    return read_snapshot(trio.current_time(), metrics.decode(), status, runs)


def read_snapshot(time: float, metrics: str, status: bytes, runs: str) -> Snapshot:
    """Puts together a snapshot.

    Args:
        time: the moment.
        metrics: `/metrics`, Prometheus' text format.
        status: `/system/status`, JSON.
        runs: the last runs as CSV.
    """
    samples = [
        sample for family in text_string_to_metric_families(metrics) for sample in family.samples
    ]
    plain = {sample.name: sample.value for sample in samples if not sample.labels}
    by_status = {
        s.labels["status"]: s.value for s in samples if s.name == f"{_PREFIX}reports_total"
    }
    refused = {
        sample.labels["reason"]: int(sample.value)
        for sample in samples
        if sample.name == f"{_PREFIX}refused_total" and sample.value
    }
    database = json.loads(status)["data"].get("database", {"status": "error", "details": "off"})
    return Snapshot(
        time=time,
        accepted=int(by_status.get("ok", 0)),
        duplicates=int(plain.get(f"{_PREFIX}duplicates_total", 0)),
        rows=int(plain.get(f"{_PREFIX}reports_rows_total", 0)),
        refused=refused,
        waiting=int(plain.get(f"{_PREFIX}spool_files", 0)),
        in_flight=int(plain.get(f"{_PREFIX}in_flight", 0)),
        oldest=plain.get(f"{_PREFIX}spool_oldest_seconds", 0.0),
        database=database.get("details", database["status"]),
        runs=tuple(
            Run(node, date, config, float(delay or 0))
            for node, date, config, delay in csv.reader(runs.splitlines())
        ),
    )
