"""Uploads of small files: each request is written in one piece, the usual answer read in one.

A relay uploads one run log after the other, so what an upload costs is most of what a relay costs.
An answer is usual if it arrives at once, with a length, and leaves the connection open; all others
(in pieces, chunked, after interim answers, followed by something else) are left to h11.
"""

import base64
import re
import ssl
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from relayd import __version__
from relayd.config.secret import Secret
from relayd.errors import PeerError, PeerStep
from relayd.fleet.peers.tls import Network, PeerStream, WriteBrokenError, reason_of

if TYPE_CHECKING:
    import h11

USER_AGENT: Final = f"rudder-relayd/{__version__}"
#: An answer's body is read to its end so that the connection can be used again; not beyond this.
ANSWER_SIZE: Final = 64 * 1024
#: As many bytes as a part of an answer that is not complete may have.
_MAX_INCOMPLETE: Final = 100 * 1024
_PIECE: Final = 64 * 1024

#: The lines of a usual head, with nothing in them that may be read in two ways: a colon right after
#: the name of a field, visible ASCII and spaces.
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-9][0-9]{2}) [ -~]*")
_FIELD: Final = re.compile(rb"([A-Za-z0-9-]+): ([!-~][ -~]*)")
_END: Final = b"\r\n\r\n"
_NO_BODY: Final = frozenset({204, 304})


class Origin(msgspec.Struct, frozen=True):
    """A server.

    Attributes:
        host: name or address.
        port: of TCP.
        authority: both as in the header `Host`.
    """

    host: str
    port: int
    authority: str


class UploadLimits(msgspec.Struct, frozen=True):
    """How long an upload may take.

    Attributes:
        total: seconds for all of it.
        silence: seconds for which the peer may neither take nor send a byte.
        drain: seconds for the rest of an answer whose status is known.
    """

    total: float
    silence: float
    drain: float


class Reply(msgspec.Struct, frozen=True):
    """An answer.

    Attributes:
        status: of HTTP, final.
        retry_after: the header of this name, "" without one.
        reusable: whether the connection can be used for another request.
    """

    status: int
    retry_after: str
    reusable: bool


