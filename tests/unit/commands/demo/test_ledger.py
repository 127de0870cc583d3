"""The demo's books: they balance only when everything is where it belongs."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from relayd.commands.demo.fleet.upload import EXPECTED, Kind, SimulatedUpload
from relayd.commands.demo.ledger import Entry, FinalState, Ledger, balance

START = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
GOOD = SimulatedUpload(Kind.GOOD, "good.log.gz", b"", "a", START, rows=3)
TWICE = replace(GOOD, kind=Kind.REPLAYED, rows=0)
FORGED = SimulatedUpload(Kind.FORGED, "forged.log.gz", b"", "b", START, rows=0)
RUN = ("a", int(START.timestamp()))
FOUND = FinalState(
    rows={RUN: 3},
    executions={RUN: 1},
    waiting=frozenset(),
    refused={FORGED.name: EXPECTED[Kind.FORGED]},
)


def wrong(found: FinalState, recognised: int | None = 1) -> list[str]:
    ledger = Ledger()
    for upload in (GOOD, TWICE, FORGED):
        ledger.add(upload)
    assert ledger.sent == 3
    return [entry.text for entry in balance(ledger, found, recognised) if not entry.balanced]


def test_balanced() -> None:
    """When all is in its place, every entry balances."""
    assert wrong(FOUND) == []


@pytest.mark.parametrize(
    ("found", "entries"),
    [
        (replace(FOUND, rows={RUN: 2}), ["rows of reports", "lost"]),
        (replace(FOUND, rows={}), ["run logs in the database", "rows of reports", "lost"]),
        (replace(FOUND, rows={RUN: 6}), ["rows of reports", "stored twice"]),
        (replace(FOUND, rows={RUN: 3, ("x", 1): 1}), ["rows of reports", "stored twice"]),
        (replace(FOUND, executions={}), ["rows of executions"]),
        (replace(FOUND, executions={RUN: 2}), ["rows of executions", "stored twice"]),
        (
            replace(FOUND, refused={FORGED.name: "archive"}),
            ["refused, signed by another node (unknown_signer)"],
        ),
        (replace(FOUND, refused={}), ["refused, signed by another node (unknown_signer)"]),
        (
            replace(FOUND, refused={**FOUND.refused, GOOD.name: "signature"}),
            ["refused, although good"],
        ),
    ],
)
def test_each_mistake_is_seen(found: FinalState, entries: list[str]) -> None:
    """Whatever is lost, stored twice, unexplained or refused wrongly unbalances its entries."""
    assert wrong(found) == entries


def test_a_replay_must_be_recognised() -> None:
    """A run log that was sent twice must have been recognised once, if the number is known."""
    assert wrong(FOUND, recognised=0) == ["sent twice, recognised"]
    assert wrong(FOUND, recognised=None) == []


def test_files_in_the_spool_are_not_lost() -> None:
    """What still waits in the spool is expected nowhere else."""
    waiting = frozenset({GOOD.name, FORGED.name})
    assert wrong(FinalState({}, {}, waiting, {}), recognised=0) == []


def test_entry_without_expectation_balances() -> None:
    """A number that may be anything never unbalances the books."""
    assert Entry("left in the spool", None, 7).balanced
