"""The record of each node, and the file in which the records survive a restart."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.errors import Reason
from relayd.telemetry.nodes.columns import Columns
from relayd.telemetry.nodes.records import NodeRecord, NodeRecords, Outcome, RunFacts
from relayd.telemetry.nodes.saved import NAME, read_saved, write_saved

#: The full hour at which the clock of these tests begins.
START = 1_800_000_000.0
FACTS = RunFacts(START - 30, 31.5, 71, "20270115-080000-3ad37587", -0.25)


class Wall:
    """A clock that is set by hand."""

    now = START

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def make_records(*nodes: str) -> tuple[NodeRecords, Wall]:
    wall = Wall()
    records = NodeRecords(wall=wall)
    records.follow(dict.fromkeys(nodes))
    return records, wall


def test_a_record_says_what_became_of_the_last_run_log() -> None:
    """Arrival, outcome, run and inventory of a node; nothing of a node that was not heard of."""
    records, wall = make_records("a", "b")
    records.note_arrival("a", START)
    wall.now = START + 1.5
    records.note_outcome("a", "stored", wall.now, FACTS)
    records.note_inventory("a", "forwarded", START + 2)
    assert records.get("a") == NodeRecord(
        node_id="a",
        arrived=START,
        run=START - 30,
        outcome="stored",
        outcome_at=START + 1.5,
        done_at=START + 1.5,
        lag_s=31.5,
        reports=71,
        config_id="20270115-080000-3ad37587",
        ahead_s=-0.25,
        last_hour=1,
        inventory="forwarded",
        inventory_at=START + 2,
    )
    assert records.get("b") is None
    assert (records.totals.arrived, records.totals.done) == (1, 1)


def test_failures_are_counted_until_a_success() -> None:
    """A node fails from its first refusal until a run log of it is stored."""
    records, _ = make_records("a", "b")
    records.note_outcome("b", "stored", START, FACTS)
    records.note_outcome("a", "refused", START, RunFacts(START - 9), Reason.SIGNATURE)
    records.note_outcome("a", "postponed", START + 1, RunFacts(START - 9))
    (failing,) = records.failing()
    assert (failing.node_id, failing.failures, failing.outcome) == ("a", 2, "postponed")
    records.note_outcome("a", "refused", START + 2, RunFacts(START - 9), Reason.SIGNATURE)
    assert records.failing()[0].reason is Reason.SIGNATURE
    records.note_outcome("a", "stored", START + 3, FACTS)
    assert records.failing() == []
    assert records.totals.refused == 2


def test_a_late_run_says_nothing_new_about_its_node() -> None:
    """An older run that is processed later does not replace the newest one."""
    records, _ = make_records("a")
    records.note_outcome("a", "stored", START, FACTS)
    older = RunFacts(START - 900, 905.0, 3, "older", 0.0)
    records.note_outcome("a", "stored", START + 5, older)
    record = records.get("a")
    assert record is not None
    assert (record.run, record.reports, record.done_at) == (START - 30, 71, START + 5)


@pytest.mark.parametrize("outcome", ["refused", "postponed"])
def test_a_name_that_nothing_vouches_for_does_not_say_when_a_node_ran(outcome: Outcome) -> None:
    """What was not stored or forwarded changes no last run; one in the future hides none later."""
    records, _ = make_records("a")
    forged = RunFacts(253_402_300_799.0)
    records.note_outcome("a", outcome, START, forged, Reason.SIGNATURE)
    assert (found := records.get("a")) is not None
    assert (found.run, found.outcome, found.failures) == (None, outcome, 1)
    records.note_outcome("a", "stored", START, FACTS)
    records.note_outcome("a", outcome, START + 1, forged, Reason.SIGNATURE)
    assert (found := records.get("a")) is not None
    assert found.run == FACTS.start
    records.note_outcome("a", "stored", START + 2, forged)
    records.note_outcome("a", "stored", START + 3, RunFacts(START))
    assert (found := records.get("a")) is not None
    assert found.run == START


def test_silent_nodes_include_those_never_heard_of() -> None:
    """Silent is a node whose last run log is too old, or that never sent one."""
    records, _ = make_records("old", "new", "never")
    records.note_arrival("old", START - 901)
    records.note_arrival("new", START - 899)
    assert {record.node_id for record in records.silent(900, START)} == {"old", "never"}


def test_what_a_listing_finds_again_is_counted_once() -> None:
    """A listing that finds noted files changes nothing; a backlog of old files is no arrival."""
    records, _ = make_records("a")
    records.note_arrival("a", START + 1)
    for _ in range(2):
        records.note_arrival("a", START, live=False)
    assert records.totals.arrived == 1
    records, _ = make_records("a")
    records.note_arrival("a", START - 60, live=False)
    record = records.get("a")
    assert record is not None
    assert (records.totals.arrived, record.arrived) == (0, START - 60)


def test_flooding_nodes_are_found_by_their_share_of_the_last_hour() -> None:
    """The counts fade with the hour, and a small fleet does not flood."""
    records, wall = make_records("few", "many")
    for _ in range(150):
        records.note_arrival("many", START)
    for _ in range(50):
        records.note_arrival("few", START)
    assert [record.node_id for record in records.flooding(least=40)] == ["many", "few"]
    assert [record.node_id for record in records.flooding()] == ["many"]
    wall.now = START + 3600 + 1800
    assert [record.last_hour for record in records.flooding(least=1)] == [75, 25]
    wall.now = START + 3 * 3600
    assert records.last_hour() == 0


def test_nodes_outside_of_the_list_share_one_record() -> None:
    """Memory is bounded by the nodes list, and what leaves it is forgotten."""
    records, _ = make_records("a", "b")
    for node_id in ("a", "b", "x", "y", ""):
        records.note_arrival(node_id, START)
    assert {record.node_id for record in records} == {"a", "b"}
    assert records.unknown.last_hour == 3
    records.follow({"b": None, "c": None})
    assert records.get("a") is None
    records.note_inventory("c", "stored", START)  # in the row that is free now
    assert records.get("c") == NodeRecord(node_id="c", inventory="stored", inventory_at=START)
    assert [record.last_hour for record in records] == [1, 0]


def filled() -> NodeRecords:
    records, _ = make_records("a", "b", "root")
    for node_id in ("a", "b", "root"):
        records.note_arrival(node_id, START)
        records.note_outcome(node_id, "stored", START + 1, FACTS)
    records.note_outcome("b", "refused", START + 2, RunFacts(START), Reason.SIGNATURE)
    records.follow({"b": None, "root": None})
    return records


def test_records_survive_a_restart(tmp_path: Path) -> None:
    """What was saved is there again; further nodes get rows of their own."""
    before, (after, _) = filled(), make_records("b", "root", "c", "d")
    write_saved(tmp_path, before.dump())
    saved = read_saved(tmp_path)
    assert saved is not None
    after.restore(saved)
    assert list(after) == list(before)
    for node_id in ("c", "d"):
        after.note_arrival(node_id, START)
    assert after.get("b") == before.get("b")
    assert len(list(after)) == 4


def test_no_file_is_no_fault(tmp_path: Path) -> None:
    """Before the first save there is nothing to read."""
    assert read_saved(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"relayd node records 9\n", b"\0" * 100, b"relayd"])
def test_a_foreign_file_is_recognized(tmp_path: Path, content: bytes) -> None:
    """What is not ours, or of another version, is a ValueError."""
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(ValueError, match="not node records of this version"):
        read_saved(tmp_path)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_every_cut_and_every_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A damaged file is a ValueError, whatever the damage, and never half of a history."""
    directory = tmp_path_factory.getbasetemp()
    write_saved(directory, filled().dump())
    content = bytearray((directory / NAME).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    (directory / NAME).write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011
        read_saved(directory)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_a_file_says_is_restored_whole_or_not_at_all(data: st.DataObject) -> None:
    """A file with a right checksum and any content raises ValueError, or gives usable records."""
    saved = filled().dump()
    name = data.draw(st.sampled_from(["ids", "rows", "reasons", "columns"]))
    numbers = st.binary(max_size=64)
    values = {
        "ids": st.text(max_size=9),
        "rows": numbers,
        "reasons": st.lists(st.text(max_size=5), max_size=3),
        "columns": st.tuples(st.sampled_from([*saved.columns]), numbers).map(
            lambda one: {**saved.columns, one[0]: one[1]}
        ),
    }
    saved = msgspec.structs.replace(saved, **{name: data.draw(values[name])})
    records, _ = make_records("b")
    records.note_arrival("b", START)
    before = list(records)
    try:
        records.restore(saved)
    except ValueError:
        assert list(records) == before
    records.follow({"b": None, "e": None})
    records.note_outcome("e", "stored", START, FACTS)
    assert all(isinstance(record, NodeRecord) for record in records)


def test_a_record_takes_few_bytes() -> None:
    """400 bytes a node at most: here the columns, about 85 more are the dictionary's."""
    columns = Columns()
    row = columns.append()
    assert sum(map(len, columns.dump().values())) <= 150
    assert row == 0


def test_a_copy_is_for_another_thread() -> None:
    """What is noted later does not change a copy, and the copy not the records."""
    records, _ = make_records("a", "b")
    records.note_arrival("a", START)
    records.note_outcome("a", "stored", START + 1, FACTS)
    before, copy = records.get("a"), records.copy()
    assert (copy.get("a"), copy.since, copy.last_hour()) == (before, records.since, 1)
    records.note_arrival("b", START)
    copy.note_outcome("a", "refused", START + 2, FACTS, Reason.SIGNATURE)
    assert (copy.get("b"), records.get("a")) == (None, before)


def test_counts_stop_at_the_largest_number_of_their_columns() -> None:
    """A file may hold counts at the limit: one more run log is no error."""
    records = NodeRecords(wall=lambda: 7200.0)
    records.note_arrival("a", 7200.0)
    saved = records.dump()
    for column in ("this_hour", "last_hour"):
        saved.columns[column] = b"\xff" * len(saved.columns[column])
    records.restore(saved)
    records.note_arrival("a", 7201.0)
    records.note_arrival("a", 7199.0)
    record = records.get("a")
    assert record is not None
    assert record.last_hour >= 2**32 - 1
