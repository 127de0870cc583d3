"""Who gets through the web server to relayd's API, and what relayd sees of it."""

import os
import posixpath
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from urllib.parse import unquote

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from quart import Response, request
from quart_trio import QuartTrio

from relayd.config.main_conf import Listen
from tests.support.curl import NODE, POLICY_SERVER, STRANGER
from tests.support.front_door import open_door
from tests.support.http import open_server
from tests.support.ledger import fleet
from tests.support.ports import free_port
from tests.support.signing import VALID_FROM, VALID_TO, SigningNode, make_key_and_cert, rsa_key
from tests.support.webserver import GROUP, Kind, Web, open_web, write_web

API = "/rudder/relay-api"
BASE = "/rudder/relay-api/1"
FILE = f"{API}/shared-folder/dir/file"


@dataclass
class Seen:
    """What arrived where relayd would listen.

    Attributes:
        requests: method and path with its query, as on the wire.
        bodies: their bodies.
        lengths: their Content-Length.
    """

    requests: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    lengths: list[str | None] = field(default_factory=list)

    def parts(self) -> set[str]:
        """Return the parts of the API that were reached; relayd decodes paths once."""
        return {_api_path(path) for _, path in self.requests}


def _api_path(path: str) -> str:
    plain = "/" + posixpath.normpath(unquote(path.partition("?")[0])).lstrip("/")
    assert plain.startswith(f"{BASE}/"), path
    return plain.removeprefix(f"{BASE}/").partition("/")[0]


def recorder(seen: Seen, release: trio.Event | None = None) -> QuartTrio:
    """Return an application that records requests; with `release` it waits between two lines."""
    app = QuartTrio(__name__, static_folder=None)
    app.url_map.merge_slashes = False

    @app.route("/", defaults={"path": ""}, methods=["GET", "HEAD", "PUT", "POST"])
    @app.route("/<path:path>", methods=["GET", "HEAD", "PUT", "POST"])
    async def answer(path: str) -> Response:
        query = request.query_string.decode()
        raw = request.scope["raw_path"].decode()
        seen.requests.append((request.method, f"{raw}?{query}" if query else raw))
        body = await request.get_data()
        assert isinstance(body, bytes)
        seen.bodies.append(body)
        seen.lengths.append(request.headers.get("Content-Length"))
        if release is not None:
            return Response(_output(release), content_type="text/plain")
        return Response("passed on", content_type="text/plain")

    return app


async def _output(release: trio.Event) -> AsyncIterator[str]:
    yield "first line\n"
    await release.wait()
    yield "last line\n"


@pytest.fixture
def web(kind: Kind, place: Path) -> Web:
    """Return a web server whose relayd is a recorder."""
    nodes = {**fleet(), "authority": certificate("authority"), "expired": expired()}
    return write_web(Web(kind, place, free_port(), nodes))


def expired() -> SigningNode:
    """Return a node whose certificate has ended."""
    return make_key_and_cert("expired", not_after=datetime(2024, 1, 1, tzinfo=UTC))


def _tcp(web: Web) -> Listen:
    assert isinstance(web.api, int)
    return Listen(host="127.0.0.1", port=web.api)


@asynccontextmanager
async def open_both(web: Web, release: trio.Event | None = None) -> AsyncIterator[Seen]:
    """Yield the web server and the recorder, running."""
    seen = Seen()
    app = recorder(seen, release)
    if web.kind == "door":
        async with open_door(web, app):
            yield seen
        return
    async with (
        open_server(app, listen=_tcp(web), grace=0.1),
        open_web(web),
    ):
        yield seen


