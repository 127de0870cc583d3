"""Removes shared files whose time is over, and what killed uploads left."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from relayd.shared.beneath import open_regular
from relayd.shared.metadata import MAX_SIZE, MetadataError, parse_metadata
from relayd.shared.store import FILES, SUFFIX, Store, sources
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

    After the clock was set nothing is removed for a day: a pair that stays a day longer harms
    nobody.

    Args:
        store: what to sweep.
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
            log.warning("the clock was set, nothing expires for now", seconds=round(clock.jump))
        await trio.sleep(frequency)


def sweep(store: Store, now: float) -> int:
    """Remove pairs that have expired, and unfinished uploads of a process that was killed.

    What cannot be read or removed is logged and passed over.

    Args:
        store: what to sweep.
        now: unix time in seconds.

    Returns:
        How many pairs were removed.
    """
    removed = 0
    with _passed_over(store.root):
        _remove_leftovers(store)
        for target, source in sources(store.root):
            with _passed_over(store.root / target / FILES / source):
                removed += _sweep_source(store, target, source, now)
    if removed:
        log.info("expired files removed", files=removed)
    return removed


def _sweep_source(store: Store, target: str, source: str, now: float) -> int:
    directory = store.root / target / FILES / source
    names = [
        entry.name.removesuffix(SUFFIX)
        for entry in _entries(directory)
        if entry.name.endswith(SUFFIX) and _has_expired(directory, entry.name, now)
    ]
    if names:
        store.drop(target, source, names)
    return len(names)


def _has_expired(directory: Path, name: str, now: float) -> bool:
    expires = None
    with _passed_over(directory / name):
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
                with _passed_over(store.root / target.name / entry.name):
                    shutil.rmtree(store.root / target.name / entry.name)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)


@contextmanager
def _passed_over(path: Path) -> Iterator[None]:
    """An error ends the work on this entry only; that it is gone already is none."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("cannot be swept for now", file=str(path), detail=error.strerror)
