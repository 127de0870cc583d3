"""Findings about missing permissions of the service user on a path."""

import os
import shlex
from pathlib import Path

from relayd.commands.check.model import Access, Finding, Site, error


def check_file(site: Site, path: Path, code: str) -> list[Finding]:
    """Return why the service user cannot read a file; no finding if it does not exist."""
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
    """Return why the service user cannot use a directory, or create it.

    Args:
        site: the installation.
        path: the directory.
        code: code of the finding.
        write: whether the daemon writes to the directory, and creates it if necessary.
    """
    access = _access(site, path)
    if access is None:
        return []
    if access.blocked is not None:
        return [_blocked(site, path, access.blocked, code)]
    if access.kind is None:
        return _missing(site, path, access, code) if write else []
    if access.kind != "directory":
        fix = f"move {quoted(path)} away" + ("; relayd creates the directory" if write else "")
        return [error(code, path, "is not a directory", fix)]
    if access.read and access.execute and (access.write or not write):
        return []
    return [_refused(site, path, code, write=write)]


def quoted(path: object) -> str:
    """Quote a path for a shell."""
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
    fix = f"chmod o+x {quoted(directory)}, or add {site.account.name} to a group that may enter it"
    return error(code, path, what, fix)


def _missing(site: Site, path: Path, access: Access, code: str) -> list[Finding]:
    if access.parent_write:
        return []
    name, group = site.account.name, site.account.group
    what = f"does not exist, and user {name} may not create it in {access.parent}"
    fix = f"install -d -o {name} -g {group} -m 0770 {quoted(path)}"
    return [error(code, path, what, fix)]


def _refused(site: Site, path: Path, code: str, *, write: bool) -> Finding:
    if write and is_read_only(path):
        what = "its file system is mounted read-only"
        fix = f"remount it: mount -o remount,rw $(findmnt -n -o TARGET -T {quoted(path)})"
        return error(code, path, what, fix)
    name, target = site.account.name, quoted(path)
    if write:
        what = f"user {name} may not read, write and enter it"
        return error(code, path, what, f"chown {name} {target} && chmod u+rwx {target}")
    group = site.account.group
    fix = f"chgrp {group} {target} && chmod g+rx {target}"
    return error(code, path, f"user {name} may not read and enter it", fix)
