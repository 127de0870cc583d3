"""Logging: what a line contains, what it can never do, and what happens without a reader."""

import json
import logging
import os
import re
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from structlog.testing import capture_logs

from relayd.config.log_filter import DEBUG, ERROR, INFO, TRACE, parse_filter
from relayd.config.main_conf import LoggingSettings, Secret
from relayd.errors import ConfigError
from relayd.telemetry import logs
from relayd.telemetry.limit import BURST, WINDOW_S, Key, RateLimit
from relayd.telemetry.logs import Levels, Limit, configure, get_logger, open_logging
from tests.support.logs import PAYLOADS, settings, written
from tests.support.project import ROOT

log = get_logger("disposal")


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.delenv("RELAYD_LOG_FORMAT", raising=False)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that is closed at the end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


@pytest.mark.fault("D.8.1")
def test_payloads_are_many() -> None:
    """The corpus contains at least a hundred different payloads."""
    assert len(set(PAYLOADS)) >= 100


def fail(*arguments: object) -> None:
    raise ValueError(*arguments)


def fail_with(*arguments: object) -> None:
    """Log a traceback with `arguments` in it."""
    try:
        fail(*arguments)
    except ValueError:
        log.exception("failed")


PLACES: list[Callable[[str], None]] = [
    lambda text: log.error("event", file=text, detail=1),
    lambda text: log.error("event", file=Path(text.replace("\0", "")), detail=1),
    lambda text: log.error("event", file=text.encode("utf-8", "surrogatepass"), detail=1),
    lambda text: log.error("event", files=[text], detail=1),
    lambda text: log.error("event", error=ValueError(text), detail=1),
    lambda text: log.error("event", **{text or "x": 1}),
    lambda text: log.bind(node=text).error("event"),
    log.error,
    lambda text: logging.getLogger("asyncpg").error("%s", text),
]


@pytest.mark.fault("D.8.1")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", ["text", "json"])
def test_hostile_text_stays_on_its_line(
    tmp_path: Path, place: Callable[[str], None], form: str
) -> None:
    """Any text, in any part of an event, yields one line of printable characters."""

    def act() -> None:
        for payload in PAYLOADS:
            place(payload)

    lines = written(tmp_path / "log", act, settings(form=form)).removesuffix("\n").split("\n")
    assert len(lines) == len(PAYLOADS)
    assert all(line.isprintable() for line in lines)


def test_json_gives_back_what_was_logged(tmp_path: Path) -> None:
    """A reader of the JSON form, which is ASCII, gets back each value unchanged."""

    def act() -> None:
        for payload in PAYLOADS:
            log.error("event", detail=payload)

    text = written(tmp_path / "log", act, settings(form="json"))
    assert text.isascii()
    assert [json.loads(line)["detail"] for line in text.splitlines()] == PAYLOADS


def test_traceback_lines_are_escaped_and_indented(tmp_path: Path) -> None:
    """No line of a traceback can be mistaken for a line of the log."""

    def act() -> None:
        for payload in PAYLOADS:
            fail_with(payload)

    text = written(tmp_path / "log", act)
    heads = [line for line in text.removesuffix("\n").split("\n") if not line.startswith("    ")]
    assert len(heads) == len(PAYLOADS)
    assert all(" ERROR disposal: failed" in line for line in heads)
    assert text.replace("\n", "").isprintable()


def test_text_line_holds_time_level_component_event_and_fields(tmp_path: Path) -> None:
    """A line has time, level, component and event, then the bound fields and those of the call."""
    bound = log.bind(queue_id="7F", node="root").bind(file="a b.log")
    line = written(tmp_path / "log", lambda: bound.warning("file refused", reason=None, rows=3))
    time, _, rest = line.partition(" ")
    assert (
        rest
        == 'WARN  disposal: file refused queue_id=7F node=root file="a b.log" reason=none rows=3\n'
    )
    assert time.endswith("Z")
    assert "T" in time


