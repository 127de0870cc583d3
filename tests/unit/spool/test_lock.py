"""The lock on a watched directory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relayd.errors import StartError, TransientStartError
from relayd.spool.lock import DirectoryLock

HOLD = """
import sys
from pathlib import Path
from relayd.spool.lock import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_elsewhere(path: Path) -> Iterator[None]:
    """Lock a directory in another process, which is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.kill()


def descriptors() -> int:
    """Return how many descriptors are open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.fault("S21")
def test_directory_of_another_relayd_is_refused(tmp_path: Path) -> None:
    """A directory held by another process is refused in one line, and free when that ends."""
    with held_elsewhere(tmp_path):
        with pytest.raises(TransientStartError) as caught:
            DirectoryLock(tmp_path)
        assert str(caught.value) == f"{tmp_path} is already in use by another relayd"
    with DirectoryLock(tmp_path):
        pass


def test_lock_leaves_the_directory_as_it_was(tmp_path: Path) -> None:
    """The directory itself is locked: no file appears in it, and nothing stays open."""
    before = descriptors()
    with DirectoryLock(tmp_path) as lock:
        lock.follow()
        assert list(tmp_path.iterdir()) == []
    assert descriptors() == before


def test_missing_directory_is_named(tmp_path: Path) -> None:
    """A directory that cannot be opened is a start error that names it, and leaks nothing."""
    before = descriptors()
    with pytest.raises(StartError, match="missing cannot be locked: No such file"):
        DirectoryLock(tmp_path / "missing")
    assert descriptors() == before


@pytest.mark.fault("F26")
def test_lock_follows_to_the_directory_that_took_the_place(tmp_path: Path) -> None:
    """After a rename the new directory is locked and the old one free; not if another has it."""
    path, old = tmp_path / "incoming", tmp_path / "old"
    path.mkdir()
    with DirectoryLock(path) as lock:
        path.rename(old)
        with pytest.raises(FileNotFoundError):
            lock.follow()
        path.mkdir()
        with held_elsewhere(path), pytest.raises(BlockingIOError, match="already in use"):
            lock.follow()
        with pytest.raises(TransientStartError):
            DirectoryLock(old)
        lock.follow()
        with pytest.raises(TransientStartError):
            DirectoryLock(path)
        with DirectoryLock(old):
            pass
