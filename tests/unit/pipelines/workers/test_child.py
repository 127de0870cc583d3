"""The loop of a worker process, on streams in memory."""

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.errors import Reason, Refused
from relayd.pipelines.workers.child import LENGTH_BYTES, serve
from relayd.pipelines.workers.job import Examined, Job, Setup

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

SETUP = Setup("/nowhere", 1, frozenset({"log_debug"}))


def frame(value: object) -> bytes:
    """Return a value as a frame."""
    body = msgspec.msgpack.encode(value)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def answers(data: bytes) -> list[list[Examined]]:
    """Return the answers in the output of a worker."""
    found = []
    while data:
        size = int.from_bytes(data[:LENGTH_BYTES], "big")
        body, data = data[LENGTH_BYTES:][:size], data[LENGTH_BYTES + size :]
        assert len(body) == size
        found.append(msgspec.msgpack.decode(body, type=list[Examined]))
    return found


def echo(setup: Setup, jobs: Sequence[Job]) -> list[Examined]:
    """Refuse each file, with its name as the detail."""
    assert setup == SETUP
    return [Examined(None, Refused(Reason.EMPTY, job.name)) for job in jobs]


class NarrowPipe(BytesIO):
    """A pipe that takes a few bytes at a time."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Take at most seven bytes."""
        return super().write(memoryview(data)[:7])


def talk(data: bytes, sink: BytesIO | None = None) -> list[list[str]]:
    """Return the names in each answer to the frames of a parent."""
    sink = sink or BytesIO()
    serve(BytesIO(data), sink, echo)
    return [
        [e.result.detail for e in answer if isinstance(e.result, Refused)]
        for answer in answers(sink.getvalue())
    ]


def job(name: str) -> Job:
    """Return a job for a file."""
    return Job(name, "gz", "node1", ())


@given(st.lists(st.lists(st.text(max_size=300), max_size=5), max_size=5))
def test_frames_are_answered_in_order(calls: list[list[str]]) -> None:
    """The setup is answered by an empty list, a call by its results, even if the pipe is full."""
    data = frame(SETUP) + b"".join(frame([job(name) for name in call]) for call in calls)
    assert talk(data, NarrowPipe()) == [[], *calls]


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 20])
def test_input_that_ends_within_a_frame_ends_the_worker(cut: int) -> None:
    """If the parent dies while it sends, the worker ends without answer or exception."""
    whole = frame([job("a")])
    assert talk(frame(SETUP) + whole + whole[: len(whole) - cut]) == [[], ["a"]]
    assert talk(frame(SETUP)[:-cut]) == []


def test_answers_are_right_after_a_huge_one() -> None:
    """After an answer of more than 16 MiB, for which the buffer is replaced, the next is right."""
    names = ["a" * 2**20] * 20
    data = frame(SETUP) + frame([job(name) for name in names]) + frame([job("b")])
    assert talk(data) == [[], names, ["b"]]