def test_json_line_keeps_types_and_own_names(tmp_path: Path) -> None:
    """JSON values keep their type, and no field replaces time, level, component or event."""
    taken: dict[str, object] = {"level": 1, "event": "x", "component": "y", "method": "z"}

    def act() -> None:
        log.bind(**taken).info(
            "event", rows=3, ratio=0.5, ok=True, none=None, nan=float("nan"), big=2**80, **taken
        )

    document = json.loads(written(tmp_path / "log", act, settings(form="json")))
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "info",
        "component": "disposal",
        "event": "event",
        "rows": 3,
        "ratio": 0.5,
        "ok": True,
        "none": None,
        "nan": "nan",
        "big": hex(2**80),
        "level_": 1,
        "event_": "x",
        "component_": "y",
        "method": "z",
    }


def test_json_traceback_is_a_list_of_lines(tmp_path: Path) -> None:
    """In the JSON form, the traceback of a crash is part of the same object."""
    text = written(tmp_path / "log", lambda: fail_with("boom"), settings(form="json"))
    traceback = json.loads(text)["traceback"]
    assert traceback[0].startswith("Traceback")
    assert traceback[-1] == "ValueError: boom"


def test_very_deep_traceback_is_shortened(tmp_path: Path) -> None:
    """Only the beginning and the end of a traceback with thousands of lines are logged."""
    errors: Exception = ValueError("innermost")
    for number in range(500):
        errors = ExceptionGroup(f"group {number}", [errors])

    def act() -> None:
        log.error(
            "failed", exc_info=ExceptionGroup("many", [ValueError(str(n)) for n in range(300)])
        )
        log.error("failed", exc_info=errors)

    assert len(written(tmp_path / "log", act).splitlines()) < 500


@pytest.mark.parametrize("form", ["text", "json"])
def test_long_values_are_cut(tmp_path: Path, form: str) -> None:
    """A value of any length or type takes up a bounded part of the line."""

    def act() -> None:
        log.error("x" * 10**6, a="y" * 10**6, b=b"z" * 10**6, c=["w" * 10**6], d=10**5000)

    assert len(written(tmp_path / "log", act, settings(form=form))) < 5000


@pytest.mark.history(65)
@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_starred_wherever_they_stand(tmp_path: Path, form: str) -> None:
    """A secret never shows, whether it is a field, inside one, bound, or in a traceback."""
    secret = Secret("c4nary")

    def act() -> None:
        log.error("a", value=secret, items=[secret], table={"x": (secret,)}, text=f"{secret}")
        log.bind(credential=secret).error("b", upstream_password="c4nary", auth_token="c4nary")
        fail_with("refused", secret)

    text = written(tmp_path / "log", act, settings(form=form))
    assert "c4nary" not in text
    assert text.count("***") == 8


@pytest.mark.parametrize(
    ("level", "directives", "shown"),
    [
        ("off", "", ""),
        ("error", "", "E"),
        ("warn", "", "EW"),
        ("info", "", "EWI"),
        ("debug", "", "EWID"),
        ("trace", "", "EWIDT"),
        ("error", "disposal=trace", "EWIDT"),
        ("error", "[disposal]=debug", "EWID"),
        ("trace", "disposal=off", ""),
        ("error", "database=trace", "E"),
        ("error", "[disposal{node=n1}]=info", "EWI"),
        ("error", "[disposal{node=n2}]=info", "E"),
        ("error", "[{node=n1}]=info", "EWI"),
        ("error", '[disposal{node="n1"}]=trace, disposal=warn', "EWIDT"),
        ("trace", "[disposal{node=n1}]=warn", "EW"),
        ("error", "debug", "EWID"),
        ("error", " , disposal = WARN,", "EW"),
        *(
            pytest.param(level, directives, shown, marks=pytest.mark.fault("F55"))
            for level, directives, shown in [
                ("error", '[node{node_id="n1"}]=trace', "EWIDT"),
                ("error", "[node{node_id=n2}]=trace", "E"),
                ("error", "[node]=info", "EWI"),
                ("error", "[report{queue_id=AB12}]=debug", "EWID"),
                ("error", "[report{queue_id=CD34}]=debug", "E"),
                ("error", "[report{queue_id}]", "EWIDT"),
                ("error", "[inventory{queue_id=.*}]=info", "EWI"),
                ("trace", "[report{queue_id=AB12}]=warn,[node{node_id=n1}]=debug", "EW"),
                ("error", "disposal[node{node_id=n1}]=info", "EWI"),
                ("error", "database[node{node_id=n1}]=info", "E"),
                ("error", "relayd=debug", "EWID"),
                ("error", "relayd[report]=debug", "EWID"),
                ("error", "relayd::processing::reporting=info", "EWI"),
                ("error", "relayd::output::database=info", "E"),
                ("error", "[reporting]=4", "EWID"),
                ("error", "[report{queue_id=AB12}=trace,disposal=warn", "EW"),
                ("error", "hyper=trace,[node{node_id=n1}]=loud,debug", "EWID"),
            ]
        ),
    ],
)
def test_level_and_filter_choose_the_lines(
    tmp_path: Path, level: str, directives: str, shown: str
) -> None:
    """The most specific usable directive decides which lines of a component, node and file show."""
    bound = log.bind(node="n1", queue_id="AB12")

    def act() -> None:
        bound.error("E")
        bound.warning("W")
        bound.info("I")
        bound.debug("D")
        if bound.enabled(TRACE):
            bound.write(TRACE, "T")

    text = written(tmp_path / "log", act, settings(level, directives))
    assert "".join(line.split("disposal: ")[1][0] for line in text.splitlines()) == shown


