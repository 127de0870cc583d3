"""Findings about missing permissions of the service user on a path."""

import os
import shlex
import stat
from pathlib import Path
from typing import Final

from relayd.commands.check.account import Account, group_name, listed_groups
from relayd.commands.check.model import Access, Finding, Site, error
from relayd.commands.check.service_user.foreign import choose_another, elsewhere, is_foreign

#: Directories of people, which are not opened for a service.
_HOMES: Final = ("/root", "/home", "/run/user")


def check_file(site: Site, path: Path, code: str, *, device: bool = False) -> list[Finding]:
    """Return why the service user cannot read a file; no finding if it does not exist.

    Args:
        site: the installation.
        path: the file.
        code: code of the finding.
        device: whether it may be `/dev/null` or the like.
    """
    access = _access(site, path)
    if access is None:
        return []
    if access.blocked is not None:
        return [_blocked(site, path, access.blocked, code)]
    if access.kind is None:
        return []
    if access.kind == "directory":
        what = "is a directory, expected a file"
        fix = elsewhere(site, path)
        if not is_foreign(path):
            fix = f"{choose_another(site, path)}, or remove it if it is empty: rmdir {quoted(path)}"
        return [error(code, path, what, fix)]
    if access.kind != "file" and not device:
        return [error(code, path, "is not a regular file", choose_another(site, path))]
    if not access.read:
        what = f"user {site.account.name} may not read it"
        return [error(code, path, what, _grant(site, path, "r"))]
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
    if access.link is not None:
        return [_dangling(site, path, access.link, code)]
    if access.kind is None:
        return _missing(site, path, access, code) if write else []
    if access.kind != "directory":
        return [error(code, path, "is not a directory", _instead_of(site, path, write=write))]
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
    return error(code, path, what, enter_fix(site, site.account, path, Path(directory)))


def enter_fix(site: Site, account: Account, path: Path, directory: Path) -> str:
    """Return how a user gets into a directory, without opening a home directory to everybody.

    Args:
        site: the installation.
        account: the user.
        path: the path of the configuration that the user needs.
        directory: the directory on the way to it that the user may not enter.
    """
    if any(directory.is_relative_to(home) for home in _HOMES):
        return f"{choose_another(site, path)}, outside {directory}"
    if is_foreign(directory):
        return elsewhere(site, path, directory)
    if _is_owner(account, directory):
        return f"chmod u+x {quoted(directory)}"
    group, mode = _owner_of(directory)
    if mode & stat.S_IXGRP and group != "root":
        return f"usermod -aG {group} {account.name}"
    return f"chmod o+x {quoted(directory)}"


def shared_group(path: Path, default: str) -> tuple[str, str]:
    """Return the group through which a directory is shared, and what must change on it first.

    Args:
        path: the directory.
        default: the group to use if the directory has that of root.

    Returns:
        The name of the group, and the beginning of a command line, "" if nothing must change.
    """
    group, mode = _owner_of(path)
    change = ""
    if group in {"root", ""}:
        group, change = default, f"chgrp {default} {quoted(path)} && "
    if mode & stat.S_IRWXG != stat.S_IRWXG:
        change += f"chmod g+rwx {quoted(path)} && "
    return group, change


def _is_owner(account: Account, path: Path) -> bool:
    try:
        return path.stat().st_uid == account.uid
    except OSError:
        return False


def _owner_of(path: Path) -> tuple[str, int]:
    """Return the group and the mode of a path, "" and 0 if they are not known."""
    try:
        status = path.stat()
    except OSError:
        return "", 0
    return group_name(status.st_gid), status.st_mode


def _instead_of(site: Site, path: Path, *, write: bool) -> str:
    """Return what to do about something that is not the expected directory."""
    if is_foreign(path):
        return elsewhere(site, path)
    made = "; relayd creates the directory" if write else ""
    return (
        f"{choose_another(site, path)}, or move {quoted(path)} away if nothing else needs it{made}"
    )


def _grant(site: Site, path: Path, rights: str) -> str:
    """Return how the service user gets rights on a path, which nobody else loses.

    Args:
        site: the installation.
        path: an existing file or directory.
        rights: as chmod(1) writes them.
    """
    if is_foreign(path):
        return elsewhere(site, path)
    account, target = site.account, quoted(path)
    if _is_owner(account, path):
        return f"chmod u+{rights} {target}"
    group, mode = _owner_of(path)
    if group in listed_groups(account.name):
        return f"chmod g+{rights} {target}"
    bits = sum({"r": stat.S_IRGRP, "w": stat.S_IWGRP, "x": stat.S_IXGRP}[one] for one in rights)
    if mode & bits == bits and group != "root":
        return f"usermod -aG {group} {account.name}, then restart relayd"
    return f"chgrp {account.group} {target} && chmod g+{rights} {target}"


def _dangling(site: Site, path: Path, target: str, code: str) -> Finding:
    what = f"is a symbolic link to {target}, which does not exist"
    fix = elsewhere(site, path)
    if not is_foreign(path) and not is_foreign(path.parent):
        fix = f"make that directory, or remove the link: rm {quoted(path)}"
    return error(code, path, what, fix)


def _missing(site: Site, path: Path, access: Access, code: str) -> list[Finding]:
    if access.parent_write:
        return []
    name, group = site.account.name, site.account.group
    what = f"does not exist, and user {name} may not create it in {access.parent}"
    fix = f"install -d -o {name} -g {group} -m 0770 {quoted(path)}"
    if is_foreign(path) or path.parent == Path("/"):
        fix = elsewhere(site, path, Path(access.parent))
    return [error(code, path, what, fix)]


def _refused(site: Site, path: Path, code: str, *, write: bool) -> Finding:
    if write and is_read_only(path):
        what = "its file system is mounted read-only"
        fix = f"remount it: mount -o remount,rw $(findmnt -n -o TARGET -T {quoted(path)})"
        if is_foreign(path):
            fix = elsewhere(site, path)
        return error(code, path, what, fix)
    name = site.account.name
    what, rights = f"user {name} may not read and enter it", "rx"
    if write:
        what, rights = f"user {name} may not read, write and enter it", "rwx"
    return error(code, path, what, _grant(site, path, rights))
