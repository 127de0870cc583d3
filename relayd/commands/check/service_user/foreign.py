"""What no fix may change: files and directories that other programs need.

A wrong path in the configuration may name anything. Giving `/tmp` to a group, or moving `/dev/null`
away, would break the machine; there the only fix is another path.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from relayd.commands.check.model import Site
from relayd.config.database_url import DatabaseUrl
from relayd.config.main_conf import URL_KEY
from relayd.config.toml import leaves
from relayd.config.values import Listen

#: Directories that all programs share; so are the files directly in them.
_SHARED: Final = frozenset(
    map(
        Path,
        (
            *("/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/run/lock", "/run/user"),
            *("/srv", "/tmp", "/usr", "/usr/local"),  # noqa: S108 - nothing is written there
            *(f"/usr/local/{name}" for name in ("bin", "etc", "lib", "sbin", "share")),
            *("/etc", "/etc/pki", "/etc/pki/tls", "/etc/pki/tls/certs", "/etc/pki/tls/private"),
            *("/etc/ssl", "/etc/ssl/certs", "/etc/ssl/private", "/etc/systemd/system"),
            *("/etc/pam.d", "/etc/security", "/etc/sudoers.d"),
            *("/var", "/var/backups", "/var/cache", "/var/lib", "/var/lock", "/var/log"),
            *("/var/mail", "/var/opt", "/var/run", "/var/spool", "/var/tmp", "/var/www"),  # noqa: S108
        ),
    )
)
#: Directories of the kernel and of the distribution, with all that is in them.
_SYSTEM: Final = (
    *("/bin", "/boot", "/dev", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys"),
    *(f"/usr/{name}" for name in ("bin", "include", "lib", "lib32", "lib64", "libexec")),
    *("/usr/sbin", "/usr/share"),
)
_LISTEN: Final = "general.listen"
_CONTROL: Final = "general.control_socket"
#: Directories of users lie directly in these.
_OF_USERS: Final = (Path("/home"), Path("/run/user"))


def is_foreign(path: Path) -> bool:
    """Return whether a path, or what it leads to, is not relayd's to change."""
    real = Path(os.path.realpath(path))
    return any(map(_is_of_the_system, (path.absolute(), real))) or _is_special(real)


def _is_of_the_system(path: Path) -> bool:
    return (
        path in _SHARED
        or path.parent in _OF_USERS
        or any(path.is_relative_to(directory) for directory in _SYSTEM)
    )


def _is_special(path: Path) -> bool:
    """Return whether this is a device or the like, a directory for all, or a file in one."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    if stat.S_ISDIR(mode):
        return _is_for_all(path)
    return not stat.S_ISREG(mode) or path.parent in _SHARED or _is_for_all(path.parent)


def _is_for_all(directory: Path) -> bool:
    """Return whether users put files of their own into a directory: it has the sticky bit."""
    try:
        return bool(directory.stat().st_mode & stat.S_ISVTX)
    except OSError:
        return False


def elsewhere(site: Site, path: Path, place: Path | None = None, choose: str = "") -> str:
    """Return the fix for what must not be changed: another path.

    Args:
        site: the installation.
        path: a path of the configuration.
        place: what must not be changed, the path itself or a directory on the way to it.
        choose: how to choose another path, "" to name the key.
    """
    choose = choose or choose_another(site, path)
    return f"{choose}; leave {place or path} as it is, for it is not relayd's own"


def choose_another(site: Site, path: Path) -> str:
    """Return how to choose another path, such as `set shared_files.path to another path`."""
    keys = _keys_of(site, path)
    if not keys:
        return "use another configuration directory (-c)"
    ways = {
        URL_KEY: f"name another file in {URL_KEY}",
        _LISTEN: f"name another directory in {_LISTEN}",
    }
    return " and ".join(ways.get(key, f"set {key} to another path") for key in keys)


def _keys_of(site: Site, path: Path) -> list[str]:
    """Return the keys that name a path, or the directory of a spool that it is part of."""
    named = list(_paths(site))
    keys = [key for key, value in named if value == path]
    return keys or [key for key, value in named if value == path.parent]


def _paths(site: Site) -> Iterator[tuple[str, Path]]:
    for key, value in leaves(site.settings):
        if isinstance(value, Path):
            yield key, value
            if key == _CONTROL:
                yield key, value.parent
        elif isinstance(value, Listen) and value.path:
            yield _LISTEN, Path(value.path).parent
    yield "remote_run.command", Path(site.settings.remote_run.command)
    for path in DatabaseUrl.parse(site.settings.output.database.url).files:
        yield URL_KEY, path
