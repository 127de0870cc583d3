"""Each rule of the grammar of run logs, read in both ways."""

from datetime import UTC, datetime

import pytest

from relayd.errors import Reason
from relayd.runlog.model import Report
from tests.support.runlogs import (
    NODE,
    STAMP,
    STARTED,
    joined,
    make_runlog,
    read,
    refusal,
    report,
    rows,
)

LATER = "2026-03-01T12:00:09+00:00"
OPENING = report("Start execution", event="control", component="start", key="config-1")
CLOSING = report("End execution", event="control", component="end", key="config-2")


def messages(text: bytes) -> list[str]:
    """The messages of the rows."""
    return [row.msg for row in rows(read(text))]


def kinds(text: bytes) -> list[tuple[str, str]]:
    """Event type and message of the rows."""
    return [(row.event_type, row.msg) for row in rows(read(text))]


@pytest.mark.history(14)
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("before", [(), (OPENING,)], ids=["alone", "behind another"])
def test_each_field_has_its_column(end: str, before: tuple[str, ...]) -> None:
    """Every field of a report is in its own column, without the line end, whatever that is."""
    line = report(
        "the message",
        stamp=LATER,
        policy="technique",
        event="result_na",
        rule="the rule",
        directive="the directive",
        report_id="the id",
        component="the component",
        key="the key",
    )
    run_log = read(joined(*before, line, end=end))
    assert rows(run_log)[-1] == Report(
        start_datetime=STARTED,
        rule_id="the rule",
        directive_id="the directive",
        component="the component",
        key_value="the key",
        event_type="result_na",
        msg="the message",
        policy="technique",
        node_id=NODE,
        execution_datetime=LATER,
        report_id="the id",
    )
    assert run_log.node_id == NODE
    assert run_log.start == STARTED


def test_whole_run_log() -> None:
    """A realistic run log is complete, has its configuration id and a row for each report."""
    text = make_runlog("root", datetime(2026, 3, 1, 12, tzinfo=UTC), 72, config_id="config-7")
    run_log = read(text.replace(b"\n", b"\r\n"), "root")
    assert run_log.complete
    assert run_log.config_id == "config-7"
    assert (run_log.reports, run_log.rows) == (72, 72)
    assert run_log.warnings == ()
    assert run_log.first[7:9] == ("control", "Start execution")


def test_last_line_may_lack_its_end() -> None:
    """The last report is read even if its line end is missing."""
    assert messages(joined(OPENING, report("last")).removesuffix(b"\r\n")) == [
        "Start execution",
        "last",
    ]


@pytest.mark.history(15)
def test_lone_cr_ends_a_line() -> None:
    """A lone CR in a message is a line end like any other, and no data are lost."""
    text = joined(OPENING, report("60 %\r80 %\r100 %"), report("after"))
    assert messages(text) == ["Start execution", "60 %\n80 %\n100 %", "after"]


def test_entry_after_a_lone_cr_has_the_stamp_of_its_line() -> None:
    """The text that a lone CR splits off a line keeps the stamp of that line."""
    unstamped = report("own line", component="cut").removeprefix(f"{STAMP} ")
    text = joined(OPENING, report("progress", stamp=LATER) + "\rR: cut\r" + unstamped)
    assert [(row.msg, row.execution_datetime) for row in rows(read(text))[1:]] == [
        ("progress", LATER),
        ("cut", LATER),
        ("own line", LATER),
    ]


def test_other_separators_of_unicode_do_not_end_a_line() -> None:
    """Form feeds, next-line and line-separator characters are part of the text."""
    text = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g"
    assert messages(joined(OPENING, report(text)))[1] == text


@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize(
    "field",
    [
        pytest.param("key", marks=pytest.mark.history(16)),
        pytest.param("component", marks=pytest.mark.history(17)),
        "message",
    ],
)
def test_free_text_may_span_lines(field: str, stamped: bool) -> None:
    """Key, component and message keep their lines and lose the stamps before them."""
    stamp = f"{LATER} " if stamped else ""
    text = joined(OPENING, report(**{field: f"one\r\n{stamp}two\r\n{stamp}\r\n{stamp}  four"}))
    row = rows(read(joined(OPENING) + text))[-1]
    value = {"key": row.key_value, "component": row.component, "message": row.msg}[field]
    assert value == "one\ntwo\n\n  four"


