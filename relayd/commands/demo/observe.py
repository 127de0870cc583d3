"""Snapshots of relayd's metrics and status, of the spools, and of what the database holds."""

import csv
import http.client
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import trio
from prometheus_client.parser import text_string_to_metric_families

from relayd.commands.demo.postgres.server import Database
from relayd.commands.demo.processes.daemon import Daemon
from relayd.fleet.peers.urls import API
from relayd.spool.failed.reasons import SUFFIX

#: The status API's word for a database that works.
DATABASE_OK: Final = "success"

_PREFIX: Final = "rudder_relayd_"
_COUNTS: Final = """\
SELECT (SELECT count(*) FROM reportsexecution), (SELECT count(*) FROM ruddersysevents);
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
class Stored:
    """What the database holds.

    Attributes:
        run_logs: rows of `reportsexecution`.
        rows: rows of `ruddersysevents`.
        runs: the last runs, newest first.
    """

    run_logs: int = 0
    rows: int = 0
    runs: tuple[StoredRun, ...] = ()


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
class Counters:
    """The counters of what writes to the database since it was started.

    Attributes:
        duplicates: run logs that were in the database already.
        oldest: age in seconds of the oldest waiting file.
        database: `DATABASE_OK`, or what is wrong with the database.
        restored: run logs that the database had lost and that were stored again.
    """

    duplicates: int
    oldest: float
    database: str
    restored: int = 0


def add(counters: Sequence[Counters | None]) -> Counters | None:
    """Return the sum of counters; None if one of the daemons did not answer."""
    known = [one for one in counters if one is not None]
    if len(known) < len(counters):
        return None
    return Counters(
        duplicates=sum(one.duplicates for one in known),
        oldest=max(one.oldest for one in known),
        database=next((one.database for one in known if one.database != DATABASE_OK), DATABASE_OK),
        restored=sum(one.restored for one in known),
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of everything.

    Attributes:
        time: when it was taken, in seconds of Trio's clock.
        stored: what the database holds, or held when it last answered.
        refused: run logs refused, by reason.
        waiting: files in the spools.
        counters: of what writes to the database; None while one does not answer.
        relays: the relays; None for one that does not answer.
    """

    time: float
    stored: Stored
    refused: dict[str, int]
    waiting: int
    counters: Counters | None
    relays: tuple[Relay | None, ...] = ()


@dataclass
class Observer:
    """Takes the snapshots.

    Attributes:
        daemons: those that write to the database, then those of the relays.
        server: the database.
        spools: the `incoming` directories.
        failed: the `failed` directories.
        writers: number of the daemons that write to the database.
    """

    daemons: Sequence[Daemon]
    server: Database
    spools: Sequence[Path]
    failed: Sequence[Path]
    writers: int = 1
    _stored: Stored = Stored()
    _reasons: dict[str, str] = field(default_factory=dict)

    async def observe(self) -> Snapshot:
        """Query every relayd and the database; what does not answer keeps its last figures."""
        writers, relays = self.daemons[: self.writers], self.daemons[self.writers :]
        try:
            run = trio.to_thread.run_sync
            self._stored = read_stored(await run(self.server.psql, _COUNTS, abandon_on_cancel=True))
        except RuntimeError:
            pass  # the database is away: that is part of the demo
        counters = add([await _ask_writer(writer) for writer in writers])
        snapshot = await trio.to_thread.run_sync(self._read_spools, trio.current_time(), counters)
        return replace(snapshot, relays=tuple([await _ask_relay(relay) for relay in relays]))

    def _read_spools(self, time: float, counters: Counters | None) -> Snapshot:
        for directory in self.failed:
            for path in directory.glob(f"*{SUFFIX}"):
                if path.name not in self._reasons:
                    self._reasons[path.name] = json.loads(path.read_text())["reason"]
        waiting = sum(1 for spool in self.spools for _ in spool.iterdir())
        refused = dict(Counter(self._reasons.values()))
        return Snapshot(time, self._stored, refused, waiting, counters)


async def _ask_writer(daemon: Daemon) -> Counters | None:
    try:
        metrics = await daemon.get("/metrics")
        status = await daemon.get(f"{API}/system/status")
    except (OSError, http.client.HTTPException):
        return None
    return read_counters(metrics.decode(), status)


async def _ask_relay(daemon: Daemon) -> Relay | None:
    try:
        return read_relay((await daemon.get("/metrics")).decode())
    except (OSError, http.client.HTTPException):
        return None


def read_stored(rows: str) -> Stored:
    """Return what psql printed as CSV: the two counts, then the last runs."""
    counts, *runs = csv.reader(rows.splitlines())
    return Stored(
        int(counts[0]),
        int(counts[1]),
        tuple(
            StoredRun(node, date, config, float(delay or 0)) for node, date, config, delay in runs
        ),
    )


def read_counters(metrics: str, status: bytes) -> Counters:
    """Return the counters in `/metrics`, and the database's state in `/system/status`."""
    samples = _Samples(metrics)
    database = json.loads(status)["data"].get("database", {"status": "error", "details": "off"})
    return Counters(
        duplicates=int(samples.plain("duplicates_total")),
        oldest=samples.plain("spool_oldest_seconds"),
        database=database.get("details", database["status"]),
        restored=int(samples.plain("held_missing_total")),
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
