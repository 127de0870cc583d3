"""Hostile input: work is proportional to its size, and memory is bounded."""

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from relayd.errors import Reason, Refused
from relayd.runlog.model import RunLog
from relayd.runlog.parser import parse
from tests.support.runlogs import NODE, STAMP, joined, report

GOOD = joined(report("good"))
LINE = f"{STAMP} ".encode()

#: Run logs of about n bytes.
FLOODS: dict[str, Callable[[int], bytes]] = {
    "report starts": lambda n: b"R: @@\n" * (n // 6),
    "report starts after a report": lambda n: GOOD + b"R: @@\n" * (n // 6),
    "stamped report starts": lambda n: GOOD + (LINE + b"R: @@\n") * (n // 32),
    "separators": lambda n: GOOD + b"@@" * (n // 2),
    "lines of separators": lambda n: GOOD + b"@@@@@@@@@@@@@@@@\n" * (n // 17),
    "one line": lambda n: GOOD.rstrip() + b"x" * n,
    "one line beyond ASCII": lambda n: GOOD.rstrip() + "😀".encode() + b"x" * n,
    "empty lines": lambda n: GOOD + b"\n" * n,
    "lone carriage returns": lambda n: GOOD + b"\r" * n,
    "short lines": lambda n: GOOD + b"x\r\n" * (n // 3),
    "noise": lambda n: b"x\n" * (n // 2),
    "stamps": lambda n: GOOD + (LINE + b"\n") * (n // 27),
    "stamps on one line": lambda n: GOOD.rstrip() + LINE * (n // 26),
    "a stamp without an end": lambda n: GOOD + b"2026-03-01T12:00:05." + b"1" * n,
    "log entries": lambda n: GOOD + (LINE + b"R: x\n") * (n // 31),
    "good reports": lambda n: GOOD * (n // len(GOOD)),
    "bytes that are no UTF-8": lambda n: GOOD.rstrip() + b"\xff" * n,
    "lines that are no UTF-8": lambda n: GOOD + b"\xff\n" * (n // 2),
    "NUL characters": lambda n: GOOD + b"\0\n" * (n // 2),
    "backslashes": lambda n: GOOD.rstrip() + b"\\" * n,
    "dates": lambda n: b"".join(
        report(stamp=f"2026-03-01T{at // 3600 % 24:02}:{at // 60 % 60:02}:{at % 60:02}+00:00")
        .encode()
        + b"\n"
        for at in range(n // 130)
    ),
}  # fmt: skip


def calls(text: bytes) -> int:
    """The number of Python and C function calls needed to parse `text`."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        parse(text, NODE)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.fault("P5")
@pytest.mark.parametrize("flood", FLOODS)
def test_work_and_memory_are_proportional_to_input(flood: str) -> None:
    """Twice the input takes about twice the calls, and memory in a bounded multiple of its size."""
    single, double, large = (FLOODS[flood](size) for size in (40_000, 80_000, 400_000))
    parse(large, NODE)  # Dates are cached.
    assert calls(double) <= 2.1 * calls(single) + 100
    tracemalloc.start()
    try:
        parse(large, NODE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Invalid UTF-8 triples in size, and a field of several lines exists in a few copies at once.
    assert peak <= 16 * len(large) + 16 * 2**20


@pytest.mark.fault("P5")
@pytest.mark.torture
@pytest.mark.parametrize("flood", FLOODS)
def test_largest_input_is_read_to_its_end(flood: str) -> None:
    """Fifty mebibytes of any flood give a run log or a refusal."""
    assert isinstance(parse(FLOODS[flood](50 * 2**20), NODE), RunLog | Refused)


def test_log_entries_cannot_multiply_a_huge_report() -> None:
    """Log entries that would copy megabytes each are refused before they are copied."""
    text = joined(*[f"{STAMP} R: log"] * 100, report(component="c" * 2**22))
    tracemalloc.start()
    try:
        refused = parse(text, NODE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.TOO_LARGE
    assert peak < 64 * 2**20


def test_log_entries_after_a_huge_message_are_kept() -> None:
    """Log entries after a huge message are kept, because they do not copy it."""
    text = joined(report("m" * 2**22), *[f"{STAMP} R: log"] * 100)
    result = parse(text, NODE)
    assert isinstance(result, RunLog)
    assert result.rows == 101


def test_a_hundred_thousand_reports() -> None:
    """A run log of 100,000 reports has 100,000 rows."""
    result = parse(GOOD * 100_000, NODE)
    assert isinstance(result, RunLog)
    assert (result.reports, result.rows) == (100_000, 100_000)
