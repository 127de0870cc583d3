"""The page about the check names every code that the check can tell."""

import re

from tests.support.project import ROOT

CHECKS = (
    "configuration|files|listen|spool|nodes|certificates|database|upstream|remote_run|selinux|clock"
)


def test_every_code_is_documented_and_no_other() -> None:
    """Codes in the source and codes in the first column of the page's table are the same."""
    source = "".join(
        path.read_text() for path in (ROOT / "relayd" / "commands" / "check").rglob("*.py")
    )
    told = set(re.findall(rf'"((?:{CHECKS})\.[a-z_]+)"', source))
    page = (ROOT / "docs" / "check.md").read_text()
    rows = re.findall(r"^\| (`.*?) \| ", page, re.MULTILINE)
    named = set()
    for row in rows:
        check = ""
        for text in re.findall(r"`([a-z_.]+)`", row):
            check = text.partition(".")[0] or check
            if "." in text:
                named.add(f"{check}{text.removeprefix(check)}")
    assert named == told
