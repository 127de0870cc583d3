"""Reports on a run: lines, verdicts, limits."""

import json

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from relayd.remote_run import events as module
from relayd.remote_run.answer import Budget, HeldAnswer, StreamedAnswer
from relayd.remote_run.events import MAX_LINE, LineCutter, RunEvent, RunReporter, text_lines


def _reporter(*, events: bool = False, limit: int = 2**20) -> tuple[RunReporter, HeldAnswer]:
    held = HeldAnswer(Budget(), limit)
    return RunReporter(held, events=events, keep_output=True), held


async def _written(held: HeldAnswer) -> bytes:
    held.end()
    return b"".join([piece async for piece in held])


@given(st.lists(st.sampled_from([b"", b"a\n", b"bc", b"\n", b"x" * 3000, b"\r\n\xff"])))
def test_lines_are_whole_and_complete(pieces: list[bytes]) -> None:
    """However output is split, lines are returned whole, or in parts if they are long."""
    cutter = LineCutter()
    cut = [cutter.cut(piece) for piece in pieces]
    assert b"".join(cut) + cutter.rest() == b"".join(pieces)
    assert len(cutter.rest()) <= MAX_LINE
    assert all(data.endswith(b"\n") or len(data) > MAX_LINE for data in cut if data)


@pytest.mark.history(48)
async def test_lines_of_two_sources_are_not_mixed() -> None:
    """A line without a line end gets one only before another source's line."""
    reporter, held = _reporter()
    await reporter.output(b"a1\n", "me", None, "a")
    await reporter.output(b"a2 ", "me", None, "a")
    await reporter.output(b"a2\n", "me", None, "a")
    await reporter.output(b"a3", "me", None, "a")
    await reporter.output(b"b1\n", "me", None, "b")
    await reporter.output(b"a4", "me", None, "a")
    assert await _written(held) == b"a1\na2 a2\na3\nb1\na4"


async def test_a_node_has_one_verdict() -> None:
    """Only the first verdict of a node counts, and none of a node that is not in the run."""
    reporter, held = _reporter(events=True)
    reporter.expect(["n1", "n2"])
    await reporter.verdict(RunEvent("exit", "me", "n1", code=0))
    await reporter.verdict(RunEvent("hop_error", "me", "n1"))
    await reporter.verdict(RunEvent("exit", "me", "n3", code=0))
    await reporter.finish(["n1", "n2"], "me", "late", "exit")
    reported = [json.loads(line) for line in (await _written(held)).splitlines()]
    assert [(event["node"], event.get("code")) for event in reported] == [("n1", 0), ("n2", None)]
    assert reporter.verdicts == {"ok": 1, "unknown": 1}


async def test_output_over_the_limit_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond the limit, output is no longer reported, but verdicts are."""
    monkeypatch.setattr(module, "OUTPUT_LIMIT", 10)
    reporter, held = _reporter(events=True)
    reporter.expect(["n1"])
    await reporter.output(b"12345\n", "me", "n1", "a")
    await reporter.output(b"12345\n", "me", "n1", "a")
    await reporter.output(b"1\n", "me", "n1", "a")
    await reporter.verdict(RunEvent("exit", "me", "n1", code=0))
    reported = [json.loads(line) for line in (await _written(held)).splitlines()]
    assert [event["event"] for event in reported] == ["output", "exit"]
    assert reporter.dropped == 8


@given(st.binary(max_size=3 * MAX_LINE))
def test_an_event_of_any_line_can_be_read_by_a_relay(data: bytes) -> None:
    """Each event is one line that relays can read as a whole, whatever was printed."""
    for line in text_lines(data):
        encoded = msgspec.json.encode(RunEvent("output", "me", output=line))
        assert b"\n" not in encoded
        assert len(encoded) < 64 * 1024
        assert msgspec.json.decode(encoded, type=RunEvent).output == line


async def test_held_answers_share_a_budget() -> None:
    """Memory used by one answer is unavailable to others until that answer is gone."""
    budget = Budget(100)
    first, second = HeldAnswer(budget, 80), HeldAnswer(budget, 80)
    assert await first.write(b"x" * 80)
    assert not await first.write(b"x")
    assert not await second.write(b"x" * 21)
    assert await second.write(b"x" * 20)
    assert await second.write(b"vital", vital=True)
    first.leave()
    assert await second.write(b"x" * 50)


async def test_a_reader_that_leaves_frees_the_writer() -> None:
    """A writer that waits for a slow reader continues when the reader is gone."""
    stream = StreamedAnswer()
    async with trio.open_nursery() as nursery:
        await stream.write(b"x" * 64 * 1024)
        nursery.start_soon(stream.write, b"more")
        await trio.testing.wait_all_tasks_blocked()
        stream.leave()
    assert await stream.write(b"x" * 64 * 1024)