def certificate(node_id: str, issuer: SigningNode | None = None) -> SigningNode:
    """Return a certificate that may sign others: its own, or of an issuer like that."""
    plain = make_key_and_cert(node_id)
    signing = issuer or plain
    assert isinstance(signing.key, rsa.RSAPrivateKey)
    made = (
        x509.CertificateBuilder()
        .subject_name(plain.x509.subject)
        .issuer_name(signing.x509.subject)
        .public_key(plain.x509.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(VALID_FROM)
        .not_valid_after(VALID_TO)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(signing.key, hashes.SHA256())
    )
    pem = made.public_bytes(Encoding.PEM) + (issuer.cert_pem if issuer else b"")
    return replace(plain, cert_pem=pem, cert_der=made.public_bytes(Encoding.DER))


async def statuses(
    web: Web, path: str, sources: Sequence[str], *options: str, node: SigningNode | None = None
) -> list[int]:
    """Return the status for each source address."""
    return [(await web.curl(path, *options, source=source, node=node)).status for source in sources]


@pytest.mark.fault("D.2.2", "D.2.5")
async def test_remote_run_is_for_policy_servers(web: Web) -> None:
    """Only its address may start agents and ask about nodes, whatever else a client claims."""
    forged = ("-H", f"X-Forwarded-For: {POLICY_SERVER}", "-H", "X-Real-IP: 127.0.0.1")
    known = web.nodes["node0"]
    async with open_both(web) as seen:
        for path in ("all", "nodes", "nodes/node0", "nodes/node0/"):
            url = f"{API}/remote-run/{path}"
            sources = (NODE, STRANGER)
            assert await statuses(web, url, sources, "-d", "", *forged, node=known) == [403, 403]
            assert seen.requests == []
            assert await statuses(web, url, (POLICY_SERVER,), "-d", "nodes=a%2Cb") == [200]
            assert seen.requests == [("POST", f"{BASE}/remote-run/{path}")]
            assert seen.bodies == [b"nodes=a%2Cb"]
            seen.requests.clear()
            seen.bodies.clear()
        url, read = f"{API}/remote-run/status/node0", ("GET", f"{BASE}/remote-run/status/node0")
        assert await statuses(web, url, (NODE, STRANGER), *forged, node=known) == [403, 403]
        assert seen.requests == []
        assert await statuses(web, url, (POLICY_SERVER,)) == [200]
        assert seen.requests == [read]


@pytest.mark.fault("D.2.3")
async def test_shared_folder_is_for_nodes(web: Web) -> None:
    """The shared folder asks for the certificate of a known node, in an allowed network."""
    known, expired = web.nodes["node1"], web.nodes["expired"]
    async with open_both(web) as seen:
        # The front door trusts what is pinned, whatever its dates.
        ended = [] if web.kind == "door" else [expired]
        for other in (
            None,
            make_key_and_cert("stranger"),
            make_key_and_cert("node1", key=rsa_key("thief")),
            *ended,
            certificate("child", issuer=web.nodes["authority"]),
            certificate("node1", issuer=web.nodes["authority"]),
        ):
            reply = await web.curl(FILE, node=other)
            # A chain that is too long may end the connection already.
            assert reply.status in (403, 400, 0), (other and other.node_id, reply)
            assert "passed on" not in reply.body
        assert await statuses(web, FILE, (STRANGER,), node=known) == [403]
        assert seen.requests == []
        query = "?hash=00ff&hash_type=sha256"
        assert await statuses(web, FILE + query, (NODE,), "--head", node=known) == [200]
        for node in (known, web.nodes["authority"]):
            assert await statuses(web, FILE, (NODE,), node=node) == [200]
    assert seen.requests == [
        ("HEAD", f"{BASE}/shared-folder/dir/file{query}"),
        ("GET", f"{BASE}/shared-folder/dir/file"),
        ("GET", f"{BASE}/shared-folder/dir/file"),
    ]


@pytest.mark.fault("D.2.4")
@pytest.mark.parametrize("prefix", ["/rudder/relay-api", "/relay-api"])
async def test_shared_files_are_for_the_networks(web: Web, prefix: str) -> None:
    """Shared files come from allowed networks, by either path, with their length."""
    url, put = f"{prefix}/shared-files/node0/node1/a.b?ttl=1d", ("-X", "PUT", "-d", "content")
    async with open_both(web) as seen:
        assert await statuses(web, url, (STRANGER,), *put) == [403]
        assert await statuses(web, url, (NODE,), *put) == [200]
        assert await statuses(web, url, (NODE,), "--head") == [200]
    target = f"{BASE}/shared-files/node0/node1/a.b?ttl=1d"
    assert seen.requests == [("PUT", target), ("HEAD", target)]
    assert (seen.bodies[0], seen.lengths[0]) == (b"content", "7")


PRIVATE = (
    *("/", "/metrics", "//metrics", "/%2fmetrics", "/%6detrics", "/system/info"),
    *(f"{base}/system/{call}" for base in (API, BASE) for call in ("info", "status", "reload")),
    *(f"{API}/metrics", f"{BASE}/metrics", "/relay-api/system/info", API, f"{API}/", BASE),
    *(f"{API}//system/info", f"/{API}/system/info", f"{API}/./system/info", f"{API}/remote-run"),
    *(
        f"{API}/remote-run/other",
        f"{API}/remote-run/status",
        "/relay-api/remote-run/all",
        "/relay-api/shared-folder/x",
    ),
    *(f"{API}/shared-files/a/b", f"{API}/shared-files/a/b/c/d", f"{BASE}/remote-run/all"),
    *(f"{BASE}/openapi.json", f"{API}/openapi.json"),
)


@pytest.mark.fault("D.2.1", "D.2.5")
async def test_nothing_else_is_passed_on(web: Web) -> None:
    """What is for this machine alone, or does not exist, is refused to the policy server too."""
    known = web.nodes["node0"]
    async with open_both(web) as seen:
        for path in PRIVATE:
            for method in ("GET", "POST"):
                options = ("-X", method, "-d", "")
                reply = await web.curl(path, *options, source=POLICY_SERVER, node=known)
                assert reply.status in (400, 403, 404), (method, path, reply)
    assert seen.requests == []


@pytest.mark.fault("D.2.1", "D.2.2", "D.2.3")
async def test_climbing_from_one_part_into_another(web: Web) -> None:
    """No spelling of `..` leads from what a client may reach to what it may not."""
    async with open_both(web) as seen:
        for path in climbing():
            await web.curl(path, "-X", "POST", "-d", "", source=NODE)
    assert seen.parts() <= {"shared-files"}, seen.requests


def climbing() -> Iterator[str]:
    """Yield paths that leave one part of the API for another, in many spellings."""
    ups = ("..", "%2e%2e", ".%2E", "..;", "%252e%252e", "..%00")
    for slash, up in product(("/", "%2f", "%5c", "//", "/./", "%252f"), ups):
        for rest in ("remote-run/all", "system/info", "shared-folder/x"):
            yield f"{API}/shared-files/a/b/{slash.join([up, up, up, rest])}"
        yield f"{API}/shared-files/a/{slash.join([up, up, 'remote-run', 'all'])}"
        yield f"{API}/shared-files/a/b/{slash.join([up] * 6 + ['metrics'])}"


async def test_names_arrive_as_they_are(web: Web) -> None:
    """Blanks, percent signs, pluses, question marks and letters of all kinds arrive intact."""
    names = [
        "file%20with%20space",
        "100%25",
        "a+b",
        "what%3F",
        "%23x",
        "d%C3%A9j%C3%A0",
        "a_b-c.d~",
    ]
    names += ["a:b", "x%26y%3Dz", "%5Bx%5D", "%22q%22", "a%3Bb", "%E2%82%AC"]
    async with open_both(web) as seen:
        for name in names:
            assert (await web.curl(f"{API}/shared-folder/{name}", node=web.nodes["node0"])).status
    arrived = [unquote(path) for _, path in seen.requests]
    assert arrived == [f"{BASE}/shared-folder/{unquote(name)}" for name in names]
    assert not any("?" in path for _, path in seen.requests)


async def test_output_of_a_remote_run_is_not_held_back(web: Web) -> None:
    """A line of output reaches the client while the run goes on, compression offered or not."""
    release = trio.Event()
    url, compressed = f"{API}/remote-run/nodes", "Accept-Encoding: gzip, br"
    async with (
        open_both(web, release),
        web.follow(url, "-d", "nodes=a", "-H", compressed, source=POLICY_SERVER) as lines,
    ):
        assert await lines.next() == "first line"
        release.set()
        assert await lines.rest() == ["last line"]


@pytest.mark.fault("D.2.2", "D.2.3", "D.2.4")
async def test_without_networks_nobody_may(web: Web) -> None:
    """Where the files with addresses and certificates are not there, only uploads are served."""
    for name in ("networks", "networks.conf", "policy-servers", "policy-servers.conf"):
        (web.own / name).unlink(missing_ok=True)
    if web.kind != "nginx":  # which does not start without certificates
        (web.own / "nodes.pem").unlink()
    async with open_both(web) as seen:
        for path in ("remote-run/all", "shared-folder/x", "shared-files/a/b/c"):
            reply = await web.curl(
                f"{API}/{path}", "-d", "", source=POLICY_SERVER, node=web.nodes["node0"]
            )
            # The front door ends the handshake of a certificate that it does not know.
            assert reply.status in (403, 0), path
        # As with Rudder's own configuration, the front door asks for a network here too.
        expected = 403 if web.kind == "door" else 201
        assert (await web.upload("/reports/x.log", b"content")).status == expected
    assert seen.requests == []


@pytest.mark.parametrize("kind", ["apache", "nginx"], indirect=True)
async def test_relayd_that_comes_back(web: Web) -> None:
    """While relayd is away the answer is an error at once; when it is back, so are its answers."""
    async with open_web(web):
        for _ in range(3):
            assert (await web.curl(FILE, node=web.nodes["node0"])).status in (502, 503)
        seen = Seen()
        async with open_server(recorder(seen), listen=_tcp(web), grace=0.1):
            assert (await web.curl(FILE, node=web.nodes["node0"])).status == 200


@pytest.mark.fault("A25")
@pytest.mark.parametrize("kind", ["apache", "nginx"], indirect=True)
async def test_relayd_on_a_unix_socket(kind: Kind, place: Path) -> None:
    """With one setting changed, requests go to a socket that other accounts cannot open."""
    path = place / "api.sock"
    web, seen = write_web(Web(kind, place, path, fleet())), Seen()
    listen = Listen(path=str(path))
    async with open_server(recorder(seen), listen=listen, grace=0.1), open_web(web):
        if os.geteuid() == 0:
            os.chown(path, -1, GROUP)
        url = f"{API}/remote-run/all"
        assert await statuses(web, url, (POLICY_SERVER,), "-d", "x=1") == [200]
    assert seen.requests == [("POST", f"{BASE}/remote-run/all")]
