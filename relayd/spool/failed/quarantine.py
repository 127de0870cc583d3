"""Moving refused files to `failed` and back, each with its reason in a file next to it.

A crash between any two system calls leaves a file where the next start finds it; with two
filesystems, at worst in both places.
"""

import errno
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from relayd.errors import Refused
from relayd.runlog.filename import queue_id
from relayd.spool.failed.moving import (
    copy_entry,
    move_noreplace,
    sync_directory,
    sync_files,
    temporary_path,
    unlink_if_same,
)
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
from relayd.system.shortage import words_of
from relayd.telemetry.logs import get_logger

log = get_logger("disposal")

#: What `_free_path` adds to a name.
_COPY: Final = re.compile(r"\.~[0-9]+~\Z")

#: Bytes of two files that are compared at once.
_PIECE: Final = 256 * 1024

#: Makes choosing and taking a free name in `failed` a single step, even if pipelines share it.
_NAMING: Final = threading.Lock()


class RefusedFile(msgspec.Struct, frozen=True):
    """A refused file and what its reason says.

    Attributes:
        name: base name.
        known: identity of the file that was read; None if it was refused by its name alone.
        refused: why.
        node_id: node of its name, "" if unknown.
        trust: token of what it was judged by, for `requeue`.
    """

    name: str
    known: Identity | None
    refused: Refused
    node_id: str
    trust: str


class _Staged(msgspec.Struct, frozen=True):
    """A file that will be moved; its reason is written under a temporary name, if it could be."""

    source: Path
    known: Identity | None
    record: ReasonRecord
    reason: Path | None


#: Where the file is now; "changed" if the name has a newer file, which stays; "gone" if it has
#: none.
Moved = Path | Literal["changed", "gone"]


def quarantine(incoming: Path, failed: Path, file: RefusedFile) -> Moved:
    """Move one refused file, see `quarantine_all`.

    Raises:
        OSError: it cannot be moved now.
    """
    (result,) = quarantine_all(incoming, failed, [file])
    if isinstance(result, OSError):
        raise result
    return result


def quarantine_all(
    incoming: Path, failed: Path, files: Sequence[RefusedFile]
) -> list[Moved | OSError]:
    """Move refused files to `failed`, each with its reason next to it as `NAME.reason`.

    The files are moved without being followed, whatever their type. A file that already has such a
    name in `failed` stays: the new one becomes `NAME.~1~`, or replaces it if both are regular files
    of the same bytes; only these are opened, to be compared. `failed` is made if it is
    missing. If a reason cannot be written (disk full), the file is moved anyway and the reason is
    logged. All reasons are on disk before the first file is moved, and all moves when this returns.

    Args:
        incoming: the watched directory.
        failed: on the same filesystem; on another one, files are copied durably.
        files: of different names.

    Returns:
        For each what became of it, or why it cannot be moved now (EACCES, EROFS, ENOSPC, EIO, …)
        and is still in the spool.
    """
    staged = [_stage(incoming / file.name, failed, file) for file in files]
    try:
        unsynced = sync_files([s.reason for s in staged if isinstance(s, _Staged) and s.reason])
        for reason in unsynced:
            reason.unlink(missing_ok=True)
        results = [_finish(s, failed) if isinstance(s, _Staged) else s for s in staged]
    except BaseException:
        for file in staged:
            if isinstance(file, _Staged) and file.reason is not None:
                file.reason.unlink(missing_ok=True)
        raise
    if any(isinstance(result, Path) for result in results):
        _sync(failed)
    return results


def _stage(source: Path, failed: Path, file: RefusedFile) -> _Staged | Moved | OSError:
    """Write the reason of a file that is still the one that was refused."""
    try:
        if file.known is not None and identity_at(source) != file.known:
            return "changed"
        source.lstat()
        failed.mkdir(mode=0o750, exist_ok=True)
    except OSError as error:
        return _gone_or(error, source)
    record = make_record(file.name, file.refused, node_id=file.node_id, trust=file.trust)
    return _Staged(source, file.known, record, _stage_reason(failed, record))


def _gone_or(error: OSError, source: Path) -> Literal["gone"] | OSError:
    """Return "gone", or the error if it is something else that is missing."""
    gone = isinstance(error, FileNotFoundError) and not os.path.lexists(source)
    return "gone" if gone else error


def _finish(staged: _Staged, failed: Path) -> Moved | OSError:
    """Move one file whose reason is on disk."""
    source, record = staged.source, staged.record
    try:
        target = _move_with_reason(staged, failed)
        if target is None:
            return "changed"
        if not _is_same(target, staged.known) and _put_back(target, source):
            return "changed"
    except OSError as error:
        return _gone_or(error, source)
    if not os.path.lexists(reason_path(target)):
        _note_unexplained(target, record)
    return _merged(target, failed / record.name)