def test_node_of_the_call_counts_like_a_bound_one() -> None:
    """A directive for a node applies to the node field of a call as well as to a bound one."""
    levels = Levels(parse_filter("error,[watch{node=a}]=debug").directives)
    assert levels.enabled(DEBUG, "watch", "a")
    assert not levels.enabled(DEBUG, "watch", "b")
    assert not levels.enabled(DEBUG, "watch", None)
    assert not levels.enabled(TRACE, "watch", "a")
    assert levels.enabled(ERROR, "api", "a")


def test_reload_takes_effect_at_once(tmp_path: Path) -> None:
    """Loggers made before `configure` follow the new level and format."""
    path = tmp_path / "log"

    def act() -> None:
        log.debug("hidden")
        configure(settings("debug"), stream_fd=logs._state.fd, json=True)
        log.debug("shown")

    assert json.loads(written(path, act, settings("info")))["event"] == "shown"


def test_format_can_be_set_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELAYD_LOG_FORMAT overrides logging.conf, and an invalid value is a configuration error."""
    monkeypatch.setenv("RELAYD_LOG_FORMAT", "json")
    assert json.loads(written(tmp_path / "log", lambda: log.error("event")))["event"] == "event"
    monkeypatch.setenv("RELAYD_LOG_FORMAT", "xml")
    with pytest.raises(ConfigError, match="RELAYD_LOG_FORMAT"):
        configure(settings())


@pytest.mark.parametrize("form", ["text", "json"])
def test_journal_gets_priorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """On a stream to the journal, every line begins with its priority, even in tracebacks."""
    path = tmp_path / "log"
    path.touch()
    status = path.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")

    def act() -> None:
        log.write(TRACE, "event")
        log.debug("event")
        log.info("event")
        log.warning("event")
        fail_with("boom")

    lines = written(path, act, settings(form=form)).splitlines()
    assert [line[:3] for line in lines[:5]] == ["<7>", "<7>", "<6>", "<4>", "<3>"]
    assert all(line.startswith("<3>    ") for line in lines[5:])
    if form == "text":
        assert lines[2] == "<6>INFO  disposal: event"
    else:
        assert json.loads(lines[2][3:])["event"] == "event"


def test_stream_that_is_not_the_journal_gets_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JOURNAL_STREAM that names another file is ignored."""
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert written(tmp_path / "log", lambda: log.error("event"))[0].isdigit()