def basic(user: str, password: Secret) -> str:
    """Return the value of `Authorization` for a user and password (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password.reveal()}".encode()).decode("ascii")


def head(origin: Origin, authorization: str) -> tuple[bytes, bytes]:
    """Return the head of a PUT without its path and the number in its `Content-Length`.

    Returns:
        What stands between the path and the number, and after the number.
    """
    lines = (
        " HTTP/1.1",
        f"Host: {origin.authority}",
        f"User-Agent: {USER_AGENT}",
        "Accept: */*",
        f"Authorization: {authorization}",
        "Content-Length: ",
    )
    return "\r\n".join(lines).encode("ascii"), b"\r\n\r\n"


class _ClosedEarlyError(Exception):
    """A connection ended before any byte of an answer; says why."""


class Uploads:
    """The connections to one peer over which small requests are sent.

    Args:
        network: makes them.
        context: of TLS.
        idle_timeout: seconds after which an unused connection is not used again.
        connect_timeout: seconds for a connection, and again for its handshake.
    """

    def __init__(
        self,
        network: Network,
        context: ssl.SSLContext,
        idle_timeout: float,
        connect_timeout: float,
    ) -> None:
        self._network = network
        self._context = context
        self._idle_timeout = idle_timeout
        self._connect_timeout = connect_timeout
        #: The one that was used last is at the right. Each with the time until which it may be.
        self._idle: deque[tuple[PeerStream, float]] = deque()

    async def put(self, origin: Origin, request: bytes, limits: UploadLimits) -> Reply:
        """Send a request and return the answer to it, see `Clients.upload`."""
        end = trio.current_time() + limits.total
        exchange = _Exchange(request, limits, end)
        with trio.CancelScope(deadline=end) as scope:
            stream = self._take_idle()
            if stream is not None:
                try:
                    return await self._send(exchange, stream, scope)
                except _ClosedEarlyError:
                    scope.deadline = end
            stream = await self._connect(origin)
            try:
                return await self._send(exchange, stream, scope)
            except _ClosedEarlyError as error:
                raise _no_answer(str(error)) from None
        raise exchange.timeout()

    async def _connect(self, origin: Origin) -> PeerStream:
        stream = await self._network.connect_tcp(origin.host, origin.port, self._connect_timeout)
        return await stream.start_tls(self._context, origin.host, self._connect_timeout)

    async def _send(
        self, exchange: "_Exchange", stream: PeerStream, scope: trio.CancelScope
    ) -> Reply:
        reply = None
        try:
            reply = await exchange.run(stream, scope)
        finally:
            if reply is not None and reply.reusable and stream.is_open:
                self._idle.append((stream, trio.current_time() + self._idle_timeout))
            else:
                stream.close_now()
        return reply

    def _take_idle(self) -> PeerStream | None:
        """Return the connection that was used last, and close those that are of no use."""
        now = trio.current_time()
        idle = self._idle
        while idle and (idle[0][1] < now or not idle[0][0].is_open):
            idle.popleft()[0].close_now()
        while idle:
            stream, until = idle.pop()
            if until >= now and stream.is_quiet():
                return stream
            stream.close_now()
        return None


class _Exchange:
    """One request, over one connection or, if that one has ended, over a second one."""

    def __init__(self, request: bytes, limits: UploadLimits, end: float) -> None:
        self._request = request
        self._limits = limits
        self._end = end
        self._writing = False

    async def run(self, stream: PeerStream, scope: trio.CancelScope) -> Reply:
        """Send the request and read the answer; moves the deadline of `scope`."""
        silence = self._limits.silence
        scope.deadline = min(self._end, trio.current_time() + silence)
        self._writing = True
        broken = ""
        try:
            await stream.send_request(self._request)
        except WriteBrokenError as error:
            broken = str(error)  # an answer may have come before
        self._writing = False
        scope.deadline = min(self._end, trio.current_time() + silence)
        try:
            data = await stream.read_answer()
        except PeerError as error:
            raise _ClosedEarlyError(broken or error.detail) from None
        if not data:
            raise _ClosedEarlyError(broken or "it closed the connection without an answer")
        reply = usual_reply(data)
        if reply is None:
            scope.deadline = self._end
            reply = await _Unusual(stream, self._limits).read(data)
        return Reply(reply.status, reply.retry_after, reusable=False) if broken else reply

    def timeout(self) -> PeerError | trio.TooSlowError:
        """Return the error that says which deadline has passed."""
        if trio.current_time() >= self._end:
            return trio.TooSlowError()
        detail = "it stopped accepting data" if self._writing else "it did not answer in time"
        return PeerError(detail, "transient", PeerStep.ANSWER)


def usual_reply(data: bytes) -> Reply | None:
    """Return the answer if it is a usual one, whole, and nothing else.

    Args:
        data: what arrived first.
    """
    lines, end, body = data.partition(_END)
    first, *rest = lines.split(b"\r\n")
    begin, fields = _STATUS.fullmatch(first), _read_fields(rest)
    if not end or begin is None or fields is None or b"transfer-encoding" in fields:
        return None
    if fields.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    status = int(begin[1])
    bodiless = status in _NO_BODY
    length = fields.get(b"content-length", b"0" if bodiless else b"")
    if not length.isdigit() or len(length) > 9 or int(length) != len(body) or (bodiless and body):
        return None
    return Reply(status, fields.get(b"retry-after", b"").decode("ascii"), reusable=True)


def _read_fields(lines: Iterable[bytes]) -> dict[bytes, bytes] | None:
    """Return the fields by lower-case name; None if one is repeated or not a usual one."""
    fields: dict[bytes, bytes] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None or (name := field[1].lower()) in fields:
            return None
        fields[name] = field[2]
    return fields


class _Unusual:
    """Reads an answer with h11."""

    def __init__(self, stream: PeerStream, limits: UploadLimits) -> None:
        import h11

        self._h11 = h11
        self._stream = stream
        self._limits = limits
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_INCOMPLETE)
        # Only the method matters for how an answer is read.
        self._http.send(h11.Request(method="PUT", target="/", headers=[("Host", "x")]))
        self._http.send(h11.EndOfMessage())

    async def read(self, data: bytes) -> Reply:
        """Return the answer that begins with these bytes; leave out most of a large body.

        Raises:
            PeerError: it is not valid, too long, or breaks off before the end of its head.
        """
        self._http.receive_data(data)
        while not isinstance(event := await self._next_event(), self._h11.Response):
            pass  # interim answers; the stream bounds how many
        self._stream.begin_body()
        retry_after = b", ".join(value for name, value in event.headers if name == b"retry-after")
        reusable = await self._drain()
        return Reply(event.status_code, retry_after.decode("latin-1"), reusable)

    async def _drain(self) -> bool:
        """Read the body; return whether the connection can be used again."""
        # The head has said what became of the file; the rest only decides if the connection stays.
        size = 0
        with trio.move_on_after(self._limits.drain):
            try:
                while isinstance(event := await self._next_event(), self._h11.Data):
                    size += len(event.data)
                    self._stream.note_content(len(event.data))
                    if size > ANSWER_SIZE:
                        return False
            except PeerError:
                return False
            done = self._http.our_state is self._h11.DONE is self._http.their_state
            return done and self._http.trailing_data == (b"", False)
        return False

    async def _next_event(self) -> "type[h11.NEED_DATA | h11.PAUSED] | h11.Event":
        try:
            while (event := self._http.next_event()) is self._h11.NEED_DATA:
                data = await self._stream.read(_PIECE, self._limits.silence)
                if not data and self._http.their_state is self._h11.SEND_RESPONSE:
                    raise _no_answer("it closed the connection within the head of its answer")
                self._http.receive_data(data)
        except self._h11.RemoteProtocolError as error:
            raise _no_answer(reason_of(error)) from None
        return event


def _no_answer(detail: str) -> PeerError:
    return PeerError(f"no valid answer: {detail}", "transient", PeerStep.ANSWER)
