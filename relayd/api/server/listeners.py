"""Sockets to accept clients on, from a `listen` address."""

import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from relayd.config.main_conf import Listen
from relayd.errors import StartError
from relayd.telemetry.logs import get_logger

log = get_logger("api")

#: Clients that may wait for accept(2); more of them get no answer to their SYN for a while.
BACKLOG: Final = 1024
SOCKET_MODE: Final = 0o660

#: One of the addresses of a name may be of a family this machine does not have.
_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@asynccontextmanager
async def open_listeners(listen: Listen) -> AsyncIterator[list[trio.SocketListener]]:
    """Bind every address of `listen`; closes them at the end.

    The host may be a name: each of its addresses that this machine has is bound. A Unix socket
    gets mode 0660, before anyone can connect; one that a killed process left is replaced, and
    ours is removed at the end.

    Raises:
        StartError: it cannot be bound; the text says which address and why.
    """
    sockets = [_bind_unix(listen.path)] if listen.path else await _bind_addresses(listen)
    identity = _identity(listen.path)
    try:
        yield [_listener(sock) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
        _remove_ours(listen.path, identity)


def url_of(listener: trio.SocketListener) -> str:
    """Return the address of a listener: `http://host:port` or `unix:/path`."""
    family, address = listener.socket.family, listener.socket.getsockname()
    if family == socket.AF_UNIX:
        return f"unix:{address}"
    host = f"[{address[0]}]" if family == socket.AF_INET6 else address[0]
    return f"http://{host}:{address[1]}"


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of a Unix socket; None for TCP, or when it is gone."""
    try:
        found = Path(path).lstat() if path else None
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino) if found is not None else None


def _remove_ours(path: str, identity: tuple[int, int] | None) -> None:
    """Remove the socket at `path`, unless another process has put its own there."""
    if identity is not None and identity == _identity(path):
        Path(path).unlink()


async def _bind_addresses(listen: Listen) -> list[socket.socket]:
    addresses = await _resolve(listen)
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            sock = _bind_tcp(family, address, listen, alone=len(addresses) == 1)
            if sock is not None:
                sockets.append(sock)
    except StartError:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise StartError(f"cannot listen on {listen}: no such address on this machine")
    return sockets


async def _resolve(listen: Listen) -> list[tuple[int, tuple[str, int]]]:
    try:
        found = await trio.socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise StartError(f"cannot listen on {listen}: {error.strerror or error}") from None
    pairs = ((int(family), (str(address[0]), int(address[1]))) for family, *_, address in found)
    return list(dict.fromkeys(pairs))


def _bind_tcp(
    family: int, address: tuple[str, int], listen: Listen, *, alone: bool
) -> socket.socket | None:
    """Return a bound socket, or None when the address is one of several and not of this machine."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return None
        raise StartError(f"cannot listen on {listen}: {error.strerror}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not alone:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno in _NOT_HERE and not alone:
            log.info("address not on this machine", listen=str(listen), address=address[0])
            return None
        raise StartError(f"cannot listen on {listen}: {error.strerror}") from None
    return sock


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, SOCKET_MODE)  # noqa: PTH101 - nobody can connect before listen()
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen on unix:{path}: {error.strerror}") from None
    except StartError:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more, and nothing else."""
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"cannot listen on unix:{path}: there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # one that accepts nobody any more would hold us up
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except BlockingIOError:
            pass
    raise StartError(f"cannot listen on unix:{path}: another process listens there")


def _listener(sock: socket.socket) -> trio.SocketListener:
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