@pytest.mark.parametrize("field", ["key", "component", "message"])
def test_only_one_stamp_is_removed_from_a_line(field: str) -> None:
    """Each line of a free text, including the first, loses one stamp and keeps the rest."""
    text = joined(OPENING, report(**{field: f"{LATER} one\n{STAMP} {LATER} two"}))
    row = rows(read(text))[-1]
    value = {"key": row.key_value, "component": row.component, "message": row.msg}[field]
    assert value == f"one\n{LATER} two"


@pytest.mark.parametrize("field", ["key", "component", "message"])
def test_field_of_one_line_loses_its_stamp(field: str) -> None:
    """A stamp that begins a free text of one line is removed as well."""
    text = joined(OPENING, report(**{field: f"{LATER} text"}), CLOSING)
    row = rows(read(text))[1]
    value = {"key": row.key_value, "component": row.component, "message": row.msg}[field]
    assert value == "text"


@pytest.mark.parametrize(
    "line", ["2026-02-30T12:00:00Z two", f"{LATER}two", f"{LATER}", " 2026-03-01T12:00:00Z two"]
)
def test_text_like_a_stamp_stays(line: str) -> None:
    """Text that only looks like a stamp belongs to the line."""
    assert messages(joined(OPENING, report("one"), line))[-1] == f"one\n{line}"


@pytest.mark.parametrize("field", ["policy", "event", "rule", "directive", "report_id", "node"])
def test_other_fields_have_one_line(field: str) -> None:
    """A line end in any other field breaks the report, and only it."""
    text = joined(OPENING, report("bad", **{field: "one\ntwo"}), report("good"))
    run_log = read(text)
    assert [row.msg for row in rows(run_log)] == ["Start execution", "good"]
    assert "broken report" in run_log.warnings[0]


@pytest.mark.history(18)
def test_empty_key_and_id_have_defaults() -> None:
    """An empty key is `None`, an empty report id `0`, and neither is worth a warning."""
    run_log = read(joined(OPENING, report(key="", report_id="")))
    row = rows(run_log)[1]
    assert (row.key_value, row.report_id) == ("None", "0")
    assert run_log.warnings == ()


@pytest.mark.history(25)
def test_report_id_is_text() -> None:
    """A report id is any text."""
    assert rows(read(joined(report(report_id="4f3e-id"))))[0].report_id == "4f3e-id"


def test_event_types_are_not_restricted() -> None:
    """Unknown event types are kept, and so are empty types and policies."""
    text = joined(report(event="result_new"), report(event="", policy=""))
    assert [(row.event_type, row.policy) for row in rows(read(text))] == [
        ("result_new", "Common"),
        ("", ""),
    ]


@pytest.mark.parametrize(
    "message",
    ["", "##", "@#", "a@@b@@c", "R: @@x", "x##y@#z", "@@2026-03-01 12:00:00+00:00##node1@#", " "],
)
def test_message_may_hold_anything(message: str) -> None:
    """Separators in a message are part of it."""
    assert messages(joined(OPENING, report(message), CLOSING))[1] == message


LEVELS = {
    "log_warn": [
        "CRITICAL",
        "   error",
        " warning",
        "rudder CRITICAL",
        "rudder    error",
        "rudder  warning",
        "R: [FATAL]",
        "R: [ERROR]",
        "R: WARNING",
        "R: DEBUG",
    ],
    "log_info": ["  notice", "    info", "rudder   notice", "rudder     info", "R: [INFO]", "R:"],
    "log_debug": [" verbose", "   debug", "R: [DEBUG]"],
}


