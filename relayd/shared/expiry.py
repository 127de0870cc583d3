"""Removal of expired shared files and of leftovers of interrupted uploads."""

import math
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from relayd.shared.beneath import open_directory
from relayd.shared.metadata import MAX_SIZE, MetadataError, parse_expires
from relayd.shared.paths import METADATA_SUFFIX
from relayd.shared.store import FILES, Store, sources, targets
from relayd.shared.usage import Quota, Reading, Usage
from relayd.system.clock import CAUTION_S, WallClock
from relayd.system.shortage import words_of
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger

log = get_logger("shared_files")

#: Metadata read in one step: some milliseconds, after which a stop may end the sweep.
STEP: Final = 256
#: Pairs removed while uploads of the same source wait.
BATCH: Final = 256

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


async def run_expiry(
    store: Store,
    usage: Usage,
    frequency: float,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Sweep at once and then every `frequency` seconds. Ends when cancelled, also within a sweep.

    After the clock was set, nothing is removed for a day: keeping a pair for a day longer does no
    harm.

    Args:
        store: the store to sweep.
        usage: what its sources have; the first sweep counts it.
        frequency: seconds between two sweeps.
        task_status: started before the first sweep.
    """
    clock = WallClock(CAUTION_S)
    limiter = trio.CapacityLimiter(1)
    task_status.started()
    while True:
        if clock.is_trusted():
            steps = sweep_in_steps(store, usage, time.time())
            while await in_thread(next, steps, None, limiter=limiter) is not None:
                pass
        else:
            log.warning("clock was set; not removing expired files", seconds=round(clock.jump))
        await trio.sleep(frequency)


def sweep(store: Store, now: float, usage: Usage | None = None) -> int:
    """Remove expired pairs, and unfinished uploads of a process that was killed.

    Entries that cannot be read or removed are logged and skipped.

    Args:
        store: the store to sweep.
        now: Unix time in seconds.
        usage: what its sources have; counted for this sweep only if not given.

    Returns:
        Number of pairs removed.
    """
    return sum(sweep_in_steps(store, usage or Usage(Quota()), now))


def sweep_in_steps(store: Store, usage: Usage, now: float) -> Iterator[int]:
    """Do the same step by step, and yield the number of pairs removed in each step.

    Memory does not grow with the number of files. A directory in which nothing has expired since
    it was read is not read again, for a day.
    """
    removed = 0
    with _skipping(store.root), usage.sweep():
        for target in targets(store.root):
            with _skipping(store.root / target):
                store.remove_leftovers(target)
            yield 0
        for target, source in sources(store.root):
            if usage.is_due(target, source, now):
                with _skipping(store.root / target / FILES / source):
                    for found in _sweep_source(store, usage, (target, source), now):
                        removed += found
                        yield found
    if removed:
        log.info("expired files removed", files=removed)


def _sweep_source(store: Store, usage: Usage, place: tuple[str, str], now: float) -> Iterator[int]:
    directory = open_directory(store.root, (place[0], FILES, place[1]))
    path = store.root / place[0] / FILES / place[1]
    try:
        with usage.reading(*place, now) as reading:
            expired: list[str] = []
            for number, name in enumerate(_names(directory)):
                if _has_expired(directory, path, name, now, reading):
                    expired.append(name)
                if len(expired) == BATCH:
                    yield _drop(store, usage, place, expired, now)
                    expired = []
                elif number % STEP == STEP - 1:
                    yield 0
            if expired:
                yield _drop(store, usage, place, expired, now)
    finally:
        os.close(directory)


def _names(directory: int) -> Iterator[str]:
    """Yield the ids of files with metadata, as the directory is read."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(METADATA_SUFFIX) and entry.is_file(follow_symlinks=False):
                yield entry.name.removesuffix(METADATA_SUFFIX)


def _drop(store: Store, usage: Usage, place: tuple[str, str], names: list[str], now: float) -> int:
    sizes: list[int] = []

    def is_due(directory: int, name: str) -> bool:
        """Look again: an upload may have replaced it."""
        try:
            expires = _expires(directory, name)
        except (FileNotFoundError, MetadataError):
            return False
        if expires is None or expires > now:
            return False
        with suppress(FileNotFoundError):
            sizes.append(_size(directory, name))
        return True

    dropped = store.drop(*place, names, is_due)
    usage.removed(*place, len(sizes), sum(sizes))
    return len(dropped)


def _has_expired(directory: int, path: Path, name: str, now: float, reading: Reading) -> bool:
    """Return whether a pair has expired; count it if it has not."""
    expires = None
    try:
        expires = _expires(directory, name)
        if expires is None or expires > now:
            reading.add(_size(directory, name), math.inf if expires is None else expires)
    except FileNotFoundError:
        pass  # half a pair, or gone meanwhile
    except (OSError, MetadataError) as error:
        file, detail = str(path / (name + METADATA_SUFFIX)), str(error)
        log.warning("metadata cannot be read", file=file, detail=detail)
    return expires is not None and expires <= now


def _size(directory: int, name: str) -> int:
    return os.stat(name, dir_fd=directory, follow_symlinks=False).st_size


def _expires(directory: int, name: str) -> int | None:
    descriptor = os.open(name + METADATA_SUFFIX, _OPEN, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return parse_expires(os.read(descriptor, 2 * MAX_SIZE))
    finally:
        os.close(descriptor)


@contextmanager
def _skipping(path: Path) -> Iterator[None]:
    """Log an error and skip this entry only; an entry that is already gone is not an error."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("cannot sweep; retrying later", file=str(path), detail=words_of(error))
