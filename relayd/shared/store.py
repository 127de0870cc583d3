"""The store of shared files: `ROOT/TARGET/files/SOURCE/FILE` and `FILE.metadata` next to it.

A file and its metadata belong together. In a small directory they are replaced in a single step: a
new directory gets the new pair and hard links to all other files of `SOURCE`, and is exchanged with
that directory. Readers, even after relayd was killed at any moment, find the old pair or the new
one. In a larger directory, and where the file system cannot exchange directories, the pair is moved
step by step, which is recorded and completed after a kill (`relayd.shared.journal`). So the cost of
an upload is bounded, however many files there are.

All functions here block: they belong in threads.
"""

import errno
import itertools
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from relayd.shared import journal
from relayd.shared.beneath import make_directories, open_directory, open_regular
from relayd.shared.locks import Locks
from relayd.shared.metadata import MAX_SIZE
from relayd.shared.paths import METADATA_SUFFIX
from relayd.shared.stage import Stage
from relayd.spool.layout import TEMPORARY
from relayd.system.libc import rename_exchange
from relayd.system.shortage import words_of
from relayd.telemetry.logs import get_logger

log = get_logger("shared_files")

#: Prefix of directories being filled or emptied, next to `files`. No id can lead to them.
STAGE_PREFIX: Final = TEMPORARY
#: The subdirectory of a target that contains the directories of sources.
FILES: Final = "files"
#: Entries of a directory that is exchanged as a whole; each costs a hard link at every upload.
FEW: Final = 32

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: The file system cannot exchange directories; or an entry cannot be linked: a directory, or a
#: file of another owner (protected_hardlinks of proc_sys_fs(5)); or SOURCE is a symbolic link; or
#: the directory has too many entries.
_NO_EXCHANGE: Final = frozenset(
    {
        errno.EINVAL,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EXDEV,
        errno.EMLINK,
        errno.ELOOP,
        errno.ENOTDIR,
    }
)


