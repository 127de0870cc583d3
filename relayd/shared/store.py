"""The store of shared files: `ROOT/TARGET/files/SOURCE/FILE` and `FILE.metadata` next to it.

A file and its metadata belong together, so they are replaced in a single step: a new directory
gets the new pair and hard links to all other files of `SOURCE`, and is exchanged with that
directory. Readers, even after relayd was killed at any moment, find the old pair or the new one.
Where the file system cannot exchange directories, the metadata are removed first and written last,
so that a pair may be missing for a moment but is never mixed.

All functions here block: they belong in threads.
"""

import errno
import hashlib
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from relayd.shared.beneath import (
    DIRECTORY_MODE,
    make_directories,
    open_directory,
    open_regular,
)
from relayd.shared.metadata import MAX_SIZE
from relayd.shared.paths import METADATA_SUFFIX
from relayd.spool.layout import TEMPORARY
from relayd.system.libc import rename_exchange

#: Prefix of directories being filled or emptied, next to `files`. No id can lead to them.
STAGE_PREFIX: Final = TEMPORARY
FILE_MODE: Final = 0o640
#: The subdirectory of a target that contains the directories of sources.
FILES: Final = "files"

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: The file system cannot exchange directories; or an entry cannot be linked: a directory, or a
#: file of another owner (protected_hardlinks of proc_sys_fs(5)); or SOURCE is a symbolic link.
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
#: How often a reader tries when the directory is exchanged while it reads.
_ATTEMPTS: Final = 5


class Store:
    """The shared files of all nodes below this policy server.

    Args:
        root: the top directory; made when it is needed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Uploads are written concurrently, but put in place one at a time.
        self._lock = threading.Lock()
        self._stages: set[str] = set()

    def open_stage(self, target: str, file: str, algorithm: str) -> "Stage":
        """Open a stage for the content of a file.

        Args:
            target: id of the node that the file is for.
            file: id of the file.
            algorithm: hash algorithm to apply to the content.

        Raises:
            OSError: the disk is full, or the directories cannot be made.
        """
        name = STAGE_PREFIX + secrets.token_hex(16)
        self._stages.add(name)  # before it exists, so that a sweep never sees it as a leftover
        try:
            return Stage(self, target, name, file, algorithm)
        except BaseException:
            self._stages.discard(name)
            raise

    def release(self, name: str) -> None:
        """Note that a stage is no longer in use."""
        self._stages.discard(name)

    def put(self, stage: "Stage", source: str, metadata: bytes) -> None:
        """Replace the previous pair as a whole, or leave it as it is.

        Args:
            stage: contains the file.
            source: id of the node that the file comes from.
            metadata: content of the metadata file.

        Raises:
            OSError: the disk is full, or the directories cannot be made.
        """
        stage.add(stage.file + METADATA_SUFFIX, metadata)
        with self._lock, _opened(make_directories(self.root, (stage.target, FILES))) as files:
            try:
                self._exchange(stage, files, source, (stage.file, stage.file + METADATA_SUFFIX))
            except OSError as error:
                if error.errno not in _NO_EXCHANGE:
                    raise
                self._put_singly(stage, source)
            os.fsync(files)

    def drop(self, target: str, source: str, names: Collection[str]) -> None:
        """Remove pairs.

        Args:
            target: id of the node that they are for.
            source: id of the node that they come from.
            names: ids of the files.

        Raises:
            OSError: they cannot be removed.
        """
        gone = {name + suffix for name in names for suffix in ("", METADATA_SUFFIX)}
        with self._lock, _opened(open_directory(self.root, (target, FILES))) as files:
            if self._drop_last(target, files, source, gone):
                return
            stage = self.open_stage(target, "", "sha256")
            try:
                self._exchange(stage, files, source, gone)
            except OSError as error:
                if error.errno not in _NO_EXCHANGE:
                    raise
                self._drop_singly(target, source, names)
            finally:
                stage.close()
            os.fsync(files)

    def metadata(self, target: str, source: str, file: str) -> bytes:
        """Return the metadata of a stored file.

        Raises:
            FileNotFoundError: the pair does not exist.
            OSError: it cannot be read.
        """
        place = (target, FILES, source)
        for _ in range(_ATTEMPTS):
            with _opened(open_directory(self.root, place)) as directory:
                try:
                    return _read_pair(Path(f"/proc/self/fd/{directory}"), file)
                except FileNotFoundError:
                    # Unless the directory was exchanged and emptied while it was read.
                    if self._is_current(place, directory):
                        raise
        raise FileNotFoundError(errno.ENOENT, "exchanged again and again", file)

    def _is_current(self, place: tuple[str, ...], directory: int) -> bool:
        with _opened(open_directory(self.root, place)) as now:
            return os.path.samestat(os.fstat(now), os.fstat(directory))

    def is_leftover(self, name: str) -> bool:
        """Return whether an entry next to `files` is a stage that is no longer in use."""
        return name.startswith(STAGE_PREFIX) and name not in self._stages

    def _exchange(self, stage: "Stage", files: int, source: str, but: Collection[str]) -> None:
        """Exchange the stage with a source's directory, after linking the latter's other files."""
        try:
            old = os.open(source, _DIRECTORY, dir_fd=files)
        except FileNotFoundError:
            os.fsync(stage.directory)
            os.rename(stage.name, source, src_dir_fd=stage.parent, dst_dir_fd=files)
            return
        with _opened(old):
            _copy_access(old, stage.directory)
            for name in os.listdir(old):  # noqa: PTH208 - a descriptor is not a path
                if name not in but:
                    _link(name, old, stage.directory)
        os.fsync(stage.directory)
        rename_exchange(stage.parent, stage.name, files, source)

    def _put_singly(self, stage: "Stage", source: str) -> None:
        place = make_directories(self.root, (stage.target, FILES, source))
        with _opened(place):
            with suppress(FileNotFoundError):
                os.unlink(stage.file + METADATA_SUFFIX, dir_fd=place)
            os.fsync(place)
            for name in (stage.file, stage.file + METADATA_SUFFIX):
                os.rename(name, name, src_dir_fd=stage.directory, dst_dir_fd=place)
                os.fsync(place)

    def _drop_singly(self, target: str, source: str, names: Collection[str]) -> None:
        with _opened(open_directory(self.root, (target, FILES, source))) as place:
            for name in (name + suffix for suffix in (METADATA_SUFFIX, "") for name in names):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=place)

    def _drop_last(self, target: str, files: int, source: str, gone: Collection[str]) -> bool:
        """Remove a source's directory with its content, if that is only what is to be dropped."""
        with _opened(os.open(source, _DIRECTORY, dir_fd=files)) as old:
            if not set(os.listdir(old)) <= set(gone):  # noqa: PTH208
                return False
        away = STAGE_PREFIX + secrets.token_hex(16)
        with _opened(open_directory(self.root, (target,))) as parent:
            os.rename(source, away, src_dir_fd=files, dst_dir_fd=parent)
            shutil.rmtree(away, dir_fd=parent)
        return True


