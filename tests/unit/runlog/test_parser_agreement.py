"""The fast parser and the literal one agree on valid and damaged run logs."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.errors import Refused
from relayd.runlog import parser
from relayd.runlog.grammar import parse_slow
from relayd.runlog.model import Report, RunLog
from relayd.runlog.parser import parse
from tests.support.runlogs import NODE, START, STARTED, joined, make_runlog, read, report, rows

#: What mutations put into run logs: marks, stamps, levels, line ends, and what needs escaping.
TOKENS = [
    *(b"\n", b"\r", b"\r\n", b"@@", b"##", b"@#", b"@", b" ", b":", b"\0", b"\xff", b"\xe2\x82"),
    *(b"\\", b"\t", b"R: @@", b"R: ", b"   error: ", b"rudder     info: x", b"control", b"start"),
    *(b"2026-03-01T12:00:07+00:00 ", b"2026-02-30T12:00:07+00:00 ", b"2016-12-31T23:59:60Z "),
    *(b"2026-03-01 12:00:00+00:00##node1@#", b"2026-03-01 14:00:00 +02:00", b"", b"##other@#"),
    *(b"2026-03-01t12:00:07.5+23:00 ", b"2026-03-01T12:00:07+00:00 R: log\r\n"),
    report("2026-03-01T12:00:07+00:00 text", key="", report_id="").encode() + b"\r\n",
    report(component="2026-03-01T12:00:07+00:00 ", key="2026-03-01T12:00:07Z x").encode() + b"\n",
    report(rule="").encode() + b"\r",
]
SKIPS = [frozenset[str](), frozenset({"result_success"}), frozenset({"log_info", "control"})]


def originals() -> Iterator[list[bytes]]:
    """Valid run logs, as lines."""
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    yield make_runlog(NODE, start, 30).replace(b"\n", b"\r\n").splitlines(keepends=True)
    mixed = [report(f"message {number}") for number in range(12)]
    for at, line in enumerate(("log", "   error: x", "rudder     info: y", "more text", "")):
        mixed.insert(2 * at + 1, f"2026-03-01T12:00:06+00:00 R: {line}"[: 26 + 9 * at])
    yield joined(report(event="control", component="start"), *mixed).splitlines(keepends=True)


ORIGINALS = list(originals())


def mutant(chance: random.Random) -> bytes:
    """A part of a run log, possibly shuffled, with up to five faults."""
    lines = chance.choice(ORIGINALS)
    at = chance.randrange(len(lines))
    lines = lines[: chance.randrange(2)] + lines[at : at + chance.randrange(1, 14)]
    if chance.random() < 0.3:
        chance.shuffle(lines)
    text = b"".join(lines)
    for _ in range(chance.choice((0, 1, 1, 2, 3, 5))):
        start = chance.randrange(len(text) + 1)
        if chance.random() < 0.5:
            start = max(0, text.find(chance.choice((b"@@", b"\n", b"@#", b"##")), start))
        end = start + chance.choice((0, 0, 1, 2, 5, 30))
        text = text[:start] + chance.choice(TOKENS) + text[end:]
    return text


def compare(seed: int, count: int) -> int:
    """Parses mutants both ways; returns how many were accepted."""
    chance = random.Random(seed)
    accepted = 0
    for _ in range(count):
        text, skip = mutant(chance), chance.choice(SKIPS)
        result = parse(text, NODE, skip)
        assert result == parse_slow(text, NODE, skip), text
        accepted += isinstance(result, RunLog)
    return accepted


@pytest.mark.parametrize("block", [2**17, 1, 40, 300])
def test_both_ways_agree_on_mutants(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged run logs give the same result in both ways, with any block size."""
    monkeypatch.setattr(parser, "_BLOCK", block)
    accepted = compare(block, 1000)
    assert 0 < accepted < 1000


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(8))
def test_both_ways_agree_on_very_many_mutants(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 damaged run logs for each seed give the same result in both ways."""
    monkeypatch.setattr(parser, "_BLOCK", [2**17, 100][seed % 2])
    assert compare(seed + 1000, 100_000)


@given(st.binary() | st.lists(st.sampled_from(TOKENS), max_size=30).map(b"".join), st.text())
def test_no_text_raises(text: bytes, node: str) -> None:
    """Arbitrary bytes, and arbitrary sequences of marks, give a run log or a refusal."""
    for way in (parse, parse_slow):
        assert isinstance(way(text, node), RunLog | Refused)
    assert parse(text, NODE) == parse_slow(text, NODE)


# Round trips: what is written comes back. Free text has no line that looks like an entry or begins
# with a stamp, and no separator, and is not empty where the table or the defaults say otherwise.
WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Nd"], exclude_characters="\0\r\n@#RCr "), max_size=12
)
NAMES = WORDS.filter(bool)
TEXTS = st.lists(WORDS, min_size=1, max_size=3).map("\n".join)
NEEDED = TEXTS.filter(bool)
STAMPS = st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.isoformat(timespec="seconds") + "+02:00"
)
REPORTS = st.builds(
    Report,
    start_datetime=st.just(STARTED),
    rule_id=NAMES,
    directive_id=NAMES,
    component=NEEDED,
    key_value=NEEDED,
    event_type=WORDS,
    msg=TEXTS,
    policy=WORDS,
    node_id=st.just(NODE),
    execution_datetime=STAMPS,
    report_id=NAMES,
)
LOGS = st.tuples(
    STAMPS,
    st.sampled_from(
        [("log_warn", "   error"), ("log_info", "R: [INFO]"), ("log_debug", " verbose")]
    ),
    TEXTS,
)


def written(row: Report) -> str:
    """A report as an agent writes it: each of its lines is stamped."""
    line = report(
        row.msg,
        policy=row.policy,
        event=row.event_type,
        rule=row.rule_id,
        directive=row.directive_id,
        report_id=row.report_id,
        component=row.component,
        key=row.key_value,
        start=START,
        stamp=row.execution_datetime,
    )
    return line.replace("\n", f"\n{row.execution_datetime} ")


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.lists(LOGS, max_size=2), REPORTS), min_size=1, max_size=5),
    st.lists(LOGS, max_size=2),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_written_run_log_is_read_back(
    entries: list[tuple[list[tuple[str, tuple[str, str], str]], Report]],
    late: list[tuple[str, tuple[str, str], str]],
    end: str,
) -> None:
    """Written reports and log entries are read back as rows, in order, field by field."""
    lines: list[str] = []
    wanted: list[Report] = []
    for logs, row in [*entries, (late, entries[-1][1])]:
        for stamp, (event, level), text in logs:
            lines.append(f"{stamp} {level}: " + text.replace("\n", f"\n{stamp} "))
            wanted.append(as_log(row, stamp, event, text))
        lines.append(written(row))
        wanted.append(row)
    del lines[-1], wanted[-1]
    run_log = read(joined(*lines, end="\n").replace(b"\n", end.encode()))
    assert rows(run_log) == wanted
    assert run_log.start == STARTED
    assert run_log.reports == len(wanted)


def as_log(row: Report, stamp: str, event: str, text: str) -> Report:
    """The row of a log entry before this report."""
    return Report(
        start_datetime=row.start_datetime,
        rule_id=row.rule_id,
        directive_id=row.directive_id,
        component=row.component,
        key_value=row.key_value,
        event_type=event,
        msg=text.lstrip(" "),
        policy=row.policy,
        node_id=row.node_id,
        execution_datetime=stamp,
        report_id=row.report_id,
    )
