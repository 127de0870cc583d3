"""The live display: as a panel that fits its terminal, or as plain lines."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.panel import Panel
from rich.text import Text

from relayd.commands.demo.display.blocks import (
    Block,
    Rank,
    command_line,
    enumeration,
    fit,
    paragraph,
)
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
#: Columns of the figures: their labels, their values, and what is before their explanations.
_LABEL: Final = 9
_VALUE: Final = 10
_NOTE: Final = _LABEL + _VALUE + 2
#: Columns of each of the first columns of the last runs.
_COLUMN: Final = 24
#: Panels not wider than this have fewer columns.
_NARROW: Final = 60
#: Indentation of the reasons in these.
_INDENT: Final = 2
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
        stopping: how the demo ends, once it does; replaces the story.
        tools: how to see more of relayd, one sentence a line.
    """

    title: str
    names: Mapping[str, str]
    relays: Sequence[PolicyServer] = ()
    remote_runs: RemoteRunClient | None = None
    story: str = ""
    stopping: str = ""
    tools: Sequence[str] = ()
    _snapshots: deque[Snapshot] = field(default_factory=deque)
    _speeds: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    _sent: int = 0
    _kept: int = 0
    _begin: float | None = None
    _replays: int = 0
    _replays_before: int = 0

    def add(self, snapshot: Snapshot, sent: int, kept: int = 0) -> None:
        """Add the current state.

        Args:
            snapshot: the state of relayd and of the database.
            sent: number of uploads so far.
            kept: number of those that relayd did not take; their nodes will send them again.
        """
        if self._begin is None:
            self._begin = snapshot.time
        self._sent, self._kept = sent, kept
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
        kept = f" ({self._kept} kept)" if self._kept else ""
        return (
            f"{self._age(now):4.0f} s  sent {self._sent}{kept}"
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
        width = max(1, options.max_width - _BORDER)
        height = max(1, (options.height or console.height) - _BORDER_LINES)
        blocks = self._blocks(self._snapshots[-1], width)
        if self.remote_runs:
            blocks.append(command_line(self.remote_runs.curl, options.max_width))
        shown = fit(blocks, height)
        below = shown.pop() if self.remote_runs else []
        lines = [line for block in shown for line in block]
        seconds = f"{self._age(self._snapshots[-1]):.0f} s"
        panel = Panel(
            Group(*lines),
            title=self.title,
            subtitle=f"{seconds}, Ctrl-C: {'do not wait' if self.stopping else 'stop and count'}",
            height=len(lines) + _BORDER_LINES,
        )
        yield Group(panel, *below)

    def _blocks(self, now: Snapshot, width: int) -> list[Block]:
        """Return the content of the panel, from top to bottom."""
        story = self.stopping or self.story
        blocks = [paragraph(story, width, Rank.STATE, Rank.STORY, style="bold")]
        blocks += self._figures(now, width)
        blocks.append(_database_block(now, width))
        blocks += [
            paragraph(text, width, Rank.RELAYS, Rank.RELAYS) for text in self._tree(now, width)
        ]
        if self.remote_runs:
            progress = f"remote runs: {self.remote_runs.progress()}"
            output = self.remote_runs.output[-1] if self.remote_runs.output else ""
            blocks.append(paragraph(progress, width, Rank.REMOTE_RUNS, Rank.REMOTE_RUNS))
            blocks.append(paragraph(output, width, Rank.DETAILS, Rank.DETAILS))
        blocks += [paragraph(line, width, Rank.HINT, Rank.HINT) for line in self.tools]
        # Of the last runs nothing is shown without the empty line, the heading and one run.
        return [*blocks, Block(self._runs(now, width), Rank.RUNS, Rank.RUNS, least=3)]

    def _figures(self, now: Snapshot, width: int) -> list[Block]:
        logs, reports = self._rates()
        stored, refused = now.stored, sum(now.refused.values())
        rows = f"{stored.rows:,} rows"
        bars = sparkline(list(self._speeds)[-max(1, width - _NOTE) :])
        waiting = ("in the spool" + _oldest(now), "in the spool")
        reasons = [f"{reason} {number:,}" for reason, number in sorted(now.refused.items())]
        indent = " " * (_NOTE if width > _NARROW else _INDENT)
        return [
            _row(Rank.RATE, width, "run logs", f"{logs:.1f}/s", bars),
            _row(Rank.COUNT, width, "sent", f"{self._sent:,}", *self._sent_notes()),
            _row(
                Rank.STATE,
                width,
                "stored",
                f"{stored.run_logs:,}",
                f"{rows}, {reports:.0f}/s",
                rows,
            ),
            _row(Rank.STATE, width, "waiting", f"{now.waiting:,}", *waiting),
            _row(
                Rank.COUNT,
                width,
                "refused",
                f"{refused:,}",
                "sent bad on purpose",
                "bad on purpose",
            ),
            enumeration(reasons, width, Rank.REASONS, indent),
            _row(
                Rank.RATE,
                width,
                "replays",
                f"{self._replays:,}",
                "sent twice on purpose, stored once",
                "stored once",
            ),
        ]

    def _sent_notes(self) -> Sequence[str]:
        if self._kept:
            return (
                f"{self._kept:,} kept by their nodes until the next run",
                f"{self._kept:,} kept by nodes",
            )
        return ("run logs, signed by their nodes",)

    def _tree(self, now: Snapshot, width: int) -> list[str]:
        if len(self.relays) > _RELAY_LINES:
            answered = [relay for relay in now.relays if relay is not None]
            waiting = sum(relay.waiting for relay in answered)
            forwarded = sum(relay.forwarded for relay in answered)
            silent = len(now.relays) - len(answered)
            return [
                f"{len(self.relays)} relays: {waiting} waiting, {forwarded} forwarded"
                + (f", {silent} without answer" if silent else "")
            ]
        # The address is the relay's host name, by which the commands call it.
        where = [
            f" ({server.node.hostname}) → {server.parent.title}"
            if width > _NARROW and server.parent
            else ""
            for server in self.relays
        ]
        return [
            f"{server.title}{above}: {text}"
            for (server, text), above in zip(self._each_relay(now), where, strict=True)
        ]

    def _runs(self, now: Snapshot, width: int) -> list[Text]:
        """Return an empty line, a heading and the last runs."""
        if not now.stored.runs:
            return []
        wide = width > _NARROW
        column = max(1, min(_COLUMN, width - len("after 0 s")))
        after = "stored after" if column == _COLUMN else "after"
        start = f"{'start':<{_COLUMN}}" if wide else ""
        lines = [Text(), Text(f"{'last runs':<{column}}{start}{after}", "dim")]
        for run in now.stored.runs:
            name = self.names.get(run.node_id, run.node_id)[: column - 1]
            date = f"{run.date:<{_COLUMN}}" if wide else ""
            lines.append(Text(f"{name:<{column}}{date}{run.delay:.1f} s"))
        return lines

    def _rates(self) -> tuple[float, float]:
        """Return the run logs and rows per second over the last seconds.

        They are 0 while a failover has taken back more than was stored since.
        """
        old, new = self._snapshots[0], self._snapshots[-1]
        seconds = new.time - old.time
        if seconds <= 0:
            return 0.0, 0.0
        return (
            max(0, new.stored.run_logs - old.stored.run_logs) / seconds,
            max(0, new.stored.rows - old.stored.rows) / seconds,
        )

    def _age(self, now: Snapshot) -> float:
        return now.time - (self._begin or now.time)


def _row(rank: Rank, width: int, label: str, value: str, *notes: str) -> Block:
    """Return a label, a value, and the first of the notes that fits."""
    column = min(_VALUE, max(1, width - _LABEL))
    row = Text.assemble(f"{label:<{_LABEL}}", (f"{value:>{column}}", "bold"))
    note = next((note for note in notes if len(note) <= width - _NOTE), "")
    return Block([row.append(f"  {note}") if note else row], rank, rank)


def _database_block(now: Snapshot, width: int) -> Block:
    well = now.counters is not None and now.counters.database == DATABASE_OK
    text = f"{'database':<{_LABEL}}{_database(now)}"
    block = paragraph(text, width, Rank.STATE, Rank.DETAILS, indent=" " * _LABEL)
    for place, line in enumerate(block.lines):
        line.stylize("green" if well else "bold red", 0 if place else _LABEL)
    return block


def _database(now: Snapshot) -> str:
    if now.counters is None:
        return "relayd does not answer"
    return "ok" if now.counters.database == DATABASE_OK else now.counters.database


def _oldest(now: Snapshot) -> str:
    if now.counters is None or not now.waiting:
        return ""
    return f" (oldest {now.counters.oldest:.1f} s)"


def sparkline(values: Sequence[float] | deque[float]) -> str:
    """Draw values as bars of eight heights, scaled to the highest value."""
    top = max(values, default=0.0)
    if top <= 0:
        return ""
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in values)
