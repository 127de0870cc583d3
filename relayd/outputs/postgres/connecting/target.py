"""Where to connect and how: options, service, environment and defaults, in libpq's order."""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from relayd.config.database_options import (
    SETTING_VARIABLES,
    OptionError,
    check_option,
    check_together,
    ssl_mode,
)
from relayd.config.database_url import DEFAULT_PORT
from relayd.config.secret import Secret
from relayd.outputs.postgres.connecting.surroundings import (
    SOCKET_DIRECTORIES,
    Surroundings,
    read_password,
    unusable_password_file,
)
from relayd.outputs.postgres.faults import ConnectError, Step

#: Names of other drivers for libpq's.
_SYNONYMS: Final = {"database": "dbname"}
_SETTING: Final = re.compile(r"(?:--|-c\s*)([A-Za-z_.-]+)=|(?:^|\s)-c\s+([A-Za-z_.]+)=", re.ASCII)


class Host(msgspec.Struct, frozen=True):
    """One of the servers that a URL names.

    Attributes:
        name: as the URL has it; "" if it only has an address. Certificates are compared with it.
        address: hostaddr, "" without one.
        port: TCP port, also part of the name of a Unix socket.
        password: None without one.
        hint: why a password file was not used, "" without a reason.
    """

    name: str
    address: str
    port: int
    password: Secret | None
    hint: str = ""

    @property
    def socket(self) -> str | None:
        """Path of the Unix socket, None for TCP."""
        place = self.address or self.name
        if not place.startswith(("/", "@")):
            return None
        return f"{place}/.s.PGSQL.{self.port}"

    def __str__(self) -> str:
        name = self.name or self.address
        if self.socket is not None:
            return self.socket
        return f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"


class Target(msgspec.Struct, frozen=True):
    """What to connect to.

    Attributes:
        hosts: at least one.
        user: the role.
        database: its name.
        options: libpq's options that are set, from wherever.
        settings: for the start of the session.
        surroundings: for the files below the home directory.
    """

    hosts: tuple[Host, ...]
    user: str
    database: str
    options: dict[str, str]
    settings: dict[str, str]
    surroundings: Surroundings

    @property
    def ssl_mode(self) -> str:
        """Return sslmode or its default."""
        return ssl_mode(self.options)

    def number(self, option: str, default: int) -> int:
        """Return an option that is an integer."""
        text = self.options.get(option)
        return default if text is None else int(text)


def resolve(parameters: Mapping[str, Any], surroundings: Surroundings) -> Target:
    """Fill in what the options leave open.

    Args:
        parameters: libpq's options, the password among them.
        surroundings: of the process that connects.

    Raises:
        ConnectError: they are not valid together, or not in these surroundings.
    """
    own = {_SYNONYMS.get(name, name): str(value) for name, value in parameters.items()}
    defaults = surroundings.defaults()
    service = own.get("service") or defaults.get("service")
    options = {**defaults, **(surroundings.service(service) if service else {}), **own}
    try:
        for name, value in own.items():
            check_option(name, value)
        check_together(options)
    except OptionError as error:
        raise ConnectError(str(error), Step.OPTION) from error
    user = options.get("user") or surroundings.user
    if not user:
        raise ConnectError(f"uid {os.geteuid()} has no name, and no user is set", Step.OPTION)
    database = options.get("dbname") or user
    hosts = tuple(
        _host(options, surroundings, place, (database, user)) for place in _places(options)
    )
    settings = _settings(options, surroundings)
    options.pop("password", None)
    return Target(hosts, user, database, options, settings, surroundings)


def _places(options: Mapping[str, str]) -> list[tuple[str, str, int]]:
    """Return name, address and port of each host."""
    names = options.get("host", "").split(",")
    addresses = options.get("hostaddr", "").split(",")
    count = max(len(names), len(addresses))
    ports = options.get("port", "").split(",")
    ports = ports * count if len(ports) == 1 else ports
    names = names if len(names) == count else [""] * count
    addresses = addresses if len(addresses) == count else [""] * count
    numbers = [int(port.strip() or DEFAULT_PORT) for port in ports]
    return [
        (name or ("" if address else _usual_place(port)), address, port)
        for name, address, port in zip(names, addresses, numbers, strict=True)
    ]


def _usual_place(port: int) -> str:
    there = [place for place in SOCKET_DIRECTORIES if Path(f"{place}/.s.PGSQL.{port}").exists()]
    return (there or list(SOCKET_DIRECTORIES))[0]


def _host(
    options: Mapping[str, str],
    surroundings: Surroundings,
    place: tuple[str, str, int],
    who: tuple[str, str],
) -> Host:
    name, address, port = place
    password, hint = options.get("password"), ""
    if not password:
        path = surroundings.file(options.get("passfile", ""), ".pgpass")
        called = "localhost" if name in SOCKET_DIRECTORIES else name or address
        if path is not None:
            password = read_password(path, (called, str(port), *who))
            hint = "" if password else unusable_password_file(path)
    return Host(name, address, port, Secret(password) if password else None, hint)


def _settings(options: Mapping[str, str], surroundings: Surroundings) -> dict[str, str]:
    """Return the settings of the session: only those that a pooler between may be sent.

    The others that relayd needs are set in each transaction.
    """
    name = options.get("application_name") or options.get("fallback_application_name") or "relayd"
    found = {"application_name": name}
    for variable, setting in SETTING_VARIABLES.items():
        if surroundings.environment.get(variable):
            found[setting] = surroundings.environment[variable]
    if options.get("options"):
        found["options"] = options["options"]
    return found


def chosen_settings(options: str) -> set[str]:
    """Return the names of settings in a server's command-line options."""
    try:
        words = shlex.split(options)
    except ValueError:
        words = options.split()
    text = " ".join(words)
    return {(a or b).replace("-", "_").lower() for a, b in _SETTING.findall(text)}
