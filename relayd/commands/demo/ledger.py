"""The demo's book-keeping: what was sent against what the database and the spool hold."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from relayd.commands.demo.fleet.upload import EXPECTED, Kind, SimulatedUpload
from relayd.commands.demo.postgres.server import Server

#: A run is its node and START as Unix time.
RunKey = tuple[str, int]

_ROWS: Final = """\
SELECT nodeid, extract(epoch FROM executiontimestamp)::bigint, count(*)
FROM ruddersysevents GROUP BY 1, 2
"""
_EXECUTIONS: Final = """\
SELECT nodeid, extract(epoch FROM date)::bigint, count(*) FROM reportsexecution GROUP BY 1, 2
"""


def _run(upload: SimulatedUpload) -> RunKey:
    return upload.node_id, int(upload.start.timestamp())


@dataclass(slots=True)
class Ledger:
    """What the fleet has sent.

    Attributes:
        kinds: number of uploads of each kind.
        good: rows that each good run is worth, and the name of its file.
        bad: kind of each upload that must be refused, by file name.
        replayed: names of files that were sent twice.
    """

    kinds: Counter[Kind] = field(default_factory=Counter)
    good: dict[RunKey, tuple[int, str]] = field(default_factory=dict)
    bad: dict[str, Kind] = field(default_factory=dict)
    replayed: set[str] = field(default_factory=set)

    def add(self, upload: SimulatedUpload) -> None:
        """Note one upload; called before it is put into the spool."""
        self.kinds[upload.kind] += 1
        if upload.kind is Kind.GOOD:
            self.good[_run(upload)] = upload.rows, upload.name
        elif upload.kind is Kind.REPLAYED:
            self.replayed.add(upload.name)
        else:
            self.bad[upload.name] = upload.kind

    @property
    def sent(self) -> int:
        """Number of uploads."""
        return self.kinds.total()


@dataclass(frozen=True, slots=True)
class FinalState:
    """What is there after relayd has stopped.

    Attributes:
        rows: rows of `ruddersysevents` of each run.
        executions: rows of `reportsexecution` of each run.
        waiting: names of files in `incoming`.
        refused: reason of each file in `failed`, by name.
    """

    rows: Mapping[RunKey, int]
    executions: Mapping[RunKey, int]
    waiting: frozenset[str]
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the balance.

    Attributes:
        text: what is counted.
        expected: how many there should be; None when any number is right.
        found: how many there are.
    """

    text: str
    expected: int | None
    found: int

    @property
    def balanced(self) -> bool:
        """Whether it is as it should be."""
        return self.expected is None or self.expected == self.found


def read_found(server: Server, spools: Iterable[Path], failed: Iterable[Path]) -> FinalState:
    """Read database and spools; no relayd must run any more.

    Args:
        server: the database server.
        spools: the `incoming` of every relayd.
        failed: the `failed` of every relayd.
    """
    return FinalState(
        rows=_counts(server.psql(_ROWS)),
        executions=_counts(server.psql(_EXECUTIONS)),
        waiting=frozenset(path.name for spool in spools for path in spool.iterdir()),
        refused={name: reason for spool in failed for name, reason in _refusals(spool).items()},
    )


def _counts(rows: str) -> dict[RunKey, int]:
    return {(node, int(start)): int(count) for node, start, count in csv.reader(rows.splitlines())}


def _refusals(failed: Path) -> dict[str, str]:
    """Return the reasons that relayd keeps beside refused files; a file without one has reason ""."""
    records = [json.loads(path.read_text()) for path in failed.glob("*.reason")]
    reasons = {path.name: "" for path in failed.iterdir() if path.suffix != ".reason"}
    return reasons | {record["name"]: record["reason"] for record in records}


def balance(ledger: Ledger, found: FinalState, recognised: int | None) -> list[Entry]:
    """Compare what was sent with what is there.

    Args:
        ledger: what was sent.
        found: what is there.
        recognised: run logs that relayd says were in the database already; None when unknown.
    """
    good = {run: rows for run, (rows, name) in ledger.good.items() if name not in found.waiting}
    replayed = ledger.replayed - found.waiting
    surplus = _surplus(dict.fromkeys(good, 1), found.executions)
    entries = [
        Entry("run logs in the database", len(good), sum(1 for run in good if run in found.rows)),
        Entry("rows of reports", sum(good.values()), sum(found.rows.values())),
        Entry("rows of executions", len(good), sum(found.executions.values())),
    ]
    if recognised is not None:
        entries.append(Entry("sent twice, recognised", len(replayed), recognised))
    entries += _refused(ledger, found)
    entries += [
        Entry("left in the spool", None, len(found.waiting)),
        Entry("stored twice", 0, _surplus(good, found.rows) + surplus),
        Entry("lost", 0, sum(1 for run, rows in good.items() if found.rows.get(run, 0) < rows)),
    ]
    return entries


def _refused(ledger: Ledger, found: FinalState) -> Iterable[Entry]:
    """Return one line per kind; a file counts when it was refused for the right reason."""
    sent = Counter(kind for name, kind in ledger.bad.items() if name not in found.waiting)
    right = Counter(
        kind for name, kind in ledger.bad.items() if found.refused.get(name) == EXPECTED[kind]
    )
    for kind, reason in EXPECTED.items():
        yield Entry(f"refused, {kind} ({reason})", sent[kind], right[kind])
    wrongly = sum(1 for name in found.refused if name not in ledger.bad)
    yield Entry("refused, although good", 0, wrongly)


def _surplus(expected: Mapping[RunKey, int], found: Mapping[RunKey, int]) -> int:
    """Return the rows beyond those that each run is worth; a run that nobody sent is worth none."""
    return sum(max(0, count - expected.get(run, 0)) for run, count in found.items())
