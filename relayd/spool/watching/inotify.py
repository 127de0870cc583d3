"""inotify(7) for Trio."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import trio

from relayd.system.libc import inotify_add_watch, inotify_init1, inotify_rm_watch

# From <sys/inotify.h>.
IN_CLOSE_WRITE: Final = 0x00000008
IN_MOVED_TO: Final = 0x00000080
IN_DELETE_SELF: Final = 0x00000400
IN_MOVE_SELF: Final = 0x00000800
IN_UNMOUNT: Final = 0x00002000
IN_Q_OVERFLOW: Final = 0x00004000
IN_IGNORED: Final = 0x00008000
IN_ONLYDIR: Final = 0x01000000

_HEADER: Final = struct.Struct("=iIII")
#: Enough for 240 events with names of maximum length (16 + 256 bytes).
_BUFFER: Final = 65_536


class InotifyEvent(NamedTuple):
    """One event, see inotify(7).

    Attributes:
        wd: the watch descriptor that `Inotify.add` returned, -1 for an overflow.
        mask: kind of event, a union of `IN_…` bits.
        name: the file in the watched directory, decoded by `os.fsdecode`, or "".
    """

    wd: int
    mask: int
    name: str


def parse_events(buffer: bytes) -> list[InotifyEvent]:
    """Parse the result of one read of an inotify descriptor.

    The kernel returns whole events only and pads their names with NUL.

    Raises:
        ValueError: the last event is truncated.
    """
    return list(_events(buffer))


def _events(buffer: bytes) -> Iterator[InotifyEvent]:
    at = 0
    while at < len(buffer):
        if at + _HEADER.size > len(buffer):
            raise ValueError("inotify event with a short header")
        wd, mask, _cookie, length = _HEADER.unpack_from(buffer, at)
        at += _HEADER.size
        name = buffer[at : at + length]
        if len(name) < length:
            raise ValueError("inotify event with a short name")
        at += length
        yield InotifyEvent(wd, mask, os.fsdecode(name.partition(b"\0")[0]))


class Inotify:
    """One inotify instance. Owns its file descriptor, which is -1 once closed.

    Raises:
        OSError: EMFILE, ENFILE or ENOMEM, as of inotify_init1(2).
    """

    def __init__(self) -> None:
        self._fd = -1
        self._fd = inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)

    def add(self, path: Path, mask: int) -> int:
        """Watch a path; a directory that is already watched keeps its watch descriptor.

        Returns:
            The watch descriptor. An instance never uses a number twice.

        Raises:
            OSError: ENOENT, EACCES, ENOTDIR, ENOSPC (no more watches), as of
                inotify_add_watch(2).
        """
        return inotify_add_watch(self._fd, path, mask)

    def remove(self, wd: int) -> None:
        """Remove a watch; its IN_IGNORED event follows.

        Raises:
            OSError: EINVAL if the watch is already gone.
        """
        inotify_rm_watch(self._fd, wd)

    async def read(self) -> list[InotifyEvent]:
        """Wait for events and return those of one read, at least one.

        Cancellation loses no event.

        Raises:
            OSError: the read failed.
            trio.ClosedResourceError: closed, before or while waiting.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._fd == -1:
                raise trio.ClosedResourceError
            try:
                return parse_events(os.read(self._fd, _BUFFER))
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._fd)

    def close(self) -> None:
        """Close the descriptor; a waiting `read` ends with ClosedResourceError."""
        if self._fd == -1:
            return
        fd, self._fd = self._fd, -1
        trio.lowlevel.notify_closing(fd)
        os.close(fd)
