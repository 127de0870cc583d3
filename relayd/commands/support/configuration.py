"""The configuration as relayd reads it, and the secrets that it names."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from relayd.commands.check.surroundings.units import find_service, unit_text
from relayd.commands.installation import default_socket
from relayd.commands.support.masking import is_path, named_secrets
from relayd.config.database_url import DatabaseUrl, split_password, split_url
from relayd.config.files import load_files
from relayd.config.logging_conf import load_logging
from relayd.config.main_conf import MAIN_FILE, URL_KEY, Settings
from relayd.config.secret import REDACTED, Secret
from relayd.config.toml import build_all, leaves, read_lines
from relayd.errors import RelaydError
from relayd.overview.server import spools_in_use
from relayd.system.files import open_regular
from relayd.system.printable import printable

#: Bytes of a file with secrets that are read.
_LARGEST: Final = 1_000_000
#: Lines of it that are looked for.
_MOST_LINES: Final = 2_000
#: Shorter lines of a private key are no secret.
_KEY_LINE: Final = 16
_SECRET_NAME: Final = re.compile(r"(?i)pass|pw|secret|token|credential")
_PROXY_NAME: Final = re.compile(r"(?i)_proxy\Z")
_OPTION: Final = re.compile(r"(?i)([?&][^=&]*password[^=&]*=)[^&]*")


class Loaded(NamedTuple):
    """A configuration, as far as it can be read.

    Attributes:
        settings: keys that are not valid, or all without a file, have their defaults.
        written: the TOML document.
        trouble: why there is no document; "" if there is one.
    """

    settings: Settings
    written: Mapping[str, Any]
    trouble: str = ""


def load(directory: Path) -> Loaded:
    """Read main.conf without refusing what is wrong in it."""
    path = directory / MAIN_FILE
    try:
        table, _errors = read_lines(path)
        return Loaded(build_all(path, table, Settings).value, table)
    except OSError as error:
        settings = Settings()
        general = msgspec.structs.replace(settings.general, control_socket=default_socket())
        settings = msgspec.structs.replace(settings, general=general)
        return Loaded(settings, {}, f"{path} cannot be read: {error.strerror}")
    except RelaydError as error:
        return Loaded(Settings(), {}, str(error))


def configuration_text(directory: Path, loaded: Loaded) -> str:
    """Return all keys with their values, secrets starred, and what is wrong with them.

    Comments are left out, as are the values of unknown keys: they may be old passwords.
    """
    lines = [f"# {directory}: the keys as relayd reads them; * marks those that the file sets."]
    written = set(_keys(loaded.written))
    for key, value in leaves(loaded.settings):
        lines.append(f"{'*' if key in written else ' '} {key} = {_shown(key, value)}")
    with suppress(RelaydError):
        general = leaves(load_logging(directory).general)
        lines += ["", "# logging.conf", *(f"  general.{key} = {value}" for key, value in general)]
    lines += ["", *(printable(line) for line in _complaints(directory))]
    return "\n".join(lines) + "\n"


def _shown(key: str, value: object) -> str:
    if key == URL_KEY and isinstance(value, str):
        try:
            return _OPTION.sub(rf"\1{REDACTED}", split_password(value)[0])
        except ValueError:
            return REDACTED
    if isinstance(value, tuple):
        return printable(f"[{', '.join(map(str, value))}]")
    return printable(str(value))


def _complaints(directory: Path) -> Iterator[str]:
    try:
        files = load_files(directory)
        yield from (f"warning: {one}" for one in [*files.warnings, *files.logging.warnings])
    except RelaydError as error:
        yield from (f"warning: {one}" for one in error.warnings)
        yield from (f"error: {one}" for one in error.each())


def _keys(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def users_of(settings: Settings) -> list[str]:
    """Return the names with which relayd signs in over HTTP."""
    proxy = settings.general.https_proxy
    own = settings.output.upstream.user
    return [own, "rudder", "rudder_default", *([proxy.user] if proxy is not None else ())]


def find_secrets(directory: Path, loaded: Loaded, pid: int | None) -> set[str]:
    """Return all secrets of an installation that this user can read.

    Args:
        directory: of its configuration.
        loaded: the same.
        pid: of the running relayd, whose environment may have some.
    """
    settings = loaded.settings
    found = {value.reveal() for _key, value in leaves(settings) if isinstance(value, Secret)}
    found |= set(_of_table(loaded.written))
    unit = find_service(spools_in_use(settings).values()).unit
    for text in ("\n".join(_lines(directory / MAIN_FILE)), unit_text(unit) if unit else ""):
        found |= set(named_secrets(text))
    if settings.general.https_proxy is not None:
        found.add(settings.general.https_proxy.password.reveal())
    for environment in (os.environb, _environment_of(pid)):
        found |= set(_of_environment(environment))
    found |= set(_of_url(settings.output.database.url))
    server = settings.server
    found |= set(_of_key(server.key_file))
    for path in (server.passwords_file, server.initial_passwords_file):
        found |= {line.partition(":")[2] for line in _lines(path)}
    return found


def _of_table(table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _of_table(value)
        elif isinstance(value, str) and _SECRET_NAME.search(name) and not is_path(name):
            yield value
        elif isinstance(value, str) and "://" in value:
            yield from _of_url(value)


def _of_url(url: str) -> Iterator[str]:
    with suppress(ValueError):
        parts = split_url(url)
        for text in (parts.password, *(v for k, v in parts.query if "password" in k.lower())):
            yield from (text or "", unquote(text or ""))
        options = DatabaseUrl.parse(url).options
        yield from _of_key(Path(options.get("sslkey", "")))
        yield from _of_password_file(Path(options.get("passfile", "")))
        return
    with suppress(ValueError):
        password = urlsplit(url).password or ""
        yield from (password, unquote(password))


def _of_environment(environment: Mapping[bytes, bytes]) -> Iterator[str]:
    for key, data in environment.items():
        name, value = key.decode(errors="replace"), os.fsdecode(data)
        if name == "PGPASSFILE":
            yield from _of_password_file(Path(value))
        elif name == "HOME":
            yield from _of_password_file(Path(value, ".pgpass"))
        elif _PROXY_NAME.search(name):
            yield from _of_url(value)
        elif name not in {"PWD", "OLDPWD"} and _SECRET_NAME.search(name) and not is_path(name):
            yield value


def _environment_of(pid: int | None) -> dict[bytes, bytes]:
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes() if pid is not None else b""
    except OSError:
        return {}
    pairs = (line.partition(b"=") for line in data.split(b"\0"))
    return {name: value for name, _mark, value in pairs if name}


def _of_password_file(path: Path) -> Iterator[str]:
    for line in _lines(path):
        password = re.split(r"(?<!\\):", line)[-1]
        yield from (password, re.sub(r"\\(.)", r"\1", password))


def _of_key(path: Path) -> Iterable[str]:
    """Return the lines of a private key; those of certificates beside it are starred as well."""
    return (line for line in _lines(path) if len(line) >= _KEY_LINE and "-----" not in line)


def _lines(path: Path) -> list[str]:
    try:
        with open_regular(path) as file:
            data = file.read(_LARGEST)
    except OSError:
        return []
    lines = (line.strip() for line in data.decode(errors="surrogateescape").splitlines())
    return [line for line in lines if line][:_MOST_LINES]
