"""Watching one directory with inotify, whatever happens to it.

The kernel sends no event when something is mounted over a directory or when its parent is moved,
and a watch follows the directory, not its path. So device and inode of the path are compared with
those of the watch, at least once per second by the caller of `check`.
"""

import errno
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import trio

from relayd.spool.lock import DirectoryLock
from relayd.spool.watching.inotify import (
    IN_CLOSE_WRITE,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_MOVE_SELF,
    IN_MOVED_TO,
    IN_ONLYDIR,
    IN_Q_OVERFLOW,
    IN_UNMOUNT,
    Inotify,
    InotifyEvent,
)
from relayd.system.shortage import INOTIFY_LIMITS, with_limit, words_of
from relayd.system.threads import in_thread
from relayd.system.wake import Wake
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("watch")

Mode = Literal["inotify", "poll"]

_MASK: Final = IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR
_DISTURBED: Final = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED
#: Errors that mean that the directory does not exist, or no longer exists, or that another relayd
#: has locked it.
_MISSING: Final = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EACCES,
    errno.ELOOP,
    errno.ESTALE,
    errno.EWOULDBLOCK,
)
#: Delay between attempts to use inotify while it is unavailable.
_INOTIFY_RETRY_S: Final = 10.0


class DirectoryWatch:
    """Keeps a directory watched. Owns an inotify instance; closed by leaving the `with` block.

    Attributes:
        mode: "poll" while inotify is unavailable, so that the caller must list the directory.
        disturbed: set when `check` should be called at once.
    """

    def __init__(self, path: Path, metrics: Metrics, lock: DirectoryLock | None = None) -> None:
        self.mode: Mode
        self.disturbed = Wake()
        self._path = path
        self._metrics = metrics
        self._lock = lock
        self._inotify: Inotify | None = None
        self._opened = trio.Event()
        self._wd: int | None = None
        self._place: tuple[int, int] | None = None
        self._watched = False
        self._missing = False
        self._retry_at = float("-inf")
        self._failed_at = float("-inf")
        self._limiter = trio.CapacityLimiter(1)
        self._set_mode("inotify")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._drop_inotify()

    async def check(self) -> bool:
        """Compare the path with the watch, and renew the watch if they differ.

        Returns:
            True if the watch was renewed: files that arrived before are only found by a listing.
        """
        place = await self._find()
        if place is None:
            return False
        settled = self._wd is not None or trio.current_time() < self._retry_at
        if settled and place == self._place:
            return False
        return await self._renew(place)

    async def follow(self) -> None:
        """Lock the directory that is at the path now.

        Raises:
            OSError: there is none, or another relayd has locked it.
        """
        if self._lock is not None:
            await in_thread(self._lock.follow, limiter=self._limiter)

    async def read(self) -> tuple[list[InotifyEvent], bool]:
        """Wait for events of the watched directory.

        Returns:
            Events that name a file, and whether others were lost, so that the directory must be
            listed.
        """
        if self._inotify is None:
            await self._opened.wait()
        assert self._inotify is not None
        try:
            events = await self._inotify.read()
        except OSError as error:
            self._note_failed(error)
            return [], True
        return self._sort(events)

    def _sort(self, events: list[InotifyEvent]) -> tuple[list[InotifyEvent], bool]:
        lost = False
        named: list[InotifyEvent] = []
        for event in events:
            if event.mask & IN_Q_OVERFLOW:
                lost = True
                self._metrics.watch_overflows.inc()
                log.warning("inotify queue overflowed; listing the directory", file=str(self._path))
            elif event.wd != self._wd:
                continue  # of a directory that was replaced
            elif event.name:
                named.append(event)
            elif event.mask & _DISTURBED:
                self.disturbed.set()
                if event.mask & IN_IGNORED:
                    self._wd = None
        return named, lost

    async def _renew(self, place: tuple[int, int]) -> bool:
        self._remove_watch()
        self._place = place
        try:
            await self.follow()
            if self._inotify is None:
                self._inotify = Inotify()
                self._opened.set()
            wd = await in_thread(self._inotify.add, self._path, _MASK, limiter=self._limiter)
        except OSError as error:
            if error.errno in _MISSING:
                self._note_missing(error)
            else:
                self._note_unavailable(error)
            return False
        self._wd = wd
        self._note_watching()
        if await self._find() != place:
            # Replaced at this very moment, so it is unknown which of the two is watched.
            self._place = None
            self.disturbed.set()
        return True

    async def _find(self) -> tuple[int, int] | None:
        """Return device and inode of the path; None if it is missing."""
        try:
            return await in_thread(_place_of, self._path, limiter=self._limiter)
        except OSError as error:
            self._note_missing(error)
            return None

    def _remove_watch(self) -> None:
        if self._inotify is not None and self._wd is not None:
            try:
                self._inotify.remove(self._wd)
            except OSError as error:
                if error.errno != errno.EINVAL:  # gone with its directory
                    raise
        self._wd = None

    def _drop_inotify(self) -> None:
        self._wd = None
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
            self._opened = trio.Event()

    def _note_watching(self) -> None:
        if self._watched or self._missing or self.mode == "poll":
            log.info("directory is watched again", file=str(self._path))
        self._watched = True
        self._missing = False
        self._set_mode("inotify")

    def _note_missing(self, error: OSError) -> None:
        if not self._missing:
            log.warning(
                "cannot watch directory; retrying",
                file=str(self._path),
                detail=words_of(error),
            )
        self._missing = True
        self._remove_watch()
        self._place = None

    def _note_failed(self, error: OSError) -> None:
        log.warning("inotify failed; restarting it", file=str(self._path), detail=words_of(error))
        self._drop_inotify()
        now = trio.current_time()
        if now - self._failed_at < _INOTIFY_RETRY_S:
            self._note_unavailable(error)
        self._failed_at = now
        self.disturbed.set()

    def _note_unavailable(self, error: OSError) -> None:
        if self.mode == "inotify":
            log.warning(
                "inotify is unavailable; polling the directory instead",
                file=str(self._path),
                detail=with_limit(error, INOTIFY_LIMITS),
            )
        self._retry_at = trio.current_time() + _INOTIFY_RETRY_S
        self._set_mode("poll")

    def _set_mode(self, mode: Mode) -> None:
        self.mode = mode
        self._metrics.note_watch(str(self._path), mode)


def _place_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
