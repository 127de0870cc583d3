"""The spool's directories at start: made, and held for one process."""

import fcntl
import os
from pathlib import Path
from typing import Final

from relayd.errors import StartError

_MODE: Final = 0o750


def ensure_directories(*directories: Path) -> None:
    """Make the directories that are missing, with mode 0750 less the umask.

    Raises:
        StartError: one cannot be made or used; names it.
    """
    for directory in directories:
        try:
            directory.mkdir(mode=_MODE, parents=True, exist_ok=True)
        except OSError as error:
            message = f"spool directory {directory} cannot be made: {error.strerror}"
            raise StartError(message) from error
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise StartError(f"spool directory {directory} cannot be read and written")


def lock_spool(directory: Path) -> int:
    """Hold a spool directory for this process, with flock(2) on the directory itself.

    Returns:
        A file descriptor; the lock lasts until it is closed, at the latest when the process ends.

    Raises:
        StartError: another process holds it, or it cannot be opened or locked.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        message = f"spool directory {directory} cannot be opened: {error.strerror}"
        raise StartError(message) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise StartError(f"{directory} is already in use by another relayd") from None
        message = f"spool directory {directory} cannot be locked: {error.strerror}"
        raise StartError(message) from error
    return fd
