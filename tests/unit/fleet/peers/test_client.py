"""The client of other policy servers, against a real TLS server on a real socket."""

import codecs
import gc
import gzip
import os
import ssl
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http.cookiejar import Cookie
from pathlib import Path

import pytest
import trio
import trio.testing

from relayd.config.secret import Secret
from relayd.fleet.peers import client as client_module
from relayd.fleet.peers.client import MAX_LINE, USER_AGENT, Clients, PeerError
from relayd.fleet.peers.tls import Authentication
from tests.support.issuing import authority, issue, issue_for_host
from tests.support.signing import SigningNode, make_key_and_cert
from tests.support.tls_server import (
    CHUNKED,
    NEVER_GETS_ON,
    Answer,
    Behaviour,
    Cut,
    Endless,
    Exchange,
    Peer,
    Raw,
    Silent,
    With,
    open_peer,
    server_context,
)

NODE = make_key_and_cert("upstream")
PASSWORD = "a very secret password"


_made: list[Clients] = []


@pytest.fixture(autouse=True)
async def _close_clients() -> AsyncIterator[None]:
    yield
    for clients in _made:
        await clients.aclose()
    _made.clear()


def made(clients: Clients) -> Clients:
    """Return `clients`, to be closed when the test ends."""
    _made.append(clients)
    return clients


def clients_for(*pins: bytes, mode: Authentication = "cert_pinning") -> Clients:
    """Return clients that know one peer."""
    clients = made(Clients(mode))
    clients.update({"upstream": pins})
    return clients


async def put(
    clients: Clients, peer: Peer, name: str = "x.log", body: bytes = b"content"
) -> tuple[int, bytes]:
    """Upload with credentials; return status and body of the answer."""
    with trio.fail_after(20):
        async with clients.request(
            "upstream",
            "PUT",
            f"{peer.url}/reports/{name}",
            content=body,
            auth=("rudder", Secret(PASSWORD)),
        ) as answer:
            return answer.status, b"".join([chunk async for chunk in answer.chunks()])


async def test_a_request_reaches_a_pinned_peer_and_its_connection_is_used_again() -> None:
    """Two uploads arrive byte for byte over one connection, with credentials and user agent."""
    async with open_peer(NODE) as peer:
        clients = clients_for(NODE.cert_der)
        for body in (b"one", b"two"):
            assert await put(clients, peer, "a%3Fb", body) == (201, b"")
        assert peer.uploads == [("/reports/a%3Fb", b"one"), ("/reports/a%3Fb", b"two")]
        assert peer.connections == 1
        assert peer.requests[0].headers["user-agent"] == USER_AGENT
        assert peer.requests[0].headers["authorization"].startswith("Basic cnVkZGVyOmEg")


AUTHORITY = authority("authority")
ISSUED = issue(AUTHORITY, "issued")
STRANGER = make_key_and_cert("stranger")


@pytest.mark.parametrize(
    ("shown", "chain", "pins"),
    [
        pytest.param(STRANGER, b"", (NODE.cert_der,), id="another", marks=pytest.mark.fault("U11")),
        pytest.param(
            make_key_and_cert("upstream", key=make_key_and_cert("another").key),
            b"",
            (NODE.cert_der,),
            id="same subject",
            marks=pytest.mark.fault("TLS1", "U11"),
        ),
        pytest.param(
            make_key_and_cert("upstream", serial=99), b"", (NODE.cert_der,), id="same key, renewed"
        ),
        pytest.param(
            ISSUED,
            AUTHORITY.cert_pem,
            (AUTHORITY.cert_der,),
            id="issued by the pinned one",
            marks=pytest.mark.fault("TLS2", "U11"),
        ),
        pytest.param(
            issue(NODE, "child"),
            NODE.cert_pem,
            (NODE.cert_der,),
            id="signed by the pinned leaf",
            marks=pytest.mark.fault("TLS2"),
        ),
        pytest.param(
            make_key_and_cert("expired", not_after=datetime(2021, 1, 1, tzinfo=UTC)),
            b"",
            (NODE.cert_der,),
            id="expired",
            marks=pytest.mark.fault("U11"),
        ),
        pytest.param(NODE, b"", (), id="nothing pinned", marks=pytest.mark.fault("U11")),
    ],
)
async def test_nothing_is_written_to_a_peer_that_is_not_the_pinned_one(
    shown: SigningNode, chain: bytes, pins: tuple[bytes, ...]
) -> None:
    """A peer with any other certificate is an error, and gets not a single byte of HTTP."""
    async with open_peer(shown) as peer:
        peer.behaviour = With(server_context(shown, chain))
        clients = clients_for(*pins)
        with pytest.raises(PeerError) as caught:
            await put(clients, peer)
        assert caught.value.kind == "operator"
        assert not caught.value.reached
        assert PASSWORD not in str(caught.value)
        await peer.until(lambda: peer.open == 0)
        assert (peer.http_bytes, peer.requests) == (0, [])


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(NODE, id="self-signed", marks=pytest.mark.fault("TLS3")),
        pytest.param(ISSUED, id="issued leaf"),
        pytest.param(AUTHORITY, id="authority"),
        pytest.param(
            make_key_and_cert("old", not_after=datetime(2021, 1, 1, tzinfo=UTC)),
            id="expired",
            marks=pytest.mark.fault("TLS6"),
        ),
    ],
)
async def test_the_very_certificate_is_accepted_whatever_it_says(node: SigningNode) -> None:
    """A pinned certificate needs no authority, no host name and no date."""
    async with open_peer(node) as peer:
        clients = clients_for(NODE.cert_der, node.cert_der)
        assert await put(clients, peer) == (201, b"")


