"""The accounts at the end: what was sent, and what became of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from relayd.commands.demo.ledger import Entry

#: Names shown of the files that an entry is about.
_NAMES: Final = 3
#: A width in which every table fits.
_BOUNDLESS: Final = 1000


@dataclass(frozen=True, slots=True)
class Accounts:
    """The balance as a table, which in a narrow terminal has shorter labels and no rules.

    Attributes:
        title: title of the table.
        entries: its lines.
    """

    title: str
    entries: Sequence[Entry]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the table in the width of the terminal."""
        table = self._table()
        boundless = options.update(max_width=_BOUNDLESS)
        fits = Measurement.get(console, boundless, table).maximum <= options.max_width
        yield table if fits else self._narrow_table()

    def _table(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        table.add_column("result")
        table.add_column("expected", justify="right")
        table.add_column("found", justify="right")
        table.add_column("")
        for entry in self.entries:
            table.add_row(entry.text, *_figures(entry))
        return table

    def _narrow_table(self) -> Table:
        table = Table(
            title=self.title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False
        )
        table.add_column("")
        table.add_column("due", justify="right", no_wrap=True)
        table.add_column("found", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for entry in self.entries:
            table.add_row(entry.short or entry.text, *_figures(entry))
        return table


def _figures(entry: Entry) -> tuple[str, str, Text]:
    expected = "" if entry.expected is None else str(entry.expected)
    mark = Text("ok", "green") if entry.balanced else Text("WRONG", "bold red")
    return expected, str(entry.found), mark


def files_concerned(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield, for each entry that is wrong and about certain files, a line with their names."""
    for entry in entries:
        if entry.names and not entry.balanced:
            names = [*entry.names[:_NAMES]]
            if more := len(entry.names) - len(names):
                names.append(f"and {more} more")
            yield f"{entry.text}: {', '.join(names)}"
