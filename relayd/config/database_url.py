"""PostgreSQL connection URLs, read as libpq reads them, without the password.

The form is libpq's connection URI (PostgreSQL manual, 32.1.1.2), including several hosts.
"""

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

import msgspec

from relayd.config.database_options import OPTIONS, OptionError, check_option, check_together
from relayd.config.secret import Secret

_SCHEME: Final = re.compile(r"postgres(?:ql)?://", re.ASCII)
#: One host and its port. Host names are checked only for what libpq's parser needs.
_HOST: Final = re.compile(r"(?:\[([^\]]+)\]|([^\s:@\[\]]*))(?::([^:@\[\]]*))?", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z_]{1,40}", re.ASCII)
_FILES: Final = ("sslrootcert", "sslcrl", "sslcert", "sslkey", "passfile")
DEFAULT_PORT: Final = 5432
_MAX_OPTIONS: Final = 100
#: In the URI, but not in the list of options: spellings of JDBC and of old releases.
_SPELLINGS: Final = {
    ("ssl", "true"): ("sslmode", "require"),
    ("requiressl", "1"): ("sslmode", "require"),
    ("requiressl", "0"): ("sslmode", "prefer"),
}


class UrlParts(msgspec.Struct, frozen=True):
    """The pieces of a URL, still percent-encoded.

    Attributes:
        scheme: with its `://`.
        user: "" without one.
        password: None without one.
        hosts: the text between credentials and path.
        path: the database, without its `/`; None without one.
        query: pairs of options.
    """

    scheme: str
    user: str
    password: str | None
    hosts: str
    path: str | None
    query: tuple[tuple[str, str], ...]


class DatabaseUrl(msgspec.Struct, frozen=True):
    """A valid URL.

    Attributes:
        options: libpq's options that it contains; never the password.
        unused: names of those that have no effect.
    """

    options: dict[str, str]
    unused: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str) -> "DatabaseUrl":
        """Check a URL.

        Raises:
            OptionError: an option is not valid.
            ValueError: something else is not valid.
        """
        parts = split_url(url)
        options = _of_authority(parts)
        for name, text in options.items():
            check_option(name, text)
        for key, value in parts.query:
            name, text = _respelled(_decode(key), _decode(value))
            check_option(name, text)
            options[name] = text
        options.pop("password", None)
        check_together(options)
        unused = sorted(name for name in options if not OPTIONS[name].used)
        return cls(options, tuple(unused))

    @property
    def files(self) -> list[Path]:
        """The files that its options name."""
        paths = [Path(self.options.get(name, "")) for name in _FILES]
        return [path for path in paths if path.is_absolute()]

    @property
    def place(self) -> str:
        """The hosts and the database, for messages."""
        hosts = self.options.get("host") or self.options.get("hostaddr", "")
        ports = self.options.get("port", "").split(",")
        names = hosts.split(",")
        ports = ports * len(names) if len(ports) == 1 else ports
        pairs = zip(names, ports, strict=False)
        shown = ",".join(f"{_bracketed(name)}:{port}" if port else name for name, port in pairs)
        return f"{shown}/{self.options.get('dbname', '')}"


def split_url(url: str) -> UrlParts:
    """Split a URL.

    Credentials end at the last `@` before the first `/`, not at the first one as for libpq, so that
    an unescaped `@` in a password never becomes part of a host.

    Raises:
        ValueError: it is not a URL for PostgreSQL.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise ValueError("scheme")
    rest = url[scheme.end() :]
    credentials, rest = _split_credentials(rest)
    place, mark, query = rest.partition("?")
    hosts, slash, path = place.partition("/")
    if "@" in path:
        # An unescaped `/` in a password moves the rest of it here.
        raise ValueError("path")
    user, colon, password = credentials.partition(":")
    return UrlParts(
        scheme=scheme[0],
        user=user,
        password=password if colon else None,
        hosts=hosts,
        path=path if slash else None,
        query=_pairs(query) if mark else (),
    )


def _split_credentials(rest: str) -> tuple[str, str]:
    before, slash, after = rest.partition("/")
    place, mark, query = before.partition("?")
    if "@" in place:
        credentials, _, place = place.rpartition("@")
        return credentials, f"{place}{mark}{query}{slash}{after}"
    credentials, at, place = before.rpartition("@")  # a `?` may belong to the password
    return credentials, f"{place}{slash}{after}" if at else rest


def split_password(url: str) -> tuple[str, Secret | None]:
    """Return the URL without its password, and the password.

    Raises:
        ValueError: it is not a URL for PostgreSQL.
    """
    parts = split_url(url)
    found = [value for key, value in parts.query if _decode(key) == "password"]
    password = (found[-1] if found else "") or parts.password
    if password is None and not found:
        return url, None
    query = tuple((key, value) for key, value in parts.query if _decode(key) != "password")
    bare = msgspec.structs.replace(parts, password=None, query=query)
    return _join(bare), Secret(_decode(password or ""))


def connect_arguments(url: str, password: Secret | None) -> dict[str, Any]:
    """Return libpq's options for `relayd.outputs.postgres.connection.connect`.

    The password is among them in plain text, so pass the result on at once and never show it.

    Args:
        url: a URL that `DatabaseUrl.parse` accepts.
        password: the password for the server; an empty one counts as none, as for libpq.
    """
    options: dict[str, Any] = dict(DatabaseUrl.parse(url).options)
    if password:
        options["password"] = password.reveal()
    return options


def _of_authority(parts: UrlParts) -> dict[str, str]:
    found = [_HOST.fullmatch(host) for host in parts.hosts.split(",")]
    if None in found:
        raise OptionError("host", "host names, each with :PORT or without")
    hosts = ",".join(match[1] or match[2] for match in found if match)
    ports = ",".join(match[3] or "" for match in found if match)
    texts = {
        "user": parts.user,
        "host": hosts,
        "port": ports if ports.strip(",") else "",
        "dbname": parts.path or "",
    }
    return {name: _decode(text) for name, text in texts.items() if text}


def _respelled(name: str, value: str) -> tuple[str, str]:
    name, value = _SPELLINGS.get((name, value), (name, value))
    if name not in OPTIONS:
        # Other names, or values with an `@`, are rather a part of a password that is not escaped.
        shown = name if _NAME.fullmatch(name) and "@" not in value else "an option"
        raise OptionError(shown, "one of libpq's", "an unknown one")
    return name, value


def _pairs(query: str) -> tuple[tuple[str, str], ...]:
    pieces = query.removesuffix("&").split("&") if query else []
    if len(pieces) > _MAX_OPTIONS:
        raise ValueError("too many options")
    pairs = [piece.partition("=") for piece in pieces]
    if any(not mark or "=" in value for _, mark, value in pairs):
        raise ValueError("each option needs one equals sign")
    return tuple((key, value) for key, _, value in pairs)


def _decode(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00|\0", text) is not None:
        raise ValueError("percent-encoding")
    return unquote_to_bytes(text).decode()


def _join(parts: UrlParts) -> str:
    user = f"{parts.user}@" if parts.user else ""
    path = "" if parts.path is None else f"/{parts.path}"
    query = "&".join(f"{key}={value}" for key, value in parts.query)
    return f"{parts.scheme}{user}{parts.hosts}{path}{'?' if query else ''}{query}"


def _bracketed(name: str) -> str:
    return f"[{quote(name, safe=':')}]" if ":" in name else name
