"""Listing a spool directory: the oldest files with a known extension."""

import math
import os
import time
from collections.abc import Callable, Container, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Final

import msgspec

from relayd.runlog.filename import run_of

#: Age, name, run, modification time and size of a file; the names differ, so runs are never
#: compared.
_Found = tuple[float, str, tuple[str, float] | None, float, int]

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
        runs: node and date of each of the names; None for one without.
        mtimes: modification time of each of the names.
        sizes: bytes of each of the names.
        unlisted: the oldest date of each node that has run logs beyond the limit.
    """

    names: list[str]
    more: bool
    total: int
    oldest_mtime: float | None
    runs: list[tuple[str, float] | None] = []
    mtimes: list[float] = []
    sizes: list[int] = []
    unlisted: dict[str, float] = {}


def is_ours(name: str, extensions: Container[str], *, hidden: bool = False) -> bool:
    """Return whether relayd processes a file: a known extension (without dot), no leading dot.

    Web servers write uploads under a name with a leading dot and then rename them. Their names,
    and relayd's own, have no known extension, so that `hidden` admits other names with a dot.
    """
    stem, dot, extension = name.rpartition(".")
    if dot != "." or extension not in extensions:
        return False
    return bool(stem) if hidden else not name.startswith(".")


def oldest(
    directory: Path,
    extensions: Container[str],
    *,
    limit: int,
    min_age: float,
    exclude: Callable[[str], bool],
    now: float,
    hidden: bool = False,
    ordered: bool = False,
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
        hidden: whether names with a leading dot count.
        ordered: whether names are read: the age of a run log is also that of its run, so that a
            node's older runs are among the oldest files.

    Raises:
        OSError: the directory cannot be read.
    """
    survey = _Survey()
    found: list[_Found] = []
    unlisted: dict[str, float] = {}
    for name, mtime, size in _scan(directory, extensions, hidden=hidden):
        if survey.take(name, mtime, min_age, exclude, now) and limit:
            run = run_of(name) if ordered else None
            found.append((mtime if run is None else min(mtime, run[1]), name, run, mtime, size))
            if len(found) >= 2 * limit + _PAUSE_EVERY:
                _cut(found, limit, unlisted)
    _cut(found, limit, unlisted)
    return Listing(
        names=[name for _, name, _, _, _ in found],
        more=survey.candidates > len(found),
        total=survey.total,
        oldest_mtime=survey.oldest,
        runs=[run for _, _, run, _, _ in found],
        mtimes=[mtime for _, _, _, mtime, _ in found],
        sizes=[size for _, _, _, _, size in found],
        unlisted=unlisted,
    )


def _cut(found: list[_Found], limit: int, unlisted: dict[str, float]) -> None:
    """Keep the oldest files, of all nodes in turn; note the nodes of the others.

    Otherwise one node with a long backlog would fill whole listings, and the others would wait for
    the end of it. Of each node the oldest files are kept, also over several calls: a file that was
    found later only makes the n-th oldest one of its node older.
    """
    found.sort()
    if len(found) <= limit:
        return
    counts: dict[str, int] = {}
    by_rank: list[list[_Found]] = [[]]
    for file in found:
        run = file[2]
        rank = 0
        if run is not None:
            rank = counts.get(run[0], 0)
            counts[run[0]] = rank + 1
            if rank == len(by_rank):
                by_rank.append([])
        by_rank[rank].append(file)
    kept = list(chain.from_iterable(by_rank))
    for _, _, run, _, _ in islice(kept, limit, None):
        if run is not None:
            unlisted[run[0]] = min(run[1], unlisted.get(run[0], math.inf))
    del kept[limit:]
    kept.sort()
    found[:] = kept


class _Survey:
    """Counts files while the directory is streamed."""

    def __init__(self) -> None:
        self.total = 0
        self.candidates = 0
        self.oldest: float | None = None

    def take(
        self,
        name: str,
        mtime: float,
        min_age: float,
        exclude: Callable[[str], bool],
        now: float,
    ) -> bool:
        """Count a file; return whether it may be listed."""
        self.total += 1
        if self.oldest is None or mtime < self.oldest:
            self.oldest = mtime
        candidate = not 0 <= now - mtime < min_age and not exclude(name)
        self.candidates += candidate
        return candidate


def _scan(
    directory: Path, extensions: Container[str], *, hidden: bool
) -> Iterator[tuple[str, float, int]]:
    """Yield name, modification time (Unix seconds) and size of all files that relayd processes.

    The time is infinite if it cannot be read: a damaged entry does not hide the others, and opening
    it will show what is wrong.

    Raises:
        OSError: the directory cannot be read.
    """
    with os.scandir(directory) as entries:
        for number, entry in enumerate(entries):
            if number % _PAUSE_EVERY == 0:
                time.sleep(_PAUSE_S)
            if not is_ours(entry.name, extensions, hidden=hidden):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
                mtime, size = status.st_mtime, status.st_size
            except FileNotFoundError:
                continue
            except PermissionError:
                raise  # lstat(2) needs no permission on the file: the directory is inaccessible
            except OSError:
                mtime, size = math.inf, 0
            yield entry.name, mtime, size
