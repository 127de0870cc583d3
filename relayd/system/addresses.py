"""Host names and IP addresses: which are usable, and how they are written in URLs."""

import ipaddress
import re
from typing import Final

#: RFC 1035, 2.3.4; a dot at the end does not count.
_MAX_NAME: Final = 253
_MAX_LABEL: Final = 63
#: A longer text is no name, and `idna` takes a time that grows with the square of its length.
_MAX_TEXT: Final = 1000
#: Of most names and addresses: this alone is enough.
_USUAL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63}){0,3}")
_LABEL: Final = re.compile(r"[A-Za-z0-9_-]+")
_WITH_PORT: Final = re.compile(r"(?:\[.*\]|[^:]*):[0-9]*")
_ZONE: Final = re.compile(r"[A-Za-z0-9_.~-]{1,32}")

#: Completes "expected …".
HOST: Final = "a host name or an IP address"


class HostError(ValueError):
    """A text is no host; the text of this error completes "expected …"."""


class HasPortError(HostError):
    """The text is a host with a port."""


def usable_host(text: str) -> str:
    """Return a host in the form that libraries take: ASCII, IPv6 addresses without brackets.

    Raises:
        HostError: it is not a host that a name server or the system could know.
    """
    if _USUAL.fullmatch(text):
        return text
    if "://" in text or "/" in text:
        raise HostError("a host name only, not a URL")
    if len(text) > _MAX_TEXT:
        raise HostError(f"a host name of at most {_MAX_NAME} characters")
    if ":" in text or "[" in text or "]" in text:
        return _ipv6(text)
    name = text if text.isascii() else _international(text)
    _check_labels(name.removesuffix("."))
    return name


def bare(host: str) -> str:
    """Return a host without the brackets of an IPv6 address."""
    return host.strip("[]")


def bracketed(host: str) -> str:
    """Return a host as it appears in a URL: IPv6 addresses in brackets, others unchanged.

    Args:
        host: a host name or an IP address; an IPv6 address may already be in brackets.
    """
    name = bare(host)
    return f"[{name}]" if ":" in name else name


def server_name(host: str) -> str:
    """Return the name that a certificate has for a host: no zone, no dot at the end."""
    return host.partition("%")[0].removesuffix(".")


def _ipv6(text: str) -> str:
    address = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        if _WITH_PORT.fullmatch(text):
            raise HasPortError("a host name only, without a port") from None
        raise HostError(HOST) from None
    if parsed.scope_id is not None and not _ZONE.fullmatch(parsed.scope_id):
        raise HostError(HOST)
    return str(parsed)


def _international(text: str) -> str:
    # Loaded only here: few hosts have such names, and its tables take a while.
    import idna

    try:
        return idna.encode(text, uts46=True, std3_rules=False).decode("ascii")
    except (UnicodeError, ValueError, IndexError):
        raise HostError("an international host name (RFC 5890)") from None


def _check_labels(name: str) -> None:
    labels = name.split(".")
    if len(name) > _MAX_NAME:
        raise HostError(f"a host name of at most {_MAX_NAME} characters")
    if not all(labels):
        raise HostError("a host name without empty parts")
    if max(map(len, labels)) > _MAX_LABEL:
        raise HostError(f"a host name with parts of at most {_MAX_LABEL} characters")
    if not all(map(_LABEL.fullmatch, labels)) or name.startswith("-"):
        raise HostError(HOST)
