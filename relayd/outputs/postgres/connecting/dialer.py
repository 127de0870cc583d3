"""Opens the connections of asyncpg as libpq would: socket options, TLS, and who the server is.

asyncpg connects through the loop that it is given. A `Dialer` takes the place of that loop for one
attempt at one address; all but the making of connections is the loop's.
"""

import asyncio
import pwd
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec

from relayd.outputs.postgres.connecting.login import Demands, Guard
from relayd.outputs.postgres.connecting.target import Host, Target
from relayd.outputs.postgres.connecting.tls import client_certificate, make_context
from relayd.outputs.postgres.faults import ConnectError, Step

#: Unacknowledged bytes are given up after this time, so that a vanished server is noticed.
TCP_USER_TIMEOUT_MS: Final = 30_000
_SSL_REQUEST: Final = struct.pack("!II", 8, 80_877_103)
_KEEPALIVE: Final = {
    "keepalives_idle": socket.TCP_KEEPIDLE,
    "keepalives_interval": socket.TCP_KEEPINTVL,
    "keepalives_count": socket.TCP_KEEPCNT,
}


class Address(msgspec.Struct, frozen=True):
    """Where a host is.

    Attributes:
        family: of its socket.
        place: what the socket connects to.
    """

    family: int
    place: Any


class Dialer:
    """Connects to one address.

    Attributes:
        encrypted: whether TLS was begun.
    """

    def __init__(
        self, loop: Any, target: Target, host: Host, address: Address, *, tls: str
    ) -> None:
        """Prepare an attempt.

        Args:
            loop: the running loop.
            target: what to connect to.
            host: which of its hosts.
            address: which of its addresses.
            tls: `never`, `try` (without if the server has none) or `always`.
        """
        self.encrypted = False
        self._loop = loop
        self._target = target
        self._host = host
        self._address = address
        self._tls = tls
        self._guard: Guard | None = None
        self._transport: asyncio.Transport | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    @property
    def fault(self) -> ConnectError | None:
        """Why the login was ended from here."""
        return None if self._guard is None else self._guard.fault

    async def create_connection(
        self, factory: Callable[[], Any], *_: object
    ) -> tuple[asyncio.Transport, Any]:
        """Connect; asyncpg's own idea of the address is not used."""
        transport = self._transport = await self._open()
        if self._tls != "never":
            transport = self._transport = await self._encrypt(transport)
        inner = factory()
        self._guard = Guard(inner, self._demands())
        transport.set_protocol(self._guard)
        self._guard.connection_made(transport)
        return transport, inner

    create_unix_connection = create_connection

    def abort(self) -> None:
        """Close the connection of a failed attempt at once, whatever the server does."""
        if self._transport is not None:
            self._transport.abort()

    def _demands(self) -> Demands:
        options, host = self._target.options, self._host
        methods = options.get("require_auth", "")
        binding = options.get("channel_binding", "prefer")
        certificate = client_certificate(self._target) if self.encrypted else None
        shown = str(certificate) if certificate is not None and certificate.exists() else ""
        return Demands(str(host), host.password, host.hint, methods, binding, shown)

    async def _open(self) -> asyncio.Transport:
        link = socket.socket(self._address.family, socket.SOCK_STREAM)
        try:
            link.setblocking(False)
            if self._address.family != socket.AF_UNIX:
                self._set_options(link)
            await self._loop.sock_connect(link, self._address.place)
            self._check_peer(link)
            transport, _ = await self._loop.create_connection(_Answer, sock=link)
        except BaseException:
            link.close()
            raise
        made: asyncio.Transport = transport
        return made

    def _set_options(self, link: socket.socket) -> None:
        target = self._target
        if target.number("keepalives", 1):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, constant in _KEEPALIVE.items():
                if target.number(option, 0) > 0:
                    link.setsockopt(socket.IPPROTO_TCP, constant, target.number(option, 0))
        if (patience := target.number("tcp_user_timeout", TCP_USER_TIMEOUT_MS)) > 0:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)

    def _check_peer(self, link: socket.socket) -> None:
        """Compare the account of a server behind a Unix socket with `requirepeer` (unix(7))."""
        wanted = self._target.options.get("requirepeer")
        if not wanted or link.family != socket.AF_UNIX:
            return
        credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        uid = struct.unpack("3i", credentials)[1]
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        if name != wanted:
            detail = f"the server runs as {name}, not as requirepeer={wanted}"
            raise ConnectError(detail, Step.LOGIN, host=str(self._host))

    async def _encrypt(self, transport: asyncio.Transport) -> asyncio.Transport:
        waiting = transport.get_protocol()
        assert isinstance(waiting, _Answer)
        if self._target.options.get("sslnegotiation") != "direct":
            transport.write(_SSL_REQUEST)
            answer = await waiting.first
            if answer == b"N" and self._tls == "try":
                return transport
            if answer != b"S":
                why = _refusal(answer, self._target)
                raise ConnectError(why, Step.TLS, host=str(self._host))
        self.encrypted = True
        context = make_context(self._target)
        name = self._host.name or None
        if context.check_hostname and name is None:
            detail = "sslmode=verify-full needs a host name, not only hostaddr"
            raise ConnectError(detail, Step.OPTION, host=str(self._host))
        if self._target.options.get("sslsni") == "0" and not context.check_hostname:
            name = None
        upgraded: asyncio.Transport | None = await self._loop.start_tls(
            transport, waiting, context, server_hostname=name
        )
        if upgraded is None:
            raise ssl.SSLEOFError
        return upgraded


class _Answer(asyncio.Protocol):
    """The one byte with which a server answers the request for TLS."""

    def __init__(self) -> None:
        self.first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Take it. More than one byte could be injected text, which TLS would then protect."""
        if not self.first.done():
            self.first.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up."""
        if not self.first.done():
            self.first.set_exception(exc or ConnectionResetError("closed without an answer"))
            self.first.exception()  # nobody may be waiting


def _refusal(answer: bytes, target: Target) -> str:
    if answer == b"N":
        return f"the server has no TLS, which sslmode={target.ssl_mode} requires"
    if answer.startswith(b"E"):
        return "the server answers the request for TLS with an error; its log has the reason"
    return "the answer to the request for TLS is not PostgreSQL's"
