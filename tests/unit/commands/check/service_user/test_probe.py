"""What a user may do with a path, as this one sees it."""

import os
from pathlib import Path

from relayd.commands.check.service_user.probe import describe


def test_a_directory_is_described_with_what_waits_in_it(tmp_path: Path) -> None:
    """Files with the extensions of the spool are counted, temporary and other ones are not."""
    for name in ("a.log", "b.gz", "c.txt", ".davfs.tmp1.log"):
        (tmp_path / name).touch()
    os.utime(tmp_path / "b.gz", (50, 50))
    (tmp_path / "d.log").mkdir()
    (tmp_path / "e.log").symlink_to("a.log")
    found = describe(str(tmp_path), [".log", ".gz"])
    assert (found["kind"], found["blocked"]) == ("directory", None)
    assert (found["read"], found["write"], found["execute"]) == (True, True, True)
    assert (found["waiting"], found["unreadable"], found["oldest"]) == (2, 0, 50)


def test_what_is_missing_is_described_by_its_nearest_directory(tmp_path: Path) -> None:
    """Of a path that does not exist, the directory where it could be made is told."""
    found = describe(str(tmp_path / "a" / "b"), [])
    assert found["kind"] is None
    assert (found["parent"], found["parent_write"]) == (str(tmp_path), True)


def test_a_file_is_told_from_other_things(tmp_path: Path) -> None:
    """Regular files, directories and anything else are told apart."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    kinds = [describe(str(tmp_path / name), [])["kind"] for name in ("file", "fifo", ".")]
    assert kinds == ["file", "other", "directory"]
    assert describe(str(tmp_path / "file" / "below"), [])["parent"] == str(tmp_path)