@pytest.mark.history(19, 20)
@pytest.mark.parametrize("colon", [": ", ":", " ", "", ":    ", "    "])
@pytest.mark.parametrize(
    ("event", "level"), [(event, level) for event, levels in LEVELS.items() for level in levels]
)
def test_level_opens_a_log_entry(event: str, level: str, colon: str) -> None:
    """Each level opens a log entry of its type; one colon and the blanks after it are dropped."""
    text = joined(OPENING, f"{LATER} {level}{colon}text: of it", "more", report("next"))
    _, entry, following = rows(read(text))
    assert (entry.event_type, entry.msg) == (event, "text: of it\nmore")
    assert entry.execution_datetime == LATER
    assert (following.event_type, following.msg) == ("result_success", "next")


@pytest.mark.parametrize(
    "line",
    ["rudder  verbose: x", "rudder    debug: x", "error: x", "  error: x", "critical", " R: x",
     "rudder R: x", "Rudder     info: x", "r: x", "info"],
)  # fmt: skip
def test_text_without_a_level_continues_the_entry(line: str) -> None:
    """Any other text continues the entry above, which may be a log entry too."""
    text = joined(OPENING, f"{LATER} R: log", f"{LATER} {line}", report("next"))
    assert kinds(text)[1:] == [("log_info", f"log\n{line}"), ("result_success", "next")]


def test_only_one_colon_is_dropped() -> None:
    """A second colon, or one after a blank, belongs to the message."""
    text = joined(OPENING, f"{LATER} R::: one", f"{LATER} R: : two", report("next"))
    assert messages(text)[1:3] == [": one", ": two"]


def test_log_message_that_begins_with_a_stamp_loses_it() -> None:
    """The message of a log entry is free text like any other."""
    assert messages(joined(OPENING, f"{LATER} R: {STAMP} text", report("next")))[1] == "text"


def test_log_entries_are_copies_of_the_next_report() -> None:
    """A log entry has the fields of the next report, and its own type, message and stamp."""
    target = report("the report", component="Service", key="sshd", report_id="7", rule="rule-9")
    text = joined(OPENING, f"{LATER}    error: one", f"{LATER} R: two", target)
    _, one, two, own = rows(read(text))
    for entry, event, message in ((one, "log_warn", "one"), (two, "log_info", "two")):
        assert (entry.event_type, entry.msg, entry.execution_datetime) == (event, message, LATER)
        assert (entry.component, entry.key_value, entry.report_id) == ("Service", "sshd", "7")
        assert (entry.rule_id, entry.start_datetime, entry.node_id) == ("rule-9", STARTED, NODE)
    assert (own.msg, own.execution_datetime) == ("the report", STAMP)


@pytest.mark.parametrize(
    "report_between",
    [
        pytest.param(f"{STAMP} R: @@Common@@", id="broken"),
        pytest.param(report(component=""), id="dropped"),
    ],
)
def test_log_entries_wait_for_a_good_report(report_between: str) -> None:
    """Log entries before a dropped report belong to the next good one."""
    good = report("good", component="Service")
    text = joined(OPENING, f"{LATER} R: log", report_between, f"{LATER} R: more", good)
    found = [(row.msg, row.component) for row in rows(read(text))[1:]]
    assert found == [("log", "Service"), ("more", "Service"), ("good", "Service")]


def test_log_entries_at_the_end_are_copies_of_the_last_report() -> None:
    """Log entries after the last report follow it, as copies of it."""
    text = joined(OPENING, report("last", component="Service"), f"{LATER}    error: late")
    row = rows(read(text))[-1]
    assert (row.component, row.event_type, row.msg) == ("Service", "log_warn", "late")
    assert row.execution_datetime == LATER


def test_log_entries_at_the_start_come_first() -> None:
    """A log entry before the first report is the first row, and the first of the run log."""
    run_log = read(joined(f"{LATER} R: early", OPENING))
    assert [row.msg for row in rows(run_log)] == ["early", "Start execution"]
    assert run_log.first[0] == LATER
    assert run_log.first[7:9] == ("log_info", "early")


