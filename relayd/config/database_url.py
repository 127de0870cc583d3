"""PostgreSQL connection URLs: what they say, without the password.

The form is libpq's connection URI (PostgreSQL manual, 34.1.1.2), several hosts included.
"""

import re
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

import msgspec

from relayd.config.secret import Secret

#: Options of libpq that neither asyncpg nor the server knows: the server would refuse them.
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
#: COPY lines are UTF-8, so the client's encoding is not the operator's to choose.
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
    """A checked URL.

    Attributes:
        dsn: what asyncpg may be given: no password, no option it would misunderstand.
        connect_timeout: seconds for one connection attempt, None when the URL does not say.
        warnings: which options are not used.
    """

    dsn: str
    connect_timeout: int | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str) -> "DatabaseUrl":
        """Check a URL and take from it what is for us and not for asyncpg.

        Raises:
            ValueError: scheme, host, port or an option is not valid.
        """
        parts = split_url(split_password(url)[0])
        if parts.scheme not in {"postgres", "postgresql"}:
            raise ValueError("scheme")
        if parts.fragment or "@" in parts.path:
            # A password with `#` or `/` in it, not escaped, would end up here.
            raise ValueError("path")
        account, at, hosts = parts.netloc.rpartition("@")
        _check_hosts(hosts)
        options = _options(parts)
        unused = sorted((_LIBPQ_ONLY | _FIXED) & options.keys() - {"connect_timeout"})
        timeout = options.get("connect_timeout")
        kept = {k: text for k, text in options.items() if k not in _LIBPQ_ONLY | _FIXED}
        netloc = parts.netloc
        if "[" in hosts and "," in hosts:  # asyncpg takes the URL apart as `urlsplit` does
            netloc, kept = f"{account}{at}", {**kept, "host": hosts}
        dsn = _join(parts, netloc, kept)
        urlsplit(dsn)  # so that no URL is found wrong later than here
        return cls(
            dsn=dsn,
            connect_timeout=int(timeout) if timeout and int(timeout) > 0 else None,
            warnings=tuple(f"option {name} is not used" for name in unused),
        )


def split_url(url: str) -> SplitResult:
    """Take a URL apart as `urlsplit` does, but with any hosts.

    Releases of Python with the mend of CVE-2025-0938 refuse an IPv6 address behind another host.

    Raises:
        ValueError: it is no URL.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError("no URL")
    scheme, netloc, rest = found.groups()
    return urlsplit(f"{scheme}://{rest}")._replace(netloc=netloc)


def split_password(url: str) -> tuple[str, Secret | None]:
    """Return the URL without its password, and the password.

    Raises:
        ValueError: it is no URL.
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

    Options of the URL are kept: those that asyncpg knows act there, others such as
    `application_name` become settings of the session. The password is an argument of its own,
    in clear: hand the result on at once and never show it.

    Args:
        url: a URL that `DatabaseUrl.parse` accepts.
        password: what the server asks for.
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
    """Put a URL together; `urlunsplit` would drop the `//` before an empty host."""
    query = "&".join(f"{quote(key)}={quote(text, safe='/,:')}" for key, text in options.items())
    return f"{parts.scheme}://{netloc}{parts.path}{'?' if query else ''}{query}"
