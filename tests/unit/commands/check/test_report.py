"""The report as text and as JSON."""

import io
import json
from pathlib import Path

from rich.console import Console

from relayd.commands.check.account import Account
from relayd.commands.check.model import CheckReport, Finding, error, skipped, warning
from relayd.commands.check.report import as_json, as_lines, show, summary

ACCOUNT = Account("relay", 7, 7, (7,), "rudder")
ERROR = error("spool.space", "/spool", "it is full", "free space")
WARNING = warning("clock.differs", "db", "it is late", "wait")
SKIPPED = skipped("selinux.unknown", "SELinux", "no tool", "install it")


def report(*findings: Finding) -> CheckReport:
    """A report of two checks, all findings in the first."""
    return CheckReport(Path("/etc/relayd"), ACCOUNT, {"spool": list(findings), "nodes": []})


def test_errors_come_first_and_are_counted() -> None:
    """One line for each finding, errors before warnings, and a line that counts them."""
    assert as_lines(report(SKIPPED, WARNING, ERROR, WARNING)) == [
        "error: /spool: it is full. Fix: free space",
        "warning: db: it is late. Fix: wait",
        "warning: db: it is late. Fix: wait",
        "skipped: SELinux: no tool. Fix: install it",
        "2 checks for user relay: 1 error, 2 warnings, 1 skipped",
    ]
    assert summary(report()) == "2 checks for user relay: nothing wrong"


def test_only_errors_make_it_unsound() -> None:
    """Warnings and skipped checks are no failure."""
    assert not report(ERROR).sound
    assert report(WARNING, SKIPPED).sound


def test_text_from_files_cannot_move_the_cursor() -> None:
    """Names with control characters are written as escapes, one line each."""
    evil = error("x.y", "/a\x1b[2J\nb", "c\rd", "e\u202ef")
    (line, _) = as_lines(report(evil))
    assert line == r"error: /a\x1b[2J\nb: c\rd. Fix: e\u202ef"
    out = io.StringIO()
    show(Console(file=out, width=100), report(evil))
    assert "\x1b" not in out.getvalue()
    assert r"/a\x1b[2J\nb" in out.getvalue()


def test_the_document_is_ascii_and_names_the_worst_of_each_check() -> None:
    """The JSON document is plain ASCII; each check has its worst level, or ok."""
    text = as_json(report(warning("x.y", "ü\x7f", "a", "b"), SKIPPED))
    assert text.isascii()
    assert "\x7f" not in text
    document = json.loads(text)
    assert document["checks"] == {"spool": "warning", "nodes": "ok"}
    assert document["sound"] is True
    assert document["findings"][0]["where"] == "ü\x7f"
