"""Reading spool files piece by piece, in threads, for an output that sends them unchanged."""

import errno
import os
from collections.abc import AsyncIterator, Sequence
from typing import Final

import trio

from relayd.errors import Gone, Refused, Retry
from relayd.spool.identity import Identity, identity
from relayd.spool.opening import identity_or_none, objection, open_file, try_later
from relayd.system.threads import in_thread

#: A file up to this size is read in one go, when it is opened.
SMALL: Final = 64 * 1024
#: Bytes of one piece of a larger one.
PIECE: Final = 128 * 1024


class SpoolFile:
    """An opened file that is sent as it was when it was opened.

    Attributes:
        identity: identity of the opened file.
        size: size in bytes.
        whole: the whole content of a small file; None otherwise.
    """

    def __init__(
        self,
        descriptor: int | None,
        found: Identity,
        whole: bytes | None,
        limiter: trio.CapacityLimiter,
    ) -> None:
        self.identity = found
        self.size = found.size
        self.whole = whole
        self._descriptor = descriptor
        self._limiter = limiter

    def pieces(self) -> AsyncIterator[bytes]:
        """Return exactly `size` bytes from the beginning, in pieces.

        Raises:
            OSError: (on iteration) a piece cannot be read, or the file became shorter.
        """
        assert self._descriptor is not None
        return _Pieces(self._descriptor, self.size, self._limiter)

    def close(self) -> None:
        """Close it."""
        if self._descriptor is not None:
            os.close(self._descriptor)


class _Pieces:
    """An iterator rather than a generator, because it needs no closing."""

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


#: The identity of a file, None if it is unknown; and the file, or why it cannot be read.
Opened = tuple[Identity | None, SpoolFile | Refused | Retry | Gone]


async def open_spool_file(path: str, limiter: trio.CapacityLimiter) -> Opened:
    """Open a file, and read it if it is small.

    Args:
        path: path of the file.
        limiter: limits the threads that read.

    Returns:
        The identity of the file, None if it is unknown; and the file, to be closed by the caller,
        or why it cannot be read.
    """
    return await in_thread(_open, path, limiter, limiter=limiter)


async def open_spool_files(paths: Sequence[str], limiter: trio.CapacityLimiter) -> list[Opened]:
    """Open several files in one thread call, each as `open_spool_file` does."""
    return await in_thread(_open_all, paths, limiter, limiter=limiter)


def _open_all(paths: Sequence[str], limiter: trio.CapacityLimiter) -> list[Opened]:
    return [_open(path, limiter) for path in paths]


def _open(path: str, limiter: trio.CapacityLimiter) -> Opened:
    descriptor = open_file(path)
    if not isinstance(descriptor, int):
        return identity_or_none(path), descriptor
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
        opened = SpoolFile(descriptor if whole is None else None, found, whole, limiter)
    except OSError as error:
        return identity_or_none(path), try_later("cannot be read", error)
    else:
        return found, opened
    finally:
        if opened is None or opened.whole is not None:
            os.close(descriptor)
