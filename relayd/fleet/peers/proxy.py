"""Connections to other policy servers through an HTTP proxy (CONNECT, RFC 9110, 9.3.6)."""

import base64
import re
from collections.abc import Iterable
from typing import Final

import trio

from relayd.config.proxy import Proxy, needs_no_proxy
from relayd.errors import PeerError, PeerStep
from relayd.system.addresses import bracketed

#: Bytes of the proxy's answer, which has no body.
_MAX_HEAD: Final = 16 * 1024
_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})(?: [^\r\n]*)?\r\n")
#: The proxy itself refuses: someone has to change its configuration or ours.
_REFUSALS: Final = frozenset({400, 401, 403, 404, 405, 407, 501, 505})


class ProxyRoute:
    """Decides which connections go through a proxy, and makes them.

    Args:
        proxy: None to connect to all hosts directly.
        exceptions: hosts to which connections are direct, see `needs_no_proxy`.
    """

    def __init__(self, proxy: Proxy | None = None, exceptions: Iterable[str] = ()) -> None:
        self._proxy = proxy
        self._exceptions = tuple(exceptions)

    def proxy_for(self, host: str) -> Proxy | None:
        """Return the proxy for a host, None to connect to it directly."""
        if self._proxy is None or needs_no_proxy(host, self._exceptions):
            return None
        return self._proxy


async def open_tunnel(proxy: Proxy, stream: trio.SocketStream, host: str, port: int) -> None:
    """Have a proxy connect to a host; afterwards all bytes pass to that host.

    Args:
        proxy: the proxy.
        stream: connection to it; closed if an exception is raised.
        host: the host to connect to.
        port: its port.

    Raises:
        PeerError: the proxy did not do it.
        trio.BrokenResourceError: the connection broke.
    """
    try:
        await _ask(proxy, stream, f"{bracketed(host.partition('%')[0])}:{port}")
    except BaseException:
        stream.socket.close()
        raise


async def _ask(proxy: Proxy, stream: trio.SocketStream, target: str) -> None:
    await stream.send_all(_request(proxy, target))
    status = await _read_status(proxy, stream)
    if not 200 <= status < 300:
        raise _refusal(proxy, target, status)


def _request(proxy: Proxy, target: str) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.user or proxy.password:
        account = f"{proxy.user}:{proxy.password.reveal()}".encode("utf-8", "replace")
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(account).decode('ascii')}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def _read_status(proxy: Proxy, stream: trio.SocketStream) -> int:
    head = b""
    while _END not in head:
        more = bytes(await stream.receive_some(_MAX_HEAD))
        if not more or len(head) + len(more) > _MAX_HEAD:
            raise _no_answer(proxy)
        head += more
    found = _STATUS.match(head)
    # In TLS the client speaks first: nothing of the host can have come yet.
    if found is None or not head.endswith(_END) or head.count(_END) > 1:
        raise _no_answer(proxy)
    return int(found[1])


def _no_answer(proxy: Proxy) -> PeerError:
    return PeerError(f"proxy {proxy}: no valid answer", "transient", PeerStep.CONNECT)


def _refusal(proxy: Proxy, target: str, status: int) -> PeerError:
    if status == 407:
        word = "refused the user and password of" if proxy.user else "requires a user in"
        return PeerError(f"proxy {proxy} {word} general.https_proxy", "operator", PeerStep.CONNECT)
    detail = f"proxy {proxy} answered {status} to a connection to {target}"
    return PeerError(detail, "operator" if status in _REFUSALS else "transient", PeerStep.CONNECT)
