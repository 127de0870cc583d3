"""Which mount a path is on, see proc_pid_mountinfo(5)."""

import os
import re
from pathlib import Path
from typing import Final

import msgspec

#: File systems whose changes by other machines inotify(7) does not tell.
REMOTE: Final = frozenset({"9p", "afs", "ceph", "cifs", "fuse.sshfs", "nfs", "nfs4", "smb3"})
_MOUNT_ID: Final = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)


class Mount(msgspec.Struct, frozen=True):
    """One mount.

    Attributes:
        number: its id; rename(2) works only within one.
        point: where it is mounted.
        kind: type of the file system.
    """

    number: int
    point: str
    kind: str


def mount_of(path: Path) -> Mount | None:
    """Find the mount of an existing path; None when it cannot be told."""
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
    """Go up from a path to what exists, as far as that can be seen."""
    while not _is_there(path) and path != path.parent:
        path = path.parent
    return path


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a directory on the way is closed to us
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
