"""Output of `relayd queue`. Everything that comes from a file name is made printable first."""

import shlex
import textwrap
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from relayd.commands.console import NARROWEST, with_command
from relayd.overview.sentence import moment
from relayd.spool.operations.choose import Choice
from relayd.spool.operations.shape import LABELS, Row, Shape
from relayd.spool.operations.views import FileView, Report, Waiting
from relayd.system.amounts import UNKNOWN, age, counted, size
from relayd.system.printable import printable

_STATES: Final = {
    "waiting": "waiting",
    "in_flight": "in flight",
    "retry": "retry",
    "held": "on hold",
}
_DONE: Final = {"hold": "held", "release": "released", "drop": "dropped", "retry": "trying"}
#: Outcomes that are not the one that was wanted.
_OTHER: Final = {
    "busy": "left alone",
    "taken": "not moved, the spool has a file of this name",
    "gone": "gone meanwhile",
    "error": "not possible",
}
#: What takes an operation back.
_BACK: Final = {
    "hold": ("release", "release them with"),
    "release": ("hold", "hold them again with"),
}
#: Characters of a host name in a table of 80 columns.
_NODE: Final = 24
#: Nodes that are named in a sentence.
_NAMED: Final = 3


def waiting_lines(waiting: Waiting, width: int = NARROWEST) -> Iterator[str]:
    """Yield the list of files, its total, and the nodes on hold."""
    if waiting.files:
        yield from table(
            ("STATE", "AGE", "FILE"),
            [(_state(file), age(file.age_seconds), printable(file.name)) for file in waiting.files],
        )
    total = waiting.waiting + waiting.held
    if total > len(waiting.files):
        yield f"… and {counted(total - len(waiting.files), 'more file')}: --limit 0 lists all."
    yield _total(waiting)
    for node in waiting.nodes_on_hold:
        name = printable(node.hostname or node.node)
        held = f"What {name} sends is on hold since {_local(node.since)}, by {printable(node.by)}: "
        yield from textwrap.wrap(f"{held}{counted(node.files, 'file')} so far.", width)
        yield f"  relayd queue release --node {shlex.quote(name)}"
    if waiting.files and not waiting.running:
        yield "relayd does not run: which files are in flight or wait for a retry is not known."


def _total(waiting: Waiting) -> str:
    if not waiting.waiting + waiting.held:
        return "No file waits."
    oldest = f", the oldest for {age(waiting.oldest_seconds or 0.0)}"
    held = f"; {waiting.held:,} on hold" if waiting.held else ""
    verb = "waits" if waiting.waiting == 1 else "wait"
    return f"{counted(waiting.waiting, 'file')} {verb}{held}{oldest}."


def _state(file: FileView) -> str:
    if file.state == "retry" and file.due_seconds is not None:
        return f"retry in {age(file.due_seconds)}"
    return _STATES[file.state]


def detail_lines(waiting: Waiting) -> Iterator[str]:
    """Yield some lines for each file."""
    if not waiting.files:
        yield "No such file waits."
    unknown = "0" if waiting.running else f"{UNKNOWN}, relayd does not run"
    for file in waiting.files:
        yield printable(file.file)
        facts = [("state", _state(file))]
        if file.node:
            facts.append(("node", printable(" ".join(filter(None, (file.hostname, file.node))))))
        facts.append(("dated", f"{_local(file.dated_at)}, {age(file.age_seconds)} ago"))
        facts.append(("arrived", _local(file.arrived_at) if file.arrived_at else UNKNOWN))
        facts.append(("size", UNKNOWN if file.bytes is None else size(file.bytes)))
        facts.append(("failed attempts", unknown if file.attempts is None else str(file.attempts)))
        yield from (f"  {name:16}{text}" for name, text in facts)


def _local(at: str) -> str:
    """Return a time in RFC 3339 as people read it."""
    return moment(datetime.fromisoformat(at).timestamp(), time.time())


