"""inotify for Trio, with the real kernel."""

import errno
import os
import struct
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from relayd.spool.watching.inotify import (
    IN_CLOSE_WRITE,
    IN_IGNORED,
    IN_MOVED_TO,
    Event,
    Inotify,
    parse_events,
)

MASK = IN_CLOSE_WRITE | IN_MOVED_TO


@pytest.fixture
async def inotify() -> AsyncIterator[Inotify]:
    with Inotify() as opened:
        yield opened


def packed(event: Event, padding: int) -> bytes:
    """An event as the kernel lays it out: the name ended by NUL and padded with more of them."""
    name = os.fsencode(event.name)
    if name:
        name += b"\0" * (1 + padding)
    return struct.pack("=iIII", event.wd, event.mask, 0, len(name)) + name


NAMES = st.binary(max_size=255).filter(lambda raw: b"\0" not in raw and b"/" not in raw)
EVENTS = st.builds(
    Event, st.integers(-1, 2**31 - 1), st.integers(0, 2**32 - 1), NAMES.map(os.fsdecode)
)


@given(st.lists(st.tuples(EVENTS, st.integers(0, 32))), st.lists(st.integers(0, 30)))
def test_events_survive_any_chunking(events: list[tuple[Event, int]], cuts: list[int]) -> None:
    """However the kernel spreads whole events over reads, they come out as they went in."""
    raws = [packed(event, padding) for event, padding in events]
    edges = [0, *sorted(min(cut, len(raws)) for cut in cuts), len(raws)]
    parsed: list[Event] = []
    for start, end in pairwise(edges):
        parsed += parse_events(b"".join(raws[start:end]))
    assert parsed == [event for event, _ in events]


@given(EVENTS, st.data())
def test_cut_event_is_an_error(event: Event, data: st.DataObject) -> None:
    """The kernel never cuts an event, so a cut one is not taken for a shorter one."""
    raw = packed(event, 3)
    cut = data.draw(st.integers(1, len(raw) - 1))
    with pytest.raises(ValueError, match="short"):
        parse_events(raw[:cut])


async def test_reports_closed_and_renamed_files(tmp_path: Path, inotify: Inotify) -> None:
    """Closing after writing and renaming into the directory are told with their names."""
    wd = inotify.add(tmp_path, MASK)
    (tmp_path / "a").write_text("")
    (tmp_path / "a").rename(tmp_path / "b\udcff")
    assert await inotify.read() == [
        Event(wd, IN_CLOSE_WRITE, "a"),
        Event(wd, IN_MOVED_TO, "b\udcff"),
    ]


async def test_read_waits_for_an_event(tmp_path: Path, inotify: Inotify) -> None:
    """A read without events blocks its task, not the loop, until one comes."""
    inotify.add(tmp_path, MASK)
    read: list[Event] = []

    async def reader() -> None:
        read.extend(await inotify.read())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        assert not read
        (tmp_path / "a").write_text("")
    assert [event.name for event in read] == ["a"]


async def test_cancelled_read_loses_nothing(tmp_path: Path, inotify: Inotify) -> None:
    """An event that is there when a read is cancelled is delivered by the next one."""
    inotify.add(tmp_path, MASK)
    (tmp_path / "a").write_text("")
    with trio.CancelScope() as scope:
        scope.cancel()
        await inotify.read()
    assert scope.cancelled_caught
    assert [event.name for event in await inotify.read()] == ["a"]


async def test_removed_watch_is_told_as_ignored(tmp_path: Path, inotify: Inotify) -> None:
    """After its removal a watch says so, and a second removal is an error."""
    wd = inotify.add(tmp_path, MASK)
    inotify.remove(wd)
    assert await inotify.read() == [Event(wd, IN_IGNORED, "")]
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        inotify.remove(wd)


async def test_missing_path_raises_with_its_name(tmp_path: Path, inotify: Inotify) -> None:
    """The kernel's refusals rise with their number and the path."""
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as caught:
        inotify.add(missing, MASK)
    assert caught.value.filename == str(missing)


async def test_close_ends_a_waiting_read(inotify: Inotify) -> None:
    """Closing wakes the reader, frees the descriptor and makes later reads fail."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, inotify)
        await trio.testing.wait_all_tasks_blocked()
        inotify.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1  # noqa: PTH208
    await expect_closed(inotify)
    inotify.close()


async def expect_closed(inotify: Inotify) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await inotify.read()
