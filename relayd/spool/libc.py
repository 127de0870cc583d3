"""The few functions of the C library that Python does not offer. ctypes stays in this module."""

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1


def inotify_init1(flags: int) -> int:
    """Open an inotify instance (inotify(7)); raises OSError."""
    return _checked(_LIBC.inotify_init1(flags))


def inotify_add_watch(fd: int, path: Path, mask: int) -> int:
    """Watch a path and return its watch descriptor (inotify(7)); raises OSError."""
    raw = os.fsencode(path)
    return _checked(_LIBC.inotify_add_watch(fd, raw, ctypes.c_uint32(mask)), path)


def inotify_rm_watch(fd: int, wd: int) -> None:
    """Remove a watch (inotify(7)); raises OSError."""
    _checked(_LIBC.inotify_rm_watch(fd, wd))


def rename_noreplace(source: Path, target: Path) -> None:
    """Rename, but fail with FileExistsError when the target exists, see renameat2(2).

    A filesystem that does not know the flag (some network ones) gets a look before a plain
    rename, which leaves a gap of microseconds.

    Raises:
        OSError: as of rename(2).
    """
    try:
        _checked(
            _LIBC.renameat2(
                _AT_FDCWD,
                os.fsencode(source),
                _AT_FDCWD,
                os.fsencode(target),
                _RENAME_NOREPLACE,
            ),
            source,
            target,
        )
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.rename(target)


def _checked(result: int, path: Path | None = None, path2: Path | None = None) -> int:
    if result >= 0:
        return result
    code = ctypes.get_errno()
    raise OSError(
        code,
        os.strerror(code),
        None if path is None else str(path),
        None,
        None if path2 is None else str(path2),
    )