@pytest.mark.fault("TLS3")
async def test_a_certificate_as_agents_make_theirs_is_accepted(tmp_path: Path) -> None:
    """The self-signed certificate that openssl makes with an agent's options can be pinned."""
    cert, key = tmp_path / "cert", tmp_path / "key"
    subject = "/UID=4ac2a4d1-9b8c-4a6b-8a4e-0d4cf3a2d1f0"
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "3650"]
    command = ["openssl", "req", *options, "-subj", subject, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    der = ssl.PEM_cert_to_DER_cert(cert.read_text())
    node = SigningNode("a", NODE.key, key.read_bytes(), cert.read_bytes(), der)
    async with open_peer(node) as peer:
        clients = clients_for(der)
        assert await put(clients, peer) == (201, b"")


@pytest.mark.fault("U12", "TLS5")
@pytest.mark.parametrize("mode", ["cert_pinning", "dangerous_none"])
async def test_tls_before_1_3_is_refused(mode: Authentication) -> None:
    """A server that has TLS 1.2 at most gets no byte of HTTP, whatever the mode."""
    async with open_peer(NODE) as peer:
        context = server_context(NODE)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        peer.behaviour = With(context)
        clients = clients_for(NODE.cert_der, mode=mode)
        with pytest.raises(PeerError, match="TLS handshake failed"):
            await put(clients, peer)
        assert peer.http_bytes == 0


@pytest.mark.fault("TLS5")
async def test_suites_without_authentication_are_refused() -> None:
    """A server that only offers anonymous key exchange gets no byte of HTTP."""
    async with open_peer(NODE) as peer:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("aNULL:@SECLEVEL=0")
        peer.behaviour = With(context)
        clients = clients_for(NODE.cert_der)
        with pytest.raises(PeerError, match="TLS handshake failed"):
            await put(clients, peer)
        assert peer.http_bytes == 0


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{}/x", "ftp://127.0.0.1:{}/x", "https://", "https://127.0.0.1:{}/é"]
)
async def test_only_https_is_spoken(url: str) -> None:
    """Another scheme, or a URL that is not percent-encoded, is refused before connecting."""
    async with open_peer(NODE) as peer:
        clients = clients_for(NODE.cert_der)
        with pytest.raises(PeerError):
            async with clients.request("upstream", "GET", url.format(peer.port)):
                pass
        assert peer.connections == 0


@pytest.mark.fault("TLS9", "U7")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_answers_like_others(status: int) -> None:
    """The target of a redirect is neither parsed nor connected to."""
    async with open_peer(NODE) as peer, open_peer(NODE) as other:
        clients = clients_for(NODE.cert_der)
        # From the second one the library cannot make a URL, and fails.
        targets = [f"{other.url}/reports/x.log", f"https://xn--1{'0' * 300}/"]
        for target in targets:
            peer.behaviour = Answer(status, [("Location", target)], b"gone")
            assert await put(clients, peer) == (status, b"gone")
        assert (len(peer.requests), other.connections) == (len(targets), 0)


