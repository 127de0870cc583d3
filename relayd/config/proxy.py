"""The HTTP proxy for connections to other policy servers, and the hosts that need none."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from relayd.config.secret import Secret
from relayd.config.toml import UnexpectedError
from relayd.errors import ConfigWarning
from relayd.system.addresses import bracketed, usable_host

#: Completes "expected …".
EXPECTED: Final = "a proxy such as http://proxy.example.com:3128 or http://user:password@[::1]:3128"
KEY: Final = "general.https_proxy"

#: Variables that name a proxy for https, the first one that is set counts.
_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_EXCEPTIONS: Final = ("no_proxy", "NO_PROXY")
_URL: Final = re.compile(
    r"(?:([A-Za-z][A-Za-z0-9+.-]*)://)?(?:([^@/\s]*)@)?(\[[^\]]*\]|[^:@/\[\]]*)(?::([0-9]{1,5}))?/?"
)


class Proxy(msgspec.Struct, frozen=True):
    """A proxy that is asked with CONNECT for a connection to another host.

    Attributes:
        host: in the form of `usable_host`.
        port: 1 to 65535.
        user: for basic authentication (RFC 7617); "" without it.
        password: for basic authentication.
    """

    host: str
    port: int = 80
    user: str = ""
    password: Secret = Secret("")

    @classmethod
    def parse(cls, text: str) -> "Proxy":
        """Read `http://[user:password@]host[:port]`; `http://` may be left out.

        Raises:
            ValueError: it has another form.
        """
        found = _URL.fullmatch(text)
        if not text or found is None:
            raise UnexpectedError(got=None if text else "an empty string")
        scheme, account, host, port = found.groups()
        if scheme is not None and scheme.lower() != "http":
            raise UnexpectedError(f"{EXPECTED} (not {scheme}://)")
        host = usable_host(host)
        if port is not None and not 1 <= int(port) <= 65535:
            raise UnexpectedError(got="a port that is not from 1 to 65535")
        user, _, password = (account or "").partition(":")
        return cls(host, int(port or 80), unquote(user), Secret(unquote(password)))

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


def read_proxy(value: Any) -> Proxy:
    """Read the value of `general.https_proxy`."""
    if not isinstance(value, str):
        raise UnexpectedError
    return Proxy.parse(value)


def read_exceptions(value: Any) -> tuple[str, ...]:
    """Read the value of `general.no_proxy`: an array, or text with commas as in `$no_proxy`."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise UnexpectedError
    return tuple(item.strip() for item in items if item.strip())


def needs_no_proxy(host: str, exceptions: Iterable[str]) -> bool:
    """Return whether a host is one of the exceptions.

    Args:
        host: in the form of `usable_host`.
        exceptions: domains (with or without a dot in front; names below them count as well), IP
            addresses, networks such as `10.0.0.0/8`, or `*` for all.
    """
    name = host.removesuffix(".").lower()
    return any(entry == "*" or _covers(entry.lower(), name) for entry in exceptions)


def environment_warnings(
    proxy: Proxy | None, host: str, environment: Mapping[str, str]
) -> Iterator[ConfigWarning]:
    """Yield a warning if the environment names a proxy, which `rudder-relayd` would use.

    Args:
        proxy: the value of `general.https_proxy`.
        host: the policy server of this relay; "" if it has none.
        environment: of this process.
    """
    name = next((name for name in _VARIABLES if environment.get(name)), None)
    listed = next((environment[name] for name in _EXCEPTIONS if environment.get(name)), "")
    exceptions = read_exceptions(listed)
    if name is None or proxy is not None or needs_no_proxy(host, exceptions):
        return
    detail = f"${name} is not used; set {KEY} to connect to other policy servers through a proxy"
    yield ConfigWarning(kind="proxy", detail=detail, key=KEY)


def _covers(entry: str, name: str) -> bool:
    domain = entry.removeprefix(".").removesuffix(".")
    if domain and (name == domain or name.endswith(f".{domain}")):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]) in ipaddress.ip_network(
            entry.strip("[]"), strict=False
        )
    except ValueError:
        return False
