"""Mounts as the kernel lists them."""

from pathlib import Path

from relayd.commands.check.service_user.mounts import Mount, existing, find, mount_of

TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /srv/with\\040space rw,nosuid - nfs4 server:/export rw,vers=4.2
31 22 0:41 / /no/optional/fields ro - tmpfs none rw,size=1024k
"""


def test_a_mount_is_found_by_its_number() -> None:
    """Place and type are read whether there are optional fields or not."""
    assert find(TABLE, 22) == Mount(22, "/", "ext4")
    assert find(TABLE, 30) == Mount(30, "/srv/with\\040space", "nfs4")
    assert find(TABLE, 31) == Mount(31, "/no/optional/fields", "tmpfs")
    assert find(TABLE, 3) is None


def test_a_path_is_on_the_mount_that_the_kernel_says(tmp_path: Path) -> None:
    """Two files of one directory are on one mount, /proc is on another."""
    (tmp_path / "a").touch()
    own, proc = mount_of(tmp_path / "a"), mount_of(Path("/proc/self"))
    assert own == mount_of(tmp_path)
    assert own != proc
    assert proc is not None
    assert (proc.kind, proc.point) == ("proc", "/proc")
    assert mount_of(tmp_path / "nothing") is None


def test_what_exists_is_found_upwards(tmp_path: Path) -> None:
    """The nearest directory that exists stands for a path that does not."""
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert existing(tmp_path) == tmp_path


def test_what_cannot_be_looked_at_does_not_exist(tmp_path: Path) -> None:
    """A path that the system refuses to look up is no error; whoever asks goes up from it."""
    assert existing(tmp_path / ("a" * 300) / "b") == tmp_path
