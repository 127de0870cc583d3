"""inotify for Trio, with the real kernel."""

import errno
import os
import struct
from collections.abc import AsyncIterator
from contextlib import closing
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
    Inotify,
    InotifyEvent,
    parse_events,
)

MASK = IN_CLOSE_WRITE | IN_MOVED_TO


@pytest.fixture
async def inotify() -> AsyncIterator[Inotify]:
    with closing(Inotify()) as opened:
        yield opened


def packed(event: InotifyEvent, padding: int) -> bytes:
    """Return an event in the kernel's format: the name is followed by at least one NUL."""
    name = os.fsencode(event.name)
    if name:
        name += b"\0" * (1 + padding)
    return struct.pack("=iIII", event.wd, event.mask, 0, len(name)) + name


NAMES = st.binary(max_size=255).filter(lambda raw: b"\0" not in raw and b"/" not in raw)
EVENTS = st.builds(
    InotifyEvent, st.integers(-1, 2**31 - 1), st.integers(0, 2**32 - 1), NAMES.map(os.fsdecode)
)


@given(st.lists(st.tuples(EVENTS, st.integers(0, 32))), st.lists(st.integers(0, 30)))
def test_events_survive_any_chunking(
    events: list[tuple[InotifyEvent, int]], cuts: list[int]
) -> None:
    """Events are parsed correctly however the kernel distributes them over reads."""
    raws = [packed(event, padding) for event, padding in events]
    edges = [0, *sorted(min(cut, len(raws)) for cut in cuts), len(raws)]
    parsed: list[InotifyEvent] = []
    for start, end in pairwise(edges):
        parsed += parse_events(b"".join(raws[start:end]))
    assert parsed == [event for event, _ in events]


@given(EVENTS, st.data())
def test_truncated_event_is_an_error(event: InotifyEvent, data: st.DataObject) -> None:
    """A truncated event, which the kernel never returns, is not taken for a shorter one."""
    raw = packed(event, 3)
    cut = data.draw(st.integers(1, len(raw) - 1))
    with pytest.raises(ValueError, match="short"):
        parse_events(raw[:cut])


async def test_reports_closed_and_renamed_files(tmp_path: Path, inotify: Inotify) -> None:
    """Closing after writing and renaming into the directory are reported with file names."""
    wd = inotify.add(tmp_path, MASK)
    (tmp_path / "a").write_text("")
    (tmp_path / "a").rename(tmp_path / "b\udcff")
    assert await inotify.read() == [
        InotifyEvent(wd, IN_CLOSE_WRITE, "a"),
        InotifyEvent(wd, IN_MOVED_TO, "b\udcff"),
    ]


async def test_read_waits_for_an_event(tmp_path: Path, inotify: Inotify) -> None:
    """A read blocks its task, but not the event loop, until there is an event."""
    inotify.add(tmp_path, MASK)
    read: list[InotifyEvent] = []

    async def reader() -> None:
        read.extend(await inotify.read())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        assert not read
        (tmp_path / "a").write_text("")
    assert [event.name for event in read] == ["a"]


async def test_cancelled_read_loses_nothing(tmp_path: Path, inotify: Inotify) -> None:
    """An event that is pending when a read is cancelled is returned by the next read."""
    inotify.add(tmp_path, MASK)
    (tmp_path / "a").write_text("")
    with trio.CancelScope() as scope:
        scope.cancel()
        await inotify.read()
    assert scope.cancelled_caught
    assert [event.name for event in await inotify.read()] == ["a"]


async def test_removed_watch_is_reported_as_ignored(tmp_path: Path, inotify: Inotify) -> None:
    """The removal of a watch is reported, and a second removal is an error."""
    wd = inotify.add(tmp_path, MASK)
    inotify.remove(wd)
    assert await inotify.read() == [InotifyEvent(wd, IN_IGNORED, "")]
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        inotify.remove(wd)


async def test_missing_path_raises_with_its_name(tmp_path: Path, inotify: Inotify) -> None:
    """Errors of the kernel are raised with their number and the path."""
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as caught:
        inotify.add(missing, MASK)
    assert caught.value.filename == str(missing)


async def test_close_ends_a_waiting_read(inotify: Inotify) -> None:
    """Closing wakes the reader, closes the descriptor and makes later reads fail."""
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
