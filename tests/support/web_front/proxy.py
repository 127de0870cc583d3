"""Forwards requests to relayd and its answers to the client, both as they arrive."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal

import h11
import trio

from relayd.config.main_conf import Listen
from tests.support.web_front.requests import Exchange, LostError

#: Headers of a single connection (RFC 9110, 7.6.1), and Expect, which was answered already.
_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect"}
)
_CHUNK: Final = 64 * 1024

Outcome = Literal["done", "client gone", "relayd gone"]


async def forward(exchange: Exchange, request: h11.Request, api: Listen, target: bytes) -> None:
    """Forward a request to relayd, and its answer to the client.

    Args:
        exchange: the client.
        request: its request.
        api: address on which relayd listens.
        target: path and query for relayd.

    Raises:
        LostError: the client is gone, or relayd's answer was incomplete.
    """
    try:
        async with _dial(api) as stream:
            await _ProxiedRequest(exchange, stream).run(request, target)
    except OSError:
        await exchange.answer(503, "relayd does not answer")


@asynccontextmanager
async def _dial(api: Listen) -> AsyncIterator[trio.SocketStream]:
    if api.path:
        stream = await trio.open_unix_socket(api.path)
    else:
        stream = await trio.open_tcp_stream(api.host, api.port)
    async with stream:
        yield stream


class _ProxiedRequest:
    """One request on its way to relayd, and the answer on its way back."""

    def __init__(self, exchange: Exchange, stream: trio.SocketStream) -> None:
        self._exchange = exchange
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._begun = False
        self._outcome: Outcome = "done"

    async def run(self, request: h11.Request, target: bytes) -> None:
        """Return when the answer is complete or one of the two sides is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_request, request, target, nursery.cancel_scope)
            self._outcome = await self._return_answer()
            nursery.cancel_scope.cancel("answered")
        if self._outcome == "relayd gone" and not self._begun:
            await self._exchange.answer(503, "relayd does not answer")
        elif self._outcome != "done":
            raise LostError

    async def _send_request(
        self, request: h11.Request, target: bytes, whole: trio.CancelScope
    ) -> None:
        headers = [(name, value) for name, value in request.headers if name not in _HOP]
        headers += [(b"connection", b"close"), (b"x-forwarded-for", self._exchange.peer.encode())]
        if b"transfer-encoding" in dict(request.headers):
            headers.append((b"transfer-encoding", b"chunked"))
        try:
            await self._send(h11.Request(method=request.method, target=target, headers=headers))
            while data := await self._exchange.read():
                await self._send(h11.Data(data=data))
            await self._send(h11.EndOfMessage())
            await self._exchange.wait_gone()
        except (LostError, h11.RemoteProtocolError):
            pass
        except trio.BrokenResourceError:
            return  # relayd reads no further; its answer says why
        self._outcome = "client gone"
        whole.cancel("client gone")

    async def _return_answer(self) -> Outcome:
        try:
            while True:
                event = await self._receive()
                if isinstance(event, h11.Response):
                    await self._begin(event)
                elif isinstance(event, h11.Data):
                    await self._exchange.send_data(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    await self._exchange.end()
                    return "done"
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            return "relayd gone"
        except LostError:
            return "client gone"

    async def _begin(self, answer: h11.Response) -> None:
        self._begun = True
        headers = ((name, value) for name, value in answer.headers if name not in _HOP)
        await self._exchange.begin(answer.status_code, headers)

    async def _receive(self) -> h11.Event:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._stream.receive_some(_CHUNK))
            elif isinstance(event, h11.Event):
                return event
            else:  # h11.PAUSED: nothing may follow the answer
                raise h11.RemoteProtocolError("more than one answer")

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._stream.send_all(data)
