"""An HTTP proxy for CONNECT on 127.0.0.1, as a site has one between its relays.

async with open_connect_proxy() as proxy:
    ...                     # a client that connects through 127.0.0.1:proxy.port
    assert proxy.targets == ["127.0.0.1:443"]
"""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from tests.support.tls_server import LOST


class ConnectProxy:
    """The running proxy.

    Attributes:
        port: on 127.0.0.1.
        account: `user:password` that it asks for; "" for none.
        answer: sent in place of its own answer, after which it closes; None to work.
        targets: host and port of each connection that it was asked for, in order.
        where: connects there, whatever the target is; None to connect to the target.
        seen: all bytes that clients sent after CONNECT.
    """

    def __init__(self, account: str, answer: bytes | None) -> None:
        self.port = 0
        self.account = account
        self.answer = answer
        self.targets: list[str] = []
        self.where: tuple[str, int] | None = None
        self.seen = bytearray()

    async def serve(self, client: trio.SocketStream) -> None:
        """One connection."""
        with suppress(*LOST):
            async with client:
                await self._serve(client)

    async def _serve(self, client: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += bytes(await client.receive_some(4096)) or b"\r\n\r\n"
        line, *fields = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        assert method == "CONNECT"
        self.targets.append(target)
        if self.answer is not None:
            await client.send_all(self.answer)
            return
        wanted = base64.b64encode(self.account.encode()).decode()
        if self.account and f"Proxy-Authorization: Basic {wanted}" not in fields:
            await client.send_all(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            return
        host, _, port = target.rpartition(":")
        async with await trio.open_tcp_stream(
            *(self.where or (host.strip("[]"), int(port)))
        ) as far:
            await client.send_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 x\r\n\r\n")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_on, client, far, self.seen, nursery.cancel_scope)
                nursery.start_soon(self._pass_on, far, client, None, nursery.cancel_scope)

    @staticmethod
    async def _pass_on(
        source: trio.SocketStream,
        target: trio.SocketStream,
        seen: bytearray | None,
        scope: trio.CancelScope,
    ) -> None:
        with suppress(*LOST):
            async for data in source:
                if seen is not None:
                    seen += data
                await target.send_all(data)
        scope.cancel()


@asynccontextmanager
async def open_connect_proxy(
    account: str = "", answer: bytes | None = None
) -> AsyncIterator[ConnectProxy]:
    """Run the proxy until the block ends."""
    proxy = ConnectProxy(account, answer)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()