def shape_lines(shape: Shape) -> Iterator[str]:
    """Yield the table of nodes by age."""
    if not shape.total.total:
        yield "No file waits."
        yield from _held(shape)
        return
    rows = [_cells("total", shape.total)]
    rows += [_cells(printable(row.hostname or row.node or "(no node)"), row) for row in shape.nodes]
    if shape.other_nodes:
        rows.append((f"… {counted(shape.other_nodes, 'more node')}", *[""] * (len(LABELS) + 1)))
    rows += [_cells(f"via {printable(row.hostname or row.node)}", row) for row in shape.relays]
    yield from table(("", "TOTAL", *LABELS), rows, right=True)
    for row in shape.nodes:
        if row.flood:
            name = printable(row.hostname or row.node)
            yield f"{name} floods: {row.flood:.0%} of all in the last hour"
            yield f"  relayd queue hold --node {shlex.quote(name)}"
    yield from _held(shape)


def _held(shape: Shape) -> Iterator[str]:
    if shape.held:
        yield f"{counted(shape.held, 'file')} on hold: relayd queue list --state held"


def _cells(name: str, row: Row) -> tuple[str, ...]:
    short = name if len(name) <= _NODE else f"{name[: _NODE - 1]}…"
    return (short, *(f"{number:,}" for number in (row.total, *row.ages)))


def report_lines(
    report: Report, choice: Choice, *, running: bool, width: int = NARROWEST
) -> Iterator[str]:
    """Yield what was done, how to take it back, and what was not done."""
    if report.action == "retry" and not running:
        yield "Nothing to do: relayd does not run, and tries all files when it starts."
        return
    if report.action == "retry" and not report.files:
        yield "No file of these waits for another attempt."
        return
    what = f"{'would have ' if report.trial else ''}{_what(report)}"
    yield from with_command(f"{what}{_taking_back(report)}", _back(report, choice), width)
    if report.on_hold and not report.trial:
        nodes = ", ".join(map(printable, report.on_hold))
        yield (
            f"Files of {nodes} that arrive from now on are put on hold as well."
            if report.action == "hold"
            else f"Files of {nodes} are processed again as they arrive."
        )
    for outcome, text in _OTHER.items():
        if number := report.counts.get(outcome):  # type: ignore[call-overload]
            busy = outcome == "busy" and not any(one.detail for one in report.stayed)
            if not busy:
                yield f"{counted(number, 'file')} {text}"
            elif report.trial:
                yield f"{counted(number, 'file')} in flight: taken back, unless just being sent"
            else:
                what = f"{counted(number, 'file')} left alone, in flight; see what became of them:"
                listing = f"relayd queue list {options(choice, report.on_hold)}"
                yield from with_command(what, listing.removesuffix(" --all"), width)
    for one in report.stayed:
        if one.detail:
            yield f"{printable(one.name)}: {printable(one.detail)}"


def _what(report: Report) -> str:
    return f"{_DONE[report.action]} {files_of(report)}"


def files_of(report: Report) -> str:
    """Return the files that were done, as `12 files of web-12` or `12 files of 3 nodes`."""
    number = report.files - report.counts.get("gone", 0)
    files = counted(number, "file") if number else "no file"
    # Files of other nodes may be among them, set aside one by one.
    if report.on_hold and report.nodes <= len(report.on_hold) <= _NAMED:
        return f"{files} of {', '.join(map(printable, report.on_hold))}"
    return f"{files} of {counted(report.nodes, 'node')}" if report.nodes and number else files


def _taking_back(report: Report) -> str:
    if not _can_be_taken_back(report):
        return ""
    # Of nodes whose files are still to come, there is no file that "them" could mean.
    return f"; {_BACK[report.action][1] if report.files else 'take this back with'}:"


def _back(report: Report, choice: Choice) -> str:
    if not _can_be_taken_back(report):
        return ""
    return f"relayd queue {_BACK[report.action][0]} {options(choice, report.on_hold)}"


def _can_be_taken_back(report: Report) -> bool:
    return report.action in _BACK and not report.trial and bool(report.files or report.on_hold)


def options(choice: Choice, nodes: Sequence[str]) -> str:
    """Return the options that make a choice again."""
    words = [word for node in nodes or choice.nodes for word in ("--node", node)]
    words += [word for pattern in choice.match for word in ("--match", pattern)]
    words += [f"--older={choice.older:g}s"] if choice.older else []
    words += [f"--newer={choice.newer:g}s"] if choice.newer else []
    words += ["--by-arrival"] if choice.by_arrival else []
    words += choice.names
    return printable(shlex.join(words)) if words else "--all"


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = False
) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        heads: of its columns.
        rows: cells.
        right: whether all columns but the first are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = [
            cell.rjust(width) if right and number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