def test_logger_works_before_logging_is_open(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines logged at import or in a tool go to stderr."""
    log.warning("early", file="a")
    assert capsys.readouterr().err.endswith("WARN  disposal: early file=a\n")


def test_tests_can_capture_events() -> None:
    """structlog's own capture_logs sees events and fields of relayd's loggers."""  # noqa: D403
    with capture_logs() as events:
        log.bind(node="n").warning("file refused", reason="empty")
    assert events == [
        {
            "component": "disposal",
            "node": "n",
            "reason": "empty",
            "event": "file refused",
            "log_level": "warning",
        }
    ]


def test_libraries_log_through_relayd(tmp_path: Path) -> None:
    """Records of libraries and Python's warnings get a component, a level and one line."""
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def act() -> None:
        logging.getLogger("hypercorn.error").warning("from %s", "hypercorn")
        logging.getLogger("asyncpg.pool").critical("from asyncpg")
        logging.getLogger("other").warning("%d", "arguments that do not fit")
        logging.getLogger("asyncio").debug("hidden")
        try:
            fail("gone")
        except ValueError:
            logging.getLogger("trio_asyncio").exception("failed")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)

    text = written(tmp_path / "log", act, settings("info"))
    lines = [line.split(" ", 1)[1] for line in text.splitlines() if not line.startswith("    ")]
    assert lines[:4] == [
        "WARN  api: hypercorn.error: from hypercorn",
        "ERROR database: asyncpg.pool: from asyncpg",
        "WARN  main: other: %d",
        "ERROR database: trio_asyncio: failed",
    ]
    assert "ValueError: gone" in text
    assert "DeprecationWarning: old" in lines[4]
    assert (root.handlers, root.level) == before


@pytest.mark.fault("F44")
@pytest.mark.parametrize(
    ("level", "target", "shown"),
    [
        ("info", "", []),
        ("debug", "", []),
        ("debug", "upstream=debug,main=debug,[{node=root}]=debug", []),
        ("debug", "httpcore2=trace", ["httpcore2.http11: started <Connection>"]),
        ("error", "httpcore2=trace", ["httpcore2.http11: started <Connection>"]),
        ("trace", "", ["httpcore2.http11: started <Connection>", "asyncio: loop"]),
        ("trace", "upstream=info,database=warn", []),
    ],
)
def test_steps_of_libraries_are_trace(
    tmp_path: Path, level: str, target: str, shown: list[str]
) -> None:
    """What a library logs of its own steps shows at trace or by its name, without addresses."""

    def act() -> None:
        logging.getLogger("httpcore2.http11").debug("started %s", "<Connection at 0x7f60469527a0>")
        logging.getLogger("asyncio").info("loop")
        log.debug("a step of relayd")

    text = written(tmp_path / "log", act, settings(level, target))
    lines = [line.split(": ", 1)[1] for line in text.splitlines()]
    assert [line for line in lines if line != "a step of relayd"] == shown


@pytest.mark.fault("F30")
@pytest.mark.parametrize(
    ("lines", "level", "target", "shown"),
    [
        (3, "info", "", [0, 1, 2]),
        (100, "info", "", list(range(20))),
        (0, "info", "", []),
        (100, "warn", "", []),
        (100, "info", "disposal=warn", []),
        (100, "info", "disposal=warn,[{node=node7}]=info", [7]),
    ],
)
def test_lines_of_good_files_can_be_thinned_out(
    tmp_path: Path, lines: int, level: str, target: str, shown: list[int]
) -> None:
    """Each file that went well has a line, up to a number per second; levels and nodes apply."""
    good, every = get_logger("disposal", Limit.GOOD_FILES), get_logger("disposal", Limit.NONE)

    def act() -> None:
        for number in range(20):
            good.info("run log stored", node=f"node{number}")
        every.warning("refused, moved to failed", node="node0")

    text = written(tmp_path / "log", act, settings(level, target, file_lines=lines))
    assert [
        int(number) for number in re.findall(r"stored node=node(\d+)$", text, re.MULTILINE)
    ] == shown
    assert text.count("refused, moved to failed") == 1
    left_out = re.findall('lines left out count=(\\d+) like="run log stored"', text)
    assert left_out == (["17"] if lines == 3 else [])


@pytest.mark.fault("D.8.2")
def test_rate_limit_admits_ten_lines_of_an_event_per_second() -> None:
    """In one window ten lines of an event pass; the rest are counted and reported once."""
    limit = RateLimit()
    key, other = Key("info", "watch", "a"), Key("info", "watch", "b")
    admitted = [limit.admit(key, 100.0) for _ in range(BURST + 5)]
    assert admitted == [(True, False)] * BURST + [(False, True)] + [(False, False)] * 4
    assert limit.admit(other, 100.0) == (True, False)
    assert limit.next_due() == 100.0 + WINDOW_S
    assert limit.due(100.0 + WINDOW_S / 2) == []
    assert limit.due(100.0 + WINDOW_S) == [(key, 5)]
    assert limit.due(200.0) == []
    assert limit.next_due() is None
    assert limit.admit(key, 102.0) == (True, False)