@pytest.mark.history(21)
@pytest.mark.parametrize(
    "noise",
    [
        ["ok: Rudder agent check ran without errors."],
        ["", "", "garbage"],
        ["R: @@Common@@not stamped"],
        ["   error: not stamped"],
        [f"{STAMP} no entry", "R: not stamped"],
    ],
)
def test_noise_before_the_first_entry_is_skipped(noise: list[str]) -> None:
    """Lines before the first stamped entry are skipped with one warning that shows the first."""
    run_log = read(joined(*noise, OPENING, report("good")))
    assert [row.msg for row in rows(run_log)] == ["Start execution", "good"]
    assert len(run_log.warnings) == 1
    assert run_log.warnings[0].startswith(f"lines before the first entry skipped: {len(noise)}, ")
    assert noise[0] in run_log.warnings[0]


@pytest.mark.history(21, 22)
@pytest.mark.parametrize(
    ("lines", "complete", "config_id"),
    [
        ([OPENING, report(), CLOSING], True, "config-1"),
        ([OPENING, report()], True, "config-1"),
        ([report(), CLOSING], False, "config-2"),
        ([report(), CLOSING, OPENING], True, "config-2"),
        ([report()], False, None),
        ([report(event="control", component="other", key="config-3")], False, None),
        ([report(event="result_na", component="start", key="config-3")], False, None),
        ([report(event="control", component="start", key="", rule="")] * 2 + [CLOSING], False,
         "config-2"),
    ],
)  # fmt: skip
def test_only_a_start_report_completes_a_run(
    lines: list[str], complete: bool, config_id: str | None
) -> None:
    """The first report of a start or end gives the configuration id; a start completes the run."""
    run_log = read(joined(*lines))
    assert (run_log.complete, run_log.config_id) == (complete, config_id)
    assert any("no configuration id" in text for text in run_log.warnings) == (config_id is None)


@pytest.mark.history(23, 24)
def test_other_start_is_only_a_warning() -> None:
    """The first report dates the run; a report with another START keeps it, with a warning."""
    other = report("other", start="2026-03-02 12:00:00+00:00")
    run_log = read(joined(OPENING, report(), other, report(), other))
    assert run_log.start == STARTED
    assert [row.start_datetime for row in rows(run_log)][2] == "2026-03-02T12:00:00+00:00"
    assert run_log.warnings == (
        f"reports with another start date than {STARTED}: 2, the first: 2026-03-02T12:00:00+00:00",
    )


def test_same_start_in_another_zone_is_no_other_start() -> None:
    """STARTs are compared as instants; each row keeps its spelling's offset."""
    run_log = read(joined(OPENING, report(start="2026-03-01 14:00:00 +02:00")))
    assert rows(run_log)[1].start_datetime == "2026-03-01T14:00:00+02:00"
    assert run_log.warnings == ()


@pytest.mark.fault("P9")
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("node", ["other", "", "node", "node11", "Node1"])
def test_report_of_another_node_refuses_the_run_log(position: int, node: str) -> None:
    """One report of another node refuses the whole run log."""
    lines = [OPENING, report(), CLOSING]
    lines[position] = report(node=node)
    refused = refusal(joined(*lines))
    assert refused.reason is Reason.NODE_MISMATCH
    assert f"'{node}'" in refused.detail


@pytest.mark.fault("P7")
def test_broken_reports_do_not_affect_others() -> None:
    """Good reports around broken ones are kept, with a warning for each broken one."""
    broken = [
        f"{STAMP} R: @@",
        f"{STAMP} R: @@Common@@result_success@@rule@@directive@@0@@component@@key",
        report().replace("##", "#"),
        report().replace("@#", "@"),
        report(start="2026-03-01T12:00:00+00:00"),
        report(start="2026-02-30 12:00:00+00:00"),
        report(start=""),
        report(key="a@@b"),
    ]
    lines = [
        line for pair in zip(broken, [report("good")] * len(broken), strict=True) for line in pair
    ]
    run_log = read(joined(OPENING, *lines))
    assert [row.msg for row in rows(run_log)] == ["Start execution"] + ["good"] * len(broken)
    assert len(run_log.warnings) == len(broken)
    assert all(text.startswith("broken report skipped (") for text in run_log.warnings)


