"""What makes a spool file the one that was read, whatever its name points at by now."""

import os
from pathlib import Path

import msgspec


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Tells a file from a newer one of the same name.

    Attributes:
        dev: device.
        ino: inode.
        mtime_ns: last modification, ns since the epoch.
        size: bytes.
    """

    dev: int
    ino: int
    mtime_ns: int
    size: int


def identity(status: os.stat_result) -> Identity:
    """Identity of the file that a `stat` call told about."""
    return Identity(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def identity_at(path: Path) -> Identity:
    """Identity of what a path names now; a symbolic link is not followed.

    Raises:
        OSError: as of lstat(2); FileNotFoundError when nothing has this name.
    """
    return identity(path.lstat())