def test_rate_limit_forgets_nothing_between_windows() -> None:
    """Lines left out in a window are reported even if the event's next window has begun."""
    limit = RateLimit()
    key = Key("info", "watch", "a")
    for now in (0.0, 1.0, 2.0):
        for _ in range(BURST + 1):
            limit.admit(key, now)
    assert limit.next_due() == 0.0
    assert limit.due(3.0) == [(key, 3)]


@pytest.mark.fault("D.8.2")
def test_rate_limit_is_bounded() -> None:
    """An endless variety of events does not grow the limit's memory or lose any count."""
    limit = RateLimit()
    key = Key("info", "main", "first")
    for _ in range(BURST + 2):
        limit.admit(key, 0.0)
    for number in range(10_000):
        limit.admit(Key("info", "main", str(number)), 0.0)
    assert len(limit._windows) <= 1024
    assert (key, 2) in limit.due(0.0)


@pytest.mark.fault("D.8.2")
def test_flood_is_cut_and_summed_up(tmp_path: Path) -> None:
    """Each of a thousand equal warnings is either written or counted in the summary."""

    def act() -> None:
        for number in range(1000):
            log.warning("file refused", number=number)
            log.error("severe")
        log.debug("other")

    lines = written(tmp_path / "log", act, settings(form="json")).splitlines()
    events = [json.loads(line) for line in lines]
    shown = sum(event["event"] == "file refused" for event in events)
    left_out = sum(event["count"] for event in events if event["event"] == "lines left out")
    assert shown < 1000
    assert shown + left_out == 1000
    assert all(event["like"] == "file refused" for event in events if "like" in event)
    assert sum(event["event"] == "severe" for event in events) == 1000


@pytest.mark.fault("D.8.2")
def test_summary_comes_without_another_line(pipe: tuple[int, int]) -> None:
    """Lines left out are reported soon after, even if nothing else is logged."""
    reader, writer = pipe
    configure(settings(), stream_fd=writer)
    try:
        with open_logging(), open(reader, closefd=False) as stream:
            for _ in range(BURST):
                log.warning("file refused")
            assert all("file refused" in stream.readline() for _ in range(BURST))
            # The thread is idle now and waits for the next line.
            log.warning("file refused")
            assert stream.readline().endswith('lines left out count=1 like="file refused"\n')
    finally:
        configure(LoggingSettings())


def test_unlimited_logger_leaves_nothing_out(tmp_path: Path) -> None:
    """A logger without a limit writes every line."""
    every = get_logger("disposal", Limit.NONE)

    def act() -> None:
        for number in range(100):
            every.bind(number=number).warning("file refused")

    assert len(written(tmp_path / "log", act).splitlines()) == 100


# What follows needs processes and streams of their own.

CHILD = """
import os, sys
sys.path.insert(0, os.getcwd())
from relayd.config.main_conf import LoggingSettings
from relayd.telemetry.logs import configure, dropped, get_logger, open_logging

log = get_logger("main")

def say(text):
    os.write(2, text.encode() + b"\\n")

with open_logging():
    configure(LoggingSettings())
"""


def child(code: str, stdout: int | BinaryIO, stdin: int | None = None) -> subprocess.Popen[bytes]:
    """Start a Python process that runs `code` with logging open."""
    body = "".join(f"    {line}\n" for line in code.strip().split("\n"))
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + body],
        cwd=ROOT,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


FLOOD = """
for number in range(60_000):
    log.error("line", number=number, filler="x" * 100)
say(f"logged {dropped()}")
os.read(0, 1)
log.error("last")
"""


