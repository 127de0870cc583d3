"""Output of an inspection. Everything that comes from a file is made printable first."""

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from relayd.commands.inspect.content import Inspection
from relayd.overview.documents import json_line
from relayd.runlog.model import Report
from relayd.system.printable import printable

_COLUMNS = ("executed", "event type", "technique / component / key", "message")


def as_json(inspection: Inspection) -> str:
    """Return an inspection as one line of JSON, in plain ASCII and without control characters."""
    return json_line(inspection)


def show(console: Console, inspection: Inspection) -> None:
    """Print an inspection for people: the verdict, facts about the file, and its reports."""
    console.print(Group(_heading(inspection), _facts(inspection)))
    if inspection.reports:
        console.print(_reports(inspection.reports))
    for line in inspection.skipped:
        console.print(Text(f"note: {printable(line)}", style="yellow"))
    console.print()


def _heading(inspection: Inspection) -> Text:
    text = Text(printable(inspection.file), style="bold", overflow="fold")
    if inspection.error is None:
        return text.append("\nwould be accepted", style="green")
    return text.append("\nwould be refused", style="red")


def _facts(inspection: Inspection) -> Table:
    facts = {
        "refused": inspection.error,
        "node": inspection.node_id,
        "run of": inspection.timestamp,
        "queue id": inspection.queue_id,
        "signature": f"valid, key {inspection.signer}" if inspection.verified else "NOT VERIFIED",
        "run log": _kind(inspection),
        "config id": inspection.config_id,
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None:
            table.add_row(Text(name, style="dim"), Text(printable(value)))
    return table


def _kind(inspection: Inspection) -> str:
    return (
        f"{inspection.type}, {len(inspection.reports)} reports" if inspection.type else "no report"
    )


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
    """Make a field printable except for line ends, which are harmless inside a table."""
    return "\n".join(printable(line) for line in field.split("\n"))
