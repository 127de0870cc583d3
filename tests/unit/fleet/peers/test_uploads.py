"""Uploads of small files: the answers that are read without the library, on real TLS sockets."""

# ruff: noqa: D102 - an overridden method does what its base says

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from relayd.config.secret import Secret
from relayd.errors import PeerError
from relayd.fleet.peers.client import Clients
from relayd.fleet.peers.uploads import UploadLimits, basic, head, usual_reply
from tests.support.signing import make_key_and_cert
from tests.support.tls_server import (
    CHUNKED,
    NEVER_GETS_ON,
    OK,
    Behaviour,
    Cut,
    Endless,
    Exchange,
    Peer,
    Raw,
    Silent,
    open_peer,
    reset,
)

NODE = make_key_and_cert("upstream")
PATIENT = UploadLimits(total=30.0, silence=30.0, drain=5.0)
#: One answer of nginx to an upload.
USUAL = (
    b"HTTP/1.1 201 Created\r\nServer: nginx/1.22.1\r\nDate: Sun, 01 Mar 2026 12:00:00 GMT\r\n"
    b"Content-Length: 0\r\nLocation: https://h/reports/x\r\nConnection: keep-alive\r\n\r\n"
)


@asynccontextmanager
async def open_clients(*, idle_timeout: float = 60.0) -> AsyncIterator[tuple[Clients, Peer]]:
    """Run a server, and clients that know it."""
    async with open_peer(NODE) as peer:
        clients = Clients(idle_timeout=idle_timeout)
        clients.update({"upstream": (NODE.cert_der,)})
        yield clients, peer
        await clients.aclose()


async def put(
    clients: Clients,
    peer: Peer,
    body: bytes = b"content",
    name: str = "x.log",
    limits: UploadLimits = PATIENT,
) -> tuple[int, str, bool]:
    """Upload a file; return status, `Retry-After`, and whether the connection stays."""
    origin = clients.origin(peer.url)
    before, after = head(origin, basic("rudder", Secret("secret")))
    request = b"PUT /reports/%b%b%d%b%b" % (name.encode(), before, len(body), after, body)
    with trio.fail_after(40):
        reply = await clients.upload("upstream", origin, request, limits)
    return reply.status, reply.retry_after, reply.reusable


async def test_uploads_arrive_as_they_are_over_one_connection() -> None:
    """Files of any size arrive byte for byte, with the headers that the library would send."""
    bodies = [b"", b"x", bytes(range(256)) * 250, b"y" * 300_000]
    async with open_clients() as (clients, peer):
        for number, body in enumerate(bodies):
            assert await put(clients, peer, body, f"{number}%20.log") == (201, "", True)
        async with clients.request(
            "upstream", "PUT", f"{peer.url}/x", content=b"", auth=("rudder", Secret("secret"))
        ) as answer:
            assert answer.status == 201
        sent = [(f"/reports/{number}%20.log", body) for number, body in enumerate(bodies)]
        assert peer.uploads == [*sent, ("/x", b"")]
        assert peer.requests[0].headers == peer.requests[-1].headers
        assert peer.connections == 2  # the library has its own


