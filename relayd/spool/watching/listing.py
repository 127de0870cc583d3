"""One look at a spool directory: the oldest files that are ours."""

import heapq
import math
import os
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Final

import msgspec

#: A thread that only releases the interpreter lock for moments, as around each stat, keeps the
#: event loop from getting it for 5 ms at a time. A real pause each half millisecond lets it in,
#: for a tenth of the listing's time.
_BREATH_EVERY: Final = 128
_BREATH_S: Final = 0.00005


class Listing(msgspec.Struct, frozen=True):
    """What a look at the directory found.

    Attributes:
        names: files to process, the oldest first, at most as many as asked for.
        more: there were others that did not fit.
        total: all files with a known extension, those left out included.
        oldest_mtime: modification time of the oldest of them (Unix seconds), None when empty.
    """

    names: list[str]
    more: bool
    total: int
    oldest_mtime: float | None


def is_ours(name: str, extensions: Container[str]) -> bool:
    """Return whether a file name counts: a known extension (without dot) and no leading dot.

    Web servers write uploads under a name with a leading dot and rename them.
    """
    _, dot, extension = name.rpartition(".")
    return dot == "." and not name.startswith(".") and extension in extensions


def oldest(
    directory: Path,
    extensions: Container[str],
    *,
    limit: int,
    min_age: float,
    exclude: Callable[[str], bool],
    now: float,
) -> Listing:
    """List the oldest files of a directory. Blocks: meant for a thread.

    The directory is streamed and no more than `limit` names are kept, so memory does not grow
    with the backlog. Entries that vanish meanwhile are skipped.

    Args:
        directory: the spool directory.
        extensions: known extensions, without dot.
        limit: how many names to return at most.
        min_age: seconds since the last modification that a file must have at least. A
            modification time in the future counts as old: such a file would never be.
        exclude: names to leave out, those in flight. Called in this thread.
        now: Unix time.

    Raises:
        OSError: the directory cannot be read.
    """
    survey = _Survey()
    candidates = survey.eligible(directory, extensions, min_age, exclude, now)
    found = heapq.nsmallest(limit, candidates)
    for _ in candidates:  # asked for no names: it is only counted
        pass
    return Listing(
        names=[name for _, name in found],
        more=survey.candidates > len(found),
        total=survey.total,
        oldest_mtime=survey.oldest,
    )


class _Survey:
    """Counts what passes while the directory streams by."""

    def __init__(self) -> None:
        self.total = 0
        self.candidates = 0
        self.oldest: float | None = None

    def eligible(
        self,
        directory: Path,
        extensions: Container[str],
        min_age: float,
        exclude: Callable[[str], bool],
        now: float,
    ) -> Iterator[tuple[float, str]]:
        for name, mtime in _scan(directory, extensions):
            self.total += 1
            if self.oldest is None or mtime < self.oldest:
                self.oldest = mtime
            if not 0 <= now - mtime < min_age and not exclude(name):
                self.candidates += 1
                yield mtime, name


def _scan(directory: Path, extensions: Container[str]) -> Iterator[tuple[str, float]]:
    """Stream name and modification time (Unix seconds) of all files that are ours.

    The time is infinite where it cannot be read: a damaged entry does not hide its neighbours, and
    whoever opens it finds out what is wrong.

    Raises:
        OSError: the directory cannot be read.
    """
    with os.scandir(directory) as entries:
        for number, entry in enumerate(entries):
            if number % _BREATH_EVERY == 0:
                time.sleep(_BREATH_S)
            if not is_ours(entry.name, extensions):
                continue
            try:
                mtime = entry.stat(follow_symlinks=False).st_mtime
            except FileNotFoundError:
                continue
            except PermissionError:
                raise  # lstat(2) asks nothing of the file itself: the directory is closed to us
            except OSError:
                mtime = math.inf
            yield entry.name, mtime
