"""Files that are read while they are sent, and a cache of file hashes."""

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from relayd.shared.beneath import open_regular
from relayd.spool.identity import Identity, identity
from relayd.system.threads import in_thread

#: Bytes of one read.
CHUNK: Final = 256 * 1024
#: Bytes that are hashed between two chances to stop: a few milliseconds.
_HASHED: Final = 4 * 1024 * 1024
#: Hashes that are remembered; one takes 0.5 kB.
_REMEMBERED: Final = 4096
#: Within this time a file may change again without a change of modification time and size.
_SETTLED_S: Final = 2.0


class OpenFile:
    """A regular file, open for reading; to be closed by its owner.

    Attributes:
        status: the result of fstat(2) when it was opened.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.status = os.fstat(descriptor)

    @classmethod
    def beneath(cls, root: Path, parts: Sequence[str]) -> "OpenFile":
        """Open a file as `open_regular` does, with the same errors. Blocks."""
        return cls(open_regular(root, parts))

    def read(self, at: int, size: int) -> bytes:
        """Read at most `size` bytes from an offset on; raise OSError. Blocks."""
        return os.pread(self._descriptor, size, at)

    def close(self) -> None:
        """Close it, unless it is already closed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        # A request that is cancelled inside the framework, between two owners, does not close it.
        self.close()


class Digests:
    """Hashes of files, cached until the files change."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, Identity], str] = OrderedDict()
        # Nodes request the same file at the same time: two compute, the others find the result.
        self._slots = trio.Semaphore(2)

    async def of(self, file: OpenFile, algorithm: str) -> str:
        """Return the hash of a file's content.

        Args:
            file: read from its start to its end.
            algorithm: `sha256` or `sha512`.

        Returns:
            Hexadecimal, lower case.

        Raises:
            OSError: it cannot be read.
        """
        key = (algorithm, identity(file.status))
        if key not in self._known:
            async with self._slots:
                if key not in self._known:
                    return await self._compute(file, key)
        self._known.move_to_end(key)
        return self._known[key]

    async def _compute(self, file: OpenFile, key: tuple[str, Identity]) -> str:
        digest = hashlib.new(key[0])
        at = 0
        while read := await in_thread(_hash_some, file, at, digest):
            at += read
        result = digest.hexdigest()
        if time.time() - file.status.st_mtime > _SETTLED_S:
            self._known[key] = result
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return result


def _hash_some(file: OpenFile, at: int, digest: "hashlib._Hash") -> int:
    data = file.read(at, _HASHED)
    digest.update(data)
    return len(data)
