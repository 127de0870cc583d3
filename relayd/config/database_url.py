"""PostgreSQL connection URLs, without the password.

The form is libpq's connection URI (PostgreSQL manual, 34.1.1.2), including several hosts.
"""

import re
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

import msgspec

from relayd.config.secret import Secret

#: libpq options that neither asyncpg nor the server knows; the server would reject them.
_LIBPQ_ONLY: Final = frozenset(
    {
        "channel_binding",
        "connect_timeout",
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "replication",
        "require_auth",
        "requirepeer",
        "requiressl",
        "sslcertmode",
        "sslcompression",
        "sslcrldir",
        "sslsni",
        "tcp_user_timeout",
    }
)
#: COPY lines are UTF-8, so the operator cannot choose the client encoding.
_FIXED: Final = frozenset({"client_encoding"})
_SSL_MODES: Final = frozenset(
    {
        "disable",
        "allow",
        "prefer",
        "require",
        "verify-ca",
        "verify-full",
    }
)
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.ASCII | re.DOTALL)
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:@\[\]]*)(?::([0-9]{1,5}))?", re.ASCII)


class DatabaseUrl(msgspec.Struct, frozen=True):
    """A valid URL.

    Attributes:
        dsn: the URL for asyncpg: without password, and without options it would misunderstand.
        connect_timeout: seconds for one connection attempt, None when the URL does not set it.
        unused: names of the options that have no effect.
    """

    dsn: str
    connect_timeout: int | None = None
    unused: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str) -> "DatabaseUrl":
        """Check a URL and take out the options that are not for asyncpg.

        Raises:
            ValueError: scheme, host, port or an option is not valid.
        """
        parts = split_url(split_password(url)[0])
        if parts.scheme not in {"postgres", "postgresql"}:
            raise ValueError("scheme")
        if parts.fragment or "@" in parts.path:
            # An unescaped `#` or `/` in a password moves the rest of it here.
            raise ValueError("path")
        account, at, hosts = parts.netloc.rpartition("@")
        _check_hosts(hosts)
        options = _options(parts)
        unused = sorted((_LIBPQ_ONLY | _FIXED) & options.keys() - {"connect_timeout"})
        timeout = options.get("connect_timeout")
        kept = {k: text for k, text in options.items() if k not in _LIBPQ_ONLY | _FIXED}
        netloc = parts.netloc
        if "[" in hosts and "," in hosts:  # asyncpg parses the URL with `urlsplit`
            netloc, kept = f"{account}{at}", {**kept, "host": hosts}
        dsn = _join(parts, netloc, kept)
        urlsplit(dsn)  # so that an invalid URL is found here and not later
        return cls(
            dsn=dsn,
            connect_timeout=int(timeout) if timeout and int(timeout) > 0 else None,
            unused=tuple(unused),
        )


def split_url(url: str) -> SplitResult:
    """Split a URL as `urlsplit` does, but accept any hosts.

    Python releases with the fix for CVE-2025-0938 reject an IPv6 address after another host.

    Raises:
        ValueError: it is not a URL.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError("no URL")
    scheme, netloc, rest = found.groups()
    return urlsplit(f"{scheme}://{rest}")._replace(netloc=netloc)


def split_password(url: str) -> tuple[str, Secret | None]:
    """Return the URL without its password, and the password.

    Raises:
        ValueError: it is not a URL.
    """
    parts = split_url(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    options = _options(parts)
    password = options.pop("password", "") or password
    if not password and ":" not in credentials:
        return url, None
    return _join(parts, f"{user}{at}{hosts}", options), Secret(password)


def connect_arguments(url: str, password: Secret | None) -> dict[str, Any]:
    """Return the keyword arguments for `asyncpg.connect` or `asyncpg.create_pool`.

    Options of the URL are kept: asyncpg uses those it knows; others such as `application_name`
    become settings of the session. The password is a separate argument in plain text, so pass
    the result on at once and never show it.

    Args:
        url: a URL that `DatabaseUrl.parse` accepts.
        password: the password for the server.
    """
    checked = DatabaseUrl.parse(url)
    arguments: dict[str, Any] = {"dsn": checked.dsn}
    if password is not None:
        arguments["password"] = password.reveal()
    if checked.connect_timeout is not None:
        arguments["timeout"] = float(checked.connect_timeout)
    return arguments


def _check_hosts(hosts: str) -> None:
    for host in hosts.split(","):
        found = _HOST.fullmatch(host)
        if found is None or (found[2] and not 1 <= int(found[2]) <= 65535):
            raise ValueError("host")


def _options(parts: SplitResult) -> dict[str, str]:
    if not parts.query:
        return {}
    options = dict(parse_qsl(parts.query, strict_parsing=True, max_num_fields=100))
    if options.get("sslmode", "disable") not in _SSL_MODES:
        raise ValueError("sslmode")
    return options


def _join(parts: SplitResult, netloc: str, options: dict[str, str]) -> str:
    """Build a URL; `urlunsplit` would drop the `//` before an empty host."""
    query = "&".join(f"{quote(key)}={quote(text, safe='/,:')}" for key, text in options.items())
    return f"{parts.scheme}://{netloc}{parts.path}{'?' if query else ''}{query}"
