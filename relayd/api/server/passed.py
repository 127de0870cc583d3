"""Listening sockets that the service manager passes: sd_listen_fds(3).

systemd binds them and keeps them open while relayd restarts: clients that connect meanwhile wait
instead of being refused, and relayd needs no privilege for ports below 1024.
"""

import os
import socket
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from relayd.api.server.listeners import resolve
from relayd.config.main_conf import Listen
from relayd.errors import StartError
from relayd.system.addresses import bracketed
from relayd.system.shortage import words_of
from relayd.telemetry.logs import get_logger

log = get_logger("api")

_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
#: The first descriptor that is passed; the others follow it.
_FIRST: Final = 3
_MOST: Final = 1024

#: Host and port.
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class PassedSocket:
    """A socket that listens on an address.

    Attributes:
        socket: it.
        places: the addresses: two for one of IPv6 that takes IPv4 as well.
    """

    socket: socket.socket
    places: tuple[Place, ...]

    def __str__(self) -> str:
        host, port = self.places[0]
        return f"{bracketed(host)}:{port}"


def take_sockets(environment: MutableMapping[str, str] = os.environ) -> list[PassedSocket]:
    """Return the sockets that were passed to this process.

    The variables are removed from the environment, and no child inherits the sockets.

    Raises:
        StartError: something else was passed than listening sockets of TCP.
    """
    values = {name: environment.pop(name, "") for name in _VARIABLES}
    if values["LISTEN_PID"] != str(os.getpid()):
        return []
    count = values["LISTEN_FDS"]
    if not (count.isascii() and count.isdecimal() and int(count) <= _MOST):
        raise StartError(f"LISTEN_FDS is not a number of descriptors: {count!r}")
    names = values["LISTEN_FDNAMES"].split(":")
    numbers = range(_FIRST, _FIRST + int(count))
    return [
        _take(number, names[at] if at < len(names) else "") for at, number in enumerate(numbers)
    ]


def _take(number: int, name: str) -> PassedSocket:
    what = f"descriptor {number} from the service manager" + (f" ({name})" if name else "")
    try:
        os.set_inheritable(number, False)
        taken = socket.socket(fileno=number)
    except OSError as error:
        raise StartError(f"{what} is not a socket", reason=words_of(error)) from error
    fault = _fault(taken)
    if fault:
        taken.close()
        raise StartError(f"{what} {fault}")
    taken.setblocking(False)
    return PassedSocket(taken, _places(taken))


def _fault(taken: socket.socket) -> str:
    if taken.family not in (socket.AF_INET, socket.AF_INET6) or taken.type != socket.SOCK_STREAM:
        return "is not a socket of TCP"
    listens = taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return "" if listens else "does not listen"


def _places(taken: socket.socket) -> tuple[Place, ...]:
    host, port = taken.getsockname()[:2]
    if host == "::" and not taken.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return (host, port), ("0.0.0.0", port)  # noqa: S104 - it is there already
    return ((host, port),)


@asynccontextmanager
async def open_passed(
    sockets: Sequence[PassedSocket], addresses: Sequence[Listen]
) -> AsyncIterator[list[trio.SocketListener]]:
    """Listen on sockets that were passed for these addresses; close them on exit.

    Raises:
        StartError: they are not exactly for these addresses.
    """
    try:
        await _check(sockets, addresses)
        yield [trio.SocketListener(trio.socket.from_stdlib_socket(one.socket)) for one in sockets]
    finally:
        for one in sockets:
            one.socket.close()


async def _check(sockets: Sequence[PassedSocket], addresses: Sequence[Listen]) -> None:
    passed = {place for one in sockets for place in one.places}
    named: set[Place] = set()
    for listen in addresses:
        try:
            hosts = await resolve(listen, both=False)
        except OSError as error:
            raise StartError(f"cannot listen on {listen}", reason=words_of(error)) from error
        places = {(host, listen.port) for host in hosts if host is not None}
        if not places & passed:
            raise StartError(
                f"server.listen has {listen}, for which the service manager passes no socket"
            )
        named |= places
    for one in sockets:
        if not named & {*one.places}:
            raise StartError(
                f"the service manager passes a socket for {one}, which server.listen does not have"
            )
