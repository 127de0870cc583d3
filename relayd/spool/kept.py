"""Committed files that are kept for a while, because a failover could take their commits back.

    incoming/NAME ─▶ held/TIME-HISTORY-POSITION-NUMBER/NAME ─▶ removed, or incoming/NAME again

All that must survive a restart is in the names of the directories, called slices, which take the
files of some seconds each. A move is one rename, so a crash leaves a file either in `incoming`,
where it is recognized as a duplicate, or here.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from relayd.spool.committed import WalPoint
from relayd.spool.disposal import Removal
from relayd.spool.identity import Identity, identity_at
from relayd.system.libc import rename_noreplace
from relayd.system.shortage import words_of
from relayd.telemetry.logs import get_logger

log = get_logger("disposal")

#: A slice takes files for this many seconds, or a part of a shorter hold.
SLICE_S: Final = 10.0
SLICES_OF_A_HOLD: Final = 4
#: A slice takes at most this part of what may be kept, so that not all of it is released at once.
PARTS: Final = 16

_SLICE: Final = re.compile(r"([0-9]{1,12})-([0-9a-z]{1,64})-([0-9a-f]{1,16})-[0-9]{1,9}")
_MODE: Final = 0o750

#: Of a file of which it is not known where it was committed: it is offered again.
NOWHERE: Final = WalPoint("0", 0)


class KeepRules(msgspec.Struct, frozen=True):
    """How long and how much is kept.

    Attributes:
        hold_s: seconds that a file is kept after its commit; 0: not at all.
        max_files: files that are kept at most; 0: any number.
        max_size: bytes that these have at most; 0: any number.
    """

    hold_s: float
    max_files: int = 0
    max_size: int = 0

    @property
    def slice_s(self) -> float:
        """Seconds for which a slice takes files."""
        return min(SLICE_S, self.hold_s / SLICES_OF_A_HOLD)

    def allow(self, files: int, size: int, parts: int = 1) -> bool:
        """Return whether this much may be kept, or is less than one of so many parts of it."""
        return not (0 < self.max_files < files * parts or 0 < self.max_size < size * parts)


class _Slice(msgspec.Struct):
    """A directory of files that were committed at about the same time.

    Attributes:
        path: the directory.
        point: where the first of them was committed.
        closes: monotonic time after which it takes no more files.
        until: monotonic time until which it is kept.
        found: whether an earlier process made it.
        files: how many it has.
        size: their bytes.
    """

    path: Path
    point: WalPoint
    closes: float
    until: float
    found: bool = False
    files: int = 0
    size: int = 0


class Kept:
    """The committed files that are kept; its methods block and may be called in any thread.

    Attributes:
        files: how many there are.
        size: their bytes.
        offered: names of those that were moved back; each is removed from it with its outcome.
        at: where the database is now; None before it was asked.
        rules: how long and how much is kept.

    Args:
        directory: where they are kept; on the filesystem of `incoming`.
        incoming: the watched directory.
        rules: how long and how much is kept.
        monotonic: seconds that no change of the clock affects.
        wall: Unix time, for what must survive a restart.
    """

    def __init__(
        self,
        directory: Path,
        incoming: Path,
        rules: KeepRules,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.files = 0
        self.size = 0
        self.offered: set[str] = set()
        self.at: WalPoint | None = None
        self._directory = directory
        self._incoming = incoming
        self.rules = rules
        self._monotonic = monotonic
        self._wall = wall
        self._slices: list[_Slice] = []
        self._number = 0
        self._early = 0
        self._lock = threading.RLock()

    def find(self) -> None:
        """Find what an earlier process has kept; its time counts from the commit.

        Raises:
            OSError: the directory cannot be read.
        """
        with self._lock:
            known = {kept.path for kept in self._slices}
            for path in sorted(self._directory.iterdir(), key=_age_order):
                if path not in known and (found := _SLICE.fullmatch(path.name)) and path.is_dir():
                    self._find_slice(path, int(found[1]), WalPoint(found[2], int(found[3], 16)))
            self._slices.sort(key=lambda kept: _age_order(kept.path))

    def _find_slice(self, path: Path, began: int, point: WalPoint) -> None:
        now = self._monotonic()
        longest = self.rules.hold_s + self.rules.slice_s
        left = min(max(began + longest - self._wall(), 0.0), longest)
        kept = _Slice(path, point, now, now + left, found=True)
        with os.scandir(path) as entries:
            for entry in entries:
                kept.files += 1
                kept.size += entry.stat(follow_symlinks=False).st_size
        self._slices.append(kept)
        self._count(kept.files, kept.size)

    def put(self, name: str, known: Identity, point: WalPoint) -> Removal:
        """Move a committed file here.

        Args:
            name: base name in the watched directory.
            known: identity of what was read.
            point: where it was committed.

        Returns:
            "removed"; "changed" when the name holds a newer file, which stays; "gone" when nothing
            has this name.

        Raises:
            OSError: it cannot be moved now; it is still in the watched directory.
        """
        source = self._incoming / name
        with self._lock:
            try:
                if identity_at(source) != known:
                    return "changed"
                kept, moved = self._move_here(source, point)
            except FileNotFoundError:
                if os.path.lexists(source):
                    raise
                return "gone"
            if moved == known:
                return "removed"
            # A newer file has taken the name meanwhile, which nobody has read.
            self._return(kept, kept.path / name, moved.size)
            return "changed"

    def put_all(
        self, files: Iterable[tuple[str, Identity, WalPoint | None]]
    ) -> list[Removal | OSError]:
        """Move committed files; one that cannot be moved does not hold up the others.

        Args:
            files: as the arguments of `put`; without a point, they are soon offered again.
        """
        results: list[Removal | OSError] = []
        for name, known, point in files:
            try:
                results.append(self.put(name, known, point or NOWHERE))
            except OSError as error:
                results.append(error)
        self.shrink()
        return results

    def _move_here(self, source: Path, point: WalPoint) -> tuple[_Slice, Identity]:
        kept = self._open_slice(point)
        try:
            rename_noreplace(source, kept.path / source.name)
        except FileExistsError:  # another file of this name was committed just before
            kept = self._new_slice(point)
            rename_noreplace(source, kept.path / source.name)
        except FileNotFoundError:
            if not os.path.lexists(source) or kept.path.is_dir():
                raise
            self._forget(kept)  # somebody has removed the directory
            kept = self._new_slice(point)
            rename_noreplace(source, kept.path / source.name)
        moved = identity_at(kept.path / source.name)
        self._add(kept, 1, moved.size)
        return kept, moved

    def _return(self, kept: _Slice, target: Path, size: int) -> None:
        """Move an unread file back, or to where it is offered again once its name is free."""
        try:
            rename_noreplace(target, self._incoming / target.name)
        except FileExistsError:
            self._move_here(target, NOWHERE)
        self._add(kept, -1, -size)

    def offer(self, most: int, *, everything: bool = False) -> int:
        """Move files back whose commits the database may have lost, the oldest first.

        A file whose name is taken in the watched directory waits here.

        Args:
            most: files that are moved at most.
            everything: whether to offer all that is kept.

        Returns:
            How many were moved.

        Raises:
            OSError: a file cannot be moved now.
        """
        moved = 0
        with self._lock:
            for kept in list(self._slices):
                if moved < most and (everything or self._is_doubtful(kept)):
                    moved += self._offer_slice(kept, most - moved)
        return moved

    def _offer_slice(self, kept: _Slice, most: int) -> int:
        moved = 0
        for name in _names(kept.path):
            if moved == most:
                return moved
            source = kept.path / name
            size = source.lstat().st_size
            self.offered.add(name)  # before its outcome can be known
            try:
                rename_noreplace(source, self._incoming / name)
            except OSError as error:
                self.offered.discard(name)
                if isinstance(error, FileExistsError):
                    continue
                raise
            self._add(kept, -1, -size)
            moved += 1
        self._remove_empty(kept)
        return moved

    def _is_doubtful(self, kept: _Slice) -> bool:
        """Return whether the database may not have what was committed with this slice."""
        if self.at is None:
            return False
        if kept.point.history != self.at.history:
            return True
        # In the life of a process, the history itself shows that the database was set back.
        return kept.found and kept.point.position > self.at.position

    @property
    def doubtful(self) -> int:
        """The number of files whose commits the database may have lost."""
        return sum(kept.files for kept in tuple(self._slices) if self._is_doubtful(kept))

    def release(self) -> int:
        """Remove what was kept for long enough; call it only after `at` was confirmed.

        Returns:
            How many files were removed.
        """
        with self._lock:
            now = self._monotonic()
            due = [k for k in self._slices if k.until <= now and not self._is_doubtful(k)]
            return sum(map(self._remove, due)) if self.at is not None else 0

    def shrink(self) -> None:
        """Release the oldest files while there are more than allowed, whatever their age.

        Files whose commits are doubtful are left: they go back to the watched directory.
        """
        with self._lock:
            for kept in list(self._slices):
                if self.rules.allow(self.files, self.size):
                    break
                if not self._is_doubtful(kept):
                    self._early += self._remove(kept)

    def take_early(self) -> int:
        """Return how many files were released too early since the last call."""
        with self._lock:
            early, self._early = self._early, 0
            return early

    def forget_offered(self, is_pending: Callable[[str], object]) -> None:
        """Forget names that were offered and have left the watched directory unnoticed."""
        for name in list(self.offered):
            if not is_pending(name) and not os.path.lexists(self._incoming / name):
                self.offered.discard(name)

    def _open_slice(self, point: WalPoint) -> _Slice:
        now = self._monotonic()
        for kept in reversed(self._slices):
            if (
                kept.point.history == point.history
                and kept.point.position <= point.position
                and now < kept.closes
                and self.rules.allow(kept.files + 1, kept.size, PARTS)
            ):
                return kept
        return self._new_slice(point)

    def _new_slice(self, point: WalPoint) -> _Slice:
        began = int(self._wall())
        while True:
            self._number += 1
            name = f"{began}-{point.history}-{point.position:x}-{self._number}"
            path = self._directory / name
            with suppress(FileExistsError):
                path.mkdir(mode=_MODE)
                break
        now = self._monotonic()
        closes = now + self.rules.slice_s
        kept = _Slice(path, point, closes, closes + self.rules.hold_s)
        self._slices.append(kept)
        return kept

    def _remove(self, kept: _Slice) -> int:
        """Remove a slice; return how many files it had."""
        removed = 0
        try:
            for name in _names(kept.path):
                path = kept.path / name
                size = path.lstat().st_size
                path.unlink()
                self._add(kept, -1, -size)
                removed += 1
        except OSError as error:
            log.warning(
                "held file cannot be removed", file=str(error.filename), detail=words_of(error)
            )
        self._remove_empty(kept)
        return removed

    def _remove_empty(self, kept: _Slice) -> None:
        try:
            kept.path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return
        self._forget(kept)

    def _forget(self, kept: _Slice) -> None:
        self._count(-kept.files, -kept.size)
        self._slices.remove(kept)

    def _add(self, kept: _Slice, files: int, size: int) -> None:
        kept.files += files
        kept.size += size
        self._count(files, size)

    def _count(self, files: int, size: int) -> None:
        self.files += files
        self.size += size


def _names(directory: Path) -> Sequence[str]:
    """Return the names in a directory, those of older runs first."""
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError:
        return ()


def _age_order(path: Path) -> tuple[int, str]:
    found = _SLICE.fullmatch(path.name)
    return (int(found[1]) if found else 0, path.name)