def test_broken_report_ends_at_the_next_entry() -> None:
    """Lines after a broken report are part of it; a log entry after it is not."""
    text = joined(OPENING, f"{STAMP} R: @@broken", f"{STAMP} its text", f"{LATER} R: log", CLOSING)
    run_log = read(text)
    assert [row.msg for row in rows(run_log)] == ["Start execution", "log", "End execution"]
    assert run_log.warnings == ("broken report skipped (1 of 8 fields): R: @@broken\\nits text",)


@pytest.mark.fault("P7", "P8")
def test_warnings_are_few_short_and_printable() -> None:
    """A thousand broken reports full of escapes make 21 lines, each bounded and printable."""
    hostile = f"{STAMP} R: @@\x1b[2J\u202e\x85" + "\u0301é" * 500 + "\x00\n\x07more"
    run_log = read(joined(*[hostile] * 1000, OPENING))
    assert len(run_log.warnings) == 21
    assert run_log.warnings[-1] == "… and 981 more"
    for text in run_log.warnings:
        assert text.isprintable()
        assert len(text) < 1000
    assert "\\x1b[2J\\u202e" in run_log.warnings[1]
    assert run_log.warnings[0] == "NUL characters removed: 1000"


def test_warning_shows_at_most_200_characters() -> None:
    """Of a broken report no more than 200 characters are shown."""
    (warning,) = read(joined(OPENING, f"{STAMP} R: @@{'é' * 5000}")).warnings
    assert warning.count("é") == 200 - len("R: @@")


@pytest.mark.fault("P6")
@pytest.mark.history(26)
def test_bad_utf_8_is_replaced() -> None:
    """Bytes that are not UTF-8 become U+FFFD, one for each maximal part; the rest is kept."""
    text = joined(OPENING, report("caf?", component="é"), report("next"))
    bad = text.replace(b"?", b"\xe9 \xf0\x9f\x92 \xed\xa0\x80")
    run_log = read(bad)
    assert [row.msg for row in rows(run_log)] == [
        "Start execution",
        "caf\ufffd \ufffd \ufffd\ufffd\ufffd",
        "next",
    ]
    assert rows(run_log)[1].component == "é"


def test_nul_is_removed() -> None:
    """NUL characters are removed everywhere, with one warning that counts them."""
    run_log = read(joined(OPENING, report("a\0b\0", component="\0Package"), "\0"))
    row = rows(run_log)[1]
    assert (row.msg, row.component) == ("ab\n", "Package")
    assert run_log.warnings == ("NUL characters removed: 4",)


@pytest.mark.parametrize("field", ["rule", "directive", "component"])
@pytest.mark.parametrize("value", ["", "\0"])
def test_report_without_a_needed_field_is_dropped(field: str, value: str) -> None:
    """A report that the table would refuse is dropped with a warning; the others are kept."""
    run_log = read(joined(report("bad", **{field: value}), OPENING, report("good")))
    assert [row.msg for row in rows(run_log)] == ["Start execution", "good"]
    assert run_log.reports == 2
    assert run_log.first[8] == "Start execution"
    assert any("dropped" in text for text in run_log.warnings)


@pytest.mark.parametrize(
    ("skip", "kept"),
    [
        ({"result_success"}, ["log", "Start execution", "late"]),
        ({"control"}, ["log", "one", "two", "late"]),
        ({"log_info"}, ["Start execution", "one", "two"]),
        ({"unknown"}, ["log", "Start execution", "one", "two", "late"]),
        ({"control", "result_success", "log_info"}, []),
    ],
)
def test_skipped_types_have_no_rows(skip: set[str], kept: list[str]) -> None:
    """Skipped event types are counted and have their usual effects, but no rows."""
    lines = (f"{LATER} R: log", OPENING, report("one"), report("two"), f"{LATER} R: late")
    run_log = read(joined(*lines), skip=frozenset(skip))
    assert [row.msg for row in rows(run_log)] == kept
    assert run_log.reports == 5
    assert run_log.first[7:9] == ("log_info", "log")
    assert (run_log.complete, run_log.config_id, run_log.start) == (True, "config-1", STARTED)


