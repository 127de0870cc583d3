"""The HTTP library for requests of any kind and size; loaded when the first one is made.

It makes its connections as `relayd.fleet.peers.tls` does, and knows nothing of pins.
"""

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from http.cookiejar import CookieJar
from typing import Any, Final, cast
from urllib.parse import urlsplit

from relayd.fleet.peers.tls import Network, PeerStream, WriteBrokenError
from relayd.system.lean import lean

with lean("httpcore2"):
    import httpcore2
    import httpx2

#: What they raise for what a peer does, or for a URL.
FAILURES: Final = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    httpx2.HTTPError,
    httpx2.InvalidURL,
)


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection as the library sees it."""

    def __init__(self, peer: PeerStream) -> None:
        self.peer = peer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self.peer.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        try:
            await self.peer.write(buffer, timeout)
        except WriteBrokenError as error:
            # The library's own type: it then checks whether an answer came before the end.
            raise httpcore2.WriteError(str(error)) from None

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> "_Stream":
        await self.peer.start_tls(ssl_context, server_hostname, timeout)
        return self

    async def aclose(self) -> None:
        await self.peer.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Return the one thing that connection pools ask for: whether the peer closed it."""
        return not self.peer.is_quiet() if info == "is_readable" else None


class _Backend(httpcore2.AsyncNetworkBackend):
    def __init__(self, network: Network) -> None:
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        assert local_address is None
        assert not socket_options
        return _Stream(await self._network.connect_tcp(host, port, timeout))


class _Body(httpx2.AsyncByteStream):
    """The body of an answer, as the pool yields it."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return cast("AsyncIterator[bytes]", aiter(self._body))

    async def aclose(self) -> None:
        await self._body.aclose()


class _Response(httpx2.Response):
    """An answer from which the client takes no URL.

    Where it does not follow a redirect, it would still parse the target and prepare a request.
    """

    @property
    def has_redirect_location(self) -> bool:
        """Whether the client may go on to another URL."""
        return False


class _NoCookies(CookieJar):
    """Keeps no cookie of a peer, and does not even parse one."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Do nothing."""


class _Transport(httpx2.AsyncBaseTransport):
    """Connections of a `Network`, which the transport of the library cannot be given."""

    def __init__(self, pool: httpcore2.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        response = await self._pool.handle_async_request(
            httpcore2.Request(
                request.method,
                httpcore2.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                content=cast("AsyncIterable[bytes]", request.stream),
                extensions=request.extensions,
            )
        )
        return _Response(
            response.status,
            headers=response.headers,
            stream=_Body(response.stream),
            extensions=response.extensions,
        )


class Pool:
    """The library's connections to one peer.

    Args:
        network: makes them.
        context: of TLS.
        max_connections: open at once; further requests wait.
        idle_timeout: seconds after which an unused connection is not used again.
    """

    def __init__(
        self,
        network: Network,
        context: ssl.SSLContext,
        max_connections: int,
        idle_timeout: float,
    ) -> None:
        pool = httpcore2.AsyncConnectionPool(
            ssl_context=context,
            network_backend=_Backend(network),
            max_connections=max_connections,
            keepalive_expiry=idle_timeout,
        )
        self._client = httpx2.AsyncClient(
            transport=_Transport(pool),
            trust_env=False,
            follow_redirects=False,
            cookies=_NoCookies(),
        )

    async def send(self, request: "httpx2.Request") -> "httpx2.Response":
        """Send a request and return the answer as soon as its head has arrived."""
        # Streamed, so that nothing is decompressed; and no credentials but those in its headers.
        return await self._client.send(request, stream=True, auth=httpx2.Auth())


def make_request(
    method: str,
    url: str,
    headers: Mapping[str, str],
    content: bytes | AsyncIterable[bytes] | None,
    timeouts: Mapping[str, float],
) -> "httpx2.Request":
    """Return a request; `timeouts` are those of single steps, as the library expects them."""
    # Not by the client's own `build_request`, which adds headers such as Accept-Encoding.
    return httpx2.Request(
        method,
        url,
        headers=list(headers.items()),
        content=content,
        # As it is written: the library would leave out segments of dots.
        extensions={"timeout": dict(timeouts), "target": _target(url)},
    )


def _target(url: str) -> bytes:
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.path or '/'}{query}".encode("ascii")


def stream_of(response: "httpx2.Response") -> PeerStream | None:
    """Return the connection of an answer."""
    stream = response.extensions.get("network_stream")
    return stream.peer if isinstance(stream, _Stream) else None
