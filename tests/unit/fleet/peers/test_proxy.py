"""Connections through an HTTP proxy, which is a real one on a real socket."""

from collections.abc import Mapping

import pytest
import trio

from relayd.config.proxy import (
    Proxy,
    environment_warnings,
    needs_no_proxy,
    read_exceptions,
    read_proxy,
)
from relayd.config.secret import Secret
from relayd.errors import PeerError, PeerStep
from relayd.fleet.peers.client import Clients
from relayd.fleet.peers.proxy import ProxyRoute
from relayd.fleet.peers.uploads import UploadLimits, head
from tests.support.connect_proxy import open_connect_proxy
from tests.support.signing import make_key_and_cert
from tests.support.tls_server import open_peer

NODE = make_key_and_cert("upstream")


def clients_through(proxy: Proxy, *exceptions: str, timeout: float = 5.0) -> Clients:
    """Return clients that know one peer and reach it through a proxy."""
    clients = Clients(route=ProxyRoute(proxy, exceptions), connect_timeout=timeout)
    clients.update({"upstream": (NODE.cert_der,)})
    return clients


async def put(clients: Clients, url: str) -> int:
    """Upload and return the status; close the connections."""
    try:
        with trio.fail_after(20):
            async with clients.request(
                "upstream", "PUT", f"{url}/reports/x", content=b"content"
            ) as answer:
                return answer.status
    finally:
        await clients.aclose()


@pytest.mark.fault("F57")
@pytest.mark.parametrize("host", ["127.0.0.1", "relay.test", "[2001:db8::1]"])
async def test_requests_pass_through_the_proxy_inside_of_tls(host: str) -> None:
    """A pinned peer is reached by its name through a proxy with a password, which sees only TLS."""
    async with open_peer(NODE) as peer, open_connect_proxy("us:er:p w") as proxy:
        proxy.where = ("127.0.0.1", peer.port)
        route = Proxy("127.0.0.1", proxy.port, "us:er", Secret("p w"))
        url = f"https://{host}:8443"
        assert await put(clients_through(route), url) == 201
        clients = clients_through(route)
        await clients.probe("upstream", url)
        origin = clients.origin(url)
        request = b"PUT /small%b7%bcontent" % head(origin, "none")
        limits = UploadLimits(total=20.0, silence=20.0, drain=1.0)
        assert (await clients.upload("upstream", origin, request, limits)).status == 201
        await clients.aclose()
        assert proxy.targets == [f"{host}:8443"] * 3
        assert peer.uploads == [("/reports/x", b"content"), ("/small", b"content")]
        assert [request.headers["host"] for request in peer.requests] == [f"{host}:8443"] * 2
        assert b"content" not in proxy.seen


@pytest.mark.fault("F57")
@pytest.mark.parametrize("exceptions", [("127.0.0.0/8",), ("x", "127.0.0.1"), ("*",)])
async def test_exceptions_are_connected_to_directly(exceptions: tuple[str, ...]) -> None:
    """A host of no_proxy is reached although the proxy does not exist."""
    async with open_peer(NODE) as peer:
        nowhere = Proxy("127.0.0.1", 1)
        assert await put(clients_through(nowhere, *exceptions), peer.url) == 201


@pytest.mark.fault("F57")
@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (None, "operator", "refused the user and password of general.https_proxy"),
        (b"HTTP/1.1 403 No\r\n\r\n", "operator", "answered 403 to a connection to h.test:1"),
        (b"HTTP/1.0 502 Bad Gateway\r\nA: b\r\n\r\n", "transient", "answered 502"),
        (b"HTTP/1.1 101 Switch\r\n\r\n", "transient", "answered 101"),
        (b"HTTP/1.1 200 OK\r\n\r\nHello", "transient", "no valid answer"),
        (b"HTTP/1.1 200 OK\r\n", "transient", "no valid answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000, "transient", "no valid answer"),
        (b"", "transient", "no valid answer"),
        (b"\x16\x03\x01\r\n\r\n", "transient", "no valid answer"),
    ],
)
async def test_error_of_the_proxy_names_it(answer: bytes | None, kind: str, words: str) -> None:
    """Whatever the proxy answers, the error is one line that says which proxy did what."""
    async with open_connect_proxy("a:right", answer) as proxy:
        route = Proxy("127.0.0.1", proxy.port, "a", Secret("wrong"))
        with pytest.raises(PeerError) as caught:
            await put(clients_through(route), "https://h.test:1")
        assert caught.value.kind == kind
        assert caught.value.step is PeerStep.CONNECT
        assert str(caught.value).startswith(f"proxy 127.0.0.1:{proxy.port}")
        assert words in str(caught.value)


