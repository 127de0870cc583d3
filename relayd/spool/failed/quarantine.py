"""Moving refused files to `failed` and back, each with its reason in a file next to it.

A crash between any two system calls leaves a file where the next start finds it; with two
filesystems, at worst in both places.
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

#: Makes choosing and taking a free name in `failed` a single step, even if pipelines share it.
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
    """Move a refused file to `failed`, with its reason next to it as `NAME.reason`.

    The file is moved without being opened or followed, whatever its type. A file that already has
    this name in `failed` stays: the new one becomes `NAME.~1~`. `failed` is made if it is missing.
    If the reason cannot be written (disk full), the file is moved anyway and the reason is logged.

    Args:
        incoming: the watched directory.
        failed: on the same filesystem; on another one, the file is copied durably.
        name: base name.
        known: identity of the file that was read; None if it was refused by its name alone.
        refused: why.
        node_id: node of its name, "" if unknown.
        trust: the node's current trust token, for `requeue`.

    Returns:
        The new path; "changed" if the name has a newer file, which stays; "gone" if it has none.

    Raises:
        OSError: it cannot be moved now (EACCES, EROFS, ENOSPC, EIO, …) and is still in the spool.
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
            raise  # it is something else that is missing
        return "gone"
    if not _is_same(target, known) and _put_back(target, source):
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
        return None  # logged if the move itself succeeds
    return reason


def _note_unexplained(target: Path, record: ReasonRecord) -> None:
    log.error(
        "cannot write the reason of a refused file",
        file=record.name,
        queue_id=record.queue_id,
        node=record.node,
        reason=record.reason.value,
        detail=record.detail,
    )
    # Retention counts from the reason file, or without one from the file itself: let it begin now.
    with suppress(OSError):
        os.utime(target, follow_symlinks=False)


def _take_name(source: Path, failed: Path, name: str, reason: Path | None) -> Path:
    """Rename to a free name; the reason first, so that no file is ever without one."""
    with _NAMING:
        target = _free_path(failed, name)
        reason_target = reason_path(target)
        if reason is None:
            reason_target.unlink(missing_ok=True)  # left by a move that a crash interrupted
        else:
            reason.rename(reason_target)
        try:
            source.rename(target)
        except OSError:
            if reason is not None:
                reason_target.rename(reason)
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


def _is_same(target: Path, known: Identity | None) -> bool:
    """Return whether the moved file is the refused one, not a newer one of the same name.

    A copy from another filesystem counts as the same, because it was checked before.
    """
    if known is None:
        return True
    moved = identity_at(target)
    return moved == known or moved.dev != known.dev


def _put_back(target: Path, source: Path) -> bool:
    try:
        rename_noreplace(target, source)
    except FileExistsError:
        return False  # an even newer file exists: this one stays, as a refused one
    reason_path(target).unlink(missing_ok=True)
    return True


def requeue(failed: Path, incoming: Path, wanted: Callable[[ReasonRecord], bool]) -> int:
    """Move refused files back whose reason no longer applies, under their original names.

    A file whose name is taken in `incoming` stays where it is. One that cannot be moved is logged
    and does not affect the others.

    Args:
        failed: the directory of refused files.
        incoming: the watched directory. The caller rescans it.
        wanted: decides by the reason.

    Returns:
        Number of files moved back.
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
        log.warning("cannot list refused files", file=str(failed), detail=error.strerror)
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
            "cannot requeue refused file",
            file=path.name,
            queue_id=queue_id(record.name if record is not None else path.name),
            detail=error.strerror,
        )
        return False
    log.info("refused file requeued", file=record.name, queue_id=record.queue_id, node=record.node)
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
        log.warning("cannot sync directory", file=str(directory), detail=error.strerror)
