"""Moving one directory entry, whatever its type, within a filesystem or to another one."""

import _thread
import contextlib
import errno
import os
import shutil
import stat
import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Final

from relayd.spool.identity import Identity, identity_at
from relayd.spool.layout import TEMPORARY
from relayd.system.libc import rename_noreplace

_numbers: Final = count()

#: Files synced at once: the filesystem then commits them together, which takes a fraction of the
#: time that one after the other takes.
SYNCS: Final = 8


def temporary_path(directory: Path) -> Path:
    """Return a path that is unique in this process."""
    return directory / f"{TEMPORARY}{os.getpid()}.{next(_numbers)}"


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power loss, see fsync(2); raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_files(paths: Sequence[Path]) -> dict[Path, OSError]:
    """Make the content of files survive a power loss; return those that could not be synced."""
    work = _Syncing(paths)
    for _ in range(min(SYNCS, len(paths)) - 1):
        try:
            # `Thread.start` waits for a thread that had no memory to begin, for ever.
            _thread.start_new_thread(work.run, ())
        except (RuntimeError, MemoryError):  # no more threads: fewer do it as well
            break
    work.run()
    return work.finish()


class _Syncing:
    """Files that several threads sync; none is waited for that has not taken one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._waiting = list(reversed(paths))
        self._failures: dict[Path, OSError] = {}
        self._changed = threading.Condition()
        self._busy = 0

    def run(self) -> None:
        """Sync files until none is left."""
        while (path := self._take()) is not None:
            error: OSError | None = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            try:
                _sync_file(path)
                error = None
            except OSError as fault:
                error = fault
            except MemoryError:
                pass
            finally:
                self._settle(path, error)

    def _take(self) -> Path | None:
        with self._changed:
            if not self._waiting:
                return None
            self._busy += 1
            return self._waiting.pop()

    def _settle(self, path: Path, error: OSError | None) -> None:
        with self._changed:
            self._busy -= 1
            if error is not None:
                self._failures[path] = error
            self._changed.notify()

    def finish(self) -> dict[Path, OSError]:
        """Wait for the others; return the files that could not be synced."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
        return self._failures


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def move_noreplace(path: Path | str, target: Path | str) -> None:
    """Move a file to a free name, also on another filesystem.

    There, a crash at the wrong moment leaves it in both places.

    Raises:
        FileExistsError: the name is taken.
        OSError: it cannot be moved, and stays.
    """
    try:
        rename_noreplace(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        path, target = Path(path), Path(target)
        before = identity_at(path)
        copy = copy_entry(path, target.parent)
        try:
            rename_noreplace(copy, target)
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        unlink_if_same(path, before)


def copy_entry(source: Path, directory: Path) -> Path:
    """Copy an entry to a temporary name in a directory of another filesystem, durably.

    Symbolic links are copied as links, FIFOs and sockets as empty ones of their kind.

    Returns:
        The temporary path, to be renamed by the caller.

    Raises:
        OSError: it cannot be copied (EXDEV for a directory or a device); no copy is left behind.
    """
    target = temporary_path(directory)
    try:
        _copy(source, target)
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise
    return target


def _copy(source: Path, target: Path) -> None:
    status = source.lstat()
    if stat.S_ISREG(status.st_mode):
        _copy_file(source, target)
    elif stat.S_ISLNK(status.st_mode):
        target.symlink_to(source.readlink())
    elif stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
        os.mknod(target, status.st_mode)
    else:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))


def _copy_file(source: Path, target: Path) -> None:
    # Non-blocking: it may have become a FIFO between lstat and open.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with (
        open(os.open(source, flags), "rb") as reading,  # noqa: PTH123  the flags matter
        target.open("xb") as writing,
    ):
        status = os.fstat(reading.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "replaced meanwhile", str(source))
        shutil.copyfileobj(reading, writing)
        writing.flush()
        os.fchmod(writing.fileno(), stat.S_IMODE(status.st_mode) & 0o777)
        os.utime(writing.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(writing.fileno())


def unlink_if_same(source: Path, copied: Identity) -> None:
    """Remove a file that was copied, unless it was replaced or changed since."""
    with contextlib.suppress(FileNotFoundError):
        if identity_at(source) == copied:
            source.unlink()
