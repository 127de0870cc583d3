"""A verdict on the screen. Everything that comes from a file is made printable first."""

import json

import msgspec
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from relayd.commands.inspect.verdict import Verdict
from relayd.runlog.model import Report
from relayd.system.printable import printable

_COLUMNS = ("executed", "event type", "technique / component / key", "message")


def as_json(verdict: Verdict) -> str:
    """Write a verdict as one line of JSON in plain ASCII, so that nothing in it moves a cursor."""
    document = msgspec.to_builtins(verdict)
    return json.dumps(document).replace("\x7f", "\\u007f")


def show(console: Console, verdict: Verdict) -> None:
    """Print a verdict for people: what would be done, what the file is, and its reports."""
    console.print(Group(_heading(verdict), _facts(verdict)))
    if verdict.reports:
        console.print(_reports(verdict.reports))
    for line in verdict.skipped:
        console.print(Text(f"note: {printable(line)}", style="yellow"))
    console.print()


def _heading(verdict: Verdict) -> Text:
    text = Text(printable(verdict.file), style="bold", overflow="fold")
    if verdict.error is None:
        return text.append("\nwould be accepted", style="green")
    return text.append("\nwould be refused", style="red")


def _facts(verdict: Verdict) -> Table:
    facts = {
        "refused": verdict.error,
        "node": verdict.node_id,
        "run of": verdict.timestamp,
        "queue id": verdict.queue_id,
        "signature": f"valid, key {verdict.signer}" if verdict.verified else "NOT VERIFIED",
        "run log": _kind(verdict),
        "config id": verdict.config_id,
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None:
            table.add_row(Text(name, style="dim"), Text(printable(value)))
    return table


def _kind(verdict: Verdict) -> str:
    return f"{verdict.type}, {len(verdict.reports)} reports" if verdict.type else "no report"


def _reports(reports: list[Report]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    for report in reports:
        subject = f"{report.policy} / {report.component} / {report.key_value}"
        fields = (report.execution_datetime, report.event_type, subject, report.msg)
        table.add_row(*(Text(_lines(field)) for field in fields))
    return table


def _lines(field: str) -> str:
    """Keep the line ends of a field, which cannot do harm inside a table."""
    return "\n".join(printable(line) for line in field.split("\n"))
