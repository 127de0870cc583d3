"""The loop of a worker process, on streams in memory."""

from collections.abc import Sequence
from io import BytesIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.errors import Reason, Refused
from relayd.pipelines.workers.child import LENGTH_BYTES, serve
from relayd.pipelines.workers.job import Examined, Job, Setup

SETUP = Setup("/nowhere", 1, frozenset({"log_debug"}))


def frame(value: object) -> bytes:
    """A value as it is sent."""
    body = msgspec.msgpack.encode(value)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def answers(data: bytes) -> list[list[Examined]]:
    """What was sent back."""
    found = []
    while data:
        size = int.from_bytes(data[:LENGTH_BYTES], "big")
        body, data = data[LENGTH_BYTES:][:size], data[LENGTH_BYTES + size :]
        assert len(body) == size
        found.append(msgspec.msgpack.decode(body, type=list[Examined]))
    return found


def echo(setup: Setup, jobs: Sequence[Job]) -> list[Examined]:
    """Refuses each file with its own name as the detail."""
    assert setup == SETUP
    return [Examined(None, Refused(Reason.EMPTY, job.name)) for job in jobs]


class Trickle(BytesIO):
    """A pipe that takes a few bytes at a time."""

    def write(self, data: object) -> int:
        """Takes seven bytes at most."""
        return super().write(bytes(data)[:7])  # type: ignore[call-overload]


def talk(data: bytes, sink: BytesIO | None = None) -> list[list[str]]:
    """Names in each answer to what a parent sent."""
    sink = sink or BytesIO()
    serve(BytesIO(data), sink, echo)
    return [
        [e.result.detail for e in answer if isinstance(e.result, Refused)]
        for answer in answers(sink.getvalue())
    ]


def job(name: str) -> Job:
    """A file to look at."""
    return Job(name, "gz", "node1", ())


@given(st.lists(st.lists(st.text(max_size=300), max_size=5), max_size=5))
def test_each_frame_is_answered_in_turn(calls: list[list[str]]) -> None:
    """The setup by an empty list, each call by its results, through a pipe that is almost full."""
    data = frame(SETUP) + b"".join(frame([job(name) for name in call]) for call in calls)
    assert talk(data, Trickle()) == [[], *calls]


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 20])
def test_input_that_ends_within_a_frame_ends_the_worker(cut: int) -> None:
    """A parent that died while it was sending gets no answer, and no exception is raised."""
    whole = frame([job("a")])
    assert talk(frame(SETUP) + whole + whole[: len(whole) - cut]) == [[], ["a"]]
    assert talk(frame(SETUP)[:-cut]) == []


def test_huge_answer_is_not_kept_in_memory() -> None:
    """After an answer of more than 16 MiB the next ones are as right as before."""
    names = ["a" * 2**20] * 20
    data = frame(SETUP) + frame([job(name) for name in names]) + frame([job("b")])
    assert talk(data) == [[], names, ["b"]]
