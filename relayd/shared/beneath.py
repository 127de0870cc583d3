"""Opening files below a directory and nowhere else, whatever links are in it.

Linux 5.6 and later can do so directly (openat2(2)). Elsewhere the path is resolved first and then
walked name by name without following any link, so that no link can be slipped in between.
"""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from relayd.system.libc import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2

DIRECTORY_MODE: Final = 0o750

_RESOLVE: Final = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: Non-blocking, because it may be a FIFO. The flag has no effect on a regular file.
_FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

#: openat2(2) is unavailable; a sandbox that does not know it returns EPERM. EXDEV is also returned
#: for an absolute link that leads back below the directory, so the path is checked once more.
_WALK: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EXDEV})
#: Something was renamed while the kernel resolved the path.
_AGAIN: Final = frozenset({errno.EAGAIN, errno.EINTR})
_ATTEMPTS: Final = 5
#: The file does not exist, or must not be served.
_NOT_FOUND: Final = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EXDEV,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EACCES,
        errno.EPERM,
        errno.ENXIO,
        errno.ENODEV,
    }
)


def open_regular(root: Path, parts: Sequence[str]) -> int:
    """Open a regular file for reading and return its descriptor. Blocks.

    Args:
        root: the directory that the path must not leave.
        parts: names of the path from there, without slashes, `.` and `..`.

    Raises:
        FileNotFoundError: the file does not exist, or it must not or cannot be read. Links that
            leave `root`, directories, FIFOs, sockets and devices count as missing.
        OSError: a failure of the system (EIO, EMFILE).
    """
    try:
        descriptor = open_beneath(root, parts, _FILE)
    except OSError as error:
        if error.errno in _NOT_FOUND:
            raise FileNotFoundError(errno.ENOENT, error.strerror) from error
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, "not a regular file")


def open_directory(root: Path, parts: Sequence[str]) -> int:
    """Open a directory at or below `root` and return its descriptor; raise OSError. Blocks."""
    return open_beneath(root, parts, _DIRECTORY) if parts else os.open(root, _DIRECTORY)


def make_directories(root: Path, parts: Sequence[str]) -> int:
    """Open a directory below `root`, making it and its parents if they are missing. Blocks.

    Returns:
        Its descriptor.

    Raises:
        OSError: it cannot be made, or a link in the path leaves `root`.
    """
    root.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    for depth, name in enumerate(parts):
        parent = open_directory(root, parts[:depth])
        try:
            os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
            os.fsync(parent)
        except FileExistsError:
            pass
        finally:
            os.close(parent)
    return open_directory(root, parts)


def open_beneath(root: Path, parts: Sequence[str], flags: int) -> int:
    """Open the path `parts` from `root`, following links as long as they stay below it.

    Args:
        root: a directory; links in its own path are followed.
        parts: at least one name, without slashes, `.` and `..`.
        flags: of open(2); nothing is created.

    Returns:
        A descriptor.

    Raises:
        OSError: as of open(2); EXDEV or ELOOP when the path leaves `root`.
    """
    base = os.open(root, _DIRECTORY)
    try:
        return _open(base, parts, flags)
    except OSError as error:
        if error.errno not in _WALK:
            raise
    finally:
        os.close(base)
    return walk_beneath(root, parts, flags)


def _open(base: int, parts: Sequence[str], flags: int) -> int:
    path = "/".join(parts)
    for attempt in range(_ATTEMPTS):
        try:
            return openat2(base, path, flags, _RESOLVE)
        except OSError as error:
            if error.errno not in _AGAIN or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


def walk_beneath(root: Path, parts: Sequence[str], flags: int) -> int:
    """Do the same as `open_beneath` without openat2(2)."""
    top = os.path.realpath(root, strict=True)
    real = os.path.realpath("/".join((top, *parts)), strict=True)
    if not real.startswith(f"{top}/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), "/".join(parts))
    *parents, last = real[len(top) + 1 :].split("/")
    descriptor = os.open(top, _DIRECTORY)
    for name, how in (*((part, _DIRECTORY) for part in parents), (last, flags)):
        try:
            below = os.open(name, how | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor
