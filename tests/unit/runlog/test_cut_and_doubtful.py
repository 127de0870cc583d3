"""Lines that look like something else: the end of a key, a cut stamp, a byte-order mark."""

import pytest

from relayd.runlog.grammar import LEVELS
from relayd.runlog.model import Report
from tests.support.runlogs import NODE, STAMP, START, STARTED, joined, read, report, rows

PREFIXES = [prefix.decode() for _, prefixes in LEVELS for prefix in prefixes]
TAIL = f"{START}##{NODE}@#all is well"
HEAD = f"{STAMP} R: @@Common@@result_error@@rule-1@@directive-1@@0@@"
LATER = "2026-03-01T12:00:06+00:00 "


def only(text: bytes) -> Report:
    """Return the one row of a run log, after that of its start."""
    first, second = rows(read(joined(report(event="control", component="start")) + text))
    assert first.event_type == "control"
    return second


@pytest.mark.fault("F53")
@pytest.mark.parametrize("stamp", ["", LATER], ids=["plain", "stamped"])
@pytest.mark.parametrize("prefix", [*PREFIXES, "R: @@"])
def test_last_line_of_a_field_may_begin_like_a_log_entry(prefix: str, stamp: str) -> None:
    """The last line of a key or component belongs to it, whatever it begins with."""
    line = f"{stamp}{prefix}: of the agent" if prefix != "R: @@" else f"{stamp}R: "
    text = line.removeprefix(stamp)
    in_key = only(joined(f"{HEAD}Package@@vim", f"{line}@@{TAIL}"))
    assert (in_key.component, in_key.key_value) == ("Package", f"vim\n{text}")
    in_component = only(joined(f"{HEAD}Package", f"{line}@@vim@@{TAIL}", "and more"))
    assert (in_component.component, in_component.key_value) == (f"Package\n{text}", "vim")
    assert in_component.msg == "all is well\nand more"
    in_both = only(joined(f"{HEAD}Package", "x", f"{line}@@vim", "y", f"{line}@@{TAIL}", end="\n"))
    assert in_both.component == f"Package\nx\n{text}"
    assert in_both.key_value == f"vim\ny\n{text}"
    assert in_both.event_type == "result_error"


@pytest.mark.fault("F53")
@pytest.mark.parametrize("stamp", ["", LATER], ids=["plain", "stamped"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_entry_after_a_broken_report_stays_an_entry(prefix: str, stamp: str) -> None:
    """A line that does not complete the report is what it begins like, with `@@` in it or not."""
    entry = f"{stamp}{prefix}: a@@b"
    for broken in (f"{HEAD}Package@@vim", f"{HEAD}Package"):
        for more in ([], ["text"], [LATER + "text", ""]):
            run_log = read(joined(broken, entry, *more, report("good")))
            log, good = rows(run_log)
            assert log.event_type.startswith("log_")
            assert log.msg.startswith("a@@b")
            assert good.msg == "good"
            assert run_log.broken == 1


@pytest.mark.fault("F53")
def test_report_after_a_report_without_its_end_is_read() -> None:
    """Broken reports one after the other cost no good one, in whatever field they end."""
    whole = report("good")
    cut = [whole[:end] for end in range(len(HEAD), len(HEAD) + 12)]
    text = joined(*(line for pair in zip(cut, [whole] * len(cut), strict=True) for line in pair))
    run_log = read(text)
    assert [row.msg for row in rows(run_log)] == ["good"] * len(cut)
    assert run_log.broken == len(cut)


@pytest.mark.fault("F53")
def test_doubt_is_bounded() -> None:
    """Lines without an end after a doubtful one are not kept for ever."""
    flood = [f"{HEAD}Package", "R: log@@key", *["x"] * 3000, f"y@@{TAIL}", report("good")]
    assert [row.event_type for row in rows(read(joined(*flood)))] == ["log_info", "result_success"]


@pytest.mark.fault("F64")
@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (["vim", "@@"], "vim"),
        (["vim", f"{LATER}@@"], "vim\n"),
        (["vim", "", "@@"], "vim\n"),
        (["", "@@"], "None"),
        ([f"{LATER}vim", f"{LATER}emacs", "@@"], "vim\nemacs"),
        (["vim@", "@@"], "vim@"),
        (["vim", f"{LATER}{STAMP} emacs", "@@"], "vim\nemacs"),
        (["vim", f"{LATER}{STAMP} emacs@@"], f"vim\n{STAMP} emacs"),
    ],
)
def test_line_end_before_a_separator_is_none_of_the_key(lines: list[str], key: str) -> None:
    """A line end between a field and its separator is dropped, unless a stamp follows it."""
    text = "\r\n".join(lines)
    row = only(joined(f"{HEAD}Package@@{text}{TAIL}"))
    assert (row.component, row.key_value) == ("Package", key)
    if key != "None":
        assert only(joined(f"{HEAD}{text}vim@@{TAIL}")).component == key


@pytest.mark.fault("F64")
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_log_cut_within_a_stamp_or_an_opening_adds_nothing(end: str) -> None:
    """Wherever a log ends within a stamp or an opening, the report before stays as it is."""
    whole = joined(report("good"), end=end)
    for stamp in (LATER, "2026-03-01T12:00:06.5Z ", "2026-03-01T12:00:06+0000 "):
        for opening in ("R: @@", "rudder     info", "CRITICAL"):
            for size in range(1, len(stamp + opening)):
                run_log = read(whole + (stamp + opening)[:size].encode())
                assert [row.msg for row in rows(run_log)] == ["good"]
                assert any("ends within a line" in warning for warning in run_log.warnings)


@pytest.mark.fault("F64")
@pytest.mark.parametrize("last", ["text", "x", "-", f"{LATER}text", "2026-03-01 is a day"])
def test_last_line_without_its_end_that_is_text_is_kept(last: str) -> None:
    """Only what cannot be text is dropped from the end of a log."""
    (row,) = rows(read(joined(report("good")) + last.encode()))
    assert row.msg == "good\n" + last.removeprefix(LATER)


@pytest.mark.fault("F19")
def test_byte_order_mark_is_no_text() -> None:
    """A run log that begins with U+FEFF is the same run log; elsewhere, U+FEFF is text."""
    text = joined(report(event="control", component="start"), report("\ufeffx"))
    marked = read(b"\xef\xbb\xbf" + text)
    assert marked == read(text)
    assert marked.complete
    assert rows(marked)[1].msg == "\ufeffx"


@pytest.mark.fault("F16")
@pytest.mark.parametrize("offset", ["+0000", "+00", " +0000", "Z", "+00:00", " +00 00"])
def test_report_is_read_with_any_offset(offset: str) -> None:
    """No report is lost for the form of an offset, in START or in a stamp."""
    start, stamp = "2026-03-01 12:00:00" + offset, STAMP[:19] + offset.strip().replace(" ", "")
    lines = [report(str(n), start=start, stamp=stamp) for n in range(3)]
    run_log = read(joined(*lines, f"{stamp}    error: x", report("last")))
    assert [row.start_datetime for row in rows(run_log)] == [STARTED] * 5
    assert {row.execution_datetime for row in rows(run_log)} == {STAMP}
    assert run_log.broken == 0


@pytest.mark.fault("F16")
def test_report_with_a_date_that_cannot_be_read_is_counted_and_named() -> None:
    """A report that is lost for its date is counted, and the warning shows the date."""
    run_log = read(joined(report("good"), report("lost", start="2026-02-30 12:00:00+0000")))
    assert run_log.broken == 1
    assert any("'2026-02-30 12:00:00+0000'" in warning for warning in run_log.warnings)
