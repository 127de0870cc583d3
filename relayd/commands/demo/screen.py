"""The live display: rates, queue, refusals and last runs, as a panel or as plain lines."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich.console import Group, RenderableType
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


class Screen:
    """Draws the snapshots."""

    def __init__(
        self,
        title: str,
        names: Mapping[str, str],
        relays: Sequence[PolicyServer] = (),
        remote_runs: RemoteRunClient | None = None,
    ) -> None:
        """Start without snapshots.

        Args:
            title: title of the panel.
            names: host name of each node, by its id.
            relays: the relays, in the order of the snapshots.
            remote_runs: the remote runs, if any.
        """
        self._title = title
        self._names = names
        self._relays = relays
        self._remote_runs = remote_runs
        self._snapshots: deque[Snapshot] = deque()
        self._speeds: deque[float] = deque(maxlen=_HISTORY)
        self._sent = 0
        self._begin: float | None = None

    def add(self, snapshot: Snapshot, sent: int) -> None:
        """Add the current state and the number of files sent so far."""
        if self._begin is None:
            self._begin = snapshot.time
        self._sent = sent
        self._snapshots.append(snapshot)
        while len(self._snapshots) > 2 and snapshot.time - self._snapshots[0].time > _WINDOW:
            self._snapshots.popleft()
        self._speeds.append(self._rates()[0])

    def line(self) -> str:
        """Return the state in one line of text."""
        now = self._snapshots[-1]
        logs, reports = self._rates()
        refused = ", ".join(f"{reason} {number}" for reason, number in sorted(now.refused.items()))
        return (
            f"{self._age(now):4.0f} s  sent {self._sent}  stored {now.accepted} ({logs:.1f}/s)"
            f"  reports {now.rows} ({reports:.0f}/s)  queued {self._queue(now)}"
            f" (oldest {now.oldest:.1f} s)  replays {now.duplicates}"
            f"  refused {sum(now.refused.values())}"
            f"{f' ({refused})' if refused else ''}  database {_database(now)}"
            + "".join(f"  {relay.title}: {text}" for relay, text in self._each_relay(now))
            + (f"  remote runs: {self._remote_runs.progress()}" if self._remote_runs else "")
        )

    def _each_relay(self, now: Snapshot) -> Iterator[tuple[PolicyServer, str]]:
        for server, relay in zip(self._relays, now.relays, strict=True):
            text = "no answer"
            if relay is not None:
                failed = f", {relay.failed} failed" if relay.failed else ""
                text = f"{relay.waiting} waiting, {relay.forwarded} forwarded{failed}"
            yield server, text

    def panel(self) -> RenderableType:
        """Return the state as a panel for a terminal."""
        now = self._snapshots[-1]
        top = Table.grid(expand=True, padding=(0, 2))
        top.add_column(ratio=3)
        top.add_column(ratio=2)
        top.add_row(self._flow(now), _refusals(now))
        parts: list[RenderableType] = [top, Text("")]
        if self._relays:
            parts += [self._tree(now), Text("")]
        if self._remote_runs:
            parts += [_remote_run_table(self._remote_runs), Text("")]
        return Panel(
            Group(*parts, self._runs(now)),
            title=self._title,
            subtitle=f"{self._age(now):.0f} s, press Ctrl-C to stop",
        )

    def _flow(self, now: Snapshot) -> Table:
        logs, reports = self._rates()
        table = Table.grid(padding=(0, 1))
        table.add_row("run logs", f"[bold]{logs:.1f}[/]/s", sparkline(self._speeds))
        table.add_row("reports", f"[bold]{reports:.0f}[/]/s", f"{now.rows} rows stored")
        table.add_row("stored", f"[bold]{now.accepted}[/]", f"of {self._sent} run logs sent")
        table.add_row("replays", f"{now.duplicates}", "already stored")
        table.add_row("queued", f"[bold]{self._queue(now)}[/]", f"oldest {now.oldest:.1f} s")
        colour = "green" if now.database == DATABASE_OK else "red"
        table.add_row("database", Text(_database(now), colour))
        return table

    def _tree(self, now: Snapshot) -> Table:
        table = Table(title="relays", expand=True, box=None, title_justify="left")
        for heading in ("relay", "reports to", "run logs"):
            table.add_column(heading)
        for server, text in self._each_relay(now):
            above = server.parent.title if server.parent else ""
            table.add_row(server.title, above, text)
        return table

    def _runs(self, now: Snapshot) -> Table:
        table = Table(title="last runs", expand=True, box=None, title_justify="left")
        for heading in ("node", "start", "configuration", "stored after"):
            table.add_column(heading)
        for run in now.runs:
            name = self._names.get(run.node_id, run.node_id)
            table.add_row(*map(Text, (name, run.date, run.config_id, f"{run.delay:.1f} s")))
        return table

    def _rates(self) -> tuple[float, float]:
        """Return the run logs and rows per second over the last seconds."""
        old, new = self._snapshots[0], self._snapshots[-1]
        seconds = new.time - old.time
        if seconds <= 0:
            return 0.0, 0.0
        return (new.accepted - old.accepted) / seconds, (new.rows - old.rows) / seconds

    def _queue(self, now: Snapshot) -> int:
        """Return the number of files sent that are neither stored nor refused yet."""
        return max(0, self._sent - now.finished)

    def _age(self, now: Snapshot) -> float:
        return now.time - (self._begin or now.time)


def _database(now: Snapshot) -> str:
    return "ok" if now.database == DATABASE_OK else now.database


def _remote_run_table(remote_runs: RemoteRunClient) -> Table:
    table = Table(title="remote runs", expand=True, box=None, title_justify="left")
    table.add_column(remote_runs.progress())
    for line in remote_runs.output:
        table.add_row(Text(line))
    return table


def _refusals(now: Snapshot) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_row("refused", f"[bold]{sum(now.refused.values())}[/]")
    for reason, number in sorted(now.refused.items()):
        table.add_row(f"  {reason}", str(number))
    return table


def sparkline(values: Sequence[float] | deque[float]) -> str:
    """Draw values as bars of eight heights, scaled to the highest value."""
    top = max(values, default=0.0)
    if top <= 0:
        return ""
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in values)


def summary(entries: Sequence[Entry], title: str) -> Table:
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
