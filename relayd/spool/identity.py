"""The identity of a spool file, whatever its name refers to later."""

import os
from pathlib import Path

import msgspec


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Distinguishes a file from a newer one of the same name.

    Attributes:
        dev: device.
        ino: inode.
        mtime_ns: last modification, nanoseconds since the epoch.
        size: bytes.
    """

    dev: int
    ino: int
    mtime_ns: int
    size: int


def identity(status: os.stat_result) -> Identity:
    """Return the identity of a file from the result of a `stat` call."""
    return Identity(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def identity_at(path: Path) -> Identity:
    """Return the identity of the file at a path; a symbolic link is not followed.

    Raises:
        OSError: as of lstat(2); FileNotFoundError if no file has this name.
    """
    return identity(path.lstat())
