"""Uploads as WebDAV servers store them: a name, a temporary file, a rename."""

import errno
import os
import secrets
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from relayd.system.files import write_all

#: Prefix of the names of incomplete files, as in Apache's mod_dav_fs.
TEMPORARY: Final = b".davfs.tmp"

_NAME_MAX: Final = 255
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_MODE: Final = 0o640


def read_name(raw: bytes) -> bytes | None:
    """Return the file name in one segment of a path; None if it is not a valid name.

    Args:
        raw: the segment as sent, percent-encoded; it is decoded once.
    """
    name = unquote_to_bytes(raw)
    if not name or len(name) > _NAME_MAX or b"/" in name or b"\0" in name:
        return None
    return None if name.startswith(b".") else name


class Scratch:
    """A file under a temporary name; `discard` removes it unless it was committed.

    All methods block and may raise OSError.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = os.fsencode(directory)
        self._path = os.path.join(  # noqa: PTH118 - names of files are bytes here
            self._directory, TEMPORARY + secrets.token_hex(3).encode()
        )
        self._file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _MODE)
        self._committed = False

    def append(self, data: bytes) -> None:
        """Write all of `data`."""
        write_all(self._file, data)

    def commit(self, name: bytes) -> bool:
        """Rename the file to its final name; return whether it replaced another file."""
        self._close()
        target = os.path.join(self._directory, name)  # noqa: PTH118
        replaced = os.path.lexists(target)
        os.rename(self._path, target)  # noqa: PTH104
        self._committed = True
        return replaced

    def discard(self) -> None:
        """Remove the file, unless it was committed."""
        self._close()
        if not self._committed:
            os.unlink(self._path)  # noqa: PTH108

    def _close(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)


def status_of(error: OSError) -> int:
    """Return the HTTP status for an upload that could not be stored (full disk: RFC 4918, 11.5)."""
    if error.errno in _FULL:
        return 507
    return 409 if error.errno == errno.ENOENT else 500
