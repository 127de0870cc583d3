"""Sockets to accept clients on, from a `listen` address."""

import errno
import math
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from relayd.config.main_conf import Listen
from relayd.errors import StartError, TransientStartError, start_error
from relayd.system.addresses import bracketed
from relayd.system.shortage import shortage_of, with_limit
from relayd.telemetry.logs import get_logger

log = get_logger("api")

#: Clients that may wait for accept(2); the kernel ignores the SYN of further ones for a while.
BACKLOG: Final = 1024
SOCKET_MODE: Final = 0o660

_ACCEPT_PAUSE_S: Final = 0.1
#: How often a shortage that lasts is logged.
_ACCEPT_LOG_S: Final = 60.0

#: One address of a name may be of a family or of an interface that this machine lacks.
_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@asynccontextmanager
async def open_listeners(
    listen: Listen, *, both: bool = True
) -> AsyncIterator[list[trio.SocketListener]]:
    """Bind every address of `listen`; close the sockets on exit.

    The host may be a name: every address of it that exists on this machine is bound. A Unix socket
    gets mode 0660 before anyone can connect; one left by a killed process is replaced, and relayd's
    own is removed on exit.

    Args:
        listen: the address.
        both: whether `[::]` means all addresses of IPv4 as well.

    Raises:
        StartError: the address cannot be bound; the text gives the address and the cause.
    """
    listeners = [_bind_unix(listen.path)] if listen.path else await _bind_addresses(listen, both)
    identity = _identity(listen.path)
    try:
        yield listeners
    finally:
        _close(listeners)
        _remove_own(listen.path, identity)


class PatientListener(trio.abc.Listener[trio.SocketStream]):
    """Accepts clients as another listener does, and waits while the system has no descriptor.

    Trio would wait as well, but log an error with a traceback ten times per second.
    """

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self._logged_at = -math.inf

    async def accept(self) -> trio.SocketStream:
        """Return the next client."""
        while True:
            try:
                return await self._listener.accept()
            except OSError as error:
                if shortage_of(error) is None:
                    raise
                self._note(error)
            await trio.sleep(_ACCEPT_PAUSE_S)

    def _note(self, error: OSError) -> None:
        if trio.current_time() - self._logged_at >= _ACCEPT_LOG_S:
            self._logged_at = trio.current_time()
            log.error("cannot accept connections; clients wait", detail=with_limit(error))

    async def aclose(self) -> None:
        """Close the listener."""
        await self._listener.aclose()


def url_of(listener: trio.SocketListener) -> str:
    """Return the address of a listener: `http://host:port` or `unix:/path`."""
    family, address = listener.socket.family, listener.socket.getsockname()
    if family == socket.AF_UNIX:
        return f"unix:{address}"
    return f"http://{bracketed(address[0])}:{address[1]}"


def _close(listeners: list[trio.SocketListener]) -> None:
    for listener in listeners:
        listener.socket.close()


def _identity(path: str) -> tuple[int, int] | None:
    """Return device and inode of a Unix socket; None for TCP, or if the socket no longer exists."""
    try:
        found = Path(path).lstat() if path else None
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino) if found is not None else None


def _remove_own(path: str, identity: tuple[int, int] | None) -> None:
    """Remove the socket at `path`, unless another process has replaced it with its own."""
    if identity is not None and identity == _identity(path):
        Path(path).unlink()


async def _bind_addresses(listen: Listen, both: bool) -> list[trio.SocketListener]:
    try:
        hosts = await resolve(listen, both=both)
    except OSError as error:
        raise _cannot_listen(listen, error) from None
    listeners: list[trio.SocketListener] = []
    try:
        for host in hosts:
            listeners += await _bind_address(host, listen, alone=len(hosts) == 1)
    except BaseException:
        _close(listeners)
        raise
    if not listeners:
        raise TransientStartError(f"cannot listen on {listen}: no such address on this machine")
    return listeners


async def resolve(listen: Listen, *, both: bool) -> list[str | None]:
    """Return the addresses of the host, each once; None stands for all interfaces.

    Args:
        listen: has the host.
        both: whether `[::]` means all addresses of IPv4 as well.

    Raises:
        OSError: the host cannot be resolved.
    """
    found = await trio.socket.getaddrinfo(
        listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    # Trio makes a socket for "::" IPv6 only; without a host it binds the IPv4 wildcard as well.
    return [None] if both and addresses == ["::"] else [*addresses]


async def _bind_address(
    host: str | None, listen: Listen, *, alone: bool
) -> list[trio.SocketListener]:
    """Bind one address; return nothing if it is one of several and does not exist here."""
    try:
        return await trio.open_tcp_listeners(listen.port, host=host, backlog=BACKLOG)
    except OSError as error:
        if error.errno in _NOT_HERE and not alone:
            log.info("address not on this machine", listen=str(listen), address=host)
            return []
        raise _cannot_listen(listen, error) from None


def _cannot_listen(listen: Listen, error: OSError) -> StartError:
    return start_error(f"cannot listen on {listen}", error, words=with_limit(error))


def _bind_unix(path: str) -> trio.SocketListener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, SOCKET_MODE)  # noqa: PTH101 - no client can connect before listen()
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise start_error(f"cannot listen on unix:{path}", error, words=with_limit(error)) from None
    except StartError:
        sock.close()
        raise
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _remove_stale(path: str) -> None:
    """Remove a socket without a listening process, and nothing else."""
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"cannot listen on unix:{path}: the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # the listening process may have stopped accepting
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except BlockingIOError:
            pass
    raise TransientStartError(f"cannot listen on unix:{path}: another process listens there")