class Store:
    """The shared files of all nodes below this policy server.

    Args:
        root: the top directory; made when it is needed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Uploads are written concurrently, and put in place concurrently for different sources.
        self._locks = Locks()
        self._in_use: set[str] = set()
        self._settled: set[str] = set()

    def open_stage(self, target: str, file: str, algorithm: str) -> Stage:
        """Open a stage for the content of a file.

        Args:
            target: id of the node that the file is for.
            file: id of the file.
            algorithm: hash algorithm to apply to the content.

        Raises:
            OSError: the disk is full, or the directories cannot be made.
        """
        self._settle(target)
        name = STAGE_PREFIX + secrets.token_hex(16)
        self._in_use.add(name)  # before it exists, so that a sweep never sees it as a leftover
        try:
            return Stage(self.root, target, name, file, algorithm, self._in_use.discard)
        except BaseException:
            self._in_use.discard(name)
            raise

    def put(self, stage: Stage, source: str, metadata: bytes) -> int | None:
        """Replace the previous pair as a whole, or leave it as it is.

        Args:
            stage: contains the file.
            source: id of the node that the file comes from.
            metadata: content of the metadata file.

        Returns:
            Bytes of the previous file; None if there was none.

        Raises:
            OSError: the disk is full, or the directories cannot be made.
        """
        stage.add(stage.file + METADATA_SUFFIX, metadata)
        with _opened(make_directories(self.root, (stage.target, FILES))) as files:
            with self._locks.of(stage.target, source):
                replaced = self.size(stage.target, source, stage.file)
                try:
                    names = (stage.file, stage.file + METADATA_SUFFIX)
                    self._exchange(stage, files, source, names)
                except OSError as error:
                    if error.errno not in _NO_EXCHANGE:
                        raise
                else:
                    os.fsync(files)
                    return replaced
                place = self._put_singly(stage, source)
            with _opened(place):
                os.fsync(place)
        return replaced

    def size(self, target: str, source: str, file: str) -> int | None:
        """Return the bytes of a stored content; None if there is none, or it is unknown."""
        try:
            with _opened(open_directory(self.root, (target, FILES, source))) as place:
                return os.stat(file, dir_fd=place, follow_symlinks=False).st_size
        except OSError:
            return None

    def drop(
        self,
        target: str,
        source: str,
        names: Collection[str],
        is_due: Callable[[int, str], bool] = lambda _place, _name: True,
    ) -> list[str]:
        """Remove pairs.

        Args:
            target: id of the node that they are for.
            source: id of the node that they come from.
            names: ids of the files.
            is_due: returns whether a pair in a directory is still to be removed; nothing replaces
                it meanwhile.

        Returns:
            Ids of the files that were removed.

        Raises:
            OSError: they cannot be removed.
        """
        self._settle(target)
        with (
            self._locks.of(target, source),
            _opened(open_directory(self.root, (target, FILES))) as files,
        ):
            with _opened(open_directory(self.root, (target, FILES, source))) as place:
                names = [name for name in names if is_due(place, name)]
            if names:
                self._drop(target, files, source, names)
        return names

    def metadata(self, target: str, source: str, file: str) -> bytes:
        """Return the metadata of a stored file.

        Raises:
            FileNotFoundError: the pair does not exist.
            OSError: it cannot be read.
        """
        self._settle(target)
        try:
            return self._read(target, source, file)
        except FileNotFoundError:
            # Unless it was being replaced.
            with self._locks.of(target, source):
                return self._read(target, source, file)

    def remove_leftovers(self, target: str) -> None:
        """Remove stages of a killed process, after completing what it had begun.

        What cannot be completed or removed is logged, and stays.

        Raises:
            OSError: the directory cannot be read.
        """
        with _opened(open_directory(self.root, (target,))) as parent:
            for name in os.listdir(parent):  # noqa: PTH208 - a descriptor is not a path
                if self.is_leftover(name):
                    try:
                        self._remove_leftover(parent, target, name)
                    except FileNotFoundError:
                        continue
                    except OSError as error:
                        path = str(self.root / target / name)
                        log.warning(
                            "cannot sweep; retrying later", file=path, detail=words_of(error)
                        )

    def is_leftover(self, name: str) -> bool:
        """Return whether an entry next to `files` is a stage that is no longer in use."""
        return name.startswith(STAGE_PREFIX) and name not in self._in_use

    def _settle(self, target: str) -> None:
        """Complete what a killed process had begun for a target, before anything else is done."""
        if target in self._settled:
            return
        with self._locks.of(target), suppress(FileNotFoundError):
            if target not in self._settled:
                self.remove_leftovers(target)
        self._settled.add(target)

    def _remove_leftover(self, parent: int, target: str, name: str) -> None:
        source = journal.source_of(parent, name)
        if source is not None:
            with (
                self._locks.of(target, source),
                _opened(make_directories(self.root, (target, FILES, source))) as place,
            ):
                journal.resume(parent, name, source, place)
        shutil.rmtree(name, dir_fd=parent)

    def _read(self, target: str, source: str, file: str) -> bytes:
        with _opened(open_directory(self.root, (target, FILES, source))) as directory:
            return _read_pair(Path(f"/proc/self/fd/{directory}"), file)

    def _exchange(self, stage: Stage, files: int, source: str, but: Collection[str]) -> None:
        """Exchange the stage with a source's directory, after linking the latter's other files."""
        try:
            old = os.open(source, _DIRECTORY, dir_fd=files)
        except FileNotFoundError:
            os.fsync(stage.directory)
            os.rename(stage.name, source, src_dir_fd=stage.parent, dst_dir_fd=files)
            return
        with _opened(old):
            names = _few_names(old)
            _copy_access(old, stage.directory)
            for name in names:
                if name not in but:
                    _link(name, old, stage.directory)
        os.fsync(stage.directory)
        rename_exchange(stage.parent, stage.name, files, source)

    def _put_singly(self, stage: Stage, source: str) -> int:
        """Move a pair to its place; return the descriptor of that directory."""
        place = make_directories(self.root, (stage.target, FILES, source))
        record = journal.Record.of_put(stage.parent, source)
        try:
            with self._recorded(record):
                _unlink_links(stage)
                record.put(stage.name, place, stage.file)
        except BaseException:
            os.close(place)
            raise
        return place

    def _drop(self, target: str, files: int, source: str, names: Collection[str]) -> None:
        gone = {name + suffix for name in names for suffix in ("", METADATA_SUFFIX)}
        try:
            if self._drop_last(target, files, source, gone):
                return
            stage = self.open_stage(target, "", "sha256")
            try:
                self._exchange(stage, files, source, gone)
            finally:
                stage.close()
            os.fsync(files)
        except OSError as error:
            if error.errno not in _NO_EXCHANGE:
                raise
            self._drop_singly(target, source, names)
            with suppress(OSError):  # it is not empty
                os.rmdir(source, dir_fd=files)

    def _drop_singly(self, target: str, source: str, names: Collection[str]) -> None:
        """Remove pairs one by one. Nothing is forced to disk: what comes back expires again."""
        with (
            _opened(open_directory(self.root, (target,))) as parent,
            _opened(open_directory(self.root, (target, FILES, source))) as place,
            self._recorded(journal.Record.of_drop(parent, source)) as record,
        ):
            record.drop(place, names)

    def _drop_last(self, target: str, files: int, source: str, gone: Collection[str]) -> bool:
        """Remove a source's directory with its content, if that is only what is to be dropped."""
        with _opened(os.open(source, _DIRECTORY, dir_fd=files)) as old:
            if not set(_few_names(old)) <= set(gone):
                return False
        away = STAGE_PREFIX + secrets.token_hex(16)
        with _opened(open_directory(self.root, (target,))) as parent:
            os.rename(source, away, src_dir_fd=files, dst_dir_fd=parent)
            shutil.rmtree(away, dir_fd=parent)
        return True

    @contextmanager
    def _recorded(self, record: journal.Record) -> Iterator[journal.Record]:
        self._in_use.add(record.name)
        try:
            yield record
        finally:
            record.close()
            self._in_use.discard(record.name)


