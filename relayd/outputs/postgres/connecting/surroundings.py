"""What libpq takes from its surroundings: environment, home directory, password and service file.

Everything is read again for each connection, so that a changed file acts without a restart.
"""

import os
import pwd
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from relayd.config.database_options import OPTIONS, OptionError, check_option
from relayd.outputs.postgres.faults import ConnectError, Step
from relayd.system.shortage import words_of

#: Where Debian's and Red Hat's libpq look for a server without a host, then PostgreSQL's own place.
SOCKET_DIRECTORIES: Final = ("/var/run/postgresql", "/tmp")  # noqa: S108 - where PostgreSQL puts it
_SYSTEM_SERVICES: Final = ("/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc")
_OPEN_TO_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_FIELD: Final = re.compile(r"((?:[^:\\]|\\.)*)(?::|$)", re.DOTALL)


class Surroundings(msgspec.Struct, frozen=True):
    """The process that connects, as libpq sees it.

    Attributes:
        environment: its variables.
        home: its home directory, None when there is none.
        user: the name of its user, None when the system does not know it.
    """

    environment: Mapping[str, str]
    home: Path | None
    user: str | None

    @classmethod
    def of_process(cls) -> "Surroundings":
        """Return those of this process: `HOME`, else the home directory of its user.

        Raises:
            ConnectError: its user cannot be looked up now.
        """
        entry = _entry(os.geteuid())
        home = os.environ.get("HOME") or (entry.pw_dir if entry else "")
        return cls(os.environ, Path(home) if home else None, entry.pw_name if entry else None)

    @classmethod
    def of_user(cls, uid: int) -> "Surroundings":
        """Return those that a service manager would give to a user, with this environment."""
        if uid == os.geteuid():
            return cls.of_process()
        entry = _entry(uid)
        home = Path(entry.pw_dir) if entry else None
        return cls(os.environ, home, entry.pw_name if entry else None)

    def file(self, option: str, name: str) -> Path | None:
        """Return the path that an option names, or `name` below the home directory."""
        if option:
            return Path(option)
        return None if self.home is None else self.home / name

    def defaults(self) -> dict[str, str]:
        """Return the options that the environment sets.

        Raises:
            ConnectError: a variable is not valid.
        """
        found: dict[str, str] = {}
        for name, option in OPTIONS.items():
            value = self.environment.get(option.variable) if option.variable else None
            if value is None or not option.used:
                continue
            try:
                check_option(name, value, option.variable)
            except OptionError as error:
                raise ConnectError(str(error), Step.OPTION) from error
            found[name] = value
        if self.environment.get("PGREQUIRESSL", "").startswith("1"):
            found.setdefault("sslmode", "require")
        return found

    def service(self, name: str) -> dict[str, str]:
        """Return the options of a service: `~/.pg_service.conf`, then the system's file.

        Raises:
            ConnectError: a file is not valid, or none defines the service.
        """
        for path in self._service_files():
            found = _read_service(path, name)
            if found is not None:
                return found
        raise ConnectError(f"service {name} is not defined", Step.OPTION)

    def _service_files(self) -> Iterable[Path]:
        named = self.environment.get("PGSERVICEFILE", "")
        if named and not reachable(Path(named)):
            raise ConnectError(f"PGSERVICEFILE: {named} does not exist", Step.FILE)
        own = self.file(named, ".pg_service.conf")
        named = self.environment.get("PGSYSCONFDIR", "")
        places = [named] if named else _SYSTEM_SERVICES
        files = [*([own] if own else []), *(Path(place) / "pg_service.conf" for place in places)]
        return filter(reachable, files)


def read_password(path: Path, wanted: tuple[str, str, str, str]) -> str | None:
    """Find a password in a file such as `~/.pgpass`.

    Args:
        path: the file.
        wanted: host, port, database and user; a Unix socket in its usual place is "localhost".

    Returns:
        None if there is none, or if the file cannot be read or is open to others.
    """
    try:
        if not path.is_file() or path.stat().st_mode & _OPEN_TO_OTHERS:
            return None
        lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    except OSError:
        return None
    for line in lines:
        fields = [] if line.startswith("#") else _FIELD.findall(line.removesuffix("\r"))
        if len(fields) >= 5 and all(
            field in ("*", want) or _unescape(field) == want
            for field, want in zip(fields[:4], wanted, strict=True)
        ):
            return _unescape(fields[4])
    return None


def unusable_password_file(path: Path) -> str:
    """Return why libpq ignores a password file, "" if it does not or if there is none."""
    try:
        status = path.stat()
    except OSError:
        return ""
    if stat.S_ISREG(status.st_mode) and status.st_mode & _OPEN_TO_OTHERS:
        return f"{path} is ignored because others may read it: chmod 600"
    return "" if stat.S_ISREG(status.st_mode) else f"{path} is ignored: it is not a file"


def _read_service(path: Path, name: str) -> dict[str, str] | None:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""
    except OSError as error:
        detail = f"{path}: {words_of(error)}"
        raise ConnectError(detail, Step.FILE) from error
    found: dict[str, str] | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if found is not None:
                break
            found = {} if line == f"[{name}]" else None
        elif found is not None:
            _add(found, line, f"{path}, line {number}")
    return found


def _add(found: dict[str, str], line: str, where: str) -> None:
    key, mark, value = line.partition("=")
    if not mark or key not in OPTIONS or key == "service":
        raise ConnectError(f"{where}: expected OPTION=VALUE with one of libpq's", Step.FILE)
    try:
        check_option(key, value)
    except OptionError as error:
        raise ConnectError(f"{where}: {error}", Step.FILE) from error
    found.setdefault(key, value)


def reachable(path: Path) -> bool:
    """Return whether a file exists; libpq counts one that it may not reach as absent."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def _unescape(field: str) -> str:
    return re.sub(r"\\(.)", r"\1", field, flags=re.DOTALL)


def _entry(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        _need_descriptor()
        return None


def _need_descriptor() -> None:
    """Raise ConnectError if no file can be opened: then any user seems to be unknown."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        detail = f"the users of this machine cannot be listed: {words_of(error)}"
        raise ConnectError(detail, Step.FILE, "transient") from error
