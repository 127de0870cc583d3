"""Removal of old refused files, and of leftovers of other programs, so that the spool stays small.

Nothing here removes a file that should be processed, however old: only the pipeline does.
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
from relayd.spool.layout import Spool
from relayd.spool.watching.listing import is_ours
from relayd.system.clock import WallClock
from relayd.system.shortage import words_of
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("cleanup")

#: Unit of `st_blocks`, see stat(2).
_BLOCK: Final = 512
#: Files that are sorted at once when the oldest must be removed: 0.5 kB each.
_BATCH: Final = 4096


class CleanupPlan(msgspec.Struct, frozen=True):
    """What is cleaned up, and by which rules.

    Attributes:
        spool: its directories.
        frequency: seconds between two sweeps.
        retention: seconds that a file is left untouched before it is removed.
        max_size: bytes of disk that refused files may take together; 0: any number.
    """

    spool: Spool
    frequency: float
    retention: float
    max_size: int = 0


async def run_cleanup(
    plan: CleanupPlan,
    clock: WallClock,
    metrics: Metrics,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Sweep at once and then every `frequency` seconds. Ends when cancelled.

    A directory that cannot be read is skipped until the next sweep. While the clock is not
    trusted nothing is removed.

    Args:
        plan: what to clean up.
        clock: judges whether ages can be trusted.
        metrics: counts refused files that were removed.
        task_status: started before the first sweep.
    """
    limiter = trio.CapacityLimiter(1)
    task_status.started()
    while True:
        if clock.is_trusted():
            removed = await in_thread(sweep, plan, time.time(), limiter=limiter)
            metrics.failed_removed.labels("age").inc(removed.for_age)
            metrics.failed_removed.labels("size").inc(removed.for_size)
        else:
            log.warning("the clock was set; nothing is removed for now", seconds=round(clock.jump))
        await trio.sleep(plan.frequency)


class Removed(msgspec.Struct, frozen=True):
    """How many refused files a sweep removed.

    Attributes:
        for_age: since they were older than the retention.
        for_size: since all of them took too much space.
    """

    for_age: int = 0
    for_size: int = 0


def sweep(plan: CleanupPlan, now: float) -> Removed:
    """Remove from all directories what is too old, or too much. Blocks: meant for a thread.

    Args:
        plan: what to clean up.
        now: Unix time.
    """
    spool = plan.spool
    for_age = for_size = 0
    with _skipping(spool.failed):
        for_age = sweep_failed(spool.failed, plan.retention, now)
        if plan.max_size:
            for_size = shrink_failed(spool.failed, plan.max_size)
    for directory in spool.watched:
        with _skipping(directory):
            sweep_leftovers(directory, spool.extensions, plan.retention, now, hidden=spool.hidden)
    return Removed(for_age, for_size)


@contextmanager
def _skipping(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning(
            "directory cannot be cleaned up for now", file=str(directory), detail=words_of(error)
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
            size += _space(status)
            _unlink(reason_path(path))
    if removed:
        log.info("old refused files removed", file=str(failed), files=removed, bytes=size)
    return removed


def shrink_failed(failed: Path, max_size: int) -> int:
    """Remove refused files, the oldest refusals first, until they take less space.

    Args:
        failed: where refused files are.
        max_size: bytes of disk that they may take together, reasons not counted.

    Returns:
        How many files were removed.

    Raises:
        OSError: the directory cannot be read. A file that cannot be removed is logged.
    """
    excess = sum(_space(status) for _, status in _refused(failed)) - max_size
    removed = size = 0
    while size < excess:
        # In batches: the names of all would take memory by the million.
        files = ((_refused_at(*file), *file) for file in _refused(failed))
        oldest = heapq.nsmallest(_BATCH, files, key=lambda file: (file[0], file[1].name))
        before = removed
        for _, path, status in oldest:
            if size < excess and _unlink(path):
                removed += 1
                size += _space(status)
                _unlink(reason_path(path))
        if removed == before:
            break
    if removed:
        log.warning(
            "refused files took too much space; the oldest were removed",
            file=str(failed),
            files=removed,
            bytes=size,
            max_size=max_size,
        )
    return removed


def _space(status: os.stat_result) -> int:
    """Return the bytes that a file takes on disk: a sparse file has a larger size than that."""
    return status.st_blocks * _BLOCK


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
    directory: Path,
    extensions: Container[str],
    retention: float,
    now: float,
    *,
    hidden: bool = False,
) -> int:
    """Remove old files of a watched directory that are not processed.

    These are temporary files of the web server and files with other extensions. Directories and
    symbolic links stay.

    Args:
        directory: a watched directory.
        extensions: of the files that are processed, without dot.
        retention: seconds since the last modification.
        now: Unix time.
        hidden: whether files whose name begins with a dot are processed.

    Returns:
        How many files were removed.

    Raises:
        OSError: the directory cannot be read. A file that cannot be removed is logged.
    """
    removed = 0
    for path, status in _files(directory):
        if not is_ours(path.name, extensions, hidden=hidden) and status.st_mtime < now - retention:
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
                raise  # lstat(2) needs no right to the file itself, so the directory is closed
            except OSError as error:
                log.warning(
                    "file cannot be examined for cleanup", file=entry.path, detail=words_of(error)
                )
                continue
            if stat.S_ISREG(status.st_mode):
                yield Path(entry.path), status


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("old file cannot be removed", file=str(path), detail=words_of(error))
        return False
    return True


def _modified(path: Path) -> float | None:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return None