async def test_a_path_is_sent_as_it_is_written() -> None:
    """Dots, doubled slashes, percent-encodings of any case and parameters are not normalised."""
    target = "//a/../b/./c//d%2f%2F|{e};f?g=%20+h"
    async with open_peer(NODE) as peer:
        await ask(clients_for(NODE.cert_der), f"{peer.url}{target}")
        assert [request.target for request in peer.requests] == [target]


async def test_the_library_adds_no_headers_and_keeps_no_cookies() -> None:
    """No encoding is asked for, no cookie is kept, and no credentials of a URL are sent."""
    async with open_peer(NODE) as peer:
        peer.behaviour = Answer(200, [("Set-Cookie", "session=1; Path=/")])
        clients = clients_for(NODE.cert_der)
        for url in (peer.url, peer.url, peer.url.replace("//", "//user:secret@")):
            assert await ask(clients, f"{url}/x") == 200
        for request in peer.requests:
            assert request.headers.keys() == {"host", "user-agent", "accept"}
            assert request.headers["host"] == f"127.0.0.1:{peer.port}"
        assert not [each for each in gc.get_objects() if isinstance(each, Cookie)]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
async def test_an_encoded_body_is_not_decoded(encoding: str) -> None:
    """A small body that claims to be compressed does not grow: it arrives as it was sent."""
    bomb = gzip.compress(bytes(10_000_000))
    async with open_peer(NODE) as peer:
        peer.behaviour = Answer(200, [("Content-Encoding", encoding)], bomb)
        assert await put(clients_for(NODE.cert_der), peer) == (200, bomb)


async def test_more_requests_than_connections_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more connections are opened to a peer than allowed; further requests use them in turn."""
    monkeypatch.setattr(client_module, "MAX_CONNECTIONS", 2)
    async with open_peer(NODE) as peer:
        peer.behaviour = keep = Keep()
        clients = clients_for(NODE.cert_der)
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(put, clients, peer, f"{number}.log")
            await peer.until(lambda: len(peer.requests) == 2)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(peer.requests) == 2
            keep.go.set()
        assert len(peer.requests) == 5
        assert (peer.connections, peer.most_open) == (2, 2)


def validating(path: Path, pem: bytes) -> Clients:
    """Return clients that trust these authorities."""
    path.write_bytes(pem)
    return made(Clients("cert_validation", ca_path=path))


async def ask(clients: Clients, url: str) -> int:
    """Return the status of a GET."""
    with trio.fail_after(20):
        async with clients.request("upstream", "GET", url) as answer:
            return answer.status


async def test_validation_asks_for_an_authority_and_the_host_name(tmp_path: Path) -> None:
    """Only the configured authority vouches for a host, and only by its name."""
    async with open_peer(issue_for_host(AUTHORITY, "localhost")) as peer:
        url = f"https://localhost:{peer.port}/x"
        mine = validating(tmp_path / "ca.pem", AUTHORITY.cert_pem)
        assert await ask(mine, url) == 201
        with pytest.raises(PeerError, match="not the expected one"):
            await ask(mine, f"{peer.url}/x")
        others = validating(tmp_path / "other.pem", STRANGER.cert_pem)
        with pytest.raises(PeerError, match="not the expected one"):
            await ask(others, url)
        assert len(peer.requests) == 1
        marked = validating(tmp_path / "marked.pem", codecs.BOM_UTF8 + AUTHORITY.cert_pem)
        assert await ask(marked, url) == 201


@pytest.mark.parametrize("text", ["", "\ufeff", "\ufeff<html>", "<html>", None])
async def test_authorities_that_cannot_be_loaded_are_reported(
    tmp_path: Path, text: str | None
) -> None:
    """A missing or invalid file of authorities is an error for the operator that names it."""
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    clients = made(Clients("cert_validation", ca_path=path))
    with pytest.raises(PeerError, match=r"ca\.pem") as caught:
        await ask(clients, "https://localhost:1/x")
    assert caught.value.kind == "operator"


async def test_no_authentication_takes_any_certificate() -> None:
    """If verification is switched off, any peer is accepted."""
    async with open_peer(STRANGER) as peer:
        clients = made(Clients("dangerous_none"))
        assert await put(clients, peer) == (201, b"")


_ISOLATED = """
import sys, trio
from pathlib import Path
from relayd.fleet.peers.client import Clients, PeerError

