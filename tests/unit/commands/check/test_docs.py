"""docs/check.md lists every code of the findings."""

import re

from relayd.commands.check import runner
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
