"""The demo's ledger: it balances only if every upload ended up in the right place."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from relayd.commands.demo.fleet.upload import EXPECTED, Kind, SimulatedUpload
from relayd.commands.demo.ledger import Entry, FinalState, Ledger, RunKey, balance, read_refusals

START = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
GOOD = SimulatedUpload(Kind.GOOD, "good.log.gz", b"", "a", START, rows=3)
TWICE = replace(GOOD, kind=Kind.REPLAYED, rows=0)
FORGED = SimulatedUpload(Kind.FORGED, "forged.log.gz", b"", "b", START, rows=0)
RUN = RunKey("a", int(START.timestamp()))
REPORTS, EXECUTIONS = "rows of reports stored", "rows of executions stored"
STATE = FinalState(
    rows={RUN: 3},
    executions={RUN: 1},
    waiting=frozenset(),
    refused={FORGED.name: EXPECTED[Kind.FORGED]},
)


def wrong(state: FinalState, recognized: int | None = 1) -> list[str]:
    ledger = Ledger()
    for upload in (GOOD, TWICE, FORGED):
        ledger.add(upload)
    assert ledger.sent == 3
    return [entry.text for entry in balance(ledger, state, recognized) if not entry.balanced]


def test_right_counts_balance() -> None:
    """Every entry balances if every upload is in the right place."""
    assert wrong(STATE) == []


@pytest.mark.parametrize(
    ("state", "entries"),
    [
        (replace(STATE, rows={RUN: 2}), [REPORTS, "lost"]),
        (replace(STATE, rows={}), ["run logs stored", REPORTS, "lost"]),
        (replace(STATE, rows={RUN: 6}), [REPORTS, "stored twice"]),
        (replace(STATE, rows={RUN: 3, RunKey("x", 1): 1}), [REPORTS, "stored twice"]),
        (replace(STATE, executions={}), [EXECUTIONS]),
        (replace(STATE, executions={RUN: 2}), [EXECUTIONS, "stored twice"]),
        (
            replace(STATE, refused={FORGED.name: "archive"}),
            ["refused: signed by another node (unknown_signer)"],
        ),
        (replace(STATE, refused={}), ["refused: signed by another node (unknown_signer)"]),
        (
            replace(STATE, refused={**STATE.refused, GOOD.name: "signature"}),
            ["refused: good run logs"],
        ),
    ],
)
def test_each_fault_unbalances_its_entries(state: FinalState, entries: list[str]) -> None:
    """Lost, duplicate and unexplained rows and wrong refusals unbalance their entries."""
    assert wrong(state) == entries


def test_a_replay_must_be_recognized() -> None:
    """A run log that was sent twice must have been recognized once, if the number is known."""
    assert wrong(STATE, recognized=0) == ["replays recognized, not stored again"]
    assert wrong(STATE, recognized=None) == []


def test_files_in_the_spool_are_not_lost() -> None:
    """A file that is still in the spool is not expected anywhere else."""
    waiting = frozenset({GOOD.name, FORGED.name})
    assert wrong(FinalState({}, {}, waiting, {}), recognized=0) == []


def test_files_that_their_nodes_kept_are_not_lost() -> None:
    """A file that relayd never took is not expected anywhere; if it did, the answer was lost."""
    kept = frozenset({GOOD.name, FORGED.name})
    assert wrong(FinalState({}, {}, frozenset(), {}, kept), recognized=0) == []
    assert wrong(replace(STATE, kept=kept), recognized=0) == []
    twice = replace(STATE, rows={RUN: 6}, kept=kept)
    assert "stored twice" in wrong(twice, recognized=0)


def test_what_waits_although_it_is_stored_is_not_stored_twice() -> None:
    """A replay that a hurried end left in the spool does not make its original unknown."""
    assert wrong(replace(STATE, waiting=frozenset({GOOD.name})), recognized=0) == []
    twice = replace(STATE, rows={RUN: 6}, waiting=frozenset({GOOD.name}))
    assert "stored twice" in wrong(twice, recognized=0)


def test_entry_without_expectation_balances() -> None:
    """An entry without an expected number always balances."""
    assert Entry("still in the spool", None, 7).balanced


def test_what_a_kill_left_half_written_is_no_refused_file(tmp_path: Path) -> None:
    """A reason that a killed relayd had not finished is hidden, and not counted."""
    (tmp_path / FORGED.name).write_bytes(b"")
    (tmp_path / f"{FORGED.name}.reason").write_text(
        '{"name": "forged.log.gz", "reason": "unknown_signer"}'
    )
    (tmp_path / "unexplained.log.gz").write_bytes(b"")
    (tmp_path / ".relayd.tmp.4711.0").write_text('{"name": "good.lo')
    expected = {FORGED.name: "unknown_signer", "unexplained.log.gz": ""}
    assert read_refusals(tmp_path) == expected
