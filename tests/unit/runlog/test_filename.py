"""Names of run-log files."""

import hashlib
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relayd.errors import Reason, Refused
from relayd.runlog.filename import parse_name, queue_id
from relayd.runlog.model import RunLogName

NODE = "e745a140-40bc-4b86-b6dc-084488fc906b"
NODES = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1)


@pytest.mark.history(27)
@pytest.mark.parametrize(
    ("name", "node", "timestamp", "archive"),
    [
        (f"2018-08-24T15:55:01+00:00@{NODE}.log", NODE, "2018-08-24T15:55:01+00:00", ""),
        (f"2018-08-24T15:55:01+00:00@{NODE}.log.gz", NODE, "2018-08-24T15:55:01+00:00", "gz"),
        (f"2018-08-24T15_55_01+02_00@{NODE}.log.zip", NODE, "2018-08-24T15:55:01+02:00", "zip"),
        ("2018-08-24T15:55:01Z@root.log", "root", "2018-08-24T15:55:01+00:00", ""),
        ("2018-08-24T15:55:01+00:00@a_b@c.gz.log", "a_b@c.gz", "2018-08-24T15:55:01+00:00", ""),
        (f"{NODE}_2018-08-24T15:55:01+00:00.log", NODE, "2018-08-24T15:55:01+00:00", ""),
        (f"{NODE}_2018-08-24T15:55:01+00:00.log.gz", NODE, "2018-08-24T15:55:01+00:00", "gz"),
        ("root_2018-08-24T15_55_01-03_30.log.zip", "root", "2018-08-24T15:55:01-03:30", "zip"),
        ("été @x_2018-08-24t15:55:01z.log", "été @x", "2018-08-24T15:55:01+00:00", ""),
    ],
)  # fmt: skip
def test_both_forms_are_read(name: str, node: str, timestamp: str, archive: str) -> None:
    """Names with the date or the node first are read, with colons or underscores."""
    assert parse_name(name) == RunLogName(node, timestamp, archive)


@pytest.mark.fault("P13", "P14")
@pytest.mark.history(28)
@pytest.mark.parametrize(
    "name",
    [
        "",
        "bob.log",
        "@{.log",
        ".log",
        "2018-08-24T15:55:01+00:00@.log",
        "_2018-08-24T15:55:01+00:00.log",
        "a_b_2018-08-24T15:55:01+00:00.log",
        "2018-08-24T15:55:01+00:00@node",
        "2018-08-24T15:55:01+00:00@node.log.bz2",
        "2018-08-24T15:55:01+00:00@node.log.gz.gz",
        "2018-08-24T15:55:01+00:00@node.logs",
        "2018-08-24T15:55:01@node.log",
        "2018-02-30T15:55:01+00:00@node.log",
        "2018-08-24 15:55:01+00:00@node.log",
        "2018-08-24T15-55-01+00:00@node.log",
        "2018-08-24T15:55:01+00:00@node.log\n",
        "2018-08-24T15:55:01+00:00@no\nde.log",
        "2018-08-24T15:55:01+00:00@no\x1b[2Jde.log",
        "2018-08-24T15:55:01+00:00@no\x85de.log",
        "2018-08-24T15:55:01+00:00@no\udcffde.log",
        "2018-08-24T15:55:01+00:00@../node.log",
        "/2018-08-24T15:55:01+00:00@node.log",
        "٢018-08-24T15:55:01+00:00@node.log",
    ],
)
def test_other_name_is_refused_in_one_line(name: str) -> None:
    """Any other name is refused with one line that shows it, control characters escaped."""
    refused = parse_name(name)
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.BAD_NAME
    assert refused.detail.isprintable()
    assert not refused.maybe_unfinished
    if name.isprintable():
        assert name in refused.detail


@pytest.mark.fault("P13")
@given(st.text(st.characters()))
@example("\ud800")
@example("x" * 300)
def test_no_name_raises(name: str) -> None:
    """Every text is a name or refused with a bounded line."""
    result = parse_name(name)
    assert isinstance(result, RunLogName) or (
        len(result.detail) < 2500 and result.detail.isprintable()
    )


@given(
    NODES,
    st.datetimes().map(lambda moment: moment.isoformat(timespec="seconds") + "+01:30"),
    st.sampled_from(["", ".gz", ".zip"]),
    st.booleans(),
)
def test_written_name_is_read_back(node: str, timestamp: str, archive: str, windows: bool) -> None:
    """A node id and a date written into a name are read back, in both forms."""
    date = timestamp.replace(":", "_") if windows else timestamp
    wanted = RunLogName(node, timestamp, archive.removeprefix("."))
    assert parse_name(f"{date}@{node}.log{archive}") == wanted
    if not {"_", "@"} & set(node):
        assert parse_name(f"{node}_{date}.log{archive}") == wanted


def test_queue_id_is_half_a_digest_of_the_bytes() -> None:
    """The queue id is that of the name's bytes on disk, UTF-8 or not."""
    raw = b"2018-08-24T15:55:01+00:00@\xff\xc3\xa9.log"
    wanted = hashlib.sha256(raw).hexdigest()[:32].upper()
    assert queue_id(os.fsdecode(raw)) == wanted
    name = "2018-08-24T15:55:01+00:00@root.log"
    assert queue_id(name) == "6582B6D1B6490CBA69F202ED008193F7"
