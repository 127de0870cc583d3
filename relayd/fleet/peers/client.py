"""HTTPS to other policy servers: one client for each, with connections that are reused.

Redirects and settings of the environment are ignored, and no byte of HTTP is written before the
peer has proved its identity (`relayd.fleet.peers.tls`), with or without a proxy in between.

Requests of any kind and size are left to a library (`relayd.fleet.peers.library`), which is loaded
with the first of them. Uploads of small files, most of a relay's work, do without it
(`relayd.fleet.peers.uploads`).
"""

import re
import ssl
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import SplitResult, urlsplit

import trio

from relayd.config.secret import Secret
from relayd.errors import PeerError, PeerStep
from relayd.fleet.peers.bodies import MAX_LINE, Chunks, Content, Lines, explained
from relayd.fleet.peers.proxy import ProxyRoute
from relayd.fleet.peers.tls import Authentication, Network, make_context
from relayd.fleet.peers.uploads import (
    USER_AGENT,
    Origin,
    Reply,
    UploadLimits,
    Uploads,
    basic,
)
from relayd.system.wake import Wake

if TYPE_CHECKING:
    from httpx2 import Response

    from relayd.fleet.peers.library import Pool

__all__ = ["CONNECT_TIMEOUT_S", "MAX_LINE", "USER_AGENT", "Answer", "Clients", "PeerError"]

#: For establishing a connection, and again for the TLS handshake.
CONNECT_TIMEOUT_S: Final = 5.0
#: A peer that neither sends nor takes a byte for this long is considered gone, unless the caller
#: sets another value. Callers set a deadline for the whole request.
STALL_TIMEOUT_S: Final = 300.0
#: Open connections to one peer; further requests wait. As many as there may be remote runs, each
#: of which may stream from the same relay.
MAX_CONNECTIONS: Final = 512
CLOSE_TIMEOUT_S: Final = 1.0

_DIRECT: Final = ProxyRoute()
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Answer:
    """The answer of a peer; its body can be read once, while the request is open.

    Attributes:
        status: HTTP status.
        headers: values by name in lower case; repeated headers are joined by commas.
    """

    def __init__(self, response: "Response", body: Chunks) -> None:
        self.status = response.status_code
        self.headers: dict[str, str] = {}
        for name, value in response.headers.raw:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        self._body = body

    def chunks(self) -> AsyncIterator[bytes]:
        """Return the body in pieces as they arrive; iteration raises `PeerError` on a break."""
        return self._body

    def lines(self) -> AsyncIterator[bytes]:
        """Return the body line by line as it arrives.

        Each line has its line end, except perhaps the last one. If the body breaks off, iterating
        first returns what arrived and then raises `PeerError`.
        """
        return Lines(self._body)


