"""Mounts in the list of the kernel."""

from pathlib import Path

from relayd.commands.check.service_user.mounts import Mount, existing, find, mount_of

TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /srv/with\\040space rw,nosuid - nfs4 server:/export rw,vers=4.2
31 22 0:41 / /no/optional/fields ro - tmpfs none rw,size=1024k
"""


def test_a_mount_is_found_by_its_number() -> None:
    """Mount point and type are read with and without optional fields."""
    assert find(TABLE, 22) == Mount(22, "/", "ext4")
    assert find(TABLE, 30) == Mount(30, "/srv/with\\040space", "nfs4")
    assert find(TABLE, 31) == Mount(31, "/no/optional/fields", "tmpfs")
    assert find(TABLE, 3) is None


def test_the_mount_of_a_path_is_found(tmp_path: Path) -> None:
    """Two files of one directory are on one mount, /proc is on another."""
    (tmp_path / "a").touch()
    own, proc = mount_of(tmp_path / "a"), mount_of(Path("/proc/self"))
    assert own == mount_of(tmp_path)
    assert own != proc
    assert proc is not None
    assert (proc.kind, proc.point) == ("proc", "/proc")
    assert mount_of(tmp_path / "nothing") is None


def test_the_nearest_existing_directory_is_found(tmp_path: Path) -> None:
    """The nearest directory that exists stands for a path that does not."""
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert existing(tmp_path) == tmp_path


def test_a_path_that_cannot_be_looked_up_does_not_exist(tmp_path: Path) -> None:
    """A path that the system refuses to look up is no error; the search continues above it."""
    assert existing(tmp_path / ("a" * 300) / "b") == tmp_path
