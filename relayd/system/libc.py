"""The few functions of the C library that Python does not offer; the only user of ctypes."""

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_RENAME_EXCHANGE: Final = 2
_PR_GET_NO_NEW_PRIVS: Final = 39
#: The same number on every architecture but Alpha.
_SYS_OPENAT2: Final = 437
_LIBC.syscall.restype = ctypes.c_long

#: Flags of openat2(2).
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_BENEATH: Final = 0x08


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


def trim_memory() -> None:
    """Return freed memory to the system (malloc_trim(3), glibc only)."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


def no_new_privileges() -> bool:
    """Return whether this process can gain no privileges by running a program (prctl(2))."""
    return bool(_LIBC.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0))


def rename_noreplace(source: Path | str, target: Path | str) -> None:
    """Rename, but fail with FileExistsError when the target exists, see renameat2(2).

    On a filesystem that does not support the flag (some network ones), the target is checked
    before a plain rename, which leaves a race of microseconds.

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
        os.rename(source, target)  # noqa: PTH104


def rename_exchange(directory: int, name: str, directory2: int, name2: str) -> None:
    """Exchange two entries in one step, see renameat2(2).

    Args:
        directory: descriptor of the directory that holds `name`.
        name: one entry.
        directory2: descriptor of the directory that holds `name2`.
        name2: the other entry.

    Raises:
        OSError: as of rename(2); EINVAL where the filesystem cannot do it.
    """
    _checked(
        _LIBC.renameat2(
            directory, os.fsencode(name), directory2, os.fsencode(name2), _RENAME_EXCHANGE
        ),
        Path(name),
        Path(name2),
    )


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """Open a path relative to a directory and return its descriptor.

    See openat2(2).

    Args:
        directory: descriptor to start from.
        path: relative path.
        flags: `O_…` of open(2); nothing is created.
        resolve: `RESOLVE_…` flags that restrict how the path is resolved.

    Raises:
        OSError: ENOSYS before Linux 5.6; EXDEV when the path leaves the directory.
    """
    how = struct.pack("=QQQ", flags, 0, resolve)
    raw = os.fsencode(path)
    result = _LIBC.syscall(
        ctypes.c_long(_SYS_OPENAT2), ctypes.c_long(directory), raw, how, ctypes.c_size_t(len(how))
    )
    return _checked(result, Path(path))


def _checked(result: int, path: Path | str | None = None, path2: Path | str | None = None) -> int:
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