@pytest.mark.fault("L8")
@pytest.mark.parametrize("blocking", [True, False])
def test_reader_that_does_not_read_blocks_nothing(pipe: tuple[int, int], blocking: bool) -> None:
    """With a full pipe the process goes on; it loses only the lines it counts and reports."""
    reader, writer = pipe
    os.set_blocking(writer, blocking)
    process = child(FLOOD, stdin=subprocess.PIPE, stdout=writer)
    os.close(writer)
    assert process.stdin is not None
    assert process.stderr is not None
    # This line arrives although nothing has been read yet.
    word, lost = process.stderr.readline().split()
    assert (word, int(lost) > 0) == (b"logged", True)
    lines: list[str] = []
    numbers: list[int] = []
    with open(reader, encoding="utf-8", closefd=False) as stream:
        while len(numbers) + int(lost) < 60_000:
            lines.append(stream.readline())
            if "number=" in lines[-1]:
                numbers.append(int(lines[-1].split("number=")[1].split()[0]))
        # Only now: its end waits no longer than two seconds for a slow reader.
        process.stdin.write(b"x")
        process.stdin.close()
        lines += stream.read().splitlines()
    assert process.wait() == 0
    process.stderr.close()
    assert numbers == sorted(set(numbers))
    assert len(numbers) + int(lost) == 60_000
    assert sum(f"WARN  main: {int(lost)} log lines dropped" in line for line in lines) == 1
    assert lines[-1].endswith("ERROR main: last")


@pytest.mark.fault("L8")
def test_full_disk_is_survived_and_reported(tmp_path: Path) -> None:
    """Lines that do not fit on the disk are counted, and reported once there is space again."""
    code = f"""
for number in range(100):
    log.error("lost")
while dropped() < 100:
    pass
file = os.open({str(tmp_path / "log")!r}, os.O_CREAT | os.O_WRONLY)
os.dup2(file, 1)
log.error("kept")
"""
    with Path("/dev/full").open("wb") as full:
        process = child(code, stdout=full)
    assert process.communicate()[1] == b""
    assert process.returncode == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split("main: ")[1] for line in lines] == ["100 log lines dropped", "kept"]


@pytest.mark.fault("L8")
def test_line_cut_off_by_a_full_disk_does_not_swallow_the_next(tmp_path: Path) -> None:
    """After a line that was only partly written, the next one begins on a new line."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = logs.dropped()

    def wait_for_drop() -> None:
        while logs.dropped() == before:
            pass

    try:
        configure(settings(), stream_fd=fd)
        with open_logging():
            resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
            log.error("cut off in the middle")
            wait_for_drop()
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            log.error("whole")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        configure(LoggingSettings())
        os.close(fd)
    lines = path.read_text().splitlines()
    assert len(lines[0]) == 50
    assert [line.split(": ", 1)[1] for line in lines[1:]] == ["1 log lines dropped", "whole"]


@pytest.mark.fault("L8")
def test_closed_reader_is_survived(pipe: tuple[int, int]) -> None:
    """When the reader of the log is gone, the process goes on and counts dropped lines."""
    reader, writer = pipe
    code = """
while not dropped():
    log.error("nobody reads this")
say("alive")
"""
    os.close(reader)
    process = child(code, stdout=writer)
    assert process.communicate()[1] == b"alive\n"
    assert process.returncode == 0


@pytest.mark.fault("L8")
def test_closed_stdout_does_not_send_lines_into_another_file(tmp_path: Path) -> None:
    """Started without stdout, relayd never writes log lines into a file it opens later."""
    body = """
    with open(sys.argv[1], "wb") as file:
        log.error("not for this file")
"""
    done = subprocess.run(
        [
            "/bin/sh",
            "-c",
            'exec "$@" >&-',
            "sh",
            sys.executable,
            "-c",
            CHILD + body,
            tmp_path / "f",
        ],
        cwd=ROOT,
        check=False,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "f").read_bytes() == b""


def test_everything_logged_before_the_end_is_written(tmp_path: Path) -> None:
    """Leaving `open_logging` writes all queued lines, however many the queue holds."""

    def act() -> None:
        for number in range(5000):
            log.error("line", number=number)

    lines = written(tmp_path / "log", act).splitlines()
    assert [int(line.split("number=")[1]) for line in lines] == list(range(5000))


def test_enabled_says_whether_a_line_would_be_logged() -> None:
    """A caller can avoid the work for a line that would not be logged."""
    assert log.enabled(INFO)
    assert not log.enabled(DEBUG)
