"""Networks that are allowed to do something: those of main.conf and those of a file for Apache.

Rudder writes the file for Apache: lines `Require ip` with networks and addresses, or `Require all
granted`. What is not understood grants nothing.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from relayd.api.door.watched import WatchedFile
from relayd.config.values import Network
from relayd.system.printable import printable
from relayd.telemetry.logs import get_logger

log = get_logger("api")

#: The first one to three numbers of an IPv4 address stand for the network of all that begin so.
_PARTIAL: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){0,2}\.?")
_ANYWHERE: Final = ("0.0.0.0/0", "::/0")
_LOCAL: Final = ("127.0.0.0/8", "::1")
#: Prefix length of the IPv6 addresses that one client may have.
_SUBNET: Final = 64


class AllowedNetworks:
    """Networks of both sources, the file read again when it changes.

    Args:
        networks: of main.conf.
        path: the file.
    """

    def __init__(self, networks: Iterable[Network], path: Path) -> None:
        self._fixed = tuple(networks)
        self._file = WatchedFile(path, read_networks)

    async def look(self, *, now: bool = False) -> None:
        """See `WatchedFile.look`."""
        await self._file.look(now=now)

    async def allow(self, address: str) -> bool:
        """Return whether an IP address is in one of the networks."""
        await self.look()
        parsed = parse_address(address)
        if parsed is None:
            return False
        return any(parsed in network for network in (*self._fixed, *self._file.content))


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address; an IPv4 address that arrives as IPv6 is an IPv4 address."""
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def client_of(address: str) -> str:
    """Return what the connections of one client have in common: its address, or IPv6 subnet."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _SUBNET), strict=False))
    return str(parsed)


def read_networks(text: str) -> tuple[Network, ...]:
    """Return the networks in the lines of a file; log what is not understood."""
    found: list[Network] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words or [word.lower() for word in words] == ["require", "all", "denied"]:
            continue
        try:
            found += _networks(words)
        except ValueError:
            log.warning("line about networks ignored", line=number, text=printable(line, 100))
    return tuple(found)


def _networks(words: list[str]) -> Iterator[Network]:
    """Yield the networks of a line; raise ValueError for another kind of line."""
    what = [word.lower() for word in words[:3]]
    if what == ["require", "all", "granted"]:
        words = ["", "", *_ANYWHERE]
    elif what == ["require", "local"]:
        words = ["", "", *_LOCAL]
    elif what[:2] != ["require", "ip"]:
        raise ValueError(words)
    for word in words[2:]:
        yield _network(word)


def _network(text: str) -> Network:
    if _PARTIAL.fullmatch(text):
        numbers = text.rstrip(".").split(".")
        text = f"{'.'.join([*numbers, '0', '0', '0'][:4])}/{8 * len(numbers)}"
    return ipaddress.ip_network(text, strict=False)
