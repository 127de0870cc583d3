"""The hidden directory that an uploaded file is written to before it is put in place."""

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from relayd.shared.beneath import DIRECTORY_MODE, make_directories
from relayd.system.files import write_all

FILE_MODE: Final = 0o640

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Stage:
    """A directory that is invisible to readers, for the content of one file.

    Args:
        root: the top directory of the store.
        release: called with the name once the directory is gone.

    Attributes:
        target: id of the node that the file is for.
        file: id of the file.
        name: name of this directory, next to `files`.
        parent: descriptor of the target's directory.
        directory: descriptor of this directory.
        size: bytes of the content.
    """

    def __init__(
        self,
        root: Path,
        target: str,
        name: str,
        file: str,
        algorithm: str,
        release: Callable[[str], None],
    ) -> None:
        self.target = target
        self.file = file
        self.name = name
        self.size = 0
        self._release = release
        self._hash = hashlib.new(algorithm)
        self._content = self.directory = -1
        self.parent = make_directories(root, (target,))
        try:
            os.mkdir(name, DIRECTORY_MODE, dir_fd=self.parent)
            self.directory = os.open(name, _DIRECTORY, dir_fd=self.parent)
            if file:
                self._content = os.open(file, _CREATE, FILE_MODE, dir_fd=self.directory)
        except BaseException:
            self.close()
            raise

    def write(self, data: bytes) -> None:
        """Append to the content; raise OSError."""
        self._hash.update(data)
        write_all(self._content, data)
        self.size += len(data)

    def digest(self) -> bytes:
        """Return the hash of the content."""
        return self._hash.digest()

    def add(self, name: str, data: bytes) -> None:
        """Write a file next to the content; both are on disk afterwards."""
        os.fsync(self._content)
        descriptor = os.open(name, _CREATE, FILE_MODE, dir_fd=self.directory)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Remove what is left of the stage: its own content, the previous pair, or nothing."""
        for descriptor in (self._content, self.directory):
            if descriptor >= 0:
                os.close(descriptor)
        self._content = self.directory = -1
        if self.parent >= 0:
            with suppress(OSError):  # a sweep will remove the rest
                shutil.rmtree(self.name, dir_fd=self.parent)
            os.close(self.parent)
            self.parent = -1
        self._release(self.name)