async def main(port, pin, mode):
    clients = Clients(mode)
    clients.update({"upstream": (Path(pin).read_bytes(),)})
    try:
        with trio.fail_after(20):
            async with clients.request("upstream", "GET", f"https://localhost:{port}/x") as answer:
                print(answer.status)
    except PeerError as error:
        print(error.detail)

trio.run(main, *sys.argv[1:])
"""


async def run_isolated(command: list[str], port: int, pin: Path, mode: str, **env: str) -> str:
    """Return the output of a client in a separate process."""
    program = textwrap.dedent(_ISOLATED)
    done = await trio.run_process(
        [*command, sys.executable, "-c", program, str(port), str(pin), mode],
        env=os.environ | env,
        capture_stdout=True,
    )
    return str(done.stdout.decode().strip())


@pytest.mark.fault("TLS9")
async def test_the_environment_does_not_count(tmp_path: Path) -> None:
    """Proxies, key logs, authorities and passwords set in the environment are ignored."""
    (tmp_path / "pin").write_bytes(NODE.cert_der)
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.cert_pem)
    env = {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "",
        "SSLKEYLOGFILE": str(tmp_path / "keys"),
        "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
        "NETRC": str(tmp_path / "netrc"),
    }
    (tmp_path / "netrc").write_text("default login user password secret\n")
    async with open_peer(NODE) as peer:
        pinned = await run_isolated([], peer.port, tmp_path / "pin", "cert_pinning", **env)
        assert pinned == "201"
        assert "authorization" not in peer.requests[0].headers
    async with open_peer(issue_for_host(AUTHORITY, "localhost")) as peer:
        validated = await run_isolated([], peer.port, tmp_path / "pin", "cert_validation", **env)
        assert "not the expected one" in validated or "no certificate authorities" in validated
        assert peer.http_bytes == 0
    assert not (tmp_path / "keys").exists()


@pytest.mark.fault("TLS7")
async def test_the_systems_authorities_are_not_opened_for_a_pin(tmp_path: Path) -> None:
    """No certificate store of the system is opened for a request to a pinned peer."""
    (tmp_path / "pin").write_bytes(NODE.cert_der)
    stores = ssl.get_default_verify_paths()
    async with open_peer(NODE) as peer:
        log = tmp_path / "strace"
        command = ["strace", "-f", "-e", "trace=openat,open", "-o", str(log)]
        assert await run_isolated(command, peer.port, tmp_path / "pin", "cert_pinning") == "201"
    opened = log.read_text()
    assert "libssl" in opened or "_ssl" in opened
    for store in (stores.openssl_cafile, stores.openssl_capath, "/etc/ssl/certs"):
        assert store not in opened


class Keep(Behaviour):
    """Answers once `go` is set."""

    def __init__(self) -> None:
        self.go = trio.Event()

    async def serve(self, peer: Peer, exchange: Exchange) -> None:  # noqa: D102
        await exchange.body()
        await self.go.wait()
        await exchange.reply(204)


@asynccontextmanager
async def pending_put(clients: Clients, peer: Peer) -> AsyncIterator[list[tuple[int, bytes]]]:
    """Keep an upload in progress in the block; its answer is in the list afterwards."""
    answers: list[tuple[int, bytes]] = []

    async def upload() -> None:
        answers.append(await put(clients, peer))

    before = len(peer.requests)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload)
        await peer.until(lambda: len(peer.requests) > before)
        yield answers


@pytest.mark.fault("U13")
@pytest.mark.history(57)
async def test_another_pin_applies_from_the_next_request_on() -> None:
    """A request in progress completes with the old pin; new requests use the new one at once."""
    renewed = make_key_and_cert("upstream", serial=7)
    async with open_peer(NODE) as peer:
        clients = clients_for(NODE.cert_der)
        peer.behaviour = keep = Keep()
        async with pending_put(clients, peer) as answers:
            clients.update({"upstream": (renewed.cert_der,)})
            with pytest.raises(PeerError):
                await put(clients, peer)
            peer.behaviour = With(server_context(renewed))
            assert await put(clients, peer) == (201, b"")
            keep.go.set()
        assert answers == [(204, b"")]
        await peer.until(lambda: peer.open == 1)  # the renewed one, idle


async def test_clients_of_unchanged_pins_stay() -> None:
    """Connections to a peer whose pins are unchanged survive a change of other pins."""
    async with open_peer(NODE) as peer:
        clients = Clients()
        clients.update({"upstream": (NODE.cert_der,), "relay": (STRANGER.cert_der,)})
        await put(clients, peer)
        clients.update({"upstream": (NODE.cert_der,), "relay": (AUTHORITY.cert_der,)})
        await put(clients, peer)
        assert peer.connections == 1
        clients.update({"relay": (AUTHORITY.cert_der,)})
        await peer.until(lambda: peer.open == 0)
        with pytest.raises(PeerError, match="no certificate is pinned"):
            await put(clients, peer)


async def test_idle_connections_are_closed() -> None:
    """A connection that is not used again is closed, without any further request."""
    async with open_peer(NODE) as peer, trio.open_nursery() as nursery:
        clients = made(Clients(idle_timeout=0.05))
        clients.update({"upstream": (NODE.cert_der,)})
        nursery.start_soon(clients.run)
        await put(clients, peer)
        await peer.until(lambda: peer.open == 0)
        assert await put(clients, peer) == (201, b"")
        nursery.cancel_scope.cancel()


async def test_a_connection_that_the_peer_closed_is_not_used_again() -> None:
    """When the peer closes an idle connection, the next request opens a new one."""
    async with open_peer(NODE) as peer:
        clients = made(Clients(idle_timeout=60))
        clients.update({"upstream": (NODE.cert_der,)})
        peer.behaviour = Raw(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        await put(clients, peer)
        await peer.until(lambda: peer.open == 0)
        peer.behaviour = Behaviour()
        assert await put(clients, peer) == (201, b"")
        assert peer.connections == 2


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(Cut("accept"), id="reset at once"),
        pytest.param(Cut("body"), id="reset within the body"),
        pytest.param(Cut("stored"), id="reset before the answer"),
        pytest.param(Raw(b""), id="closed before the answer"),
        pytest.param(Raw(b"HTTP/1.1 201 Created\r\nContent-"), id="cut head"),
        pytest.param(Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), id="cut body"),
        pytest.param(Raw(b"220 mail.example.org ESMTP\r\n"), id="no HTTP"),
        pytest.param(Raw(b"\x00" * 5000), id="binary"),
        pytest.param(
            Raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n"),
            id="huge head",
            marks=pytest.mark.fault("U3"),
        ),
    ],
)
async def test_a_broken_answer_is_transient_and_leaks_nothing(behaviour: Behaviour) -> None:
    """An incomplete or invalid answer is a transient error in one line; its connection closes."""
    async with open_peer(NODE) as peer:
        peer.behaviour = behaviour
        clients = clients_for(NODE.cert_der)
        with pytest.raises(PeerError) as caught:
            await put(clients, peer, body=b"x" * 200_000)
        assert caught.value.kind == "transient"
        assert caught.value.detail.isprintable()
        assert 0 < len(caught.value.detail) < 300
        await peer.until(lambda: peer.open == 0)
        peer.behaviour = Behaviour()
        assert await put(clients, peer) == (201, b"")


@pytest.mark.fault("U1")
async def test_unreachable_peer_is_an_error_with_the_reason() -> None:
    """A refused connection and an unknown host are transient errors that give the reason."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    clients = clients_for(NODE.cert_der)
    with pytest.raises(PeerError, match="Connection refused") as caught:
        await ask(clients, f"https://127.0.0.1:{port}/x")
    assert (caught.value.kind, caught.value.reached) == ("transient", False)
    with pytest.raises(PeerError, match=r"no connection: .+") as caught:
        await ask(clients, "https://no-such-host.invalid/x")
    assert (caught.value.kind, caught.value.reached) == ("transient", False)


