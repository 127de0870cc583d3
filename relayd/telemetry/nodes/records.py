"""The record of each node: its last run log, what became of it, how many it sends."""

import math
import time
from array import array
from collections.abc import Callable, Collection, Iterator
from typing import Final, Literal, get_args

import msgspec

from relayd.errors import Reason
from relayd.telemetry.nodes.columns import Columns
from relayd.telemetry.nodes.saved import Saved
from relayd.telemetry.rates import Totals

#: What became of a file: it is in the database, the upstream has it, it was moved to `failed`, or
#: it stays in the spool for another attempt.
Outcome = Literal["stored", "forwarded", "refused", "postponed"]

OUTCOMES: Final[tuple[Outcome | None, ...]] = (None, *get_args(Outcome))
REASONS: Final[tuple[Reason | None, ...]] = (None, *Reason)
_CODES: Final = {outcome: code for code, outcome in enumerate(OUTCOMES)}
_REASON_CODES: Final = {reason: code for code, reason in enumerate(REASONS)}
_REASONS_BY_NAME: Final = {reason or "": code for code, reason in enumerate(REASONS)}
#: Outcomes after which the output has the file.
_DONE: Final = frozenset({"stored", "forwarded"})
_HOUR_S: Final = 3600.0
#: Nodes with a record while no nodes list is loaded, which bounds them otherwise.
UNLISTED_NODES: Final = 10_000
#: The row that all nodes share that are not in the nodes list.
_UNKNOWN: Final = 0
_MAX_COUNT: Final = 2**32 - 1


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a node; None where nothing was heard. Times are Unix seconds.

    Attributes:
        node_id: the node; "" for all nodes together that are not in the nodes list.
        arrived: when its last run log arrived here.
        run: start of its newest run that was stored or forwarded, as the name of the file says.
        outcome: what became of the file of this node that was processed last.
        outcome_at: when that was.
        reason: why it was refused.
        done_at: when a run log of this node was stored or forwarded last.
        failures: files that were refused or postponed since then.
        lag_s: seconds from the start of that run until it was stored or forwarded.
        reports: reports of that run; only where run logs are examined.
        config_id: configuration id of that run; only where run logs are examined.
        ahead_s: seconds by which the newest time that its run log states is later than its arrival.
            If positive, the clock of the node is ahead by at least as much.
        last_hour: run logs that arrived in the last hour; an estimate.
        inventory: what became of its last inventory.
        inventory_at: when that was.
    """

    node_id: str
    arrived: float | None = None
    run: float | None = None
    outcome: Outcome | None = None
    outcome_at: float | None = None
    reason: Reason | None = None
    done_at: float | None = None
    failures: int = 0
    lag_s: float | None = None
    reports: int | None = None
    config_id: str | None = None
    ahead_s: float | None = None
    last_hour: int = 0
    inventory: Outcome | None = None
    inventory_at: float | None = None


class RunFacts(msgspec.Struct, frozen=True):
    """Facts about one run log, with its outcome; None where one is missing.

    Attributes:
        start: start of the run, Unix seconds.
        lag_s: seconds from the start until it was stored or forwarded.
        reports: number of its reports.
        config_id: its configuration id.
        ahead_s: see `NodeRecord.ahead_s`.
    """

    start: float | None = None
    lag_s: float | None = None
    reports: int | None = None
    config_id: str | None = None
    ahead_s: float | None = None


class NodeRecords:
    """A record for each node of the nodes list that was heard of, and one for all others together.

    All methods must be called from one thread; each takes some microseconds, except those that
    look at all nodes (0.1 s for 50,000).

    Attributes:
        totals: run logs of all nodes since the start.
        changes: grows with each call that changes a record.
        since: Unix time since which the records go back.

    Args:
        totals: counts the run logs.
        wall: returns Unix time.
    """

    def __init__(self, totals: Totals | None = None, wall: Callable[[], float] = time.time) -> None:
        self.totals = totals or Totals()
        self.changes = 0
        self.since = wall()
        self._wall = wall
        self._started = self.since
        self._known: Collection[str] | None = None
        self._rows: dict[str, int] = {}
        self._free: list[int] = []
        self._columns = Columns()
        self._columns.append()
        self._hour_ends = 0.0

    def __len__(self) -> int:
        """Return the number of nodes with a record."""
        return len(self._rows)

    def __iter__(self) -> Iterator[NodeRecord]:
        """Yield the record of each node that has one."""
        weight = self._begin()
        for node_id, row in self._rows.items():
            yield self._record(node_id, row, weight)

    def get(self, node_id: str) -> NodeRecord | None:
        """Return the record of a node, None if nothing was heard of it."""
        row = self._rows.get(node_id)
        return None if row is None else self._record(node_id, row, self._begin())

    @property
    def unknown(self) -> NodeRecord:
        """The record of all nodes together that are not in the nodes list."""
        return self._record("", _UNKNOWN, self._begin())

    def follow(self, known: Collection[str]) -> None:
        """Forget the nodes that are not in the nodes list.

        Args:
            known: their ids; kept until the next call.
        """
        self._known = known
        for node_id in self._rows.keys() - set(known):
            row = self._rows.pop(node_id)
            self._columns.clear(row)
            self._free.append(row)
        # The list's own strings as keys: those of an earlier list would be kept in memory.
        rows = self._rows
        self._rows = {node_id: rows[node_id] for node_id in known if node_id in rows}
        self.changes += 1

    def copy(self) -> "NodeRecords":
        """Return a copy, for another thread; takes a millisecond or two for 50,000 nodes."""
        records = NodeRecords(wall=self._wall)
        records.since, records._hour_ends = self.since, self._hour_ends
        records._rows, records._columns = dict(self._rows), self._columns.copy()
        return records

    def dump(self) -> Saved:
        """Return a copy of all records, to be written to a file in another thread."""
        return Saved(
            since=self.since,
            hour_ends=self._hour_ends,
            reasons=[reason or "" for reason in REASONS],
            ids="\n".join(self._rows),
            rows=array("I", self._rows.values()).tobytes(),
            columns=self._columns.dump(),
        )

    def restore(self, saved: Saved) -> None:
        """Continue with records of a file, in place of what was noted until now.

        Raises:
            ValueError: they contradict themselves; nothing has changed.
        """
        columns, rows = Columns.load(saved.columns), array("I")
        rows.frombytes(saved.rows)
        ids = saved.ids.split("\n") if saved.ids else []
        codes = [_REASONS_BY_NAME.get(name, 0) for name in saved.reasons]
        table = dict(zip(ids, rows, strict=True))
        if not len(set(rows)) == len(table) == len(rows) < len(columns):
            raise ValueError("rows that are used twice, or missing")
        if _UNKNOWN in table.values() or max(rows, default=0) >= len(columns):
            raise ValueError("rows outside of the table")
        for column, most in (
            (columns.reason, len(codes)),
            (columns.outcome, len(OUTCOMES)),
            (columns.inventory, len(OUTCOMES)),
        ):
            if max(column) >= most:
                raise ValueError("a code without a meaning")
        columns.reason = array(columns.reason.typecode, [codes[code] for code in columns.reason])
        self._rows, self._columns = table, columns
        self._free = list(set(range(1, len(columns))) - set(rows))
        self.since, self._hour_ends = saved.since, saved.hour_ends

    def note_arrival(self, node_id: str, at: float, *, live: bool = True) -> None:
        """Note a run log in the spool.

        Args:
            node_id: the node that sent it.
            at: when it arrived, Unix seconds.
            live: whether it arrives now. What a listing finds may have been noted before.
        """
        row, columns = self._row(node_id), self._columns
        if not live and at <= columns.arrived[row]:
            return
        columns.arrived[row] = at
        if at >= self._hour_ends:
            self._begin_hour()
        if at >= self._hour_ends - _HOUR_S:
            columns.this_hour[row] = min(columns.this_hour[row] + 1, _MAX_COUNT)
        elif at >= self._hour_ends - 2 * _HOUR_S:
            columns.last_hour[row] = min(columns.last_hour[row] + 1, _MAX_COUNT)
        if at >= self._started:
            self.totals.arrived += 1
        self.changes += 1

    def note_outcome(
        self,
        node_id: str,
        outcome: Outcome,
        now: float,
        facts: RunFacts,
        reason: Reason | None = None,
    ) -> None:
        """Note what became of a run log.

        Args:
            node_id: the node that sent it.
            outcome: what became of it.
            now: Unix seconds.
            facts: about the run.
            reason: why it was refused.
        """
        row, columns = self._row(node_id), self._columns
        columns.outcome[row] = _CODES[outcome]
        columns.outcome_at[row] = now
        columns.reason[row] = _REASON_CODES[reason]
        if outcome in _DONE:
            self.totals.done += 1
            columns.done_at[row] = now
            columns.failures[row] = 0
        else:
            self.totals.refused += outcome == "refused"
            columns.failures[row] = min(columns.failures[row] + 1, _MAX_COUNT)
        # The name of a file that no one has vouched for says nothing about its node; a run that is
        # processed again, or late, nothing new. One in the future is replaced by any other.
        start = facts.start if outcome in _DONE else None
        if start is not None and not start < columns.run[row] <= now:
            self._note_run(row, facts)
        self.changes += 1

    def _note_run(self, row: int, facts: RunFacts) -> None:
        columns = self._columns
        columns.run[row] = _number(facts.start)
        columns.lag[row] = _number(facts.lag_s)
        columns.ahead[row] = _number(facts.ahead_s)
        columns.reports[row] = min(facts.reports or 0, _MAX_COUNT)
        columns.set_config_id(row, facts.config_id)

    def note_inventory(self, node_id: str, outcome: Outcome, now: float) -> None:
        """Note what became of an inventory, at a Unix time in seconds."""
        row = self._row(node_id)
        self._columns.inventory[row] = _CODES[outcome]
        self._columns.inventory_at[row] = now
        self.changes += 1

    @property
    def last_arrival(self) -> float | None:
        """When the last run log of any node arrived, Unix seconds; None before the first."""
        return max(filter(_is_number, self._columns.arrived), default=None)

    def count_heard(self, since: float) -> int:
        """Return of how many nodes a run log arrived since a time, in a few milliseconds."""
        return sum(at >= since for at in self._columns.arrived[_UNKNOWN + 1 :])

    def silent(self, for_s: float, now: float) -> list[NodeRecord]:
        """Return the nodes of the nodes list without a run log for some time, or ever.

        Args:
            for_s: seconds.
            now: Unix seconds.
        """
        weight, arrived, limit = self._begin(), self._columns.arrived, now - for_s
        found = []
        for node_id in self._rows if self._known is None else self._known:
            row = self._rows.get(node_id)
            if row is None:
                found.append(NodeRecord(node_id=node_id))
            elif not arrived[row] >= limit:
                found.append(self._record(node_id, row, weight))
        return found

    def failing(self) -> list[NodeRecord]:
        """Return the nodes of which the last run log was refused or waits for another attempt."""
        weight, failures = self._begin(), self._columns.failures
        return [
            self._record(node_id, row, weight)
            for node_id, row in self._rows.items()
            if failures[row]
        ]

    def flooding(self, share: float = 0.1, least: int = 100) -> list[NodeRecord]:
        """Return the nodes that sent a large part of all run logs in the last hour, most first.

        Args:
            share: part of all run logs, 0 to 1.
            least: a node with fewer run logs does not flood, whatever its share.
        """
        limit = max(share * self.last_hour(), least)
        weight, columns = self._begin(), self._columns

        def sent(row: int) -> int:
            return columns.this_hour[row] + round(weight * columns.last_hour[row])

        return sorted(
            (
                self._record(*found, weight)
                for found in self._rows.items()
                if sent(found[1]) >= limit
            ),
            key=lambda record: record.last_hour,
            reverse=True,
        )

    def last_hour(self) -> int:
        """Return how many run logs of all nodes arrived in the last hour; an estimate."""
        weight = self._begin()
        return sum(self._columns.this_hour) + round(weight * sum(self._columns.last_hour))

    def _begin(self) -> float:
        """Return the part of the last full hour that is in the last 60 minutes."""
        now = self._wall()
        if not self._hour_ends - _HOUR_S <= now < self._hour_ends:
            self._begin_hour()
        return min(max((self._hour_ends - now) / _HOUR_S, 0.0), 1.0)

    def _begin_hour(self) -> None:
        hour_ends = (self._wall() // _HOUR_S + 1) * _HOUR_S
        if hour_ends != self._hour_ends:
            for _ in range(1 if hour_ends == self._hour_ends + _HOUR_S else 2):
                self._columns.begin_hour()
            self._hour_ends = hour_ends

    def _row(self, node_id: str) -> int:
        row = self._rows.get(node_id)
        if row is None:
            row = self._add(node_id)
        return row

    def _add(self, node_id: str) -> int:
        known = self._known
        if not node_id or (len(self) >= UNLISTED_NODES if known is None else node_id not in known):
            return _UNKNOWN
        row = self._free.pop() if self._free else self._columns.append()
        self._rows[node_id] = row
        return row

    def _record(self, node_id: str, row: int, weight: float) -> NodeRecord:
        columns = self._columns
        return NodeRecord(
            node_id=node_id,
            arrived=_known(columns.arrived[row]),
            run=_known(columns.run[row]),
            outcome=OUTCOMES[columns.outcome[row]],
            outcome_at=_known(columns.outcome_at[row]),
            reason=REASONS[columns.reason[row]],
            done_at=_known(columns.done_at[row]),
            failures=columns.failures[row],
            lag_s=_known(columns.lag[row]),
            reports=columns.reports[row] or None,
            config_id=columns.config_id(row),
            ahead_s=_known(columns.ahead[row]),
            last_hour=columns.this_hour[row] + round(weight * columns.last_hour[row]),
            inventory=OUTCOMES[columns.inventory[row]],
            inventory_at=_known(columns.inventory_at[row]),
        )


def _known(number: float) -> float | None:
    return None if number != number else number  # NaN differs from itself


def _is_number(number: float) -> bool:
    return number == number  # NaN differs from itself


def _number(value: float | None) -> float:
    return math.nan if value is None else value
