"""The command `relayd top`."""

import signal
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import click
import msgspec
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from relayd.commands.cli import Program, directory_option
from relayd.commands.installation import find_installation
from relayd.commands.interrupts import interruptible, noted, obey
from relayd.commands.status.screen import status_lines
from relayd.commands.top.keys import Key, keys_of_terminal, read_keys
from relayd.commands.top.views import MenuView, Page, View
from relayd.control.client import Control, ControlError, NotPermittedError, NotRunningError
from relayd.errors import StartError
from relayd.overview.documents import from_document
from relayd.overview.model import Overview
from relayd.system.printable import printable

#: Seconds between two questions to relayd, and between two looks for keys.
EVERY_S: Final = 2.0
LOOK_S: Final = 0.1
#: Lines around the rows of a table, and rows that are always shown.
_AROUND: Final = 5
_FEWEST: Final = 3
#: Signals before which the terminal is given back.
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT)
#: Characters between columns, and those that a column of long texts has at least.
_GAP: Final = 2
_NARROWEST: Final = 24
_HELP: Final = "up/down: choose   right: open   left: back   q: quit"


@click.command("top", cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@directory_option
def command(directory: Path) -> int:
    """Watch relayd live, and look closer: by node, by reason, by relay.

    Arrow keys (or h, j, k, l) choose and open, q quits. Works in 80x24.
    """
    site = find_installation(directory)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise StartError("relayd top needs a terminal; elsewhere use: relayd status --watch")
    feed = Feed(Control(site.socket), MenuView())
    screen = Screen()
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_dumb_terminal:  # on which rich would draw nothing
        raise StartError("this terminal has no cursor (TERM); use: relayd status --watch")
    threading.Thread(target=feed.run, daemon=True).start()
    try:
        with interruptible(), noted(*_SIGNALS) as came:
            while _watch(screen, feed, console, came):
                obey(came)
    except KeyboardInterrupt:
        raise click.Abort from None
    if feed.denied is not None:
        raise StartError(str(feed.denied))
    return 0


def _watch(screen: "Screen", feed: "Feed", console: Console, came: Sequence[int]) -> bool:
    """Take the terminal until a key quits (return False) or signals have come (return True).

    Others have used it while the process was stopped, so it is taken again afterwards.
    """
    screen.redraw()
    with (
        keys_of_terminal() as fd,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while screen.press(read_keys(fd, LOOK_S), feed):
            if came:
                return True
            if screen.is_old(feed, console.size):
                live.update(screen.draw(feed, console), refresh=True)
    return False


class Feed:
    """Asks relayd again and again, in a thread, so that keys always have an effect at once.

    Attributes:
        view: the screen that is wanted.
        overview: the last one; None before the first answer.
        page: of `view`; None while it is being loaded.
        trouble: why relayd could not be asked; "" if it could.
        denied: this user may not ask, which does not change.
        news: grows with each answer.
    """

    def __init__(self, control: Control, view: View) -> None:
        self._control = control
        self._wanted = threading.Event()
        self.view = view
        self.overview: Overview | None = None
        self.page: Page | None = None
        self.trouble = ""
        self.denied: NotPermittedError | None = None
        self.news = 0

    def show(self, view: View) -> None:
        """Ask for another screen from now on."""
        self.view, self.page = view, None
        self.news += 1
        self._wanted.set()

    def run(self) -> None:
        """Ask, forever."""
        while True:
            self._wanted.clear()
            self.ask()
            self._wanted.wait(EVERY_S)

    def ask(self) -> None:
        """Ask once."""
        view = self.view
        try:
            self.overview = from_document(self._control.get("/status"), Overview)
            page = view.load(self._control, self.overview)
            if view is self.view:
                self.page = page
            self.trouble = ""
        except NotPermittedError as error:
            self.trouble, self.denied = str(error), error
        except (NotRunningError, ControlError) as error:
            self.trouble = str(error)
        except ValueError:
            self.trouble = "relayd is another version, with other answers"
        self.news += 1


class _Open(msgspec.Struct):
    """An opened screen, and the row that is chosen in it."""

    view: View
    chosen: int = 0
    key: str = ""


class Screen:
    """What is shown, and where one has come from."""

    def __init__(self) -> None:
        self._way: list[_Open] = []
        self._drawn: tuple[int, object] | None = None
        self._height = 10

    def redraw(self) -> None:
        """Draw the screen again, whether it is old or not."""
        self._drawn = None

    def is_old(self, feed: Feed, size: object) -> bool:
        """Return whether there is something new to draw."""
        return self._drawn != (feed.news, size)

    def press(self, keys: list[Key], feed: Feed) -> bool:
        """Handle keys; return False to quit, also if this user may not ask relayd."""
        if feed.denied is not None:
            return False
        if not self._way:
            self._way.append(_Open(feed.view))
        for key in keys:
            if key == "quit" or (key == "left" and len(self._way) == 1 and feed.trouble):
                return False
            self._handle(key, feed)
            self._drawn = None
        return True

    def _handle(self, key: Key, feed: Feed) -> None:
        here, page = self._way[-1], feed.page
        if key == "left" and len(self._way) > 1:
            self._way.pop()
            feed.show(self._way[-1].view)
        if page is None:
            return
        if key == "right" and page.rows:
            opens = page.rows[min(here.chosen, len(page.rows) - 1)].opens
            if opens is not None:
                self._way.append(_Open(opens()))
                feed.show(self._way[-1].view)
            return
        steps = {
            "up": -1,
            "down": 1,
            "page_up": -self._height,
            "page_down": self._height,
            "home": -len(page.rows),
            "end": len(page.rows),
        }
        if key in steps and page.rows:
            here.chosen = min(max(0, here.chosen + steps[key]), len(page.rows) - 1)
            here.key = page.rows[here.chosen].key

    def draw(self, feed: Feed, console: Console) -> Group:
        """Return the screen as rich draws it."""
        self._drawn = (feed.news, console.size)
        width, height = console.size
        lines = self._head(feed, width)
        if "" in lines and height - len(lines) - _AROUND < _FEWEST:  # what is chosen comes first
            lines = lines[: lines.index("")]
        top = [Text(line[:width], no_wrap=True) for line in lines]
        title = Text(self._way[-1].view.title, style="bold", no_wrap=True)
        foot = Text(_HELP[:width], style="dim", no_wrap=True)
        self._height = max(_FEWEST, height - len(top) - _AROUND)
        page = feed.page
        body: Table | Text = Text("…") if page is None else self._table(page, width)
        note = Text("" if page is None else page.note, style="dim", no_wrap=True)
        return Group(*top, Text(), title, body, note, foot)

    def _head(self, feed: Feed, width: int) -> list[str]:
        if feed.trouble:
            trouble = f"relayd cannot be asked: {printable(feed.trouble)}."
            return textwrap.wrap(trouble, width, max_lines=_FEWEST, break_on_hyphens=False)
        if feed.overview is None:
            return ["…"]
        lines = list(status_lines(feed.overview, width))
        return lines if len(self._way) == 1 else lines[: lines.index("")]

    def _table(self, page: Page, width: int) -> Table:
        here = self._way[-1]
        keys = [row.key for row in page.rows]
        if here.key in keys:  # the chosen row moves with its content
            here.chosen = keys.index(here.key)
        first = max(0, min(here.chosen - self._height // 2, len(page.rows) - self._height))
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, _GAP, 0, 0))
        shown = page.rows[first : first + self._height]
        widths = _widths(
            [[one.lstrip(">") for one in page.columns], *(row.cells for row in shown)], width
        )
        for column, most in zip(page.columns, widths, strict=False):
            right: Literal["left", "right"] = "right" if column.startswith(">") else "left"
            table.add_column(column.lstrip(">"), justify=right, no_wrap=True, width=most)
        for number, row in enumerate(shown, first):
            chosen = number == here.chosen and any(one.opens for one in page.rows)
            marked = ("> " if chosen else "  ") + row.cells[0]
            cells = [Text(cell) for cell in (marked, *row.cells[1:])]
            table.add_row(*cells[: len(widths)], style="reverse" if chosen else "")
        return table


def _widths(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return the widths of columns that fit: the widest is cut, and if need be the last left out.

    Args:
        rows: of texts, the headings too; the first column has a mark in front of it.
        width: of the terminal.
    """
    found = [max(map(cell_len, cells)) for cells in zip(*rows, strict=True)]
    found[0] += _GAP
    while (over := sum(found) + _GAP * (len(found) - 1) - width) > 0:
        widest = max(found)
        if widest - over >= _NARROWEST or len(found) == 1:
            found[found.index(widest)] = max(1, widest - over)
        else:
            del found[-1]
    return found
