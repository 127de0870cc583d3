"""The demo's ledger: what was sent, compared with what the database and the spools hold."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from relayd.commands.demo.fleet.upload import EXPECTED, Kind, SimulatedUpload
from relayd.commands.demo.postgres.server import Database
from relayd.spool.failed.reasons import SUFFIX

_ROWS: Final = """\
SELECT nodeid, extract(epoch FROM executiontimestamp)::bigint, count(*)
FROM ruddersysevents GROUP BY 1, 2
"""
_EXECUTIONS: Final = """\
SELECT nodeid, extract(epoch FROM date)::bigint, count(*) FROM reportsexecution GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class RunKey:
    """What identifies a run of an agent.

    Attributes:
        node_id: the node.
        start: START of the run as Unix time.
    """

    node_id: str
    start: int


@dataclass(frozen=True, slots=True)
class GoodRun:
    """A run whose run log must be stored.

    Attributes:
        rows: rows of `ruddersysevents` that it yields.
        name: name of its file.
    """

    rows: int
    name: str


def _key(upload: SimulatedUpload) -> RunKey:
    return RunKey(upload.node_id, int(upload.start.timestamp()))


@dataclass(slots=True)
class Ledger:
    """Everything the fleet has sent.

    Attributes:
        kinds: number of uploads of each kind.
        good: runs that must be stored.
        bad: kind of each upload that must be refused, by file name.
        replayed: names of files that were sent twice.
    """

    kinds: Counter[Kind] = field(default_factory=Counter)
    good: dict[RunKey, GoodRun] = field(default_factory=dict)
    bad: dict[str, Kind] = field(default_factory=dict)
    replayed: set[str] = field(default_factory=set)

    def add(self, upload: SimulatedUpload) -> None:
        """Record an upload; call this before it is sent."""
        self.kinds[upload.kind] += 1
        if upload.kind is Kind.GOOD:
            self.good[_key(upload)] = GoodRun(upload.rows, upload.name)
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
    """State of the database and the spools after relayd has stopped.

    Attributes:
        rows: rows of `ruddersysevents` of each run.
        executions: rows of `reportsexecution` of each run.
        waiting: names of files in `incoming`.
        kept: names of files that their nodes still have.
        refused: reason of each file in `failed`, by name.
    """

    rows: Mapping[RunKey, int]
    executions: Mapping[RunKey, int]
    waiting: frozenset[str]
    refused: Mapping[str, str]
    kept: frozenset[str] = frozenset()

    @property
    def unprocessed(self) -> frozenset[str]:
        """Names of all files that need not be anywhere else yet."""
        return self.waiting | self.kept


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the balance.

    Attributes:
        text: what is counted.
        expected: the right number; None when any number is right.
        found: the actual number.
        short: the same in fewer words, for a narrow terminal; "" if `text` is short enough.
        names: the files that make the number wrong, if they are known.
    """

    text: str
    expected: int | None
    found: int
    short: str = ""
    names: tuple[str, ...] = ()

    @property
    def balanced(self) -> bool:
        """Whether the number is right."""
        return self.expected is None or self.expected == self.found


def read_final_state(
    server: Database, spools: Iterable[Path], failed: Iterable[Path], kept: frozenset[str]
) -> FinalState:
    """Read the database and the spools; every relayd must have stopped.

    Args:
        server: the database.
        spools: the `incoming` directories of all relayds.
        failed: the `failed` directories of all relayds.
        kept: names of files that their nodes still have.
    """
    return FinalState(
        rows=_counts(server.psql(_ROWS)),
        executions=_counts(server.psql(_EXECUTIONS)),
        waiting=frozenset(path.name for spool in spools for path in spool.iterdir()),
        refused={name: reason for spool in failed for name, reason in read_refusals(spool).items()},
        kept=kept,
    )


def _counts(rows: str) -> dict[RunKey, int]:
    lines = csv.reader(rows.splitlines())
    return {RunKey(node, int(start)): int(count) for node, start, count in lines}


def read_refusals(failed: Path) -> dict[str, str]:
    """Return the reason of each refused file; "" for a file whose reason is missing.

    A hidden file is the reason that a killed relayd had not finished: its run log was not moved.
    """
    names = [path.name for path in failed.iterdir() if not path.name.startswith(".")]
    records = [json.loads((failed / name).read_text()) for name in names if name.endswith(SUFFIX)]
    reasons = {name: "" for name in names if not name.endswith(SUFFIX)}
    return reasons | {record["name"]: record["reason"] for record in records}


def balance(ledger: Ledger, state: FinalState, recognized: int | None) -> list[Entry]:
    """Compare what was sent with the final state.

    Args:
        ledger: what was sent.
        state: the final state.
        recognized: run logs that relayd found in the database already; None when unknown.
    """
    # What waits although it is stored was sent twice, or not removed yet, or its answer was lost.
    good = {
        key: run.rows
        for key, run in ledger.good.items()
        if run.name not in state.unprocessed or key in state.rows
    }
    lost = [key for key, rows in good.items() if state.rows.get(key, 0) < rows]
    replayed = ledger.replayed - state.unprocessed
    surplus = _surplus(dict.fromkeys(good, 1), state.executions)
    entries = [
        Entry("run logs stored", len(good), sum(1 for key in good if key in state.rows)),
        Entry("rows of reports stored", sum(good.values()), sum(state.rows.values())),
        Entry(
            "rows of executions stored",
            len(good),
            sum(state.executions.values()),
            short="rows of executions",
        ),
    ]
    if recognized is not None:
        text, short = "replays recognized, not stored again", "replays recognized"
        entries.append(Entry(text, len(replayed), recognized, short))
    entries += _refused(ledger, state)
    entries += [
        Entry("still in the spool", None, len(state.waiting)),
        Entry("kept by their nodes", None, len(state.kept)),
        Entry("stored twice", 0, _surplus(good, state.rows) + surplus),
        Entry("lost", 0, len(lost), names=tuple(ledger.good[key].name for key in lost)),
    ]
    return entries


def _refused(ledger: Ledger, state: FinalState) -> Iterable[Entry]:
    """Yield one entry per kind; a file counts if it was refused for the right reason."""
    for kind, reason in EXPECTED.items():
        sent = [
            name
            for name, other in ledger.bad.items()
            if other is kind and name not in state.unprocessed
        ]
        other = tuple(name for name in sent if state.refused.get(name) != reason)
        text, short = f"refused: {kind} ({reason})", f"refused: {reason}"
        yield Entry(text, len(sent), len(sent) - len(other), short, other)
    wrongly = tuple(
        f"{name} ({reason})" if reason else name
        for name, reason in sorted(state.refused.items())
        if name not in ledger.bad
    )
    yield Entry("refused: good run logs", 0, len(wrongly), names=wrongly)


def _surplus(expected: Mapping[RunKey, int], found: Mapping[RunKey, int]) -> int:
    """Return the number of excess rows; all rows of a run that was not sent are in excess."""
    return sum(max(0, count - expected.get(key, 0)) for key, count in found.items())
