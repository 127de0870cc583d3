"""To `failed` and back: refused files, each with its reason beside it.

A crash between any two system calls leaves a file where the next start finds it; on two
filesystems at worst twice.
"""

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from relayd.errors import Refused
from relayd.runlog.filename import queue_id
from relayd.spool.failed.moving import copy_entry, sync_directory, temporary_path, unlink_if_same
from relayd.spool.failed.reasons import (
    SUFFIX,
    ReasonRecord,
    fit_name,
    make_record,
    read_reason,
    reason_path,
    write_reason,
)
from relayd.spool.identity import Identity, identity_at
from relayd.system.libc import rename_noreplace
from relayd.telemetry.logs import get_logger

log = get_logger("disposal")

#: Choosing a free name in `failed` and taking it is one step, also for pipelines that share it.
_NAMING: Final = threading.Lock()


def quarantine(
    incoming: Path,
    failed: Path,
    name: str,
    known: Identity | None,
    refused: Refused,
    *,
    node_id: str,
    trust: str,
) -> Path | Literal["changed", "gone"]:
    """Move a refused file to `failed`, its reason beside it as `NAME.reason`.

    Whatever its type, it is moved as it is and never opened or followed. What has this name in
    `failed` already stays: the file becomes `NAME.~1~`. `failed` is made when it is missing. When
    the reason cannot be written (disk full), the file is moved all the same and the reason is
    logged.

    Args:
        incoming: the watched directory.
        failed: on the same filesystem; on another one, the file is copied durably.
        name: base name.
        known: identity of what was read; None when it was refused by its name alone.
        refused: why.
        node_id: node of its name, "" when unknown.
        trust: token of what is known about this node now, for `requeue`.

    Returns:
        Where it is now; "changed" when the name holds a newer file, which stays; "gone" when it
        holds none.

    Raises:
        OSError: the world is not ready (EACCES, EROFS, ENOSPC, EIO, …); the file is still there.
    """
    source = incoming / name
    try:
        if known is not None and identity_at(source) != known:
            return "changed"
        source.lstat()
        failed.mkdir(mode=0o750, exist_ok=True)
        record = make_record(name, refused, node_id=node_id, trust=trust)
        target = _move_with_reason(source, failed, record)
    except FileNotFoundError:
        if os.path.lexists(source):
            raise  # something else is missing
        return "gone"
    if not _is_the_refused_one(target, known) and _put_back(target, source):
        return "changed"
    if not os.path.lexists(reason_path(target)):
        _note_unexplained(target, record)
    return target


def _move_with_reason(source: Path, failed: Path, record: ReasonRecord) -> Path:
    reason = _stage_reason(failed, record)
    try:
        try:
            target = _take_name(source, failed, record.name, reason)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            target = _copy_to_name(source, failed, record.name, reason)
    except BaseException:
        if reason is not None:
            reason.unlink(missing_ok=True)
        raise
    _sync(failed)
    return target


def _stage_reason(failed: Path, record: ReasonRecord) -> Path | None:
    reason = temporary_path(failed)
    try:
        write_reason(reason, record)
    except OSError:
        return None  # told if the move itself succeeds
    return reason


def _note_unexplained(target: Path, record: ReasonRecord) -> None:
    log.error(
        "no room for the reason beside the refused file",
        file=record.name,
        queue_id=record.queue_id,
        node=record.node,
        reason=record.reason.value,
        detail=record.detail,
    )
    # Retention counts from the reason, else from the file itself: it begins now.
    with suppress(OSError):
        os.utime(target, follow_symlinks=False)


def _take_name(source: Path, failed: Path, name: str, reason: Path | None) -> Path:
    """Rename to a free name; the reason first, so that no file is ever there without it."""
    with _NAMING:
        target = _free_path(failed, name)
        beside = reason_path(target)
        if reason is None:
            beside.unlink(missing_ok=True)  # of a move that a crash cut short
        else:
            reason.rename(beside)
        try:
            source.rename(target)
        except OSError:
            if reason is not None:
                beside.rename(reason)
            raise
    return target


def _copy_to_name(source: Path, failed: Path, name: str, reason: Path | None) -> Path:
    before = identity_at(source)
    copy = copy_entry(source, failed)
    try:
        target = _take_name(copy, failed, name, reason)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    _sync(failed)
    unlink_if_same(source, before)
    return target


def _free_path(directory: Path, name: str) -> Path:
    path = directory / name
    number = 0
    while os.path.lexists(path):
        number += 1
        path = directory / fit_name(name, f".~{number}~")
    return path


def _is_the_refused_one(target: Path, known: Identity | None) -> bool:
    """Return whether no newer file took the name in the last moment; a copy is told apart before."""
    if known is None:
        return True
    moved = identity_at(target)
    return moved == known or moved.dev != known.dev


def _put_back(target: Path, source: Path) -> bool:
    try:
        rename_noreplace(target, source)
    except FileExistsError:
        return False  # a still newer one is there: this one is kept, as a refused one
    reason_path(target).unlink(missing_ok=True)
    return True


def requeue(failed: Path, incoming: Path, wanted: Callable[[ReasonRecord], bool]) -> int:
    """Move refused files back whose reason no longer holds, under their original names.

    A file whose name is taken in `incoming` stays where it is. One that cannot be moved is logged
    and does not hold up the others.

    Args:
        failed: where refused files are.
        incoming: the watched directory. The caller rescans it.
        wanted: decides by the reason.

    Returns:
        How many were moved back.
    """
    moved = 0
    try:
        with os.scandir(failed) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) or entry.name.startswith("."):
                    continue
                with suppress(FileNotFoundError):
                    moved += _requeue_one(Path(entry.path), incoming, wanted)
    except OSError as error:
        log.warning("refused files cannot be read", file=str(failed), detail=error.strerror)
    return moved


def _requeue_one(path: Path, incoming: Path, wanted: Callable[[ReasonRecord], bool]) -> bool:
    record: ReasonRecord | None = None
    try:
        record = read_reason(reason_path(path))
        if record is None or "/" in record.name or not wanted(record):
            return False
        with _NAMING:
            _move_back(path, incoming / record.name)
            reason_path(path).unlink(missing_ok=True)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError as error:
        log.warning(
            "refused file cannot go back",
            file=path.name,
            queue_id=queue_id(record.name if record is not None else path.name),
            detail=error.strerror,
        )
        return False
    log.info("refused file goes back", file=record.name, queue_id=record.queue_id, node=record.node)
    return True


def _move_back(path: Path, target: Path) -> None:
    try:
        rename_noreplace(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        before = identity_at(path)
        copy = copy_entry(path, target.parent)
        try:
            rename_noreplace(copy, target)
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        unlink_if_same(path, before)


def _sync(directory: Path) -> None:
    try:
        sync_directory(directory)
    except OSError as error:
        # The move itself is done and will be on disk soon, unless power fails now.
        log.warning("directory cannot be synced", file=str(directory), detail=error.strerror)
