"""Opening a spool file, whatever is behind its name, even when resources are short."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from relayd.errors import Gone, Reason, Refused, Retry
from relayd.spool.identity import Identity, identity_at
from relayd.system.shortage import words_of

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: open(2): a symbolic link; a socket, or a FIFO without a peer.
_NOT_REGULAR: Final = frozenset({errno.ELOOP, errno.ENXIO})

#: Relayd or the machine is short of resources, which says nothing about the file.
_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

NOT_A_FILE: Final = Refused(Reason.NOT_A_FILE, "not a regular file")


def open_file(path: str) -> int | Refused | Retry | Gone:
    """Open a file for reading, without following a link and without blocking.

    Returns:
        A file descriptor, to be checked with `objection` and closed by the caller; or why the file
        was not opened.
    """
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        return Gone()
    except OSError as error:
        return NOT_A_FILE if error.errno in _NOT_REGULAR else try_later("cannot be opened", error)


def objection(status: os.stat_result) -> Refused | None:
    """Return why an opened file must not be read, whatever its content; None if it may be.

    Refused are entries that are not regular files (a directory, FIFO, device), and files that may
    have been put here with link(2): they may be files that this process can read, but the one who
    made the link cannot. Only files of root and of this account can be that; files of other
    accounts stay usable, so that backups may link them. A link may also be a rename in progress by
    a writer that renames with link(2).
    """
    if not stat.S_ISREG(status.st_mode):
        return NOT_A_FILE
    own = os.geteuid()
    if status.st_nlink > 1 and (own == 0 or status.st_uid in {0, own}):
        detail = f"it has {status.st_nlink} names, so it may not be an upload"
        return Refused(Reason.NOT_A_FILE, detail, maybe_unfinished=True)
    return None


def identity_or_none(path: str) -> Identity | None:
    """Return the identity of an unreadable file, so that it can still expire; None if unknown."""
    try:
        return identity_at(Path(path))
    except OSError:
        return None


def try_later(what: str, error: OSError) -> Retry:
    """Return a `Retry` with the system's error; a shortage does not count as an attempt."""
    return Retry(f"{what}: {words_of(error)}", attempted=error.errno not in _SHORTAGE)
