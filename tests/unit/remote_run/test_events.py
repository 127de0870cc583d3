"""How a run is told: lines, verdicts, limits."""

import json

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from relayd.remote_run import events as module
from relayd.remote_run.answer import Budget, Held, Stream
from relayd.remote_run.events import MAX_LINE, Event, LineCutter, Teller, text_lines


def _teller(*, events: bool = False, limit: int = 2**20) -> tuple[Teller, Held]:
    held = Held(Budget(), limit)
    return Teller(held, events=events, keep_output=True), held


async def _told(held: Held) -> bytes:
    held.end()
    return b"".join([piece async for piece in held])


@given(st.lists(st.sampled_from([b"", b"a\n", b"bc", b"\n", b"x" * 3000, b"\r\n\xff"])))
def test_lines_are_whole_and_complete(pieces: list[bytes]) -> None:
    """However output is cut into pieces, lines come out whole, or in parts when they are long."""
    cutter = LineCutter()
    cut = [cutter.cut(piece) for piece in pieces]
    assert b"".join(cut) + cutter.rest() == b"".join(pieces)
    assert len(cutter.rest()) <= MAX_LINE
    assert all(data.endswith(b"\n") or len(data) > MAX_LINE for data in cut if data)


@pytest.mark.history(48)
async def test_lines_of_two_sources_are_not_mixed() -> None:
    """A line without its end gets one before another source's line, and only then."""
    teller, held = _teller()
    await teller.output(b"a1\n", "me", None, "a")
    await teller.output(b"a2 ", "me", None, "a")
    await teller.output(b"a2\n", "me", None, "a")
    await teller.output(b"a3", "me", None, "a")
    await teller.output(b"b1\n", "me", None, "b")
    await teller.output(b"a4", "me", None, "a")
    assert await _told(held) == b"a1\na2 a2\na3\nb1\na4"


async def test_a_node_has_one_verdict() -> None:
    """The first verdict of a node counts; one of a node that was not taken on does not."""
    teller, held = _teller(events=True)
    teller.take_on(["n1", "n2"])
    await teller.verdict(Event("exit", "me", "n1", code=0))
    await teller.verdict(Event("hop_error", "me", "n1"))
    await teller.verdict(Event("exit", "me", "n3", code=0))
    await teller.unfinished(["n1", "n2"], "me", "late", "exit")
    told = [json.loads(line) for line in (await _told(held)).splitlines()]
    assert [(event["node"], event.get("code")) for event in told] == [("n1", 0), ("n2", None)]
    assert teller.verdicts == {"ok": 1, "unknown": 1}


async def test_output_over_the_limit_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the limit no output is told any more, but verdicts are."""
    monkeypatch.setattr(module, "OUTPUT_LIMIT", 10)
    teller, held = _teller(events=True)
    teller.take_on(["n1"])
    await teller.output(b"12345\n", "me", "n1", "a")
    await teller.output(b"12345\n", "me", "n1", "a")
    await teller.output(b"1\n", "me", "n1", "a")
    await teller.verdict(Event("exit", "me", "n1", code=0))
    told = [json.loads(line) for line in (await _told(held)).splitlines()]
    assert [event["event"] for event in told] == ["output", "exit"]
    assert teller.dropped == 8


@given(st.binary(max_size=3 * MAX_LINE))
def test_an_event_of_any_line_can_be_read_by_a_relay(data: bytes) -> None:
    """Whatever is printed, each event is one line that relays read as a whole."""
    for line in text_lines(data):
        told = msgspec.json.encode(Event("output", "me", output=line))
        assert b"\n" not in told
        assert len(told) < 64 * 1024
        assert msgspec.json.decode(told, type=Event).output == line


async def test_held_answers_share_a_budget() -> None:
    """What one answer holds another cannot; it is free again when the first is gone."""
    budget = Budget(100)
    first, second = Held(budget, 80), Held(budget, 80)
    assert await first.write(b"x" * 80)
    assert not await first.write(b"x")
    assert not await second.write(b"x" * 21)
    assert await second.write(b"x" * 20)
    assert await second.write(b"vital", vital=True)
    first.leave()
    assert await second.write(b"x" * 50)


async def test_a_reader_that_leaves_frees_the_writer() -> None:
    """A writer that waits for a slow reader goes on when that one is gone."""
    stream = Stream()
    async with trio.open_nursery() as nursery:
        await stream.write(b"x" * 64 * 1024)
        nursery.start_soon(stream.write, b"more")
        await trio.testing.wait_all_tasks_blocked()
        stream.leave()
    assert await stream.write(b"x" * 64 * 1024)
