"""The lock on a watched directory, which keeps any other relayd out of it."""

import errno
import fcntl
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from relayd.errors import TransientStartError, start_error
from relayd.system.shortage import with_limit

IN_USE: Final = "already in use by another relayd"


class DirectoryLock:
    """flock(2) on a directory itself: nothing is written for it, neither there nor above.

    The lock belongs to the directory that was at the path, so `follow` is called before another
    one is used that has taken its place. Closed by leaving the `with` block, or with the process.
    """

    def __init__(self, path: Path) -> None:
        """Lock the directory.

        Raises:
            StartError: another process holds the lock, or the directory cannot be locked.
        """
        self._path = path
        self._following = threading.Lock()
        try:
            self._fd = _open_locked(path)
        except BlockingIOError:
            raise TransientStartError(f"{path} is {IN_USE}") from None
        except OSError as error:
            problem = f"spool directory {path} cannot be locked"
            raise start_error(problem, error, words=with_limit(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._following:
            os.close(self._fd)

    def follow(self) -> None:
        """Lock the directory that is at the path now, and give up the one that was.

        Raises:
            BlockingIOError: another relayd holds it.
            OSError: there is none, or it cannot be locked. The old one stays locked then.
        """
        with self._following:
            if os.path.samestat(os.fstat(self._fd), self._path.stat()):
                return
            new = _open_locked(self._path)
            os.close(self._fd)
            self._fd = new


def _open_locked(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EWOULDBLOCK:
            raise BlockingIOError(error.errno, IN_USE, str(path)) from None
        raise
    return fd
