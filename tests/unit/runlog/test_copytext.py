"""COPY text is read back as written, and no field extends into another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.runlog.copytext import escape, join, read_columns, read_copy
from relayd.runlog.model import COLUMNS, Report
from tests.support.rows import copy_line

FIELDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.text(
    "\\\t\n\rntbr.N", max_size=12
)
ROWS = st.lists(FIELDS, min_size=len(COLUMNS), max_size=len(COLUMNS)).map(tuple)


@pytest.mark.parametrize(
    ("field", "written"),
    [
        (b"plain", b"plain"),
        (b"a\tb", b"a\\tb"),
        (b"a\nb", b"a\\nb"),
        (b"a\rb", b"a\\rb"),
        (b"C:\\new", b"C:\\\\new"),
        (b"\\N", b"\\\\N"),
        (b"\\.", b"\\\\."),
        (b"", b""),
        ("é\u2028".encode(), "é\u2028".encode()),
    ],
)
def test_separators_and_backslashes_are_escaped(field: bytes, written: bytes) -> None:
    """Tab, line ends and backslash are written as in the manual, the rest unchanged."""
    assert escape(field) == written
    assert join([field, b"x"]) == written + b"\tx"


def test_columns_have_their_order() -> None:
    """A row read from COPY text gives each column to its field."""
    line = copy_line(tuple(COLUMNS))
    assert list(read_copy(line)) == [
        Report(
            start_datetime="executiontimestamp",
            rule_id="ruleid",
            directive_id="directiveid",
            component="component",
            key_value="keyvalue",
            event_type="eventtype",
            msg="msg",
            policy="policy",
            node_id="nodeid",
            execution_datetime="executiondate",
            report_id="reportid",
        )
    ]


@given(st.lists(ROWS, max_size=4))
def test_rows_are_read_back(rows: list[tuple[str, ...]]) -> None:
    """With any fields, each row is one line and is read back unchanged."""
    lines = [copy_line(row) for row in rows]
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)
    assert [read_columns(line) for line in lines] == rows
    assert len(list(read_copy(b"".join(lines)))) == len(rows)


def test_no_rows() -> None:
    """An empty COPY has no reports."""
    assert list(read_copy(b"")) == []
