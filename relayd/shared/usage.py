"""How many shared files each source has, how large they are, and when the next of them expires.

It is counted by the sweeps and carried on by uploads and removals in between, so that neither an
upload nor a sweep without work has to read a directory. One entry takes about 0.3 kB. Until the
first sweep after the start has reached a directory, its files do not count.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: Seconds after which a directory is read although nothing in it should have expired: another
#: program may have changed it.
REREAD_S = 86_400.0


class QuotaError(Exception):
    """A source has as many files, or bytes, as it may have; the text says which."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What one source may have, for all targets together; 0: no limit.

    Attributes:
        files: number of files.
        size: bytes of all files.
    """

    files: int = 0
    size: int = 0

    def problem(self, files: int, size: int) -> str | None:
        """Return what would be too much; None if nothing would."""
        if self.files and files > self.files:
            return f"the source has {files - 1} files; at most {self.files} are kept"
        if self.size and size > self.size:
            return f"the source would have {size} bytes; at most {self.size} are kept"
        return None


class _Count:
    __slots__ = ("due", "files", "read_at", "size", "sweep")

    def __init__(self, sweep: int) -> None:
        self.files = self.size = 0
        #: When the next file expires, Unix time.
        self.due = math.inf
        #: When the directory was read; None before that.
        self.read_at: float | None = None
        #: The sweep that saw it last.
        self.sweep = sweep


class Reading:
    """What a sweep counts in one directory.

    Attributes:
        files: number of pairs that stay.
        size: bytes of their contents.
        due: when the next of them expires, Unix time.
    """

    def __init__(self) -> None:
        self.files = self.size = 0
        self.due = math.inf

    def add(self, size: int, expires: float) -> None:
        """Count a pair."""
        self.files += 1
        self.size += size
        self.due = min(self.due, expires)


class Usage:
    """What all sources have. For threads.

    Args:
        quota: what each may have.
    """

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self._guard = threading.Lock()
        self._counts: dict[tuple[str, str], _Count] = {}
        self._totals: dict[str, tuple[int, int]] = {}
        self._sweep = 0

    def total(self, source: str) -> tuple[int, int]:
        """Return number and bytes of a source's files, with those that are being uploaded."""
        return self._totals.get(source, (0, 0))

    @contextmanager
    def reserved(self, source: str, size: int, replaced: int | None) -> Iterator[None]:
        """Reserve space for a file while it is uploaded.

        Args:
            source: id of the node.
            size: bytes of the file.
            replaced: bytes of the file that it replaces; None if there is none.

        Raises:
            QuotaError: there is not enough space.
        """
        with self._guard:
            files, had = self.total(source)
            if replaced is None or size > replaced:
                problem = self.quota.problem(
                    files + (replaced is None), had + size - (replaced or 0)
                )
                if problem is not None:
                    raise QuotaError(problem)
            self._shift(source, 1, size)
        try:
            yield
        finally:
            with self._guard:
                self._shift(source, -1, -size)

    def added(
        self, target: str, source: str, size: int, replaced: int | None, expires: float
    ) -> None:
        """Count a file that was stored."""
        with self._guard:
            count = self._count(target, source)
            count.due = min(count.due, expires)
            self._change(count, source, replaced is None, size - (replaced or 0))

    def removed(self, target: str, source: str, files: int, size: int) -> None:
        """Count files that were removed."""
        with self._guard:
            self._change(self._count(target, source), source, -files, -size)

    def is_due(self, target: str, source: str, now: float) -> bool:
        """Return whether a sweep has to read a directory, and note that it saw it."""
        with self._guard:
            count = self._count(target, source)
            count.sweep = self._sweep
            return (
                count.read_at is None or count.due <= now or not 0 <= now - count.read_at < REREAD_S
            )

    @contextmanager
    def reading(self, target: str, source: str, now: float) -> Iterator[Reading]:
        """Count the files of a directory while the block reads it.

        What the block counts is taken over, unless uploads or removals changed the directory
        meanwhile and it had been counted before.
        """
        found = Reading()
        with self._guard:
            count = self._count(target, source)
            before = count.files, count.size
            count.due = math.inf  # uploads during the block lower it
        try:
            yield found
        except BaseException:
            count.due = 0.0
            raise
        with self._guard:
            if count.read_at is None or before == (count.files, count.size):
                self._change(count, source, found.files - count.files, found.size - count.size)
            count.read_at = now
            count.due = min(count.due, found.due)

    @contextmanager
    def sweep(self) -> Iterator[None]:
        """Forget the directories that a complete sweep in the block has not seen."""
        with self._guard:
            self._sweep += 1
        yield
        with self._guard:
            for (target, source), count in list(self._counts.items()):
                if count.sweep < self._sweep:
                    self._change(count, source, -count.files, -count.size)
                    del self._counts[target, source]

    def _count(self, target: str, source: str) -> _Count:
        return self._counts.setdefault((target, source), _Count(self._sweep))

    def _change(self, count: _Count, source: str, files: int, size: int) -> None:
        # Another program may have removed files that were counted.
        files, size = max(files, -count.files), max(size, -count.size)
        count.files += files
        count.size += size
        self._shift(source, files, size)

    def _shift(self, source: str, files: int, size: int) -> None:
        had_files, had_size = self._totals.pop(source, (0, 0))
        if had_files + files or had_size + size:
            self._totals[source] = had_files + files, had_size + size