def test_skipped_type_may_need_escaping() -> None:
    """An event type is compared in its form in the run log, not in that of COPY."""
    text = joined(OPENING, report("odd", event="a\\b"), CLOSING)
    kept = rows(read(text, skip=frozenset({"a\\b"})))
    assert [row.msg for row in kept] == ["Start execution", "End execution"]
    kept = rows(read(text, skip=frozenset({"a\\\\b"})))
    assert [row.msg for row in kept] == ["Start execution", "odd", "End execution"]


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        pytest.param(b"", "empty run log", marks=pytest.mark.history(29)),
        pytest.param(b"\r\n\r\n", "empty run log", marks=pytest.mark.history(29)),
        (b"only noise\r\n", "only other lines: 1, the first: only noise"),
        (f"{STAMP} \n".encode(), "only other lines: 1"),
        (f"{STAMP} R: log\n{STAMP} R: log".encode(), "only log entries: 2"),
        (f"{STAMP} R: @@broken".encode(), "1 broken; broken report skipped"),
        (joined(report(component="")), "1 broken; report without rule, directive or component"),
        (joined(report().removeprefix(STAMP)), "only other lines: 1"),
    ],
)
def test_run_log_without_a_report_is_refused(text: bytes, detail: str) -> None:
    """A run log without a usable report is refused, with a description of its content."""
    refused = refusal(text)
    assert refused.reason is Reason.NO_REPORT
    assert not refused.maybe_unfinished
    assert detail in refused.detail


@pytest.mark.parametrize("node", ["a@b", "a@", "#a", "a##b", "nœud", "a\\b", "a\tb", "a b"])
def test_odd_node_ids_are_compared_literally(node: str) -> None:
    """A node id may contain anything but its end mark."""
    run_log = read(joined(report("one", node=node), report("two", node=node)), node)
    assert {row.node_id for row in rows(run_log)} == {node}


@pytest.mark.parametrize("node", ["a@#b", "a\nb"])
def test_impossible_node_ids_never_match(node: str) -> None:
    """A node id that no report can carry matches none."""
    refused = refusal(joined(report("one", node=node), report("two", node=node)), node)
    assert refused.reason in {Reason.NODE_MISMATCH, Reason.NO_REPORT}


@pytest.mark.fault("P11")
@pytest.mark.parametrize(
    ("stamp", "date"),
    [
        ("2016-12-31T23:59:60+00:00", "2017-01-01T00:00:00+00:00"),
        ("2026-03-01t12:00:00z", "2026-03-01T12:00:00+00:00"),
        ("2026-03-01T12:00:00.25-03:30", "2026-03-01T12:00:00.25-03:30"),
        ("2026-03-01T12:00:00+23:00", "2026-02-28T13:00:00+00:00"),
    ],
)
def test_rare_stamps_are_read(stamp: str, date: str) -> None:
    """Stamps in every spelling of RFC 3339 date their reports and log entries."""
    text = joined(OPENING, f"{stamp} R: log", report("one", stamp=stamp), report("two"))
    assert [row.execution_datetime for row in rows(read(text))[1:3]] == [date, date]


def test_tabs_and_backslashes_are_kept() -> None:
    """Characters that COPY has to escape are stored unchanged, in every field."""
    odd = "C:\\new\\table\t\\N\\."
    fields = dict.fromkeys(
        ("policy", "event", "rule", "directive", "report_id", "component", "key"), odd
    )
    run_log = read(joined(OPENING, report(odd, **fields), f"{LATER} R: {odd}", CLOSING))
    row = rows(run_log)[1]
    assert {row.msg, row.policy, row.event_type, row.rule_id, row.directive_id} == {odd}
    assert {row.report_id, row.component, row.key_value} == {odd}
    assert rows(run_log)[2].msg == odd