@pytest.mark.fault("F57")
async def test_proxy_that_needs_an_account_or_does_not_exist_is_named() -> None:
    """Without a user, or without a proxy at its address, the error says so."""
    async with open_connect_proxy("a:right") as proxy:
        with pytest.raises(PeerError, match=r"requires a user in general\.https_proxy"):
            await put(clients_through(Proxy("127.0.0.1", proxy.port)), "https://h.test:1")
    with pytest.raises(PeerError, match=r"no connection to proxy 127\.0\.0\.1:1: .*refused"):
        await put(clients_through(Proxy("127.0.0.1", 1)), "https://h.test:1")


@pytest.mark.fault("F57")
async def test_silent_proxy_is_given_up() -> None:
    """A proxy that accepts the connection and says nothing costs the connect timeout at most."""

    async def swallow(client: trio.SocketStream) -> None:
        async for _ in client:
            pass

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, swallow, listeners)
        with pytest.raises(PeerError, match=f"proxy 127.0.0.1:{port} did not answer in time"):
            await put(clients_through(Proxy("127.0.0.1", port), timeout=0.2), "https://h.test:1")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://p.test:3128", Proxy("p.test", 3128)),
        ("HTTP://p.test:3128/", Proxy("p.test", 3128)),
        ("p.test", Proxy("p.test", 80)),
        ("http://u@[::1]:1", Proxy("::1", 1, "u")),
        ("http://u%40x:p%3Aw:d@10.0.0.1:8080", Proxy("10.0.0.1", 8080, "u@x", Secret("p:w:d"))),
        ("http://bücher.test:1", Proxy("xn--bcher-kva.test", 1)),
    ],
)
def test_proxy_is_read(text: str, proxy: Proxy) -> None:
    """The forms of curl and of rudder-relayd are read; the text of a proxy shows no password."""
    assert read_proxy(text) == proxy
    assert "p:w:d" not in f"{proxy} {proxy!r}"


@pytest.mark.parametrize(
    "text",
    ["", "http://", "https://p:1", "socks5://p:1", "p:0", "p:65536", "p:x", "a..b:1", "p/x", 5, []],
)
def test_anything_else_is_no_proxy(text: object) -> None:
    """A proxy of another kind or with an unusable host is refused."""
    with pytest.raises(ValueError, match=r"."):
        read_proxy(text)


@pytest.mark.parametrize(
    ("host", "exceptions", "direct"),
    [
        ("a.example.com", "example.com", True),
        ("a.example.com.", ".EXAMPLE.com", True),
        ("example.com", ".example.com", True),
        ("notexample.com", "example.com", False),
        ("10.1.2.3", "192.168.0.0/16, 10.0.0.0/8", True),
        ("fe80::1%eth0", "fe80::/10", True),
        ("::1", "[::1]", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("a", "", False),
        ("a", ", ,", False),
        ("a", "*", True),
    ],
)
def test_hosts_without_proxy(host: str, exceptions: str, *, direct: bool) -> None:
    """Domains, addresses, networks and `*` are compared as in $no_proxy."""
    assert needs_no_proxy(host, read_exceptions(exceptions)) is direct


@pytest.mark.fault("F57")
@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"https_proxy": "http://u:c4nary@p"}, "https_proxy"),
        ({"HTTPS_PROXY": "http://u:c4nary@p", "no_proxy": "other"}, "HTTPS_PROXY"),
        ({"ALL_PROXY": "socks5://u:c4nary@p"}, "ALL_PROXY"),
        ({"all_proxy": "u:c4nary@p", "https_proxy": ""}, "all_proxy"),
        ({"https_proxy": "p", "NO_PROXY": ".test"}, None),
        ({"http_proxy": "p"}, None),
        ({}, None),
    ],
)
def test_proxy_of_the_environment_is_a_warning(
    environment: Mapping[str, str], name: str | None
) -> None:
    """A proxy that the environment names and the configuration does not is named in a warning."""
    found = [str(one) for one in environment_warnings(None, "up.test", environment)]
    assert [text.split()[0] for text in found] == ([] if name is None else [f"${name}"])
    assert "c4nary" not in "".join(found)
    assert not list(environment_warnings(Proxy("p"), "up.test", environment))
