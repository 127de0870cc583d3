"""Processes of this machine, as far as proc(5) shows them."""

import os
import pwd
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from relayd.commands.check.account import Account, group_name

#: The programs of web servers, as the kernel shortens them.
WEB_SERVERS: Final = frozenset({"apache2", "httpd", "httpd-prefork", "nginx"})

_PROC: Final = Path("/proc")
#: proc_locks(5): `1: FLOCK  ADVISORY  WRITE 708 00:13:16383 0 EOF`.
_LOCK: Final = re.compile(
    r"\d+: FLOCK +ADVISORY +WRITE +(?P<pid>\d+) (?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):"
    r"(?P<inode>\d+) "
)
#: cgroups(7): `0::/system.slice/relayd.service`.
_SERVICE: Final = re.compile(r"^\d+:[^:\n]*:/(?:[^\n]*/)?(?P<name>[^/\n]+)\.service$", re.MULTILINE)


def holder_of(directories: Iterable[Path]) -> int | None:
    """Return the process that has locked one of these directories with flock(2)."""
    wanted = set(filter(None, map(_number, directories)))
    try:
        table = (_PROC / "locks").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for found in _LOCK.finditer(table):
        device = os.makedev(int(found["major"], 16), int(found["minor"], 16))
        if (device, int(found["inode"])) in wanted and int(found["pid"]):
            return int(found["pid"])
    return None


def _number(directory: Path) -> tuple[int, int] | None:
    try:
        status = directory.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def working_directory(pid: int) -> Path | None:
    """Return the working directory of a process, None if it is not shown."""
    try:
        return (_PROC / str(pid) / "cwd").readlink()
    except OSError:
        return None


def service_of(pid: int) -> str | None:
    """Return the unit of systemd that a process belongs to, without `.service`; see cgroups(7)."""
    try:
        groups = (_PROC / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = _SERVICE.search(groups)
    return found and found["name"]


def web_servers() -> list[Account]:
    """Return the users as which web servers run, with the groups that these processes have."""
    accounts = {account.uid: account for account in _web_processes() if account.uid}
    return list(accounts.values())


def _web_processes() -> Iterator[Account]:
    for process in _PROC.iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if (process / "comm").read_text(errors="replace").strip() in WEB_SERVERS:
                yield _account((process / "status").read_text(errors="replace"))
        except OSError:  # it has just ended
            continue


def _account(status: str) -> Account:
    """Return the user of a process from its proc_pid_status(5)."""
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid, gid = int(fields["Uid"].split()[1]), int(fields["Gid"].split()[1])
    groups = tuple(map(int, fields["Groups"].split()))
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # of a container
        name = str(uid)
    return Account(name, uid, gid, groups, group_name(gid))