def sources(root: Path) -> Iterator[tuple[str, str]]:
    """Yield target and source of every directory of shared files; raise OSError."""
    for target in targets(root):
        with suppress(FileNotFoundError):
            for source in targets(root / target / FILES):
                yield target, source


def targets(root: Path) -> list[str]:
    """Return the names of the directories in a directory; raise OSError."""
    with os.scandir(root) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _few_names(directory: int) -> list[str]:
    """Return all names in a directory; raise OSError (EMLINK) if it has more than `FEW`."""
    with os.scandir(directory) as entries:
        names = [entry.name for entry in itertools.islice(entries, FEW + 1)]
    if len(names) > FEW:
        raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
    return names


def _unlink_links(stage: Stage) -> None:
    """Remove the links to other files from a stage that could not be exchanged."""
    own = (stage.file, stage.file + METADATA_SUFFIX)
    for name in os.listdir(stage.directory):  # noqa: PTH208 - a descriptor is not a path
        if name not in own:
            os.unlink(name, dir_fd=stage.directory)


def _read_pair(directory: Path, file: str) -> bytes:
    """Return the metadata of a file if both parts of the pair exist."""
    os.close(open_regular(directory, (file,)))
    with _opened(open_regular(directory, (file + METADATA_SUFFIX,))) as descriptor:
        # Metadata written by other programs may be a little longer than uploads may be.
        return os.read(descriptor, 2 * MAX_SIZE)


def _copy_access(old: int, new: int) -> None:
    """Give the new directory the group and mode of the old one, so that its readers keep access."""
    status = os.fstat(old)
    with suppress(PermissionError):
        os.fchown(new, -1, status.st_gid)
    os.fchmod(new, stat.S_IMODE(status.st_mode))


def _link(name: str, old: int, new: int) -> None:
    with suppress(FileNotFoundError):
        os.link(name, name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)


@contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
