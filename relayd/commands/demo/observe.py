"""Snapshots of relayd's metrics and status and of the last runs in the database."""

import csv
import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio
from prometheus_client.parser import text_string_to_metric_families

from relayd.commands.demo.postgres.server import Server
from relayd.commands.demo.processes.daemon import Daemon
from relayd.fleet.peers.urls import API

#: The status API's word for a database that works.
DATABASE_OK: Final = "success"

_PREFIX: Final = "rudder_relayd_"
_LAST_RUNS: Final = """\
SELECT nodeid, date, nodeconfigid, round(extract(epoch FROM insertiondate - date)::numeric, 1)
FROM reportsexecution ORDER BY insertionid DESC LIMIT 8
"""


@dataclass(frozen=True, slots=True)
class StoredRun:
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
class Relay:
    """The counters of a relay.

    Attributes:
        waiting: files in its spool when it last checked.
        forwarded: run logs that the policy server above has accepted.
        failed: failed attempts to forward one.
    """

    waiting: int
    forwarded: int
    failed: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """relayd's counters and state.

    Attributes:
        time: when it was taken, in seconds of Trio's clock.
        accepted: run logs that are in the database, including those sent twice.
        duplicates: number of them that were in the database already.
        rows: rows inserted.
        refused: run logs refused, by reason; only reasons that occurred.
        waiting: files in the spool when relayd last checked.
        in_flight: files being processed.
        oldest: age in seconds of the oldest waiting file.
        database: `DATABASE_OK`, or what is wrong with the database.
        runs: the last runs, newest first.
        relays: the relays; None for one that does not answer.
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
    runs: tuple[StoredRun, ...]
    relays: tuple[Relay | None, ...] = ()

    @property
    def finished(self) -> int:
        """Files that have left `incoming`."""
        return self.accepted + sum(self.refused.values())


async def observe(daemons: Sequence[Daemon], server: Server) -> Snapshot | None:
    """Query every relayd and the database.

    Args:
        daemons: that of the root server, then those of the relays.
        server: the database server.

    Returns:
        None when the root server or the database does not answer.
    """
    root, *relays = daemons
    try:
        metrics = await root.get("/metrics")
        status = await root.get(f"{API}/system/status")
        runs = await trio.to_thread.run_sync(server.psql, _LAST_RUNS, abandon_on_cancel=True)
    except (OSError, http.client.HTTPException, RuntimeError):
        return None
    snapshot = read_snapshot(trio.current_time(), metrics.decode(), status, runs)
    return replace(snapshot, relays=tuple([await _ask_relay(relay) for relay in relays]))


async def _ask_relay(daemon: Daemon) -> Relay | None:
    try:
        return read_relay((await daemon.get("/metrics")).decode())
    except (OSError, http.client.HTTPException):
        return None


def read_snapshot(time: float, metrics: str, status: bytes, runs: str) -> Snapshot:
    """Assemble a snapshot.

    Args:
        time: when it was taken.
        metrics: `/metrics` in Prometheus' text format.
        status: `/system/status` in JSON.
        runs: the last runs as CSV.
    """
    samples = _Samples(metrics)
    database = json.loads(status)["data"].get("database", {"status": "error", "details": "off"})
    return Snapshot(
        time=time,
        accepted=samples.by_label("reports_total", "status").get("ok", 0),
        duplicates=int(samples.plain("duplicates_total")),
        rows=int(samples.plain("reports_rows_total")),
        refused={
            reason: number
            for reason, number in samples.by_label("refused_total", "reason").items()
            if number
        },
        waiting=int(samples.plain("spool_files")),
        in_flight=int(samples.plain("in_flight")),
        oldest=samples.plain("spool_oldest_seconds"),
        database=database.get("details", database["status"]),
        runs=tuple(
            StoredRun(node, date, config, float(delay or 0))
            for node, date, config, delay in csv.reader(runs.splitlines())
        ),
    )


def read_relay(metrics: str) -> Relay:
    """Return the counters in a relay's `/metrics`, which is in Prometheus' text format."""
    samples = _Samples(metrics)
    outcomes = samples.by_label("reports_total", "status")
    return Relay(
        waiting=int(samples.plain("spool_files")),
        forwarded=outcomes.get("forward_ok", 0),
        failed=outcomes.get("forward_error", 0),
    )


class _Samples:
    """relayd's own metrics, by name."""

    def __init__(self, metrics: str) -> None:
        self._samples = [
            sample
            for family in text_string_to_metric_families(metrics)
            for sample in family.samples
            if sample.name.startswith(_PREFIX)
        ]

    def plain(self, name: str) -> float:
        """Return the value of a metric without labels; 0 if it does not exist."""
        found = (s.value for s in self._samples if s.name == _PREFIX + name and not s.labels)
        return next(found, 0.0)

    def by_label(self, name: str, label: str) -> dict[str, int]:
        """Return the values of a counter, by one of its labels."""
        found = (s for s in self._samples if s.name == _PREFIX + name)
        return {sample.labels[label]: int(sample.value) for sample in found}
