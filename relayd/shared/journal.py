"""Replacement and removal of single pairs in a large directory, step by step.

The pair is moved, not its directory, so the cost does not depend on the other files. What is to be
done is recorded first, by a directory next to `files` that names the source and holds what is not
yet in place. If relayd is killed between the steps, `resume` does the rest. At no moment do
metadata belong to another content: they are removed first and put in place last.

All functions here block.
"""

import os
import secrets
import shutil
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from relayd.shared.beneath import DIRECTORY_MODE
from relayd.shared.paths import METADATA_SUFFIX
from relayd.spool.layout import TEMPORARY
from relayd.system.files import exists_at

#: What records hold: a pair to be put in place, or the ids of pairs that are being removed.
_PUT: Final = f"{TEMPORARY}put."
_DROP: Final = f"{TEMPORARY}drop."
#: Previous metadata in the record of a new pair, and the list of ids; `~` is not allowed in ids.
_PREVIOUS: Final = "~previous"
_IDS: Final = "~ids"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Record:
    """A directory that records what is being done with the pairs of a source.

    Attributes:
        name: of the directory, in that of the target.
    """

    def __init__(self, parent: int, name: str, source: str) -> None:
        self.name = name
        self._parent = parent
        self._source = source

    @classmethod
    def of_put(cls, parent: int, source: str) -> "Record":
        """Return the record of a new pair, not yet made."""
        return cls(parent, _PUT + secrets.token_hex(16), source)

    @classmethod
    def of_drop(cls, parent: int, source: str) -> "Record":
        """Return the record of pairs to be removed, not yet made."""
        return cls(parent, _DROP + secrets.token_hex(16), source)

    def put(self, stage: str, place: int, file: str) -> None:
        """Put a pair in place of the previous one, or leave that as it is.

        Args:
            stage: name of the directory with the pair, next to the record.
            place: descriptor of the source's directory.
            file: id of the file.

        Raises:
            OSError: it cannot be put there.
        """
        self._make()
        os.rename(stage, self._inner, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        pair = self._open()
        try:
            _put(pair, place, file)
        finally:
            os.close(pair)

    def drop(self, place: int, files: Collection[str]) -> None:
        """Remove pairs; files that are already gone are no error.

        Args:
            place: descriptor of the source's directory.
            files: their ids.

        Raises:
            OSError: one of them cannot be removed.
        """
        self._make()
        os.mkdir(self._inner, DIRECTORY_MODE, dir_fd=self._parent)
        record = self._open()
        try:
            _write_ids(record, files)
        finally:
            os.close(record)
        for file in files:
            _unlink(file + METADATA_SUFFIX, place)
            _unlink(file, place)

    def close(self) -> None:
        """Remove the record: everything is done, or was undone."""
        shutil.rmtree(self.name, ignore_errors=True, dir_fd=self._parent)

    @property
    def _inner(self) -> str:
        return f"{self.name}/{self._source}"

    def _make(self) -> None:
        os.mkdir(self.name, DIRECTORY_MODE, dir_fd=self._parent)

    def _open(self) -> int:
        return os.open(self._inner, _DIRECTORY, dir_fd=self._parent)


def source_of(parent: int, name: str) -> str | None:
    """Return the source that a leftover record is about; None if it is no record, or empty."""
    if not name.startswith((_PUT, _DROP)):
        return None
    directory = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        return next(iter(os.listdir(directory)), None)  # noqa: PTH208 - it is a descriptor
    finally:
        os.close(directory)


def resume(parent: int, name: str, source: str, place: int) -> None:
    """Complete what a killed process recorded.

    Args:
        parent: descriptor of the target's directory.
        name: of the record.
        source: as returned by `source_of`.
        place: descriptor of the source's directory.

    Raises:
        OSError: it cannot be completed.
    """
    directory = os.open(f"{name}/{source}", _DIRECTORY, dir_fd=parent)
    try:
        if name.startswith(_PUT):
            _resume_put(directory, place)
        else:
            _resume_drop(directory, place)
    finally:
        os.close(directory)
    os.fsync(place)


def _resume_put(pair: int, place: int) -> None:
    for entry in os.listdir(pair):
        if entry.endswith(METADATA_SUFFIX):
            _put(pair, place, entry.removesuffix(METADATA_SUFFIX))


def _resume_drop(record: int, place: int) -> None:
    """Remove contents without metadata; the rest expires again."""
    for file in _read_ids(record):
        if not exists_at(file + METADATA_SUFFIX, place):
            _unlink(file, place)


def _write_ids(record: int, files: Collection[str]) -> None:
    descriptor = os.open(
        _IDS,
        os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
        0o640,
        dir_fd=record,
    )
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write("\n".join(files))


def _read_ids(record: int) -> list[str]:
    try:
        descriptor = os.open(_IDS, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=record)
    except FileNotFoundError:
        return []
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        return file.read().splitlines()


def _put(pair: int, place: int, file: str) -> None:
    metadata = file + METADATA_SUFFIX
    had = False
    if exists_at(file, pair):
        had = _move(metadata, place, pair, _PREVIOUS)
        try:
            os.rename(file, file, src_dir_fd=pair, dst_dir_fd=place)
        except OSError:
            if had:
                _move(_PREVIOUS, pair, place, metadata)
            raise
    try:
        os.rename(metadata, metadata, src_dir_fd=pair, dst_dir_fd=place)
    except OSError:
        if not had:  # there was no pair: leave no half of one
            _unlink(file, place)
        raise


def _move(name: str, directory: int, to: int, new: str | None = None) -> bool:
    try:
        os.rename(name, new or name, src_dir_fd=directory, dst_dir_fd=to)
    except FileNotFoundError:
        return False
    return True


def _unlink(name: str, directory: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