class Once(Behaviour):
    """Answers the first request with any bytes, in pieces; then it is a good server."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts
        self.sent = False
        self._first = True

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        body = await exchange.body()
        if not self._first:
            peer.store(exchange, body)
            await exchange.reply(204)
            return
        self._first = False
        for part in self.parts:
            await exchange.stream.send_all(part)
        self.sent = True
        peer.ring()
        # The server's own h11 knows nothing of it: the connection goes on without its state.
        await _go_on(peer, exchange)


async def _go_on(peer: Peer, exchange: Exchange) -> None:
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=200_000)
    data = b""
    while b"\r\n\r\n" not in data:
        more = await exchange.stream.receive_some(65_536)
        if not more:
            raise trio.BrokenResourceError
        data += more
    http.receive_data(data)
    request = http.next_event()
    assert isinstance(request, h11.Request)
    again = Exchange(exchange.stream, http, request)
    peer.store(again, await again.body())
    await again.reply(204)
    raise trio.BrokenResourceError


@pytest.mark.parametrize(
    ("parts", "reply"),
    [
        pytest.param((USUAL,), (201, "", True), id="usual"),
        pytest.param((b"HTTP/1.1 204 No Content\r\n\r\n",), (204, "", True), id="no length needed"),
        pytest.param(
            (b"HTTP/1.1 503 \r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno",),
            (503, "7", True),
            id="busy",
        ),
        pytest.param((USUAL[:9], USUAL[9:50], USUAL[50:]), (201, "", True), id="pieces"),
        pytest.param((USUAL[:-1], USUAL[-1:]), (201, "", True), id="last byte later"),
        pytest.param((OK + b"Content-Length: 3\r\n\r\n", b"abc"), (200, "", True), id="body later"),
        pytest.param((CHUNKED, b"3\r\nabc\r\n0\r\n\r\n"), (200, "", True), id="chunked"),
        pytest.param((b"HTTP/1.1 100 Continue\r\n\r\n", USUAL), (201, "", True), id="100"),
        pytest.param((b"HTTP/1.1 103 x\r\nLink: </a>\r\n\r\n" + USUAL,), (201, "", True), id="103"),
        pytest.param((USUAL + USUAL,), (201, "", False), id="two answers at once"),
        pytest.param((USUAL + b"x",), (201, "", False), id="more than the answer"),
        pytest.param(
            (USUAL.replace(b"keep-alive", b"close"),), (201, "", False), id="connection ends"
        ),
        pytest.param(
            (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",), (200, "", False), id="HTTP/1.0"
        ),
    ],
)
async def test_answer_is_read_however_it_comes(
    parts: tuple[bytes, ...], reply: tuple[int, str, bool]
) -> None:
    """The status counts, and the connection is used again only if the answer ended well."""
    async with open_clients() as (clients, peer):
        peer.behaviour = Once(*parts)
        assert await put(clients, peer) == reply
        assert (await put(clients, peer, name="next.log"))[0] == 204
        assert peer.uploads == [("/reports/next.log", b"content")]
        assert peer.connections == (1 if reply[2] else 2)


async def test_answer_that_nobody_asked_for_is_not_that_of_the_next_request() -> None:
    """A second answer after the first, in the same packet or later, closes the connection."""
    created, refused = USUAL, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    async with open_clients() as (clients, peer):
        peer.behaviour = once = Once(created, refused)
        assert (await put(clients, peer))[0] == 201
        await peer.until(lambda: once.sent)
        assert await put(clients, peer) == (204, "", True)
        assert peer.connections == 2
        await peer.until(lambda: peer.open == 1)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(OK + b"Content-Length: 9\r\n\r\nabc", 200, id="cut body"),
        pytest.param(CHUNKED + b"9\r\nabc", 200, id="cut chunk"),
        pytest.param(CHUNKED + b"zz\r\n", 200, id="no chunk"),
        pytest.param(OK + b"\r\nuntil the end", 200, id="until the end"),
        pytest.param(OK + b"Content-Length: 99999\r\n\r\n" + b"x" * 99_999, 200, id="large body"),
    ],
)
async def test_a_body_that_goes_wrong_ends_only_the_connection(answer: bytes, status: int) -> None:
    """Once the head is there the outcome is known, whatever follows."""
    async with open_clients() as (clients, peer):
        peer.behaviour = Raw(answer)
        assert await put(clients, peer) == (status, "", False)
        await peer.until(lambda: peer.open == 0)


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(Cut("accept"), id="reset at once"),
        pytest.param(Cut("body"), id="reset within the body"),
        pytest.param(Cut("stored"), id="reset before the answer"),
        pytest.param(Raw(b""), id="closed before the answer"),
        pytest.param(Raw(b"HTTP/1.1 100 Continue\r\n\r\n"), id="interim answer only"),
        pytest.param(Raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"), id="another protocol"),
        pytest.param(Raw(b"HTTP/1.1 201 Created\r\nContent-"), id="cut head"),
        pytest.param(Raw(b"220 mail.example.org ESMTP\r\n"), id="no HTTP"),
        pytest.param(Raw(b"\x00" * 5000), id="binary"),
        pytest.param(Raw(USUAL.replace(b": 0", b": 0\r\nContent-Length: 1")), id="two lengths"),
        pytest.param(Raw(USUAL.replace(b": 0", b": -1")), id="negative length"),
        pytest.param(Raw(USUAL.replace(b": 0", b": 0x0")), id="odd length"),
        pytest.param(Raw(USUAL.replace(b"Server:", b"Server :")), id="space before the colon"),
        pytest.param(Raw(b" " + USUAL), id="space before the head"),
        pytest.param(
            Raw(OK + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n"),
            id="huge head",
            marks=pytest.mark.fault("U3"),
        ),
    ],
)
async def test_what_is_no_answer_is_transient_and_leaks_nothing(behaviour: Behaviour) -> None:
    """An incomplete or invalid answer is a transient error, and the connection is closed."""
    async with open_clients() as (clients, peer):
        peer.behaviour = behaviour
        with pytest.raises(PeerError) as caught:
            await put(clients, peer, b"x" * 60_000)
        assert caught.value.kind == "transient"
        assert caught.value.detail
        await peer.until(lambda: peer.open == 0)
        peer.behaviour = Behaviour()
        assert await put(clients, peer) == (201, "", True)


@pytest.mark.fault("F27")
@pytest.mark.parametrize(
    ("first", "piece"),
    [
        *NEVER_GETS_ON,
        pytest.param(OK + b"Connection: close\r\n\r\n", b"x" * 1000, id="body"),
    ],
)
async def test_answer_that_never_gets_on_is_bounded(first: bytes, piece: bytes) -> None:
    """Interim answers, headers, framing, trailers and bodies without end are cut off soon."""
    async with open_clients() as (clients, peer):
        peer.behaviour = Endless(first, piece)
        try:
            assert await put(clients, peer) == (200, "", False)
        except PeerError as error:
            assert error.step == "answer"  # noqa: PT017  either is right
        await peer.until(lambda: peer.open == 0)


class Early(Behaviour):
    """Answers at the head of a request, without reading the body."""

    def __init__(self, status: int, *, close: bool) -> None:
        self.status = status
        self.close = close

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        await exchange.reply(self.status, [("Retry-After", "3")])
        if self.close:
            raise trio.BrokenResourceError
        await exchange.digest()


@pytest.mark.parametrize("status", [413, 503])
@pytest.mark.parametrize("close", [True, False])
async def test_answer_before_the_body_was_sent_counts(status: int, close: bool) -> None:
    """The status of an early answer is returned, and no other request gets it."""
    async with open_clients() as (clients, peer):
        peer.behaviour = Early(status, close=close)
        try:
            assert (await put(clients, peer, b"x" * 60_000))[:2] == (status, "3")
        except PeerError as error:
            # A reset by the peer, which left the body unread, may overtake its answer.
            assert close
            assert error.kind == "transient"  # noqa: PT017
        peer.behaviour = Behaviour()
        assert (await put(clients, peer))[0] == 201
        assert [body for _, body in peer.uploads] == [b"content"]


class Ending(Behaviour):
    """Stores a file and ends the connection some time after its answer."""

    def __init__(self, when: str) -> None:
        self.when = when
        self.served = 0

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        self.served += 1
        if self.when == "at the next request" and self.served == 2:
            reset(exchange.stream.transport_stream)
        await super().serve(peer, exchange)
        if self.when == "after the answer" and self.served == 1:
            raise trio.BrokenResourceError


@pytest.mark.parametrize("when", ["after the answer", "at the next request"])
async def test_connection_that_ended_between_requests_is_replaced(when: str) -> None:
    """The next file goes over a new connection at once, and arrives once."""
    async with open_clients() as (clients, peer):
        peer.behaviour = Ending(when)
        await put(clients, peer, b"1")
        if when == "after the answer":
            await peer.until(lambda: peer.open == 0)
        for body in (b"2", b"3"):
            assert await put(clients, peer, body) == (201, "", True)
        assert [body for _, body in peer.uploads] == [b"1", b"2", b"3"]
        assert peer.connections == 2


async def test_request_is_sent_again_only_over_a_reused_connection_and_once() -> None:
    """A peer that closes each connection at the request gets it twice at most."""
    async with open_clients() as (clients, peer):
        await put(clients, peer)
        peer.behaviour = Raw(b"")
        with pytest.raises(PeerError, match="without an answer"):
            await put(clients, peer)
        assert len(peer.requests) == 1 + 2
        with pytest.raises(PeerError, match="without an answer"):
            await put(clients, peer)
        assert len(peer.requests) == 1 + 2 + 1


async def test_connection_is_not_used_after_its_time() -> None:
    """An idle connection is closed at the next upload after its timeout."""
    async with open_clients(idle_timeout=0.05) as (clients, peer):
        await put(clients, peer)
        await trio.sleep(0.1)
        await put(clients, peer)
        assert peer.connections == 2
        await peer.until(lambda: peer.open == 1)


async def test_idle_connections_are_closed() -> None:
    """Without a further upload too, and they are replaced by the next one."""
    async with open_clients(idle_timeout=0.05) as (clients, peer), trio.open_nursery() as nursery:
        nursery.start_soon(clients.run)
        for connections in (1, 2):
            assert await put(clients, peer) == (201, "", True)
            await peer.until(lambda: peer.open == 0)
            assert peer.connections == connections
        nursery.cancel_scope.cancel()


@pytest.mark.fault("U13")
async def test_another_pin_applies_from_the_next_upload_on() -> None:
    """Connections to a peer whose pin has changed are closed, and not used again."""
    async with open_clients() as (clients, peer):
        await put(clients, peer)
        clients.update({"upstream": (make_key_and_cert("upstream", serial=7).cert_der,)})
        await peer.until(lambda: peer.open == 0)
        with pytest.raises(PeerError) as caught:
            await put(clients, peer)
        assert not caught.value.reached
        assert len(peer.requests) == 1
        clients.update({})
        with pytest.raises(PeerError, match="no certificate is pinned"):
            await put(clients, peer)


async def test_silence_ends_an_upload() -> None:
    """A peer that does not answer, or takes no more bytes, is given up after the silence."""
    limits = UploadLimits(total=30.0, silence=0.2, drain=5.0)
    async with open_clients() as (clients, peer):
        peer.behaviour = Silent()
        with pytest.raises(PeerError, match="did not answer in time") as caught:
            await put(clients, peer, limits=limits)
        assert caught.value.reached
        with pytest.raises(PeerError, match="stopped accepting data"):
            await put(clients, peer, b"x" * 20_000_000, limits=limits)
        peer.behaviour = Endless(USUAL[:20], b"")
        with pytest.raises(PeerError, match="did not answer in time"):
            await put(clients, peer, limits=limits)


@pytest.mark.parametrize("behaviour", [Silent(), Silent(before_tls=True), Endless(USUAL[:20], b"")])
async def test_upload_has_a_deadline(behaviour: Behaviour) -> None:
    """However an upload hangs, it ends with the time for all of it, and its connection too."""
    async with open_clients() as (clients, peer):
        peer.behaviour = behaviour
        limits = UploadLimits(total=0.2, silence=30.0, drain=5.0)
        with pytest.raises(trio.TooSlowError):
            await put(clients, peer, limits=limits)
        peer.behaviour = Behaviour()
        assert await put(clients, peer) == (201, "", True)


async def test_rest_of_an_answer_is_not_waited_for_long() -> None:
    """An answer whose body does not come counts after a moment."""
    async with open_clients() as (clients, peer):
        peer.behaviour = Endless(OK + b"Content-Length: 9\r\n\r\n", b"")
        limits = UploadLimits(total=30.0, silence=30.0, drain=0.05)
        assert await put(clients, peer, limits=limits) == (200, "", False)


@pytest.mark.parametrize("behaviour", [Silent(before_tls=True), Silent()])
async def test_cancelled_upload_leaves_nothing_open(behaviour: Behaviour) -> None:
    """An upload cancelled at any point closes its connection; the client stays usable."""
    async with open_clients() as (clients, peer):
        await put(clients, peer)
        peer.behaviour = behaviour
        with trio.move_on_after(0.1) as scope:
            await put(clients, peer)
        if isinstance(behaviour, Silent) and not behaviour.before_tls:
            assert scope.cancelled_caught
        peer.behaviour = Behaviour()
        assert await put(clients, peer) == (201, "", True)


def read_by_h11(data: bytes) -> tuple[int, bytes, bool] | None:
    """Return status, `Retry-After` and reusability of a whole answer; None if it is not one."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="PUT", target="/", headers=[("Host", "x")]))
    http.send(h11.EndOfMessage())
    http.receive_data(data)
    found = None
    try:
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return None
            if isinstance(event, h11.Response):
                found = event
    except h11.RemoteProtocolError:
        return None
    assert found is not None
    wait = b", ".join(value for name, value in found.headers if name == b"retry-after")
    states = http.our_state is h11.DONE and http.their_state is h11.DONE
    return found.status_code, wait, states and http.trailing_data == (b"", False)


