"""Accepts callers at the control socket. What answers them is imported with the first one."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio
from hypercorn.typing import ConnectionState, Scope

from relayd.api.server.access import Send
from relayd.api.server.connection import App, Connection, Protocol, Receive, Serving, Slots
from relayd.api.server.limits import Limits
from relayd.api.server.listeners import open_listeners
from relayd.api.server.server import Clients, make_serving, serve_clients
from relayd.config.main_conf import Listen
from relayd.control.callers import Caller, caller_of
from relayd.errors import StartError
from relayd.telemetry.logs import get_logger

log = get_logger("control")

#: Operators and their tools, not a fleet. A command asks as soon as it has connected, so that a
#: caller who does not is closed soon.
LIMITS: Final = Limits(connections=64, head_s=3.0)

#: Key of the caller in the state of its requests.
CALLER: Final = "caller"


def _refusal(status: bytes, details: bytes) -> bytes:
    """Return a complete answer to a caller whose request is not read."""
    body = b'{"result":"error","action":"connect","errorDetails":"%b"}' % details
    return (
        b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (status, len(body), body)
    )


_FORBIDDEN: Final = _refusal(
    b"403 Forbidden", b"only root, the user of relayd and the group of this socket may use it"
)
_BUSY: Final = _refusal(
    b"503 Service Unavailable",
    b"relayd answers %d commands already, as many as it can; end some, which the command ss -xp "
    b"shows, or try again" % LIMITS.connections,
)


async def run_control(
    path: Path, make_app: Callable[[], App], stop: trio.Event, grace: float
) -> None:
    """Serve the control socket until `stop` is set; without one if it cannot be made.

    Args:
        path: of the socket, made with mode 0660 and the group of this process.
        make_app: makes the application, when the first caller is there.
        stop: set when no more callers are accepted.
        grace: seconds that answers in progress may take after that.
    """
    listen = Listen(path=str(path))
    try:
        async with open_listeners(listen) as listeners:
            serving, slots = make_serving(_LateApp(make_app), LIMITS), Slots(LIMITS.connections)
            connect = partial(_connect, serving, slots, path)
            log.info("control socket ready", socket=str(path))
            clients = Clients(serving, slots, connect, _BUSY)
            await serve_clients(clients, listeners, stop, grace, trio.TASK_STATUS_IGNORED)
    except StartError as error:
        log.warning("no control socket; commands work on the spool alone", detail=str(error))


def _connect(
    serving: Serving, slots: Slots, path: Path, stream: trio.SocketStream
) -> "ControlConnection":
    return ControlConnection(serving, slots, stream, path)


class _LateApp:
    """An application that is made for its first request."""

    def __init__(self, make: Callable[[], App]) -> None:
        self._make = make
        self._app: App | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            self._app = self._make()
        await self._app(scope, receive, send)


class ControlConnection(Connection):
    """The connection of one caller; one who may not use the socket gets 403 and no more."""

    def __init__(
        self, serving: Serving, slots: Slots, stream: trio.SocketStream, path: Path
    ) -> None:
        super().__init__(serving, slots, stream, stream.socket)
        self._path = path
        self._caller: Caller | None = None

    async def _serve(self) -> None:
        self._caller = caller = _caller_of(self._socket)
        group = _group_of(self._path)
        if caller is None or group is None:
            return
        if not caller.may_control(group, os.geteuid()):
            log.warning("caller turned away", uid=caller.uid, pid=caller.pid)
            await self._write(_FORBIDDEN)
            return
        await super()._serve()

    def _make_protocol(
        self, peer: tuple[str, int] | None, local: tuple[str, int] | None
    ) -> Protocol:
        state = ConnectionState({CALLER: self._caller})
        return Protocol(self._serving, self._tasks, peer, local, self._send, state=state)


def _group_of(path: Path) -> int | None:
    """Return the group of the socket, which an operator may have changed; None without it."""
    try:
        return path.lstat().st_gid
    except OSError:
        return None


def _caller_of(sock: trio.socket.SocketType) -> Caller | None:
    """Return who has connected; None if that process has disconnected already."""
    try:
        return caller_of(sock)  # type: ignore[arg-type] # Trio's has the same `getsockopt`
    except OSError:
        return None
