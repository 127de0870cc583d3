"""The spool's directories at start."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from relayd.errors import StartError
from relayd.spool.layout import ensure_directories, lock_spool

HOLD = "import sys; from pathlib import Path; from relayd.spool.layout import lock_spool; "


@pytest.mark.fault("L9")
def test_missing_directories_are_made(tmp_path: Path) -> None:
    """Directories are made with their parents, closed to strangers; existing ones stay."""
    ensure_directories(tmp_path / "a" / "incoming", tmp_path / "a" / "failed", tmp_path)
    assert stat.S_IMODE((tmp_path / "a" / "incoming").stat().st_mode) & 0o027 == 0
    (tmp_path / "a" / "failed" / "x").touch()
    ensure_directories(tmp_path / "a" / "failed")
    assert (tmp_path / "a" / "failed" / "x").exists()


@pytest.mark.fault("L9")
def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """One line names the path and says why."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "incoming"):
        with pytest.raises(StartError) as caught:
            ensure_directories(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.fault("S21")
def test_second_relayd_on_a_spool_does_not_start(tmp_path: Path) -> None:
    """A spool held by another process is refused in one line, and free again when that ends."""
    code = HOLD + "fd = lock_spool(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StartError, match="is already in use by another relayd") as caught:
            lock_spool(tmp_path)
        assert str(tmp_path) in str(caught.value)
        holder.kill()
    os.close(lock_spool(tmp_path))


def test_lock_leaves_the_spool_as_it_was(tmp_path: Path) -> None:
    """The directory itself is locked: no file appears in it, and children do not inherit it."""
    fd = lock_spool(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_missing_spool_is_named(tmp_path: Path) -> None:
    """A directory that cannot be opened is a start error that names it, and leaks nothing."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(StartError, match="missing"):
        lock_spool(tmp_path / "missing")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
