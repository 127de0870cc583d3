"""The live display: as a panel that fits its terminal, or as plain lines."""

import textwrap
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from relayd.commands.demo.ledger import Entry
from relayd.commands.demo.observe import DATABASE_OK, Snapshot
from relayd.commands.demo.remote_runs import RemoteRunClient
from relayd.commands.demo.tree import PolicyServer

#: Rates are averages over this time, in seconds.
_WINDOW: Final = 5.0
_HISTORY: Final = 60
_BARS: Final = "▁▂▃▄▅▆▇█"
#: Columns of the panel's border, and lines of it.
_BORDER: Final = 4
_BORDER_LINES: Final = 2
#: Below this width figures are shown without explanations.
_NARROW: Final = 60
#: Relays with a line of their own; more of them are summed up.
_RELAY_LINES: Final = 4


@dataclass
class Screen:
    """Draws the snapshots.

    Attributes:
        title: title of the panel.
        names: host name of each node, by its id.
        relays: the relays, in the order of the snapshots.
        remote_runs: the remote runs, if any.
        story: what is going on, in a sentence.
    """

    title: str
    names: Mapping[str, str]
    relays: Sequence[PolicyServer] = ()
    remote_runs: RemoteRunClient | None = None
    story: str = ""
    _snapshots: deque[Snapshot] = field(default_factory=deque)
    _speeds: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    _sent: int = 0
    _begin: float | None = None
    _replays: int = 0
    _replays_before: int = 0

    def add(self, snapshot: Snapshot, sent: int) -> None:
        """Add the current state and the number of files sent so far."""
        if self._begin is None:
            self._begin = snapshot.time
        self._sent = sent
        self._snapshots.append(snapshot)
        self._count_replays(snapshot)
        while len(self._snapshots) > 2 and snapshot.time - self._snapshots[0].time > _WINDOW:
            self._snapshots.popleft()
        self._speeds.append(self._rates()[0])

    def _count_replays(self, snapshot: Snapshot) -> None:
        """Count on where relayd was killed, which makes it begin at 0 again."""
        if snapshot.counters is None:
            self._replays_before = self._replays
        else:
            self._replays = self._replays_before + snapshot.counters.duplicates

    def line(self) -> str:
        """Return the state as a line."""
        now = self._snapshots[-1]
        logs, reports = self._rates()
        refused = ", ".join(f"{reason} {number}" for reason, number in sorted(now.refused.items()))
        return (
            f"{self._age(now):4.0f} s  sent {self._sent}"
            f"  stored {now.stored.run_logs} ({logs:.1f}/s)"
            f"  reports {now.stored.rows} ({reports:.0f}/s)  queued {now.waiting}{_oldest(now)}"
            f"  replays {self._replays}  refused {sum(now.refused.values())}"
            f"{f' ({refused})' if refused else ''}  database {_database(now)}"
            + "".join(f"  {relay.title}: {text}" for relay, text in self._each_relay(now))
            + (f"  remote runs: {self.remote_runs.progress()}" if self.remote_runs else "")
        )

    def _each_relay(self, now: Snapshot) -> Iterator[tuple[PolicyServer, str]]:
        for server, relay in zip(self.relays, now.relays, strict=True):
            text = "no answer"
            if relay is not None:
                failed = f", {relay.failed} failed" if relay.failed else ""
                text = f"{relay.waiting} waiting, {relay.forwarded} forwarded{failed}"
            yield server, text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the state in the size that the terminal has now."""
        width = options.max_width - _BORDER
        height = (options.height or console.height) - _BORDER_LINES
        hint = [Text(self.remote_runs.curl)] if self.remote_runs and width > _NARROW else []
        lines = self._fit(width, height - len(hint))
        for line in (*lines, *hint):
            line.no_wrap, line.overflow = True, "ellipsis"
        seconds = f"{self._age(self._snapshots[-1]):.0f} s"
        panel = Panel(
            Group(*lines),
            title=self.title,
            subtitle=f"{seconds}, Ctrl-C: stop and count",
            height=len(lines) + _BORDER_LINES,
        )
        yield Group(panel, *hint)

    def _fit(self, width: int, height: int) -> list[Text]:
        """Return the lines of the panel, the most important first, as many as fit."""
        now = self._snapshots[-1]
        story = [Text(line, "bold") for line in textwrap.wrap(self.story, width)[:2]]
        lines = [*story, *self._figures(now, width)]
        if width > _NARROW:
            lines += [Text(text) for text in self._tree(now)]
            if self.remote_runs:
                lines += _remote_run_lines(self.remote_runs)
        runs = self._runs(now)
        free = height - len(lines)
        if width > _NARROW and free > 2 and runs:
            lines += [Text(""), *runs[: free - 1]]
        return lines[: max(1, height)]

    def _figures(self, now: Snapshot, width: int) -> list[Text]:
        logs, reports = self._rates()
        refused = ", ".join(f"{reason} {number}" for reason, number in sorted(now.refused.items()))
        database = _database(now)
        well = now.counters is not None and now.counters.database == DATABASE_OK
        rows = (
            ("run logs", f"{logs:.1f}/s", sparkline(self._speeds)),
            ("sent", f"{self._sent:,}", "run logs, signed by their nodes"),
            ("stored", f"{now.stored.run_logs:,}", f"{now.stored.rows:,} rows, {reports:.0f}/s"),
            ("waiting", f"{now.waiting:,}", f"in the spool{_oldest(now)}"),
            ("refused", f"{sum(now.refused.values()):,}", "sent bad on purpose"),
            ("", "", refused),
            ("replays", f"{self._replays:,}", "sent twice on purpose, stored once"),
        )
        wide = width > _NARROW
        lines = [_row(*row, wide=wide) for row in rows if row[0] or (wide and refused)]
        lines.append(Text.assemble(f"{'database':<9}", (database, "green" if well else "bold red")))
        return lines

    def _tree(self, now: Snapshot) -> list[str]:
        if len(self.relays) > _RELAY_LINES:
            answered = [relay for relay in now.relays if relay is not None]
            waiting = sum(relay.waiting for relay in answered)
            forwarded = sum(relay.forwarded for relay in answered)
            silent = len(now.relays) - len(answered)
            return [
                f"{len(self.relays)} relays: {waiting} waiting, {forwarded} forwarded"
                + (f", {silent} without answer" if silent else "")
            ]
        return [
            f"{server.title} → {server.parent.title if server.parent else ''}: {text}"
            for server, text in self._each_relay(now)
        ]

    def _runs(self, now: Snapshot) -> list[Text]:
        if not now.stored.runs:
            return []
        heading = f"{'last runs':<24}{'start':<24}{'stored after':<14}"
        lines = [Text(heading, "dim")]
        for run in now.stored.runs:
            name = self.names.get(run.node_id, run.node_id)
            lines.append(Text(f"{name:<24}{run.date:<24}{run.delay:.1f} s"))
        return lines

    def _rates(self) -> tuple[float, float]:
        """Return the run logs and rows per second over the last seconds."""
        old, new = self._snapshots[0], self._snapshots[-1]
        seconds = new.time - old.time
        if seconds <= 0:
            return 0.0, 0.0
        return (
            (new.stored.run_logs - old.stored.run_logs) / seconds,
            (new.stored.rows - old.stored.rows) / seconds,
        )

    def _age(self, now: Snapshot) -> float:
        return now.time - (self._begin or now.time)


def _row(label: str, value: str, note: str, *, wide: bool) -> Text:
    row = Text.assemble(f"{label:<9}", (f"{value:>10}", "bold"))
    return row.append(f"  {note}") if wide else row


def _database(now: Snapshot) -> str:
    if now.counters is None:
        return "relayd does not answer"
    return "ok" if now.counters.database == DATABASE_OK else now.counters.database


def _oldest(now: Snapshot) -> str:
    if now.counters is None or not now.waiting:
        return ""
    return f" (oldest {now.counters.oldest:.1f} s)"


def _remote_run_lines(remote_runs: RemoteRunClient) -> list[Text]:
    last = f": {remote_runs.output[-1]}" if remote_runs.output else ""
    return [Text(f"remote runs: {remote_runs.progress()}{last}")]


def sparkline(values: Sequence[float] | deque[float]) -> str:
    """Draw values as bars of eight heights, scaled to the highest value."""
    top = max(values, default=0.0)
    if top <= 0:
        return ""
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in values)


def summary(entries: Sequence[Entry], title: str) -> RenderableType:
    """Return the balance as a table."""
    table = Table(title=title, title_justify="left")
    table.add_column("result")
    table.add_column("expected", justify="right")
    table.add_column("found", justify="right")
    table.add_column("")
    for entry in entries:
        expected = "" if entry.expected is None else str(entry.expected)
        mark = Text("ok", "green") if entry.balanced else Text("WRONG", "bold red")
        table.add_row(entry.text, expected, str(entry.found), mark)
    return table
