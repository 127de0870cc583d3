"""The spool's directories at start."""

import stat
from pathlib import Path

import pytest

from relayd.errors import StartError
from relayd.spool.layout import ensure_directories


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