@pytest.mark.fault("U2")
async def test_a_peer_without_a_handshake_hits_the_connect_deadline() -> None:
    """A handshake that never completes is abandoned even if the caller sets no deadline."""
    async with open_peer(NODE) as peer:
        peer.behaviour = Silent(before_tls=True)
        clients = made(Clients(connect_timeout=0.2))
        clients.update({"upstream": (NODE.cert_der,)})
        with pytest.raises(PeerError, match="TLS handshake timed out"):
            await put(clients, peer)
        await peer.until(lambda: peer.connections == 1)


async def test_silence_ends_a_request() -> None:
    """A request to a peer that does not answer fails after the stall timeout."""
    async with open_peer(NODE) as peer:
        peer.behaviour = Silent()
        clients = clients_for(NODE.cert_der)
        with pytest.raises(PeerError, match="did not answer in time") as caught:
            async with clients.request("upstream", "GET", f"{peer.url}/x", stall_timeout=0.1):
                pass
        assert caught.value.reached


class Stuck(Behaviour):
    """Stops at a step of an exchange, and then waits for the end of the connection."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.reached = trio.Event()
        self.cancelled = trio.Event()

    async def accept(self, stream: trio.SocketStream) -> None:  # noqa: D102
        if self.step == "handshake":
            await self._drain(stream.receive_some)

    async def serve(self, peer: Peer, exchange: Exchange) -> None:  # noqa: D102
        if self.step != "request":
            await exchange.digest()
        if self.step == "rest":
            await exchange.stream.send_all(CHUNKED + b"1\r\nx\r\n")
        await self._drain(exchange.stream.receive_some)

    async def _drain(self, receive: Callable[[int], Awaitable[bytes | bytearray]]) -> None:
        self.reached.set()
        await self.cancelled.wait()
        while await receive(65_536):
            pass
        raise trio.BrokenResourceError


@pytest.mark.parametrize("step", ["handshake", "request", "answer", "rest"])
async def test_a_cancelled_request_closes_its_connection(step: str) -> None:
    """A request cancelled at any step closes its connection at once; the client stays usable."""
    body = bytes(20_000_000 if step == "request" else 7)  # more than the sockets' buffers hold
    async with open_peer(NODE) as peer:
        peer.behaviour = stuck = Stuck(step)
        clients = clients_for(NODE.cert_der)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, clients, peer, "x.log", body)
            await stuck.reached.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        gc.collect()
        stuck.cancelled.set()
        await peer.until(lambda: peer.open == 0)
        peer.behaviour = Behaviour()
        assert await put(clients, peer) == (201, b"")


async def test_lines_arrive_as_they_are_written() -> None:
    """Lines are returned one by one before the end of the body, the last without a line end."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with open_peer(NODE) as peer:
        peer.behaviour = Raw(head, b"5\r\na\nb\r\n\r\n", b"3\r\ncd\n\r\n", b"1\r\ne\r\n0\r\n\r\n")
        clients = clients_for(NODE.cert_der)
        async with clients.request("upstream", "GET", f"{peer.url}/x") as answer:
            assert [line async for line in answer.lines()] == [b"a\n", b"b\r\n", b"cd\n", b"e"]


