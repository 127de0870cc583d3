"""What relayd says about itself and what the database holds, at one moment."""

import csv
import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio
from prometheus_client.parser import text_string_to_metric_families

from relayd.commands.demo.postgres.server import Server
from relayd.commands.demo.processes.daemon import API, Daemon

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
    """What a relay says of itself.

    Attributes:
        waiting: files in its spool at its last look at it.
        forwarded: run logs that the policy server above has taken.
        failed: attempts that it has not.
    """

    waiting: int
    forwarded: int
    failed: int


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
        relays: the relays, None in the place of one that does not answer.
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
    """Ask every relayd and the database.

    Args:
        daemons: that of the root server, then those of the relays.
        server: the database server.

    Returns:
        None when root server or database do not answer now.
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
    """Put together a snapshot.

    Args:
        time: the moment.
        metrics: `/metrics`, Prometheus' text format.
        status: `/system/status`, JSON.
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
    """Return what a relay's `/metrics`, Prometheus' text format, tells."""
    samples = _Samples(metrics)
    outcomes = samples.by_label("reports_total", "status")
    return Relay(
        waiting=int(samples.plain("spool_files")),
        forwarded=outcomes.get("forward_ok", 0),
        failed=outcomes.get("forward_error", 0),
    )


class _Samples:
    """relayd's own metrics by name."""

    def __init__(self, metrics: str) -> None:
        self._samples = [
            sample
            for family in text_string_to_metric_families(metrics)
            for sample in family.samples
            if sample.name.startswith(_PREFIX)
        ]

    def plain(self, name: str) -> float:
        """Return the value of a metric without labels; 0 when it is not there."""
        found = (s.value for s in self._samples if s.name == _PREFIX + name and not s.labels)
        return next(found, 0.0)

    def by_label(self, name: str, label: str) -> dict[str, int]:
        """Return the values of a counter by one of its labels."""
        found = (s for s in self._samples if s.name == _PREFIX + name)
        return {sample.labels[label]: int(sample.value) for sample in found}
