"""PostgreSQL connection URLs, read as libpq reads them, without the password.

The form is libpq's connection URI (PostgreSQL manual, 32.1.1.2), including several hosts.
"""

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

import msgspec

from relayd.config.database_options import (
    OPTIONS,
    OptionError,
    check_option,
    check_together,
    unknown_option,
)
from relayd.config.secret import Secret
from relayd.config.toml import UnexpectedError

#: Completes "expected …".
EXPECTED: Final = 'a URL such as "postgres://user@host/database"'
_SCHEME: Final = re.compile(r"postgres(?:ql)?://", re.ASCII)
#: Other beginnings → what they are, and how that is written here.
_OTHERS: Final = {
    re.compile(r"jdbc:", re.IGNORECASE): 'a URL of JDBC, which is written without "jdbc:" here',
    re.compile(r"postgres(ql)?://", re.IGNORECASE): "one with its scheme in upper case",
    re.compile(r"postgres(ql)?\+[a-z0-9_]+://"): (
        "a URL of SQLAlchemy, which is written without the driver after postgresql here"
    ),
    re.compile(r"postgres(ql)?(:|/|\Z)"): 'one without "://" after the scheme',
    re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://"): "one with another scheme",
    re.compile(r"\s*[a-z_]+\s*=.*"): "libpq's keywords and values, which are no URL",
    re.compile(r"\s"): "one with white space in front",
    re.compile(r"\Z"): "an empty string",
}
#: One host and its port.
_HOST: Final = re.compile(r"(?:\[([^\]]+)\]|([^\s:@\[\]]*))(?::([^:@\[\]]*))?", re.ASCII)
_IPV6: Final = re.compile(r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%.*)?", re.ASCII)
#: What a `%` can be at fault with.
_NO_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FILES: Final = ("sslrootcert", "sslcrl", "sslcert", "sslkey", "passfile")
DEFAULT_PORT: Final = 5432
_MAX_OPTIONS: Final = 100
#: Options in front of the others → what they are called in messages.
_PARTS: Final = {
    "user": "the user name",
    "host": "a host name",
    "port": "a port",
    "dbname": "the name of the database",
}
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
            UnexpectedError: something else is not valid. No text shows a part of a password, if
                one can be distinguished from the rest.
        """
        parts = split_url(url)
        options = _of_authority(parts)
        _decode(parts.password or "", "the password")
        for name, text in options.items():
            _check_part(parts, name, text)
        for key, value in parts.query:
            name = _decode(key, "the name of an option")
            name, text = _respelled(parts, name, _decode(value, "the value of an option"))
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
        UnexpectedError: it is not a URL for PostgreSQL.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise UnexpectedError(EXPECTED, _instead_of_scheme(url))
    rest = url[scheme.end() :]
    credentials, rest = _split_credentials(rest)
    place, mark, query = rest.partition("?")
    hosts, slash, path = place.partition("/")
    if "@" in path:
        # An unescaped `/` in a password moves the rest of it here.
        got = "an @ after it: write / as %2F in user and password, and @ as %40 in the database"
        raise UnexpectedError("a URL without @ after the first /", got)
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
        UnexpectedError: it is not a URL for PostgreSQL.
    """
    parts = split_url(url)
    found = [value for key, value in parts.query if _decode(key) == "password"]
    password = (found[-1] if found else "") or parts.password
    if password is None and not found:
        return url, None
    query = tuple((key, value) for key, value in parts.query if _decode(key) != "password")
    bare = msgspec.structs.replace(parts, password=None, query=query)
    return _join(bare), Secret(_decode(password or "", "the password"))


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
    places = parts.hosts.split(",")
    found = [_HOST.fullmatch(place) for place in places]
    if None in found:
        bare = any(_IPV6.fullmatch(place) for place in places)
        got = "an IPv6 address without brackets" if bare else "something else"
        raise OptionError("host", "host names or addresses, each with :PORT or without", got)
    hosts = ",".join(match[1] or match[2] for match in found if match)
    ports = ",".join(match[3] or "" for match in found if match)
    texts = {
        "user": parts.user,
        "host": hosts,
        "port": ports if ports.strip(",") else "",
        "dbname": parts.path or "",
    }
    return {name: _decode(text, _PARTS[name]) for name, text in texts.items() if text}


def _check_part(parts: UrlParts, name: str, text: str) -> None:
    """Check what stands before the options."""
    try:
        check_option(name, text)
    except OptionError as error:
        # Without a user, or with an `@` that follows, it may be a part of a password.
        if name != "host" or (parts.user and not _has_at(parts)):
            raise
        expected = (error.expected or "").removeprefix(f"{name} to be ")
        raise OptionError(name, expected) from None


def _respelled(parts: UrlParts, name: str, value: str) -> tuple[str, str]:
    name, value = _SPELLINGS.get((name, value), (name, value))
    if name not in OPTIONS:
        # With an `@`, it is rather a part of a password that is not escaped.
        raise unknown_option(name, secret=_has_at(parts))
    return name, value


def _has_at(parts: UrlParts) -> bool:
    return any("@" in text for pair in parts.query for text in pair)


def _instead_of_scheme(url: str) -> str:
    for begin, what in _OTHERS.items():
        if begin.match(url):
            return what
    return 'one without "postgres://" in front'


def _pairs(query: str) -> tuple[tuple[str, str], ...]:
    pieces = query.removesuffix("&").split("&") if query else []
    if len(pieces) > _MAX_OPTIONS:
        raise UnexpectedError(f"at most {_MAX_OPTIONS} options", str(len(pieces)))
    pairs = [piece.partition("=") for piece in pieces]
    for number, (key, mark, value) in enumerate(pairs, 1):
        name = _known(key, number)
        if not key:
            raise UnexpectedError("each option as NAME=VALUE", f"{name} without a name")
        if not mark:
            raise UnexpectedError("each option as NAME=VALUE", f"{name} without a value")
        if "=" in value:
            got = f"two in {name}: write = in a value as %3D"
            raise UnexpectedError("one = in each option", got)
    return tuple((key, value) for key, _, value in pairs)


def _known(name: str, number: int) -> str:
    """Return the name of an option of libpq; any other may be a part of a password."""
    return name if name in OPTIONS else f"option {number}"


def _decode(text: str, what: str = "the URL") -> str:
    """Decode the part of the URL that `what` describes."""
    if _NO_ESCAPE.search(text) is not None:
        expected = f"percent-encoding in {what}, with % itself as %25"
        raise UnexpectedError(expected, "a % without two hexadecimal digits")
    data = unquote_to_bytes(text)
    try:
        decoded = data.decode()
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded:
        raise UnexpectedError(f"percent-encoded UTF-8 in {what}", "other bytes") from None
    return decoded


def _join(parts: UrlParts) -> str:
    user = f"{parts.user}@" if parts.user else ""
    path = "" if parts.path is None else f"/{parts.path}"
    query = "&".join(f"{key}={value}" for key, value in parts.query)
    return f"{parts.scheme}{user}{parts.hosts}{path}{'?' if query else ''}{query}"


def _bracketed(name: str) -> str:
    return f"[{quote(name, safe=':')}]" if ":" in name else name