async def test_lines_before_a_break_are_returned() -> None:
    """Data received before the body broke off is returned first, then the error is raised."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    got: list[bytes] = []
    async with open_peer(NODE) as peer:
        peer.behaviour = Raw(head, b"4\r\na\nbc\r\n")
        clients = clients_for(NODE.cert_der)
        async with clients.request("upstream", "GET", f"{peer.url}/x") as answer:
            lines = answer.lines()
            got.extend([await anext(lines), await anext(lines)])
            with pytest.raises(PeerError):
                await anext(lines)
    assert got == [b"a\n", b"bc"]


async def test_an_endless_line_is_returned_in_pieces() -> None:
    """An endless line does not accumulate in memory."""
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    async with open_peer(NODE) as peer:
        peer.behaviour = Endless(head, b"x" * 30_000)
        clients = clients_for(NODE.cert_der)
        async with clients.request("upstream", "GET", f"{peer.url}/x") as answer:
            async for line in answer.lines():
                assert MAX_LINE <= len(line) < 3 * MAX_LINE
                break
        await peer.until(lambda: peer.open == 0)


async def test_a_streamed_body_arrives_as_it_is() -> None:
    """A body arrives byte for byte, chunked if its length is unknown, else with that length."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d\n" % number

    whole = b"".join(b"%d\n" % number for number in range(100))
    async with open_peer(NODE) as peer:
        clients = clients_for(NODE.cert_der)
        for headers in ({}, {"Content-Length": str(len(whole))}):
            url = f"{peer.url}/x"
            async with clients.request(
                "upstream", "PUT", url, headers=headers, content=pieces()
            ) as answer:
                assert answer.status == 201
        assert peer.uploads == [("/x", whole)] * 2
        assert peer.requests[0].headers["transfer-encoding"] == "chunked"
        assert peer.requests[1].headers["content-length"] == str(len(whole))