def _move_with_reason(staged: _Staged, failed: Path) -> Path | None:
    """Return the new path; None if a copy would be one of a newer file."""
    reason = staged.reason
    if reason is not None and not os.path.lexists(reason):
        reason = None  # could not be synced
    try:
        try:
            return _take_name(staged.source, failed, staged.record.name, reason)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            if staged.known is not None and identity_at(staged.source) != staged.known:
                if reason is not None:
                    reason.unlink(missing_ok=True)
                return None
            return _copy_to_name(staged.source, failed, staged.record.name, reason)
    except BaseException:
        if reason is not None:
            reason.unlink(missing_ok=True)
        raise


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


def name_of_upload(name: str) -> str:
    """Return the name under which a file was received, from its name in `failed`.

    It is another one only if the file is not the first of its name there and the name is not too
    long; the reason next to a file has it in any case.
    """
    return _COPY.sub("", name)


def _merged(path: Path, first: Path) -> Path:
    """Replace an earlier one of the same bytes, and its reason; return the path that is left.

    A relay that was killed before it removed a file sends it again.
    """
    if path == first:
        return path
    with _NAMING, suppress(OSError):  # both stay
        for earlier in _taken_paths(first, path):
            if _have_same_bytes(earlier, path):
                # The file first: until its reason follows, it has the earlier one.
                path.rename(earlier)
                with suppress(OSError):
                    reason_path(path).rename(reason_path(earlier))
                return earlier
    return path


def _taken_paths(first: Path, last: Path) -> Iterator[Path]:
    """Yield the paths that `_free_path` found taken before it came to `last`."""
    path, number = first, 0
    while path != last and os.path.lexists(path):
        yield path
        number += 1
        path = first.with_name(fit_name(first.name, f".~{number}~"))


def _have_same_bytes(one: Path, other: Path) -> bool:
    """Return whether these are two regular files with the same content; raises OSError."""
    known = one.lstat(), other.lstat()
    # Renaming one link of a file to another one would do nothing.
    if os.path.samestat(*known) or known[0].st_size != known[1].st_size:
        return False
    if not all(stat.S_ISREG(status.st_mode) for status in known):
        return False
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with (
        open(os.open(one, flags), "rb", buffering=0) as first,  # noqa: PTH123  the flags matter
        open(os.open(other, flags), "rb", buffering=0) as second,  # noqa: PTH123
    ):
        opened = os.fstat(first.fileno()), os.fstat(second.fileno())
        if not all(map(os.path.samestat, known, opened)):
            return False
        while piece := first.read(_PIECE):
            if piece != second.read(_PIECE):
                return False
        return not second.read(1)


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
        log.warning("cannot list refused files", file=str(failed), detail=words_of(error))
    return moved


def _requeue_one(path: Path, incoming: Path, wanted: Callable[[ReasonRecord], bool]) -> bool:
    record: ReasonRecord | None = None
    try:
        record = read_reason(reason_path(path))
        if record is None or "/" in record.name or not wanted(record):
            return False
        with _NAMING:
            move_back(path, incoming / record.name)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError as error:
        log.warning(
            "cannot requeue refused file",
            file=path.name,
            queue_id=queue_id(record.name if record is not None else path.name),
            detail=words_of(error),
        )
        return False
    log.info("refused file requeued", file=record.name, queue_id=record.queue_id, node=record.node)
    return True


def move_back(path: Path, target: Path) -> None:
    """Move a refused file back, and remove its reason.

    Another process may do the same at this moment, or refuse the file again under the same name:
    the reason is set aside first, so that only the one of this refusal is removed.

    Raises:
        FileExistsError: a file of that name is there; the refused one stays.
        FileNotFoundError: somebody else has moved it.
        OSError: it cannot be moved now, and stays.
    """
    reason, aside = reason_path(path), temporary_path(path.parent)
    with suppress(FileNotFoundError):  # it may have none
        reason.rename(aside)
    try:
        move_noreplace(path, target)
    except FileNotFoundError:
        aside.unlink(missing_ok=True)
        raise
    except BaseException:
        with suppress(FileExistsError, FileNotFoundError):
            rename_noreplace(aside, reason)
        raise
    aside.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a refused file and its reason, in this order; raises OSError."""
    path.unlink()
    reason_path(path).unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    try:
        sync_directory(directory)
    except OSError as error:
        # The move itself is done and will be on disk soon, unless power fails now.
        log.warning("cannot sync directory", file=str(directory), detail=words_of(error))
