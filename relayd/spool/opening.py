"""Opening a spool file: a name may stand for anything, the machine be short of something."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from relayd.errors import Gone, Reason, Refused, Retry
from relayd.spool.identity import Identity, identity_at

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: open(2): a symbolic link; a socket, or a FIFO without a peer.
_NOT_REGULAR: Final = frozenset({errno.ELOOP, errno.ENXIO})

#: What relayd or the machine is short of says nothing about the file.
_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

NOT_A_FILE: Final = Refused(Reason.NOT_A_FILE, "not a regular file")


def open_file(path: str) -> int | Refused | Retry | Gone:
    """Opens a file for reading, without following a link and without waiting for anybody.

    Returns:
        A file descriptor, to be closed by the caller, whose type is still to be looked at with
        `is_regular`; or why there is none.
    """
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        return Gone()
    except OSError as error:
        return NOT_A_FILE if error.errno in _NOT_REGULAR else try_later("cannot be opened", error)


def is_regular(status: os.stat_result) -> bool:
    """Whether it is a file with content, and not a directory, FIFO or device."""
    return stat.S_ISREG(status.st_mode)


def look(path: str) -> Identity | None:
    """What cannot be read has an age all the same: without it, it would never be given up."""
    try:
        return identity_at(Path(path))
    except OSError:
        return None


def try_later(what: str, error: OSError) -> Retry:
    """Tells what the system said, and whether that counts as an attempt."""
    return Retry(f"{what}: {error.strerror}", attempted=error.errno not in _SHORTAGE)