@pytest.mark.fault("TLS10")
async def test_the_password_is_only_sent_encrypted_and_to_the_pinned_peer() -> None:
    """The password is never readable on the wire, and never sent to another peer."""
    wire = bytearray()

    async def tap(client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", peer.port)

        async def copy(source: trio.SocketStream, target: trio.SocketStream) -> None:
            try:
                async for data in source:
                    wire.extend(data)
                    await target.send_all(data)
                await target.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                return

        async with trio.open_nursery() as copies, client, server:
            copies.start_soon(copy, client, server)
            await copy(server, client)
            copies.cancel_scope.cancel()

    async with open_peer(NODE) as peer, trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, tap, listeners)
        url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}/reports/x"
        for pin, status in ((NODE, 201), (STRANGER, None)):
            clients = clients_for(pin.cert_der)
            try:
                async with clients.request(
                    "upstream", "PUT", url, content=b"x", auth=("rudder", Secret(PASSWORD))
                ) as answer:
                    assert answer.status == status
            except PeerError:
                assert status is None
        assert len(peer.requests) == 1
        nursery.cancel_scope.cancel()
    assert len(wire) > 1000
    assert PASSWORD.encode() not in wire
    assert b"Authorization" not in wire


@pytest.mark.fault("F27")
@pytest.mark.parametrize("method", ["PUT", "HEAD", "POST"])
@pytest.mark.parametrize(("head", "piece"), NEVER_GETS_ON)
async def test_answer_that_never_gets_on_is_bounded(method: str, head: bytes, piece: bytes) -> None:
    """Interim answers, headers, framing and trailers without end close the connection soon."""
    async with open_peer(NODE) as peer:
        peer.behaviour = Endless(head, piece)
        clients = clients_for(NODE.cert_der)
        size = 0
        broken = False
        try:
            with trio.fail_after(20):
                async with clients.request("upstream", method, f"{peer.url}/x") as answer:
                    async for chunk in answer.chunks():
                        size += len(chunk)
        except PeerError as error:
            broken = error.step == "answer"
        # The end of a HEAD answer is that of its head: what follows is not read at all.
        assert broken or (method == "HEAD" and CHUNKED in head)
        assert size < 2000
        if not broken:  # an idle connection like any other
            await clients.aclose()
        await peer.until(lambda: peer.open == 0)


async def test_few_interim_answers_and_small_chunks_are_no_flood() -> None:
    """An upstream that announces progress, and a body in chunks of one byte, are accepted."""
    interim = b"HTTP/1.1 102 Processing\r\n\r\n" * 500
    chunks = b"1\r\nx\r\n" * 30_000 + b"0\r\nA: b\r\n\r\n"
    async with open_peer(NODE) as peer:
        peer.behaviour = Raw(interim, CHUNKED, chunks)
        assert await put(clients_for(NODE.cert_der), peer) == (200, b"x" * 30_000)


@pytest.mark.fault("F6")
@pytest.mark.parametrize("mode", ["cert_pinning", "cert_validation", "dangerous_none"])
@pytest.mark.parametrize(
    "url",
    [
        "https://a..b/x",
        "https://.a/x",
        f"https://{'a' * 64}/x",
        f"https://{'a.' * 200}/x",
        "https://[::1/x",
        "https://[v1.x]/x",
        "https://[fe80::1%25nowhere]:1/x",
        "https://h:99999/x",
        "https://h:x/x",
        "https://a%00b/x",
        "https://\ud800/x",
        "https://é.test/x",
        "https:///x",
        "https://a b/x",
        "https://127.0.0.1:1/a b\r\nc: d",
        "http://h/x",
        "\x00",
    ],
)
async def test_url_that_no_library_takes_is_an_error_of_its_request(
    mode: Authentication, url: str
) -> None:
    """Names, ports and paths on which a library stumbles make `PeerError`, in any place."""
    clients = made(Clients(mode))
    clients.update({"upstream": (NODE.cert_der,)})
    with trio.fail_after(20):
        with pytest.raises(PeerError):
            async with clients.request("upstream", "PUT", url, content=b""):
                pass
        with pytest.raises(PeerError):
            await clients.probe("upstream", url)


async def test_error_of_a_body_to_send_is_passed_on_as_it_is() -> None:
    """An exception of the body is not taken for one of a library, whatever its type."""

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise ValueError("mine")

    async with open_peer(NODE) as peer:
        clients = clients_for(NODE.cert_der)
        with pytest.raises(ValueError, match="mine"):
            async with clients.request("upstream", "PUT", f"{peer.url}/x", content=body()):
                pass
