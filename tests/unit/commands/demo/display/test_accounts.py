"""The accounts at the end of the demo."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from relayd.commands.demo.display.accounts import Accounts, files_concerned
from relayd.commands.demo.fleet.upload import EXPECTED
from relayd.commands.demo.ledger import Entry, FinalState, Ledger, RunKey, balance
from tests.unit.commands.demo.test_ledger import FORGED, GOOD, STATE

TITLE = "12345 uploads sent, 123.4 per second"


def lines(entries: list[Entry], width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(Accounts(TITLE, entries))
    return capture.get().splitlines()


def test_wrong_entries_are_marked() -> None:
    """An entry that does not balance is marked, with both numbers."""
    shown = lines([Entry("rows", 3, 3), Entry("lost", 0, 1)], 80)
    assert [line.split()[1:-1] for line in shown if "lost" in line] == [
        ["lost", "│", "0", "│", "1", "│", "WRONG"]
    ]
    assert sum("ok" in line for line in shown) == 1


@pytest.mark.fault("F48")
@pytest.mark.parametrize("width", [40, 60, 75])
def test_accounts_fit_a_narrow_terminal(width: int) -> None:
    """In a narrow terminal each entry has one line with its figures; nothing is cut."""
    ledger = Ledger()
    for number in range(12_345):
        ledger.add(replace(GOOD, node_id=f"{number}", rows=72))
    state = FinalState(
        rows=dict.fromkeys(ledger.good, 72),
        executions=dict.fromkeys(ledger.good, 1),
        waiting=frozenset(),
        refused={},
    )
    entries = [*balance(ledger, state, 0), Entry("agents run by remote runs", 6, 6, "agents run")]
    shown = lines(entries, width)
    assert max(len(line) for line in shown) <= width
    # The title and the heading.
    assert len(shown) == len(entries) + 2
    assert "rows of reports stored  888840 888840 ok" in " ".join(shown)
    assert "…" not in "".join(shown)
    for reason in EXPECTED.values():
        assert any(line.startswith(f"refused: {reason} ") for line in shown)


@pytest.mark.fault("F49")
def test_files_that_do_not_match_are_named() -> None:
    """What is lost or refused wrongly is named, a few files at most; what balances is not."""
    ledger = Ledger()
    start = datetime(2026, 5, 4, tzinfo=UTC)
    for number in range(5):
        ledger.add(replace(GOOD, name=f"{number}.log.gz", node_id=f"{number}", start=start))
    ledger.add(FORGED)
    stored = {RunKey("0", int(start.timestamp())): 3}
    refused = {**STATE.refused, "1.log.gz": "signature"}
    entries = balance(ledger, replace(STATE, rows=stored, refused=refused), None)
    assert list(files_concerned(entries)) == [
        "refused: good run logs: 1.log.gz (signature)",
        "lost: 1.log.gz, 2.log.gz, 3.log.gz, and 1 more",
    ]
