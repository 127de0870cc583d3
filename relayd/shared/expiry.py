"""Removal of expired shared files and of leftovers of interrupted uploads."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from relayd.shared.beneath import open_regular
from relayd.shared.metadata import MAX_SIZE, MetadataError, parse_metadata
from relayd.shared.paths import METADATA_SUFFIX
from relayd.shared.store import FILES, Store, sources
from relayd.system.clock import CAUTION_S, WallClock
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger

log = get_logger("shared_files")


async def run_expiry(
    store: Store,
    frequency: float,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Sweep at once and then every `frequency` seconds. Ends when cancelled.

    After the clock was set, nothing is removed for a day: keeping a pair for a day longer does no
    harm.

    Args:
        store: the store to sweep.
        frequency: seconds between two sweeps.
        task_status: started before the first sweep.
    """
    clock = WallClock(CAUTION_S)
    limiter = trio.CapacityLimiter(1)
    task_status.started()
    while True:
        if clock.is_trusted():
            await in_thread(sweep, store, time.time(), limiter=limiter)
        else:
            log.warning("clock was set; not removing expired files", seconds=round(clock.jump))
        await trio.sleep(frequency)


def sweep(store: Store, now: float) -> int:
    """Remove expired pairs, and unfinished uploads of a process that was killed.

    Entries that cannot be read or removed are logged and skipped.

    Args:
        store: the store to sweep.
        now: Unix time in seconds.

    Returns:
        Number of pairs removed.
    """
    removed = 0
    with _skipping(store.root):
        _remove_leftovers(store)
        for target, source in sources(store.root):
            with _skipping(store.root / target / FILES / source):
                removed += _sweep_source(store, target, source, now)
    if removed:
        log.info("expired files removed", files=removed)
    return removed


def _sweep_source(store: Store, target: str, source: str, now: float) -> int:
    directory = store.root / target / FILES / source
    names = [
        entry.name.removesuffix(METADATA_SUFFIX)
        for entry in _entries(directory)
        if entry.name.endswith(METADATA_SUFFIX) and _has_expired(directory, entry.name, now)
    ]
    if names:
        store.drop(target, source, names)
    return len(names)


def _has_expired(directory: Path, name: str, now: float) -> bool:
    expires = None
    with _skipping(directory / name):
        expires = _expires(directory, name)
    return expires is not None and expires <= now


def _expires(directory: Path, name: str) -> int | None:
    descriptor = open_regular(directory, (name,))
    try:
        data = os.read(descriptor, 2 * MAX_SIZE)
    finally:
        os.close(descriptor)
    try:
        return parse_metadata(data).expires
    except MetadataError as error:
        log.warning("metadata cannot be read", file=str(directory / name), detail=str(error))
        return None


def _remove_leftovers(store: Store) -> None:
    for target in _entries(store.root):
        if not target.is_dir(follow_symlinks=False):
            continue
        for entry in _entries(store.root / target.name):
            if store.is_leftover(entry.name):
                with _skipping(store.root / target.name / entry.name):
                    shutil.rmtree(store.root / target.name / entry.name)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)


@contextmanager
def _skipping(path: Path) -> Iterator[None]:
    """Log an error and skip this entry only; an entry that is already gone is not an error."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("cannot sweep; retrying later", file=str(path), detail=error.strerror)
