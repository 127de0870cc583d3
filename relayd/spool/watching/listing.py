"""Listing a spool directory: the oldest files with a known extension."""

import heapq
import math
import os
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Final

import msgspec

#: A thread that releases the interpreter lock only for moments, as around each stat, keeps it from
#: the event loop for 5 ms at a time. A real pause every half millisecond lets the event loop run,
#: and costs a tenth of the listing's time.
_PAUSE_EVERY: Final = 128
_PAUSE_S: Final = 0.00005


class Listing(msgspec.Struct, frozen=True):
    """The result of a listing.

    Attributes:
        names: files to process, the oldest first, up to the limit.
        more: whether there were more than the limit.
        total: number of files with a known extension, including those left out.
        oldest_mtime: modification time of the oldest of these (Unix seconds); None if none.
    """

    names: list[str]
    more: bool
    total: int
    oldest_mtime: float | None


def is_ours(name: str, extensions: Container[str]) -> bool:
    """Return whether relayd processes a file: a known extension (without dot), no leading dot.

    Web servers write uploads under a name with a leading dot and then rename them.
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

    The directory is streamed and at most `limit` names are kept, so memory does not grow with the
    backlog. Entries that vanish meanwhile are skipped.

    Args:
        directory: the spool directory.
        extensions: known extensions, without dot.
        limit: maximum number of names to return.
        min_age: minimum age of a file, in seconds since its last modification. A modification time
            in the future counts as old, because such a file might never reach the age.
        exclude: says which names to leave out, those in flight. Called in this thread.
        now: Unix time.

    Raises:
        OSError: the directory cannot be read.
    """
    survey = _Survey()
    candidates = survey.eligible(directory, extensions, min_age, exclude, now)
    found = heapq.nsmallest(limit, candidates)
    for _ in candidates:  # with a limit of 0 nothing was consumed: count the files
        pass
    return Listing(
        names=[name for _, name in found],
        more=survey.candidates > len(found),
        total=survey.total,
        oldest_mtime=survey.oldest,
    )


class _Survey:
    """Counts files while the directory is streamed."""

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
    """Yield name and modification time (Unix seconds) of all files that relayd processes.

    The time is infinite if it cannot be read: a damaged entry does not hide the others, and opening
    it will show what is wrong.

    Raises:
        OSError: the directory cannot be read.
    """
    with os.scandir(directory) as entries:
        for number, entry in enumerate(entries):
            if number % _PAUSE_EVERY == 0:
                time.sleep(_PAUSE_S)
            if not is_ours(entry.name, extensions):
                continue
            try:
                mtime = entry.stat(follow_symlinks=False).st_mtime
            except FileNotFoundError:
                continue
            except PermissionError:
                raise  # lstat(2) needs no permission on the file: the directory is inaccessible
            except OSError:
                mtime = math.inf
            yield entry.name, mtime
