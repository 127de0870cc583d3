"""HTTPS to other policy servers: one client for each, with connections that are reused.

Redirects, proxies and settings of the environment are ignored, and no byte of HTTP is written
before the peer has proved its identity (`relayd.fleet.peers.tls`).
"""

import base64
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast
from urllib.parse import SplitResult, urlsplit

import httpcore2
import trio

from relayd import __version__
from relayd.config.secret import Secret
from relayd.errors import PeerError, PeerStep
from relayd.fleet.peers.tls import Authentication, Network, make_context, reason_of
from relayd.system.wake import Wake

__all__ = ["CONNECT_TIMEOUT_S", "Answer", "Clients", "PeerError"]

USER_AGENT: Final = f"rudder-relayd/{__version__}"
#: For establishing a connection, and again for the TLS handshake.
CONNECT_TIMEOUT_S: Final = 5.0
#: A peer that neither sends nor takes a byte for this long is considered gone, unless the caller
#: sets another value. Callers set a deadline for the whole request.
STALL_TIMEOUT_S: Final = 300.0
#: Open connections to one peer; further requests wait. As many as there may be remote runs, each
#: of which may stream from the same relay.
MAX_CONNECTIONS: Final = 512
#: A longer line is returned in pieces.
MAX_LINE: Final = 64 * 1024
CLOSE_TIMEOUT_S: Final = 1.0

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Answer:
    """The answer of a peer; its body can be read once, while the request is open.

    Attributes:
        status: HTTP status.
        headers: values by name in lower case; repeated headers are joined by commas.
    """

    def __init__(self, response: httpcore2.Response, body: AsyncIterator[bytes]) -> None:
        self.status = response.status
        self.headers: dict[str, str] = {}
        for name, value in response.headers:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        self._body = body

    def chunks(self) -> AsyncIterator[bytes]:
        """Return the body in pieces as they arrive; iteration raises `PeerError` on a break."""
        return _Chunks(self._body)

    def lines(self) -> AsyncIterator[bytes]:
        """Return the body line by line as it arrives.

        Each line has its line end, except perhaps the last one. If the body breaks off, iterating
        first returns what arrived and then raises `PeerError`.
        """
        return _Lines(self._body)


class Clients:
    """One pinned HTTPS client for each peer.

    Args:
        mode: `general.peer_authentication`.
        ca_path: `general.ca_path`.
        idle_timeout: seconds after which an unused connection is not used again.
        connect_timeout: seconds for a connection, and again for its handshake.
    """

    def __init__(
        self,
        mode: Authentication = "cert_pinning",
        *,
        ca_path: Path | None = None,
        idle_timeout: float = 2.0,
        connect_timeout: float = CONNECT_TIMEOUT_S,
    ) -> None:
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
        request = _make_request(method, url, headers, content, auth)
        request.extensions = {"timeout": self._timeouts(stall_timeout)}
        client = self._client(peer)
        with client.in_use():
            with _explained():
                response = await client.pool.handle_async_request(request)
            # A generator of the library, whose cleanup must not wait for the garbage collector.
            body = cast("Any", aiter(cast("AsyncIterable[bytes]", response.stream)))
            try:
                async with aclosing(body):
                    yield Answer(response, body)
            finally:
                with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                    await response.aclose()

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
            network = Network(pins if self._mode == "cert_pinning" else None)
            pool = httpcore2.AsyncConnectionPool(
                ssl_context=context,
                network_backend=network,
                max_connections=MAX_CONNECTIONS,
                keepalive_expiry=self._idle_timeout,
            )
            client = self._clients[peer] = _Client(pool, network, context, self._unused.set)
        return client


class _Client:
    """A peer's connections."""

    def __init__(
        self,
        pool: httpcore2.AsyncConnectionPool,
        network: Network,
        context: ssl.SSLContext,
        unused: Callable[[], None],
    ) -> None:
        self.pool = pool
        self.network = network
        self.context = context
        self._unused = unused
        self._users = 0
        self._last_use = 0.0
        self._retired = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        self._users += 1
        try:
            yield
        finally:
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


class _Chunks:
    """Iterates over a body, turning errors of the library into `PeerError`."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body

    def __aiter__(self) -> "_Chunks":
        return self

    async def __anext__(self) -> bytes:
        with _explained():
            return await anext(self._body)


class _Lines:
    """Splits a body into lines."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self._begun = b""
        self._whole: list[bytes] = []
        self._end: StopAsyncIteration | PeerError | None = None

    def __aiter__(self) -> "_Lines":
        return self

    async def __anext__(self) -> bytes:
        while not self._whole:
            if self._end is not None:
                raise self._end
            try:
                with _explained():
                    self._cut(await anext(self._body))
            except (StopAsyncIteration, PeerError) as end:
                self._end = end
                if self._begun:
                    self._whole, self._begun = [self._begun], b""
        return self._whole.pop()

    def _cut(self, data: bytes) -> None:
        lines = (self._begun + data).splitlines(keepends=True)
        self._begun = b""
        if lines and not lines[-1].endswith(b"\n") and len(lines[-1]) < MAX_LINE:
            self._begun = lines.pop()
        self._whole = lines[::-1]


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors of the library into `PeerError`."""
    try:
        yield
    except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError) as error:
        raise PeerError(
            f"no valid answer: {reason_of(error)}", "transient", PeerStep.ANSWER
        ) from None


def _make_request(
    method: str,
    url: str,
    headers: Mapping[str, str],
    content: bytes | AsyncIterable[bytes] | None,
    auth: tuple[str, Secret] | None,
) -> httpcore2.Request:
    fields = {"Host": _split(url).netloc, "User-Agent": USER_AGENT, "Accept": "*/*", **headers}
    if auth is not None:
        fields["Authorization"] = _basic(*auth)
    framed = {name.lower() for name in fields} & {"content-length", "transfer-encoding"}
    if isinstance(content, bytes):
        fields["Content-Length"] = str(len(content))
    elif content is not None and not framed:
        fields["Transfer-Encoding"] = "chunked"
    elif content is None and method in {"POST", "PUT"}:
        fields["Content-Length"] = "0"
    return httpcore2.Request(
        method,
        url,
        headers=list(fields.items()),
        content=content,
    )


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or not url.isascii():
        detail = "URLs of policy servers must begin with https://"
        raise PeerError(detail, "operator", PeerStep.CONNECT)
    return parts


def _basic(user: str, password: Secret) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password.reveal()}".encode()).decode("ascii")
