"""The report: lines of text, a table on a terminal, or one JSON document."""

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relayd import __version__
from relayd.commands.check.model import CheckReport, Finding, Level
from relayd.overview.documents import json_line
from relayd.system.printable import printable

_STYLES = {
    Level.ERROR: "bold red",
    Level.WARNING: "yellow",
    Level.NOTE: "cyan",
    Level.SKIPPED: "dim",
}


def as_json(report: CheckReport) -> str:
    """Return the report as a JSON document in plain ASCII (its fields: docs/check.md)."""
    document = {
        "relayd": __version__,
        "directory": str(report.directory),
        "user": report.account.name,
        "sound": report.sound,
        "checks": {name: _worst(findings) for name, findings in report.results.items()},
        "findings": msgspec.to_builtins(report.findings),
    }
    return json_line(document)


def as_lines(report: CheckReport) -> list[str]:
    """Return a line for each finding and one that counts them."""
    return [*(_line(finding) for finding in report.findings), summary(report)]


def show(console: Console, report: CheckReport) -> None:
    """Print a table of the findings, and the line that counts them."""
    if report.findings:
        console.print(_table(report.findings))
    style = "green" if report.sound else _STYLES[Level.ERROR]
    console.print(Text(summary(report), style=style))


def summary(report: CheckReport) -> str:
    """Return a line such as `12 checks for user rudder-relayd: 1 error, 2 warnings`."""
    counts = [
        _count(sum(finding.level is level for finding in report.findings), level) for level in Level
    ]
    text = ", ".join(filter(None, counts)) or "nothing wrong"
    return f"{len(report.results)} checks for user {report.account.name}: {text}"


def _count(number: int, level: Level) -> str:
    if not number:
        return ""
    plural = "s" if number > 1 and level is not Level.SKIPPED else ""
    return f"{number} {level}{plural}"


def _worst(findings: list[Finding] | None) -> str:
    if findings is None:
        return str(Level.SKIPPED)
    levels = {finding.level for finding in findings}
    return next((str(level) for level in Level if level in levels), "ok")


def _line(finding: Finding) -> str:
    return printable(f"{finding.level}: {finding.where}: {finding.what}. Fix: {finding.fix}")


def _table(findings: list[Finding]) -> Table:
    """Return a table; each fix is on a line of its own, so that commands can be copied."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True, leading=1)
    table.add_column("")
    table.add_column("problem and fix", overflow="fold", ratio=1)
    for finding in findings:
        style = _STYLES[finding.level]
        where, what, fix = map(printable, (finding.where, finding.what, finding.fix))
        text = Text(where, style="bold").append(f"\n{what}\n", style="not bold")
        table.add_row(
            Text(str(finding.level), style=style), text.append(fix, style="not bold cyan")
        )
    return table