class Stage:
    """A directory that is invisible to readers, for the content of one file.

    Attributes:
        target: id of the node that the file is for.
        file: id of the file.
        name: name of this directory, next to `files`.
        parent: descriptor of the target's directory.
        directory: descriptor of this directory.
    """

    def __init__(self, store: Store, target: str, name: str, file: str, algorithm: str) -> None:
        self.target = target
        self.file = file
        self.name = name
        self._store = store
        self._hash = hashlib.new(algorithm)
        self._content = self.directory = -1
        self.parent = make_directories(store.root, (target,))
        try:
            os.mkdir(name, DIRECTORY_MODE, dir_fd=self.parent)
            self.directory = os.open(name, _DIRECTORY, dir_fd=self.parent)
            if file:
                self._content = os.open(file, _CREATE, FILE_MODE, dir_fd=self.directory)
        except BaseException:
            self.close()
            raise

    def write(self, data: bytes) -> None:
        """Append to the content; raise OSError."""
        self._hash.update(data)
        _write_all(self._content, data)

    def digest(self) -> bytes:
        """Return the hash of the content."""
        return self._hash.digest()

    def add(self, name: str, data: bytes) -> None:
        """Write a file next to the content; both are on disk afterwards."""
        os.fsync(self._content)
        with _opened(os.open(name, _CREATE, FILE_MODE, dir_fd=self.directory)) as descriptor:
            _write_all(descriptor, data)
            os.fsync(descriptor)

    def close(self) -> None:
        """Remove what is left of the stage: its own content, the previous pair, or nothing."""
        for descriptor in (self._content, self.directory):
            if descriptor >= 0:
                os.close(descriptor)
        self._content = self.directory = -1
        if self.parent >= 0:
            with suppress(OSError):  # a sweep will remove the rest
                shutil.rmtree(self.name, dir_fd=self.parent)
            os.close(self.parent)
            self.parent = -1
        self._store.release(self.name)


def sources(root: Path) -> Iterator[tuple[str, str]]:
    """Yield target and source of every directory of shared files; raise OSError."""
    for target in _directories(root):
        with suppress(FileNotFoundError):
            for source in _directories(root / target / FILES):
                yield target, source


def _directories(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


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


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