class Clients:
    """One pinned HTTPS client for each peer.

    Args:
        mode: `general.peer_authentication`.
        ca_path: `general.ca_path`.
        idle_timeout: seconds after which an unused connection is not used again.
        connect_timeout: seconds for a connection, and again for its handshake.
        route: which connections go through a proxy.
    """

    def __init__(
        self,
        mode: Authentication = "cert_pinning",
        *,
        ca_path: Path | None = None,
        idle_timeout: float = 2.0,
        connect_timeout: float = CONNECT_TIMEOUT_S,
        route: ProxyRoute = _DIRECT,
    ) -> None:
        self._route = route
        self._mode: Authentication = mode
        self._ca_path = ca_path
        self._idle_timeout = idle_timeout
        self._connect_timeout = connect_timeout
        self._pins: dict[str, tuple[bytes, ...]] = {}
        self._clients: dict[str, _Client] = {}
        self._unused = Wake()

    def update(self, pins: Mapping[str, tuple[bytes, ...]]) -> None:
        """Replace the pins; clients whose pins have not changed stay as they are.

        The connections of the others close when their requests have ended; new requests use new
        connections.

        Args:
            pins: DER certificates by name of peer; peers not in here are no longer contacted.
        """
        if self._mode == "cert_pinning":
            changed = [name for name in self._clients if self._pins.get(name) != pins.get(name)]
        else:
            changed = []
        for name in changed:
            self._clients.pop(name).retire()
        self._pins = dict(pins)

    @asynccontextmanager
    async def request(
        self,
        peer: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        content: bytes | AsyncIterable[bytes] | None = None,
        auth: tuple[str, Secret] | None = None,
        stall_timeout: float = STALL_TIMEOUT_S,
    ) -> AsyncIterator[Answer]:
        """Make a request and return the answer as soon as its headers have arrived.

        The caller sets the deadline. Leaving the context before the end of the body closes the
        connection.

        Args:
            peer: name of the peer, whose pins must match.
            method: HTTP method.
            url: `https://…`, percent-encoded.
            headers: headers to send.
            content: the body; an iterable is sent as it is produced, chunked unless `headers` has
                its `Content-Length`. An exception that it raises ends the request and propagates.
            auth: user and password (RFC 7617).
            stall_timeout: seconds for which the peer may neither send nor take a byte.

        Raises:
            PeerError: there is no answer, or not from this peer.
        """
        body = content if content is None or isinstance(content, bytes) else Content(content)
        from relayd.fleet.peers.library import make_request, stream_of

        with explained():
            fields = _fields(url, headers, auth)
            request = make_request(method, url, fields, body, self._timeouts(stall_timeout))
        client = self._client(peer)
        with client.in_use():
            with explained(body):
                response = await client.pool().send(request)
            stream = stream_of(response)
            if stream is not None:
                stream.begin_body()
            # A generator of the library, whose cleanup must not wait for the garbage collector.
            rest = cast("Any", aiter(cast("AsyncIterable[bytes]", response.stream)))
            try:
                async with aclosing(rest):
                    yield Answer(response, Chunks(rest, stream))
            finally:
                with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                    await response.aclose()

    def origin(self, url: str) -> Origin:
        """Return what uploads need to know of a server's root URL.

        Raises:
            PeerError: it is none.
        """
        parts = _split(url)
        return Origin(str(parts.hostname), parts.port or 443, _host(parts))

    async def upload(
        self, peer: str, origin: Origin, request: bytes, limits: UploadLimits
    ) -> Reply:
        """Send a whole small request that may be sent twice, and return the answer to it.

        The request is sent again, at once, if the peer closed the reused connection before it
        sent any byte of an answer.

        Args:
            peer: name of the peer, whose pins must match.
            origin: the server.
            request: head and body, see `relayd.fleet.peers.uploads.head`.
            limits: of time.

        Raises:
            PeerError: there is no answer, or not from this peer.
            trio.TooSlowError: none came in time.
        """
        client = self._client(peer)
        client.begin_use()
        try:
            return await client.uploads.put(origin, request, limits)
        finally:
            client.end_use()

    def _timeouts(self, stall_timeout: float) -> dict[str, float]:
        """Return the timeouts of single steps, as the library expects them."""
        return {"connect": self._connect_timeout, "read": stall_timeout, "write": stall_timeout}

    async def probe(self, peer: str, url: str) -> None:
        """Connect, verify the peer's identity, and disconnect without a request.

        Raises:
            PeerError: the peer cannot be reached, or is another one.
        """
        parts = _split(url)
        client = self._client(peer)
        network = client.network
        stream = await network.connect_tcp(
            str(parts.hostname), parts.port or 443, self._connect_timeout
        )
        await stream.start_tls(client.context, parts.hostname, self._connect_timeout)
        await stream.aclose()

    async def run(self) -> None:
        """Close connections that are no longer used; run forever."""
        while True:
            await self._unused.wait()
            await trio.sleep(self._idle_timeout)
            before = trio.current_time() - self._idle_timeout
            for client in self._clients.values():
                client.close_unused(before)

    async def aclose(self) -> None:
        """Close all connections, including those in use."""
        for client in self._clients.values():
            client.network.close_now()
        self._clients.clear()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _client(self, peer: str) -> "_Client":
        client = self._clients.get(peer)
        if client is None:
            pins = self._pins.get(peer, ())
            context = make_context(self._mode, pins, self._ca_path)
            network = Network(pins if self._mode == "cert_pinning" else None, self._route)
            client = self._clients[peer] = _Client(
                network, context, self._unused.set, self._idle_timeout, self._connect_timeout
            )
        return client


class _Client:
    """A peer's connections."""

    def __init__(
        self,
        network: Network,
        context: ssl.SSLContext,
        unused: Callable[[], None],
        idle_timeout: float,
        connect_timeout: float,
    ) -> None:
        self.network = network
        self.context = context
        self.uploads = Uploads(network, context, idle_timeout, connect_timeout)
        self._pool: Pool | None = None
        self._idle_timeout = idle_timeout
        self._unused = unused
        self._users = 0
        self._last_use = 0.0
        self._retired = False

    def pool(self) -> "Pool":
        """Return the library's connections, for all that is no small upload."""
        if self._pool is None:
            from relayd.fleet.peers.library import Pool

            self._pool = Pool(self.network, self.context, MAX_CONNECTIONS, self._idle_timeout)
        return self._pool

    @contextmanager
    def in_use(self) -> Iterator[None]:
        self.begin_use()
        try:
            yield
        finally:
            self.end_use()

    def begin_use(self) -> None:
        self._users += 1

    def end_use(self) -> None:
        self._users -= 1
        self._last_use = trio.current_time()
        if not self._users:
            self._unused()
            if self._retired:
                self.network.close_now()

    def retire(self) -> None:
        self._retired = True
        if not self._users:
            self.network.close_now()

    def close_unused(self, before: float) -> None:
        if not self._users and self._last_use <= before:
            self.network.close_now()


def _fields(
    url: str, headers: Mapping[str, str], auth: tuple[str, Secret] | None
) -> dict[str, str]:
    fields = {"Host": _host(_split(url)), "User-Agent": USER_AGENT, "Accept": "*/*", **headers}
    if auth is not None:
        fields["Authorization"] = basic(*auth)
    return fields


def _host(parts: SplitResult) -> str:
    # Credentials are not for this header, and a zone means nothing to the peer: RFC 6874.
    return re.sub("%[^]]*", "", parts.netloc.rpartition("@")[2])


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise PeerError(f"no URL: {error}", "operator", PeerStep.CONNECT) from None
    if parts.scheme != "https" or not parts.hostname or not url.isascii():
        detail = "URLs of policy servers must begin with https://"
        raise PeerError(detail, "operator", PeerStep.CONNECT)
    return parts
