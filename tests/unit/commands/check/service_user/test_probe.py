"""The permissions of the current user on paths."""

import os
from pathlib import Path

from relayd.commands.check.service_user.probe import describe


def test_waiting_files_of_a_directory_are_counted(tmp_path: Path) -> None:
    """Files with the given extensions are counted, temporary and other files are not."""
    for name in ("a.log", "b.gz", "c.txt", ".davfs.tmp1.log"):
        (tmp_path / name).touch()
    os.utime(tmp_path / "b.gz", (50, 50))
    (tmp_path / "d.log").mkdir()
    (tmp_path / "e.log").symlink_to("a.log")
    found = describe(str(tmp_path), [".log", ".gz"])
    assert (found["kind"], found["blocked"]) == ("directory", None)
    assert (found["read"], found["write"], found["execute"]) == (True, True, True)
    assert (found["waiting"], found["unreadable"], found["oldest"]) == (2, 0, 50)


def test_a_missing_path_is_described_by_its_nearest_directory(tmp_path: Path) -> None:
    """For a missing path, the answer has the directory where it could be created."""
    found = describe(str(tmp_path / "a" / "b"), [])
    assert found["kind"] is None
    assert (found["parent"], found["parent_write"]) == (str(tmp_path), True)


def test_the_kind_of_a_path_is_reported(tmp_path: Path) -> None:
    """Regular files, directories and other files are distinguished."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    kinds = [describe(str(tmp_path / name), [])["kind"] for name in ("file", "fifo", ".")]
    assert kinds == ["file", "other", "directory"]
    assert describe(str(tmp_path / "file" / "below"), [])["parent"] == str(tmp_path)
