"""What it means that the service user may not do something with a path."""

import os
import shlex
from pathlib import Path

from relayd.commands.check.model import Access, Finding, Site, error


def check_file(site: Site, path: Path, code: str) -> list[Finding]:
    """Find what keeps the service user from reading a file; one that is missing is nothing here."""
    access = _access(site, path)
    if access is None:
        return []
    if access.blocked is not None:
        return [_blocked(site, path, access.blocked, code)]
    if access.kind is None:
        return []
    if access.kind == "directory":
        what = "is a directory, expected a file"
        return [error(code, path, what, f"move {quoted(path)} away and write the file")]
    if not access.read:
        group, name = site.account.group, quoted(path)
        what = f"user {site.account.name} may not read it"
        return [error(code, path, what, f"chgrp {group} {name} && chmod g+r {name}")]
    return []


def check_directory(site: Site, path: Path, code: str, *, write: bool) -> list[Finding]:
    """Find what keeps the service user from using a directory, or from making it.

    Args:
        site: what is checked.
        path: the directory.
        code: of the finding.
        write: whether the daemon writes there, and makes the directory if it is missing.
    """
    access = _access(site, path)
    if access is None:
        return []
    if access.blocked is not None:
        return [_blocked(site, path, access.blocked, code)]
    if access.kind is None:
        return _missing(site, path, access, code) if write else []
    if access.kind != "directory":
        mend = f"move {quoted(path)} away" + ("; relayd makes the directory" if write else "")
        return [error(code, path, "is not a directory", mend)]
    if access.read and access.execute and (access.write or not write):
        return []
    return [_refused(site, path, code, write=write)]


def quoted(path: object) -> str:
    """Return a path as a shell takes it."""
    return shlex.quote(str(path))


def is_read_only(path: Path) -> bool:
    """Return whether a path is on a file system that is mounted read-only."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _access(site: Site, path: Path) -> Access | None:
    return None if site.access is None else site.access[path]


def _blocked(site: Site, path: Path, directory: str, code: str) -> Finding:
    what = f"user {site.account.name} may not enter {directory}"
    mend = f"chmod o+x {quoted(directory)}, or let its group in and add {site.account.name} to it"
    return error(code, path, what, mend)


def _missing(site: Site, path: Path, access: Access, code: str) -> list[Finding]:
    if access.parent_write:
        return []
    name, group = site.account.name, site.account.group
    what = f"is not there, and user {name} may not make it in {access.parent}"
    mend = f"install -d -o {name} -g {group} -m 0770 {quoted(path)}"
    return [error(code, path, what, mend)]


def _refused(site: Site, path: Path, code: str, *, write: bool) -> Finding:
    if write and is_read_only(path):
        what = "its file system is mounted read-only"
        mend = (
            f"mount it for writing: mount -o remount,rw $(findmnt -n -o TARGET -T {quoted(path)})"
        )
        return error(code, path, what, mend)
    name, target = site.account.name, quoted(path)
    if write:
        what = f"user {name} may not read, write and enter it"
        return error(code, path, what, f"chown {name} {target} && chmod u+rwx {target}")
    group = site.account.group
    mend = f"chgrp {group} {target} && chmod g+rx {target}"
    return error(code, path, f"user {name} may not read and enter it", mend)
