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
    """Open a file for reading, without following a link and without waiting for anybody.

    Returns:
        A file descriptor, to be closed by the caller, of what is still to be asked `objection`;
        or why there is none.
    """
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        return Gone()
    except OSError as error:
        return NOT_A_FILE if error.errno in _NOT_REGULAR else try_later("cannot be opened", error)


def objection(status: os.stat_result) -> Refused | None:
    """Return why an opened file is not looked into, whatever it holds; None when it is.

    That is whatever has no content (a directory, FIFO or device), and a file that may have come
    here by link(2): its further name may be a place that whoever linked it cannot read, but this
    process can. Files of accounts that are neither root's nor ours are nothing of the kind, and
    stay usable for backups that link them. A writer that renames by linking is still at work.
    """
    if not stat.S_ISREG(status.st_mode):
        return NOT_A_FILE
    own = os.geteuid()
    if status.st_nlink > 1 and (own == 0 or status.st_uid in {0, own}):
        detail = f"it has {status.st_nlink} names, and may be another file than an upload"
        return Refused(Reason.NOT_A_FILE, detail, maybe_unfinished=True)
    return None


def look(path: str) -> Identity | None:
    """Return what cannot be read has an age all the same: without it, it would never be given up."""
    try:
        return identity_at(Path(path))
    except OSError:
        return None


def try_later(what: str, error: OSError) -> Retry:
    """Return what the system said, and whether that counts as an attempt."""
    return Retry(f"{what}: {error.strerror}", attempted=error.errno not in _SHORTAGE)
