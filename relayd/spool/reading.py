"""Reading spool files piece by piece, in threads, for an output that takes them as they are."""

import errno
import os
from collections.abc import AsyncIterator
from typing import Final

import trio

from relayd.errors import Gone, Refused, Retry
from relayd.spool.identity import Identity, identity
from relayd.spool.opening import look, objection, open_file, try_later
from relayd.system.threads import in_thread

#: A file up to this size is read in one go, when it is opened.
SMALL: Final = 64 * 1024
#: Bytes of one piece of a larger one.
PIECE: Final = 128 * 1024


class SpoolFile:
    """An opened file that is sent as it was when it was opened.

    Attributes:
        identity: of what is read.
        size: bytes.
        whole: all of them, if they are few.
    """

    def __init__(
        self, descriptor: int, found: Identity, whole: bytes | None, limiter: trio.CapacityLimiter
    ) -> None:
        self.identity = found
        self.size = found.size
        self.whole = whole
        self._descriptor = descriptor
        self._limiter = limiter

    def pieces(self) -> AsyncIterator[bytes]:
        """Exactly `size` bytes from the beginning.

        Raises:
            OSError: a piece cannot be read, or the file became shorter.
        """
        return _Pieces(self._descriptor, self.size, self._limiter)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


class _Pieces:
    """An iterator and no generator: what is left of it needs no closing."""

    def __init__(self, descriptor: int, size: int, limiter: trio.CapacityLimiter) -> None:
        self._descriptor = descriptor
        self._position = 0
        self._size = size
        self._limiter = limiter

    def __aiter__(self) -> "_Pieces":
        return self

    async def __anext__(self) -> bytes:
        left = self._size - self._position
        if not left:
            raise StopAsyncIteration
        data = await in_thread(
            os.pread, self._descriptor, min(PIECE, left), self._position, limiter=self._limiter
        )
        if not data:
            raise OSError(errno.EIO, "it became shorter while it was read")
        self._position += len(data)
        return data


async def open_spool_file(
    path: str, limiter: trio.CapacityLimiter
) -> tuple[Identity | None, SpoolFile | Refused | Retry | Gone]:
    """Open a file, and reads it if it is small.

    Args:
        path: of the file.
        limiter: of the threads that read.

    Returns:
        The identity of what was looked at, None when there was nothing to look at; and the
        file, to be closed by the caller, or why it cannot be had.
    """
    return await in_thread(_open, path, limiter, limiter=limiter)


def _open(
    path: str, limiter: trio.CapacityLimiter
) -> tuple[Identity | None, SpoolFile | Refused | Retry | Gone]:
    descriptor = open_file(path)
    if not isinstance(descriptor, int):
        return look(path), descriptor
    opened = None
    try:
        status = os.fstat(descriptor)
        found = identity(status)
        refused = objection(status)
        if refused is not None:
            return found, refused
        whole = os.read(descriptor, found.size) if found.size <= SMALL else None
        if whole is not None and len(whole) < found.size:
            return found, Retry("it became shorter while it was read")
        opened = SpoolFile(descriptor, found, whole, limiter)
    except OSError as error:
        return look(path), try_later("cannot be read", error)
    else:
        return found, opened
    finally:
        if opened is None:
            os.close(descriptor)
