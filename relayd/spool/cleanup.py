"""What keeps the spool from growing: old refused files and leftovers of others go.

Nothing here removes a file that should have been processed, however old: that is the pipeline's.
"""

import heapq
import os
import stat
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio

from relayd.spool.failed.reasons import SUFFIX, reason_path
from relayd.spool.watching.listing import is_ours
from relayd.system.clock import WallClock
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("cleanup")

#: Files that are put in order at once when the oldest have to go: 0.5 kB each.
_BATCH: Final = 4096


class Room(msgspec.Struct, frozen=True):
    """A watched directory.

    Attributes:
        path: the directory.
        extensions: of the files that are processed, without dot: never removed here.
    """

    path: Path
    extensions: frozenset[str]


class Housekeeping(msgspec.Struct, frozen=True):
    """What is kept clean, and how.

    Attributes:
        rooms: watched directories.
        failed: where their refused files are.
        frequency: seconds between two sweeps.
        retention: seconds that a file is left untouched before it goes.
        max_size: bytes that refused files may take together; 0: any number.
    """

    rooms: tuple[Room, ...]
    failed: Path
    frequency: float
    retention: float
    max_size: int = 0


async def run_cleanup(
    house: Housekeeping,
    clock: WallClock,
    metrics: Metrics,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Sweep at once and then every `frequency` seconds. Ends when cancelled.

    A directory that cannot be read is given up until the next sweep. While the clock is not
    trusted nothing is removed.

    Args:
        house: what to keep clean.
        clock: judges whether ages can be trusted.
        metrics: counts refused files that were removed.
        task_status: started before the first sweep.
    """
    limiter = trio.CapacityLimiter(1)
    task_status.started()
    while True:
        if clock.is_trusted():
            old, crowding = await in_thread(sweep, house, time.time(), limiter=limiter)
            metrics.failed_removed.labels("age").inc(old)
            metrics.failed_removed.labels("size").inc(crowding)
        else:
            log.warning("the clock was set, nothing is removed for now", seconds=round(clock.jump))
        await trio.sleep(house.frequency)


def sweep(house: Housekeeping, now: float) -> tuple[int, int]:
    """Remove what is too old, or too much, from all directories. Blocks: meant for a thread.

    Args:
        house: what to keep clean.
        now: Unix time.

    Returns:
        How many refused files were removed for their age, and for the size of all.
    """
    old = crowding = 0
    with _given_up(house.failed):
        old = sweep_failed(house.failed, house.retention, now)
        if house.max_size:
            crowding = shrink_failed(house.failed, house.max_size)
    for room in house.rooms:
        with _given_up(room.path):
            sweep_leftovers(room.path, room.extensions, house.retention, now)
    return old, crowding


@contextmanager
def _given_up(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning(
            "directory cannot be cleaned for now", file=str(directory), detail=error.strerror
        )


def sweep_failed(failed: Path, retention: float, now: float) -> int:
    """Remove refused files that are older than the retention, and their reasons with them.

    A file with a reason counts from the moment it was refused, another one from its last
    modification. Directories and symbolic links stay.

    Args:
        failed: where refused files are.
        retention: seconds.
        now: Unix time.

    Returns:
        How many files were removed, reasons not counted.

    Raises:
        OSError: the directory cannot be read. A file that cannot be removed is logged.
    """
    removed = size = 0
    for path, status in _files(failed):
        if path.name.endswith(SUFFIX):
            _remove_orphan(path, status, now - retention)
            continue
        if _refused_at(path, status) < now - retention and _unlink(path):
            removed += 1
            size += status.st_size
            _unlink(reason_path(path))
    if removed:
        log.info("old refused files removed", file=str(failed), files=removed, bytes=size)
    return removed


def shrink_failed(failed: Path, max_size: int) -> int:
    """Remove refused files, those refused first before the others, until they take less space.

    Args:
        failed: where refused files are.
        max_size: bytes that they may take together, reasons not counted.

    Returns:
        How many files were removed.

    Raises:
        OSError: the directory cannot be read. A file that cannot be removed is logged.
    """
    excess = sum(status.st_size for _, status in _refused(failed)) - max_size
    removed = size = 0
    while size < excess:
        # In batches: the names of all would take memory by the million.
        files = ((_refused_at(*file), *file) for file in _refused(failed))
        oldest = heapq.nsmallest(_BATCH, files, key=lambda file: (file[0], file[1].name))
        before = removed
        for _, path, status in oldest:
            if size < excess and _unlink(path):
                removed += 1
                size += status.st_size
                _unlink(reason_path(path))
        if removed == before:
            break
    if removed:
        log.warning(
            "refused files took too much space, the oldest are removed",
            file=str(failed),
            files=removed,
            bytes=size,
            max_size=max_size,
        )
    return removed


def _refused(failed: Path) -> Iterator[tuple[Path, os.stat_result]]:
    return (file for file in _files(failed) if not file[0].name.endswith(SUFFIX))


def _refused_at(path: Path, status: os.stat_result) -> float:
    """Return when a file was refused, Unix time; without a reason, when it was last modified."""
    since = _modified(reason_path(path))
    return status.st_mtime if since is None else since


def _remove_orphan(reason: Path, status: os.stat_result, before: float) -> None:
    """Remove an old reason whose file is gone: a crash came between the two."""
    file = reason.with_name(reason.name.removesuffix(SUFFIX))
    if status.st_mtime < before and not os.path.lexists(file):
        _unlink(reason)


def sweep_leftovers(
    directory: Path, extensions: Container[str], retention: float, now: float
) -> int:
    """Remove old files of a watched directory that are not ours to process.

    These are temporary files of the web server and files of other extensions. Directories and
    symbolic links stay.

    Args:
        directory: a watched directory.
        extensions: of the files that are processed, without dot.
        retention: seconds since the last modification.
        now: Unix time.

    Returns:
        How many files were removed.

    Raises:
        OSError: the directory cannot be read. A file that cannot be removed is logged.
    """
    removed = 0
    for path, status in _files(directory):
        if not is_ours(path.name, extensions) and status.st_mtime < now - retention:
            removed += _unlink(path)
    if removed:
        log.info("leftovers removed", file=str(directory), files=removed)
    return removed


def _files(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Stream the regular files of a directory."""
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except PermissionError:
                raise  # lstat(2) asks nothing of the file itself: the directory is closed to us
            except OSError as error:
                log.warning("file cannot be looked at", file=entry.path, detail=error.strerror)
                continue
            if stat.S_ISREG(status.st_mode):
                yield Path(entry.path), status


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("old file cannot be removed", file=str(path), detail=error.strerror)
        return False
    return True


def _modified(path: Path) -> float | None:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return None
