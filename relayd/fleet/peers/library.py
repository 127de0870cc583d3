"""The HTTP library for requests of any kind and size; loaded when the first one is made.

It makes its connections as `relayd.fleet.peers.tls` does, and knows nothing of pins.
"""

import ssl
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from relayd.fleet.peers.tls import Network, PeerStream, WriteBrokenError
from relayd.system.lean import lean

with lean("httpcore2"):
    import httpcore2

if TYPE_CHECKING:
    from httpcore2 import Response

#: What it raises for what a peer does.
FAILURES: Final = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
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
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context,
            network_backend=_Backend(network),
            max_connections=max_connections,
            keepalive_expiry=idle_timeout,
        )

    async def send(self, request: "httpcore2.Request") -> "Response":
        """Send a request and return the answer as soon as its head has arrived."""
        return await self._pool.handle_async_request(request)


def make_request(
    method: str,
    url: str,
    headers: Mapping[str, str],
    content: bytes | AsyncIterable[bytes] | None,
    timeouts: Mapping[str, float],
) -> "httpcore2.Request":
    """Return a request; `timeouts` are those of single steps, as the library expects them."""
    request = httpcore2.Request(method, url, headers=list(headers.items()), content=content)
    request.extensions = {"timeout": dict(timeouts)}
    return request


def stream_of(response: "Response") -> PeerStream | None:
    """Return the connection of an answer."""
    stream = response.extensions.get("network_stream")
    return stream.peer if isinstance(stream, _Stream) else None
