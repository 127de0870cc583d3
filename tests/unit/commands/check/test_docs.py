"""docs/check.md lists every code of the findings, and names the column of the table."""

import io
import re
from pathlib import Path

from rich.console import Console

from relayd.commands.check import runner
from relayd.commands.check.account import find_account
from relayd.commands.check.model import CheckReport, error
from relayd.commands.check.report import show
from tests.support.project import ROOT

CHECKS = "|".join(check.name for check in (*runner.CHECKS, runner.CLOCK))


def test_every_code_is_documented_and_no_other() -> None:
    """Codes in the source and codes in the first column of the page's table are the same."""
    source = "".join(
        path.read_text() for path in (ROOT / "relayd" / "commands" / "check").rglob("*.py")
    )
    used = set(re.findall(rf'"((?:{CHECKS})\.[a-z_]+)"', source))
    page = (ROOT / "docs" / "check.md").read_text()
    rows = re.findall(r"^\| (`.*?) \| ", page, re.MULTILINE)
    named = set()
    for row in rows:
        check = ""
        for text in re.findall(r"`([a-z_.]+)`", row):
            check = text.partition(".")[0] or check
            if "." in text:
                named.add(f"{check}{text.removeprefix(check)}")
    assert named == used


def test_the_column_of_the_table_has_the_name_of_the_page() -> None:
    """What the page calls the column of the fixes is what a terminal shows."""
    out = io.StringIO()
    report = CheckReport(Path("/x"), find_account(None), {"spool": [error("a.b", "c", "d", "e")]})
    show(Console(file=out, width=80), report)
    found = re.search('table with a column "([^"]+)"', (ROOT / "docs" / "check.md").read_text())
    assert found is not None
    assert found[1] in out.getvalue()