_LINES = st.sampled_from(
    [
        *(b"Content-Length: %b" % value for value in (b"0", b"1", b"2", b"-1", b"+1", b"0x1")),
        *(b"Content-Length: %b" % value for value in (b"1, 1", b"1 ", b"", b"00", b"9" * 10)),
        b"Content-Length:1",
        b"content-length : 1",
        b"Transfer-Encoding: chunked",
        b"transfer-encoding:\tchunked",
        *(b"Connection: %b" % value for value in (b"close", b"keep-alive", b"x, Close", b"x")),
        *(b"Retry-After: %b" % value for value in (b"7", b"soon", b"")),
        b"Server: nginx",
        b" folded",
        b"no colon",
        b"X: \x00",
        b"X: \xe9",
        b"X: a\rb",
        b"X: a\nContent-Length: 1",
        b"",
    ]
)
_STATUS = st.sampled_from(
    [
        *(b"HTTP/1.1 %d OK" % status for status in (100, 101, 200, 201, 204, 304, 413, 503, 999)),
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 ",
        b"HTTP/2 200 OK",
        b"http/1.1 200 x",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 200 \xe9",
    ]
)


@given(_STATUS, st.lists(_LINES, max_size=4), st.sampled_from([b"", b"a", b"ab", b"0\r\n\r\n"]))
@example(b"HTTP/1.1 201 Created", [b"Content-Length: 0"], b"")
def test_what_is_read_at_once_is_what_h11_reads(
    status: bytes, lines: list[bytes], body: bytes
) -> None:
    """No answer is read at once and differently from h11, which reads all the others."""
    data = b"\r\n".join([status, *lines, b"", b""]) + body
    reply = usual_reply(data)
    if reply is not None:
        mine = reply.status, reply.retry_after.encode(), reply.reusable
        assert mine == read_by_h11(data)


@given(st.data())
def test_no_mutation_of_an_answer_is_read_differently(data: st.DataObject) -> None:
    """Bytes of an answer that are changed, left out or put in: as above."""
    answer = bytearray(USUAL.replace(b"Content-Length: 0", b"Content-Length: 3") + b"abc")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(answer) - 1))
        answer[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    reply = usual_reply(bytes(answer))
    if reply is not None:
        mine = reply.status, reply.retry_after.encode(), reply.reusable
        assert mine == read_by_h11(bytes(answer))


def test_usual_answers_are_read_at_once() -> None:
    """The answers of the usual servers need no other reader, and a cut one is not taken."""
    assert usual_reply(USUAL) is not None
    assert usual_reply(b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n") is not None
    for size in range(len(USUAL)):
        assert usual_reply(USUAL[:size]) is None
