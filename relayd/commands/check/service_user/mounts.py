"""Find the mount of a path, see proc_pid_mountinfo(5)."""

import os
import re
from pathlib import Path
from typing import Final

import msgspec

#: File systems on which inotify(7) does not report changes by other machines.
REMOTE: Final = frozenset({"9p", "afs", "ceph", "cifs", "fuse.sshfs", "nfs", "nfs4", "smb3"})
_MOUNT_ID: Final = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)


class Mount(msgspec.Struct, frozen=True):
    """One mount.

    Attributes:
        number: its id; rename(2) works only within one.
        point: where it is mounted.
        kind: the type of the file system.
    """

    number: int
    point: str
    kind: str


def mount_of(path: Path) -> Mount | None:
    """Find the mount of an existing path; None if it is unknown."""
    try:
        number = _mount_id(path)
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return find(table, number)


def find(table: str, number: int) -> Mount | None:
    """Find a mount in the text of a mountinfo file."""
    for line in table.splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        if words[0] == str(number) and len(words) > 4:
            return Mount(number, words[4], rest.split(" ")[0])
    return None


def existing(path: Path) -> Path:
    """Return a path or the nearest directory above it that exists and is visible."""
    while not _exists(path) and path != path.parent:
        path = path.parent
    return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a directory above it may not be entered
        return False


def _mount_id(path: Path) -> int:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        info = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii")
    finally:
        os.close(descriptor)
    found = _MOUNT_ID.search(info)
    if found is None:
        raise OSError(f"{path}: no mount id")
    return int(found[1])
