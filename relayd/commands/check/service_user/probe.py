"""Report the permissions of a user on paths; reads the user and the paths as JSON from its input.

It is passed to the interpreter as text and has finished its imports before it becomes the user,
who may not be able to read the files of relayd or Python. access(2) covers modes, access lists,
attributes and read-only file systems. Only directories whose files are counted are opened.
"""

import json
import os
import stat
import sys
from typing import Any

#: Maximum number of files examined in one directory.
MOST = 5000
_TRIED = {"read": os.R_OK, "write": os.W_OK, "execute": os.X_OK}


def describe(path: str, extensions: list[str]) -> dict[str, Any]:
    """Describe a path; in a directory, count the files with these extensions."""
    found: dict[str, Any] = {"path": path, "kind": _kind(path)}
    found["parent"], found["blocked"] = _ancestors(path)
    found["parent_write"] = os.access(found["parent"], os.W_OK | os.X_OK)
    if found["kind"] is None:
        found["link"] = _target(path)
        return found
    found.update((name, os.access(path, mode)) for name, mode in _TRIED.items())
    if extensions and found["kind"] == "directory" and found["read"] and found["execute"]:
        found.update(_count(path, tuple(extensions)))
    return found


def _kind(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - starts in a few milliseconds without pathlib
    except OSError:
        return None
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISREG(mode):
        return "file"
    return "socket" if stat.S_ISSOCK(mode) else "other"


def _target(path: str) -> str | None:
    try:
        return os.readlink(path)  # noqa: PTH115
    except OSError:
        return None


def _ancestors(path: str) -> tuple[str, str | None]:
    """Return the nearest existing directory above, and the first one that cannot be entered."""
    parts = os.path.dirname(path).split("/")  # noqa: PTH120
    nearest = "/"
    for end in range(1, len(parts) + 1):
        directory = "/".join(parts[:end]) or "/"
        if _kind(directory) != "directory":
            break
        nearest = directory
        if not os.access(directory, os.X_OK):
            return nearest, directory
    return nearest, None


def _count(path: str, extensions: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"waiting": 0, "unreadable": 0, "unreadable_name": "", "oldest": None}
    with os.scandir(path) as entries:
        for number, entry in enumerate(entries):
            if number == MOST:
                break
            if not entry.name.startswith(".") and entry.name.endswith(extensions):
                _note(found, entry)
    return found


def _note(found: dict[str, Any], entry: "os.DirEntry[str]") -> None:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:  # relayd has just taken it
        return
    if not stat.S_ISREG(status.st_mode):
        return
    found["waiting"] += 1
    found["oldest"] = min(status.st_mtime, found["oldest"] or status.st_mtime)
    if not os.access(entry.path, os.R_OK):
        found["unreadable"] += 1
        found["unreadable_name"] = entry.name


def become(uid: int, gid: int, groups: list[int]) -> None:
    """Permanently become another user and lose all capabilities."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


if __name__ == "__main__":
    user, questions = json.load(sys.stdin)
    if user is not None:
        become(*user)
    json.dump([describe(path, extensions) for path, extensions in questions], sys.stdout)
