"""The screens of `relayd top`: each has rows, and a row may lead to another screen."""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from relayd.commands.nodes.command import nodes_page
from relayd.commands.nodes.screen import node_lines, short_names
from relayd.control.client import Control
from relayd.overview.documents import from_document
from relayd.overview.fleet import Refusals
from relayd.overview.model import Overview
from relayd.overview.nodes import NodeRow, NodesChoice, Sort
from relayd.overview.one_node import FileFacts, NodeDetail
from relayd.overview.summary import RelayRow, Relays
from relayd.spool.failed.refusals import ADVICE
from relayd.system.amounts import UNKNOWN, age, counted
from relayd.system.printable import printable

#: Columns of text in the narrowest terminal, with the mark of the chosen row.
_TEXT: Final = 78
#: Rows of a screen; a terminal shows fewer.
MOST: Final = 200


class Row(msgspec.Struct, frozen=True):
    """A row of a screen.

    Attributes:
        cells: texts, printable.
        key: identifies the row while its cells change.
        opens: makes the screen that it leads to; None if it leads nowhere.
    """

    cells: tuple[str, ...]
    key: str
    opens: "Callable[[], View] | None" = None


class Page(msgspec.Struct, frozen=True):
    """What a screen shows.

    Attributes:
        columns: their headings; a leading ">" aligns a column to the right.
        rows: below them.
        note: one line below the rows.
    """

    columns: tuple[str, ...]
    rows: Sequence[Row]
    note: str = ""


class View(Protocol):
    """A screen.

    Attributes:
        title: shown above its rows.
    """

    title: str

    def load(self, control: Control, overview: Overview) -> Page:
        """Return what to show; asks relayd. Raises the errors of `Control`."""


class MenuView:
    """The first screen: where to go from here."""

    title = "Show"

    def load(self, control: Control, overview: Overview) -> Page:
        """Implement `View`."""
        del control
        nodes = overview.nodes
        silent = UNKNOWN if nodes.silent is None else f"{nodes.silent:,}"
        rows = [
            Row(("nodes by waiting files", f"{overview.backlog.files:,}"), "w", _by("waiting")),
            Row(("nodes by run logs an hour", ""), "h", _by("rate")),
            Row(("silent nodes", silent), "s", _by("silence", silent=nodes.silent_after_s)),
            Row(("failing nodes", ""), "f", _by("failed", failing=True)),
            Row(("relays", ""), "r", RelaysView),
        ]
        rows += [
            Row((f"refused: {reason}", f"{files:,}"), f"!{reason}", partial(ReasonView, reason))
            for reason, files in overview.failed.reasons.items()
        ]
        return Page(("WHAT", ">COUNT"), rows)


def _by(sort: Sort, **choice: Any) -> Callable[[], View]:
    return partial(NodesView, NodesChoice(sort=sort, limit=MOST, **choice))


class NodesView:
    """Nodes.

    Args:
        choice: which ones.
    """

    def __init__(self, choice: NodesChoice) -> None:
        through = f" through {printable(choice.relay)}" if choice.relay is not None else ""
        which = "failing " if choice.failing else "silent " if choice.silent is not None else ""
        self.title = f"{which}nodes{through}, {_SORTED[choice.sort]} first".capitalize()
        self._choice = choice

    def load(self, control: Control, overview: Overview) -> Page:
        """Implement `View`."""
        page = nodes_page(control, self._choice)
        relays = short_names({row.relay for row in page.rows})
        rows = [_node_row(row, relays[row.relay], overview.at) for row in page.rows]
        columns = ("NODE", "LAST LOG", ">WAIT", ">FAILED", ">/HOUR", "THROUGH")
        return Page(columns, rows, f"{page.total:,} of {page.known:,} nodes")


_SORTED: Final[dict[Sort, str]] = {
    "silence": "longest silent",
    "waiting": "most waiting files",
    "rate": "most run logs an hour",
    "failed": "most refused files",
}


def _node_row(row: NodeRow, relay: str, now: float) -> Row:
    name = printable(row.hostname or row.node_id)
    last = UNKNOWN if row.last_arrival is None else f"{age(now - row.last_arrival)} ago"
    hour = f"{row.last_hour:,}{' floods' if 'flooding' in row.troubles else ''}"
    numbers = (f"{row.waiting:,}", f"{row.failed:,}", hour)
    cells = (name, last, *numbers, printable(relay))
    return Row(cells, row.node_id, partial(NodeView, row.node_id, name))


class NodeView:
    """All about one node."""

    def __init__(self, node_id: str, name: str) -> None:
        self.title = name
        self._node_id = node_id

    def load(self, control: Control, overview: Overview) -> Page:
        """Implement `View`."""
        detail = from_document(control.get(f"/nodes/{self._node_id}"), NodeDetail)
        lines = node_lines(detail, overview.at, width=_TEXT)
        return Page(("",), [Row((line,), str(number)) for number, line in enumerate(lines)])


class RelaysView:
    """The relays below this server."""

    title = "Relays below this server"

    def load(self, control: Control, overview: Overview) -> Page:
        """Implement `View`."""
        answer = control.get("/relays", silent=overview.nodes.silent_after_s)
        rows = [_relay_row(relay) for relay in from_document(answer, Relays).relays]
        return Page(("RELAY", ">NODES", ">SILENT", ">WAIT", ">FAILED"), rows)


def _relay_row(relay: RelayRow) -> Row:
    numbers = relay.nodes, relay.silent, relay.waiting, relay.failed
    cells = (printable(relay.name) or "(without a relay)", *(f"{number:,}" for number in numbers))
    return Row(cells, relay.name, _by("silence", relay=relay.name) if relay.name else None)


class ReasonView:
    """Refused files with one reason."""

    def __init__(self, reason: str) -> None:
        self.title = f"Refused: {reason}"
        self._reason = reason

    def load(self, control: Control, overview: Overview) -> Page:
        """Implement `View`."""
        found = from_document(control.get(f"/refused/{self._reason}", limit=MOST), Refusals)
        rows = [
            Row(
                (f"{age(overview.at - file.at)} ago", printable(file.name)),
                file.name,
                partial(FileView, self._reason, file),
            )
            for file in found.files
        ]
        return Page(
            ("REFUSED", "FILE"),
            rows,
            f"{counted(found.total, 'file')}   relayd failed show {self._reason}",
        )


class FileView:
    """One refused file."""

    def __init__(self, reason: str, file: FileFacts) -> None:
        self.title = f"Refused: {reason}"
        self._reason = reason
        self._file = file

    def load(self, control: Control, overview: Overview) -> Page:
        """Implement `View`."""
        del control
        file, advice = self._file, ADVICE[self._reason]
        facts = [
            ("file", file.name),
            ("refused", f"{age(overview.at - file.at)} ago"),
            ("detail", file.detail),
            ("what to do", advice),
        ]
        lines = [
            line
            for label, text in facts
            for line in textwrap.wrap(
                printable(text),
                _TEXT,
                initial_indent=f"{label:<12}",
                subsequent_indent=" " * 12,
                break_on_hyphens=False,
            )
        ]
        return Page(("",), [Row((line,), str(number)) for number, line in enumerate(lines)])
